"""Does ``fewmask suggest --relabel`` find wrong masks? A tenth of 60 masks of white blood cells is spoilt and learnt.

    FEWMASK_SHARED=… python -m benchmarks.doubtful_masks [--seeds 3] [--json FILE]

Of six spoilt masks two are another image's, two are shifted by a third of the image, two have both classes exchanged. A
U-Net is trained on all 60. Printed are the places of the spoilt masks in the ranking, and how many of the six are among
the first fifth. Half a minute a seed on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import fewmask
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.run.doubt import relabel

SHARED = Path(os.environ.get("FEWMASK_SHARED", "../shared"))
MASKS, SPOILT, STEPS = 60, 6, 250
KINDS = ("another image's", "shifted", "classes exchanged")


def copy(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Copy 60 images of train and 20 of val with index masks; return the masks of train, and the classes."""
    index = read_folder(SHARED / "data" / "wbc")
    written = []
    for role, items in (("train", index.labelled[:MASKS]), ("val", index.items["val"][:20])):
        for item in items:
            assert item.mask is not None
            image, mask = (root / kind / role / f"{Path(item.name).name}.png" for kind in ("images", "masks"))
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(item.image) as picture:
                picture.convert("RGB").save(image)
            Image.fromarray(read_mask(item.mask, index.code)).save(mask)
            written += [mask] if role == "train" else []
    (root / "classes.txt").write_text("\n".join(index.classes), encoding="utf-8")
    return written, index.classes


def spoil(masks: list[Path], seed: int) -> dict[str, str]:
    """Spoil six masks; return name to how."""
    spoilt = {}
    for n, i in enumerate(np.random.default_rng(seed).choice(len(masks), SPOILT, replace=False)):
        kind, mask = KINDS[n % 3], np.asarray(Image.open(masks[i])).copy()
        if kind == "another image's":
            other = Image.open(masks[(i + 7) % len(masks)])
            mask = np.asarray(other.resize(mask.shape[::-1], Image.Resampling.NEAREST))
        elif kind == "shifted":
            mask = np.roll(mask, (mask.shape[0] // 3, mask.shape[1] // 3), (0, 1))
        else:
            mask = np.array([0, 2, 1, *range(3, 256)], np.uint8)[mask]
        Image.fromarray(mask).save(masks[i])
        spoilt[f"train/{masks[i].stem}"] = kind
    return spoilt


def one(seed: int) -> dict[str, object]:
    """Return the places of the spoilt masks, and the recall in the first fifth."""
    with tempfile.TemporaryDirectory() as scratch:
        data, run, out = (Path(scratch) / name for name in ("data", "run", "out"))
        masks, _ = copy(data)
        spoilt = spoil(masks, seed)
        fewmask.train(
            data, run, method="supervised", model__arch="unet", model__encoder="mobilenet_v2",
            model__weights=str(SHARED / "data" / "weights" / "mobilenet_v2.safetensors"), data__resize="96x96",
            data__crop="80", train__steps=STEPS, train__eval_every=STEPS, train__seed=seed, machine__devices="cpu",
            say=lambda text: None,
        )  # fmt: skip
        order = [doubt.name for doubt in relabel(run, MASKS, out, lambda text: None)]
    places = {name: order.index(name) + 1 for name in spoilt}
    found = sum(place <= MASKS // 5 for place in places.values())
    return {
        "seed": seed, "places": [[name, kind, places[name]] for name, kind in spoilt.items()], "recall": found / SPOILT,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [one(seed) for seed in range(args.seeds)]
    for row in rows:
        print(f"seed {row['seed']}: recall {row['recall']:.2f} in the first {MASKS // 5} of {MASKS}; places", end=" ")
        print(", ".join(f"{place} ({kind})" for _, kind, place in sorted(row["places"], key=lambda r: r[2])))
    if args.json:
        record = {"environment": {"machine": platform.machine(), "cores": os.cpu_count()}, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
