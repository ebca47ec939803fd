"""How often does the interval of a cross-fitted score hold the score on all other images?

    FEWMASK_SHARED=… python -m benchmarks.interval_coverage [--masks 12 24 60] [--draws 50]

Training images of the white blood cells are drawn as if only they had masks, put into the three folds of ``train``, and
scored by networks that have not seen them: the pooled score and its interval are those that a run prints. A network
here is a logistic regression on features of the shipped encoder, computed once: a draw takes seconds. The other images
are all training images that are not in the draw; they are scored by the networks of the folds, whose score the interval
is, and by the one trained on all masks of the draw, which is delivered and has seen half as many again. Images are
looked at as 128×128, truth and prediction too. Writes results/interval_coverage-cpu2.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.experiments.__main__ import SCRATCH
from benchmarks.experiments.study import SHARED, WEIGHTS, data_folder
from fewmask.batch import IGNORE
from fewmask.data.folds import USUAL, assign
from fewmask.data.images import read_item
from fewmask.data.index import DataIndex
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD, build
from fewmask.ops.interval import Interval, mean_iou, score_interval
from fewmask.ops.metrics import confusion
from fewmask.ops.rng import Permutation
from fewmask.run.environment import environment

OUT = Path(__file__).parent / "results" / "interval_coverage-cpu2.json"
SIDE, GRID = 128, 32
"""Of the images, and of the features that are classified."""
LEVELS = slice(2, 5)
"""Feature maps of the encoder at a quarter, an eighth and a sixteenth of the side."""


class Cells:
    """Features and truth of every training image.

    Args:
        index: the data.
        grid: cells a side.

    Attributes:
        features: float32 [N, grid·grid, C], each channel with mean 0 and variance 1.
        masks: uint8 [N, SIDE, SIDE].
        known: int64 [N, grid·grid], the class in the middle of each cell of the grid.
    """

    def __init__(self, index: DataIndex, grid: int = GRID) -> None:
        self.classes, self.grid = len(index.classes), grid
        self.items = sorted(index.labelled, key=lambda item: item.name)
        net = build("deeplabv3plus", WEIGHTS, self.classes, weights=str(SHARED / "weights" / f"{WEIGHTS}.safetensors"))
        encoder = net.eval().encoder
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        found, masks = [], []
        for item in self.items:
            assert item.mask is not None
            pixels = torch.from_numpy(read_item(item)).permute(2, 0, 1).unsqueeze(0).float() / 255
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
            with torch.no_grad():
                maps = encoder((pixels - mean) / std)[LEVELS]
            grids = [F.interpolate(m, (grid, grid), mode="bilinear", align_corners=False) for m in maps]
            found.append(torch.cat(grids, 1)[0].flatten(1).T)
            mask = torch.from_numpy(read_mask(item.mask, index.code))[None, None]
            masks.append(F.interpolate(mask, (SIDE, SIDE), mode="nearest-exact")[0, 0])
        features, self.masks = torch.stack(found), torch.stack(masks)
        self.features = (features - features.mean((0, 1))) / features.std((0, 1))
        small = F.interpolate(self.masks[:, None], (grid, grid), mode="nearest-exact")
        self.known = small.flatten(1).long()

    def fit(self, chosen: list[int], steps: int = 40) -> Tensor:
        """Return the weights [C + 1, K] of a logistic regression on some images."""
        x, y = self.features[chosen].flatten(0, 1), self.known[chosen].flatten()
        weights = torch.zeros(x.shape[1] + 1, self.classes, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = F.cross_entropy(x @ weights[:-1] + weights[-1], y, ignore_index=IGNORE)
            value = value + 1e-3 * weights[:-1].square().sum()
            value.backward()
            return value

        optimiser.step(loss)
        return weights.detach()

    def counts(self, weights: Tensor, chosen: list[int]) -> np.ndarray:
        """Return int64 [n, 3, K]: hits, truth pixels and predicted pixels of each image."""
        z = (self.features[chosen] @ weights[:-1] + weights[-1]).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        label = F.interpolate(z, (SIDE, SIDE), mode="bilinear", align_corners=False).argmax(1)
        out = []
        for predicted, truth in zip(label, self.masks[chosen], strict=True):
            matrix = confusion(predicted, truth, self.classes)
            out.append(torch.stack((matrix.diagonal(), matrix.sum(1), matrix.sum(0))))
        return torch.stack(out).numpy()


@dataclass(frozen=True)
class Draw:
    """What one draw has led to.

    Attributes:
        printed: the cross-fitted score with its interval.
        folds: score of the networks of the folds on the other images, their counts added.
        delivered: score of the network trained on all masks of the draw on the same images.
    """

    printed: Interval
    folds: float
    delivered: float


def draw(cells: Cells, masks: int, number: int) -> Draw:
    """Cross-fit on some masks."""
    order = Permutation(len(cells.items), 1000 * masks + number)
    chosen = sorted(order[i] for i in range(masks))
    others = sorted(set(range(len(cells.items))) - set(chosen))
    place = {cells.items[i].name: i for i in chosen}
    found, elsewhere = [], []
    for names in assign([cells.items[i] for i in chosen], USUAL, seed=number):
        held = [place[name] for name in names]
        weights = cells.fit([i for i in chosen if i not in held])
        found.append(cells.counts(weights, held))
        elsewhere.append(cells.counts(weights, others).sum(0))
    interval = score_interval(np.concatenate(found), [""] * masks, seed=number)
    assert interval is not None
    delivered = cells.counts(cells.fit(chosen), others).sum(0)
    return Draw(interval, float(mean_iou(np.sum(elsewhere, axis=0))), float(mean_iou(delivered)))


def summary(draws: list[Draw]) -> dict[str, Any]:
    """Return how often the interval held either score, and how often it lay above it."""
    told: dict[str, Any] = {
        "draws": len(draws), "printed": fmean(d.printed.value for d in draws),
        "width": fmean(d.printed.high - d.printed.low for d in draws),
    }  # fmt: skip
    for which in ("folds", "delivered"):
        scores = [getattr(d, which) for d in draws]
        pairs = list(zip(draws, scores, strict=True))
        told[which] = {
            "score": fmean(scores), "held": fmean(d.printed.low <= s <= d.printed.high for d, s in pairs),
            "promised_too_much": fmean(s < d.printed.low for d, s in pairs),
        }  # fmt: skip
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--masks", type=int, nargs="+", default=[12, 24, 60])
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(read_folder(data_folder("wbc", SCRATCH)))
    rows = {}
    for masks in args.masks:
        rows[masks] = summary([draw(cells, masks, number) for number in range(args.draws)])
        print(f"{masks} masks: {json.dumps(rows[masks])}", flush=True)
    told = {"images": len(cells.items), "folds": USUAL, "level": 0.95, "masks": rows, "environment": environment()}
    args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
