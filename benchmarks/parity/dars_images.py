"""One set of images for DARS's labelling script and for ours: the same logits, both ways of labelling them."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout, one_cpu_process
from benchmarks.parity.dars_code import parsed, quiet, settings_of
from benchmarks.parity.inputs import SEED
from fewmask.batch import IGNORE
from fewmask.data.index import Item
from fewmask.engine.label import write_labels
from fewmask.engine.label_pass import label_file
from fewmask.ops import pseudo, select
from fewmask.ops.select import Selection

UTILS = "tool/gen_pseudo_label_utils.py"
SCRIPTS = {
    "VOC": "voc2012/gen_pseudo_label_psp50_voc_split1464_crop321_for_round2",
    "Cityscapes 1/8": "cityscapes/gen_pseudo_label_psp50_cityscapes_split8_crop361_for_round2",
    "Cityscapes 1/4": "cityscapes/gen_pseudo_label_psp50_cityscapes_split4_crop713_for_round2",
}
"""Data set to its configuration; the labelling ratio is replaced."""

LABEL = "select=dars drop=image"


@dataclass(frozen=True)
class Labels:
    """What a side makes of a set of images.

    Attributes:
        maps: label of every pixel, 255 = none; an array an image.
        least_K: threshold of each class, nan where there is none.
        share_K: which share of the pixels that reach it keep their label.
    """

    maps: tuple[np.ndarray, ...]
    least_K: np.ndarray
    share_K: np.ndarray

    def kept(self) -> Tensor:
        """Return how many pixels of each image have each class, [N, K]."""
        counts = [np.bincount(m.ravel(), minlength=IGNORE + 1)[: len(self.least_K)] for m in self.maps]
        return torch.from_numpy(np.stack(counts)).double()

    def pixels(self) -> Tensor:
        """Return all maps one after the other."""
        return torch.from_numpy(np.concatenate([m.ravel() for m in self.maps])).double()


class Images:
    """Logits of several images, their labelling script on them, and ours.

    Args:
        checkout: theirs.
        data: key of SCRIPTS.
        sizes: (height, width) of each image.
        whole: logits are whole multiples of this: many pixels share a confidence.
        absent: the last class is predicted nowhere.
        seed: of the logits.
        temperature: divides them.
    """

    def __init__(
        self, checkout: Checkout, data: str, sizes: Sequence[tuple[int, int]], whole: float = 0.0,
        absent: bool = False, seed: int = SEED, temperature: float | None = None,
    ) -> None:  # fmt: skip
        self.checkout, self.sizes, self.temperature = checkout, sizes, temperature
        self.args = settings_of(checkout, SCRIPTS[data])
        self.classes = int(self.args["classes"])
        draw = torch.Generator().manual_seed(seed)
        lean = torch.from_numpy(self.share_K).clamp(min=1e-3).log() / 2  # large classes are predicted more often
        self.logits = [torch.randn(*s, self.classes, generator=draw, dtype=torch.float64) * 3 + lean for s in sizes]
        if whole:
            self.logits = [(z / whole).round() * whole for z in self.logits]
        if absent:
            for z in self.logits:
                z[..., -1] = -30

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Their shares, percentages, and pixels of an image."""
        source = parsed(self.checkout, UTILS)
        split = {"dataset": self.args["pseudo_data"], "split": self.args["semi_split"]}
        return source.run(source.when("dataset == 'cityscapes' and split == '8'"), **split)

    @property
    def share_K(self) -> np.ndarray:
        """r, as they divide it; float64."""
        return np.array(self.constants["class_ratio_prior_list"]) / self.constants["valid_ratio"]

    @property
    def pixels(self) -> int:
        """Of all images."""
        return sum(h * w for h, w in self.sizes)

    def probabilities(self) -> list[Tensor]:
        """Return the softmax [H, W, K] that their script computes, fp16."""
        fp16 = [z.half() for z in self.logits]
        return [(z if self.temperature is None else z / self.temperature).softmax(2) for z in fp16]

    # theirs

    def arguments(self, alpha: float, method: str, scaled: bool) -> SimpleNamespace:
        """Return their arguments; α is scaled so that their constant pixels an image become those of the first."""
        height, width = self.sizes[0]
        ratio = alpha * (height * width / self.constants["all_pixel_num"] if scaled else 1)
        own = {
            "labeling_ratio": ratio, "thresholds_method": method, "global_num": len(self.sizes), "npy_describ": "bank",
            "temp_scaling": self.temperature is not None, "diagram_T": self.temperature,
            "multiprocessing_distributed": False, "save_pseudo_label_path": "pseudo_labels",
        }  # fmt: skip
        return SimpleNamespace(**self.args | own)

    @contextmanager
    def script(self) -> Iterator[SimpleNamespace]:
        """Define their functions; the working directory is an empty one meanwhile.

        The network and the sliding window return our logits, images keep their size, and the labels that are written
        are collected in ``saved``.
        """
        util = parsed(self.checkout, "util/util.py").define("AverageMeter", "check_makedirs", os=os)
        saved: list[np.ndarray] = []
        opencv = SimpleNamespace(
            imwrite=lambda _, label: saved.append(label.copy()), resize=lambda image, *_, **__: image, INTER_LINEAR=1
        )
        logits = iter(self.logits)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), one_cpu_process():
            space = parsed(self.checkout, UTILS).define(
                "main_process", "first_forward", "second_forward", "get_threshold_and_sampling_ratio", cv2=opencv,
                os=os, time=time, **vars(util), scale_process=lambda *_, **__: next(logits).numpy(),
            )  # fmt: skip
            space.saved = saved
            with patch.object(subprocess, "call", lambda command: os.makedirs(command[-1], exist_ok=True)):
                yield space

    def loader(self, folder: Path | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return black images; with the predictions that the first pass has saved in a folder."""
        out = []
        for i, (height, width) in enumerate(self.sizes):
            saved = np.load(folder / f"{i:03}prediction.npy") if folder else np.zeros(1)
            out.append((torch.zeros(1, 3, height, width), torch.from_numpy(saved).unsqueeze(0)))
        return out

    def first(self, space: SimpleNamespace, args: SimpleNamespace) -> Path:
        """Run their first pass; return the folder of the confidences that it writes."""
        args.save_npy_or_png = "npy"
        space.first_forward(self.loader(), *self.rest(args))
        return Path("exp/npy_files") / args.npy_describ

    def second(self, space: SimpleNamespace, args: SimpleNamespace) -> tuple[np.ndarray, ...]:
        """Run their second pass on what the first one has saved; return the labels that it writes."""
        args.save_npy_or_png = "png"
        space.second_forward(self.loader(Path("pseudo_labels")), *self.rest(args))
        return tuple(space.saved)

    def rest(self, args: SimpleNamespace) -> tuple[Any, ...]:
        """Return what both passes take after the loader."""
        city = args.pseudo_data == "cityscapes"
        image = "/data/leftImg8bit/{:03}leftImg8bit.png" if city else "/data/JPEGImages/{:03}.png"
        names = [(image.format(i), f"/data/gtFine/{i:03}.png") for i in range(len(self.sizes))]
        log = SimpleNamespace(info=quiet)
        return names, nn.Identity(), self.classes, None, None, 400, 321, 321, [1.0], "pseudo_labels", "list", log, args

    def bank(self) -> list[np.ndarray]:
        """Return the confidences of the pixels predicted as each class that their first pass writes."""
        with self.script() as space:
            folder = self.first(space, self.arguments(0.5, "DARS", scaled=True))
            return [np.load(folder / f"class_{j}.npy") for j in range(self.classes)]

    def until_it_stops(self, alpha: float) -> tuple[list[float], str]:
        """Return the thresholds that their script finds before it stops, and what stops it."""
        found: list[list[float]] = [[]]

        def info(what: object) -> None:
            if isinstance(what, list):
                found[0] = what

        with self.script() as space, contextlib.redirect_stdout(io.StringIO()):
            args = self.arguments(alpha, "DARS", scaled=True)
            self.first(space, args)
            try:
                space.get_threshold_and_sampling_ratio(args, SimpleNamespace(info=info))
            except IndexError as error:
                return found[0], type(error).__name__
        return found[0], ""

    def theirs(
        self, alpha: float, method: str = "DARS", drop: bool = True, scaled: bool = True
    ) -> Labels:  # fmt: skip
        """Return what their two passes find; the pixels that go are those with the smallest of our keys.

        Args:
            alpha: labelling ratio.
            method: "DARS" or "cbst".
            drop: with random sampling.
            scaled: α follows the size of these images.
        """
        reached = self.theirs(alpha, method, drop=False, scaled=scaled).maps if drop else ()
        orders = (
            np.argsort(self.keys(i)[np.flatnonzero(m == j)], kind="stable")
            for i, m in enumerate(r.ravel() for r in reached)
            for j in range(self.classes)
        )
        args, log = self.arguments(alpha, method, scaled), SimpleNamespace(info=quiet)
        with self.script() as space, contextlib.redirect_stdout(io.StringIO()):
            self.first(space, args)
            least, share = space.get_threshold_and_sampling_ratio(args, log)
            space.second_forward.__globals__["get_threshold_and_sampling_ratio"] = lambda *_: (
                least, share if drop else [1.0] * self.classes
            )  # fmt: skip
            replayed = patch.object(torch, "randperm", lambda n: torch.from_numpy(_sized(next(orders), n)))
            with replayed if drop else contextlib.nullcontext():
                maps = self.second(space, args)
        return Labels(maps, np.array(least, dtype=np.float64), np.array(share, dtype=np.float64))

    # ours

    def keys(self, number: int) -> np.ndarray:
        height, width = self.sizes[number]
        return select.keys(SEED, number, height * width)

    def ours(self, how: Selection, fp16: bool = True) -> tuple[Labels, dict[str, Any]]:
        """Return what a labelling pass of ours writes, and its manifest.

        Args:
            how: which pixels.
            fp16: on the confidences of their script; else on those that a network of ours has for the same logits.
        """
        softmax, temperature = self.probabilities(), self.temperature or 1.0

        def predict(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
            assert least_K is None
            i = int(item.name)
            if fp16:
                confidence, label = softmax[i].max(2)
            else:
                z = self.logits[i].permute(2, 0, 1).unsqueeze(0).float()
                confidence, label = (x[0] for x in pseudo.confidence_and_label(z / temperature))
            return label.to(torch.uint8).numpy(), confidence.float().numpy()

        items = [Item(f"{i:03}", Path(f"{i:03}.png")) for i in range(len(self.sizes))]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "labels"
            found = write_labels(
                predict, items, folder, how, [str(j) for j in range(self.classes)],
                frequency=self.share_K.tolist(), seed=SEED,
            )  # fmt: skip
            maps = tuple(np.asarray(Image.open(label_file(folder, item))) for item in items)
        least = np.array([np.nan if t is None else t for t in found["least"]])
        share = np.minimum(found["wanted"], found["reached"]) / np.maximum(found["reached"], 1)
        return Labels(maps, least, share), found

    def histogram(self, bank: list[np.ndarray]) -> Tensor:
        """Return how many pixels of each class have each confidence, [K, BINS]."""
        parts = [select.count(np.full(len(b), j), select.to_bits(b), self.classes) for j, b in enumerate(bank)]
        return torch.from_numpy(np.sum(parts, axis=0)).double()

    def our_histogram(self, fp16: bool) -> Tensor:
        """Return the same of ours; with fp16 from logits and probabilities that are rounded like theirs."""
        out = torch.zeros(self.classes, select.BINS, dtype=torch.float64)
        for z, p in zip(self.logits, self.probabilities(), strict=True):
            if fp16:
                confidence, label = p.max(2)
            else:
                mine = z.permute(2, 0, 1).unsqueeze(0).float() / (self.temperature or 1.0)
                confidence, label = (x[0] for x in pseudo.confidence_and_label(mine))
            counts = select.count(label.numpy(), select.to_bits(confidence.float().numpy()), self.classes)
            out += torch.from_numpy(counts).double()
        return out


def _sized(order: np.ndarray, n: int) -> np.ndarray:
    assert len(order) == n, "they draw in another order than this"
    return order


def tensor(x: np.ndarray | Sequence[float]) -> Tensor:
    """Return numbers as float64."""
    return torch.from_numpy(np.asarray(x, dtype=np.float64))
