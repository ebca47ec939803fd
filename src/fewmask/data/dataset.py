"""Images and masks that are arrays in Python and no files yet: written once as a folder that every command reads."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE
from fewmask.config import dump_yaml
from fewmask.data.datayaml import FILE_NAME, check_names
from fewmask.data.files import cache_folder, folder_aside, is_below
from fewmask.data.index import ROLES
from fewmask.errors import ConfigError, DataError

INDEX = "index.jsonl"
_ABSENT = {"name": "", "role": "train", "group": ""}
_KEYS = {"image", "mask", *_ABSENT}


class Dataset:
    """Samples from anywhere: a database, an HDF5 file, a generator of one's own.

    ``fewmask.train(Dataset(...))`` writes them below the cache folder, under the hash of what they hold, so that the
    same samples are the same data to a run that is resumed; ``write`` puts them where one wants them.

    Args:
        samples: mappings with

            ``name``: the image's identity, such as "field3/0007"; no two alike.
            ``image``: uint8 [H, W, 3] or [H, W], or a Pillow image.
            ``mask``: integers [H, W], class indices and 255 where a pixel does not count; None or absent = unlabelled.
            ``role``: "train" (where it is absent), "val" or "test".
            ``group``: images of one group (video, field, patient) are never divided; "" = a group of its own.

            They are read one at a time, once a call of ``write``; a generator serves for one.
        classes: names; the place is the class index.

    Raises:
        ConfigError: the names of the classes are none.
    """

    def __init__(self, samples: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> None:
        try:
            self.classes = check_names(list(classes))
        except ValueError as error:
            raise ConfigError(f"classes: {error}", where="Dataset", todo="give a list of names") from error
        self.samples = samples

    def write(self, folder: Path | str | None = None) -> Path:
        """Write images, masks, index.jsonl and data.yaml, and return the folder; it appears complete or not at all.

        Args:
            folder: absent or empty; None = below the cache folder, where it may be already.

        Raises:
            DataError: a sample is none; the message names it.
            ConfigError: the folder holds something.
            WriteError: the disk refused.
        """
        out = None if folder is None else Path(folder)
        if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(
                "the folder holds something; nothing is written over", where=out, todo="choose another one"
            )
        with folder_aside(out or cache_folder() / "datasets" / "new") as made:
            digest = self._fill(made)
            target = out or cache_folder() / "datasets" / digest
            if out is not None and out.is_dir():
                out.rmdir()  # it is empty
            if not target.exists():  # the same samples have been written before
                shutil.move(made, target)
        return target

    def _fill(self, root: Path) -> str:
        """Write all files; return the hash of what they hold."""
        digest, names = hashlib.sha256(repr(self.classes).encode()), set[str]()
        (root / "images").mkdir(parents=True)
        with (root / INDEX).open("w", encoding="utf-8") as index:
            for n, sample in enumerate(self.samples):
                row, image, mask = self._checked(n, sample)
                if row["name"] in names:
                    raise _bad(n, sample, f"the name {row['name']!r} is there already")
                names.add(row["name"])
                row["image"] = _save(image, root, "images", row["name"])
                if mask is not None:
                    row["mask"] = _save(mask, root, "masks", row["name"])
                text = json.dumps(row, ensure_ascii=False)
                index.write(text + "\n")
                for part in (
                    f"{text} {image.shape}".encode(),
                    image.tobytes(),
                    b"" if mask is None else mask.tobytes(),
                ):
                    digest.update(hashlib.sha256(part).digest())
        if not names:
            raise DataError("there is no sample", where="Dataset", todo="a generator is empty the second time")
        told = {"version": 1, "images": INDEX, "classes": dict(enumerate(self.classes))}
        (root / FILE_NAME).write_text(dump_yaml(told), encoding="utf-8")
        return digest.hexdigest()[:16]

    def _checked(self, n: int, sample: Mapping[str, Any]) -> tuple[dict[str, str], np.ndarray, np.ndarray | None]:
        if not isinstance(sample, Mapping) or (unknown := sorted(map(str, sample.keys() - _KEYS))):
            what = f"unknown key {unknown[0]!r}" if isinstance(sample, Mapping) else "no mapping"
            raise _bad(n, sample, f"{what}; keys are {', '.join(sorted(_KEYS))}")
        name, role, group = (
            sample.get(key) or other for key, other in (("name", ""), ("role", "train"), ("group", ""))
        )
        if not isinstance(name, str) or not _is_name(name):
            raise _bad(n, sample, f"name {name!r} is no path below a folder")
        if role not in ROLES:
            raise _bad(n, sample, f"role {role!r}, must be one of {', '.join(ROLES)}")
        if not isinstance(group, str):
            raise _bad(n, sample, f"group {group!r} is no text")
        image = np.asarray(sample.get("image"))
        if (
            image.dtype != np.uint8
            or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
            or not image.size
        ):
            shape = "x".join(map(str, image.shape))
            raise _bad(n, sample, f"image is {image.dtype} [{shape}], must be uint8 [H, W, 3] or [H, W]")
        row = {"name": str(PurePosixPath(name)), "role": role, **({"group": group} if group else {})}
        return row, image, self._mask(n, sample, image.shape[:2])

    def _mask(self, n: int, sample: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray | None:
        if sample.get("mask") is None:
            return None
        mask = np.asarray(sample["mask"])
        if mask.dtype.kind not in "biu" or mask.shape != size:
            shape = "x".join(map(str, mask.shape))
            wanted = "x".join(map(str, size))
            raise _bad(n, sample, f"mask is {mask.dtype} [{shape}], must be integers [{wanted}] like its image")
        wrong = (mask != IGNORE) & ((mask < 0) | (mask >= len(self.classes)))
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            what = f"mask holds the class index {mask[y, x]} in {wrong.sum()} pixels, first at (x={x}, y={y})"
            raise _bad(n, sample, f"{what}; there are {len(self.classes)} classes, and {IGNORE} does not count")
        return mask.astype(np.uint8)


def _is_name(name: str) -> bool:
    return bool(name) and name.isprintable() and is_below(name)


def _save(array: np.ndarray, root: Path, folder: str, name: str) -> str:
    place = f"{folder}/{name}.png"
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(root / place, format="PNG")
    return place


def _bad(n: int, sample: Any, what: str) -> DataError:
    name = sample.get("name") if isinstance(sample, Mapping) else None
    return DataError(what, where=f"sample {n}" + (f", {str(name)[:100]!r}" if name else ""), todo="mend the sample")
