"""Three-stage's strong augmentation: where the pixels of a view come from, and labels that move with them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.parity.authors import Checkout, Source
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import SEED, Setting
from fewmask.batch import IGNORE
from fewmask.data import randaugment
from fewmask.ops import mix


@cache
def parsed(checkout: Checkout, path: str) -> Source:
    return checkout.source(path)


def augmentation(checkout: Checkout) -> tuple[Callable[..., list[np.ndarray]], Any]:
    """Return their operator, image [H, W, 3] to the view and its index maps, and the transform that calls it."""
    policy = parsed(checkout, "randaugment_seg.py")
    names = SimpleNamespace(**policy.run(policy.tree.body))
    script = parsed(checkout, "apply_rand.py")
    with patch.dict(sys.modules, {"randaugment_seg": names}):
        operator = script.run(script.tree.body)["rand_pascal_index"]
    transforms = parsed(checkout, "datapipe/seg_transforms_cv.py").define("RandAugmentTransformPost")
    with patch.dict(sys.modules, {"apply_rand": SimpleNamespace(rand_pascal_index=operator)}):
        return operator, transforms.RandAugmentTransformPost()


@contextlib.contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Seed the two global generators that they draw from; restore them."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def source_of(rows: np.ndarray, columns: np.ndarray, inside: np.ndarray) -> Tensor:
    """Return our form of their index maps: row·W + column, -1 where a pixel comes from nowhere."""
    place = rows.astype(np.int64) * rows.shape[-1] + columns.astype(np.int64)
    return torch.from_numpy(np.where(inside >= 0.5, place, -1))


def maps(checkout: Checkout, setting: Setting, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the index maps of images of noise, rows, columns and inside, [B, H, W].

    Outside they hold the index 255, which their crops have and these images have not: there it is 0.
    """
    operator, _ = augmentation(checkout)
    noise = np.random.default_rng(SEED).integers(0, 256, (count, setting.height, setting.width, 3), dtype=np.uint8)
    with drawn(SEED):
        found = [operator(image)[1:] for image in noise]
    rows, columns, inside = (np.stack(part).astype(np.int64) for part in zip(*found, strict=True))
    return np.where(inside, rows, 0), np.where(inside, columns, 0), inside


def gathered(checkout: Checkout, height: int, width: int, images: int) -> Iterator[Row]:
    """Their transform of crops with pseudo-masks, and their gathering of a teacher's labels, against ``mix.warp``."""
    _, transform = augmentation(checkout)
    draw = np.random.default_rng(SEED)
    samples = [
        {
            "image": draw.normal(size=(3, height, width)).astype(np.float32),
            "pl": draw.integers(0, 21, (1, height, width)),
        }
        for _ in range(images)
    ]
    with drawn(SEED + 1):
        samples = [transform.transform_single(sample) for sample in samples]
    masks, moved, rows, columns, inside = (
        np.stack([s[key][0] for s in samples]) for key in ("pl", "pl_post", "indx", "indy", "indmsk")
    )
    labels = draw.integers(0, 21, masks.shape)
    theirs = parsed(checkout, "main.py").define("wrap_ind").wrap_ind(labels.copy(), rows, columns, inside)
    source = source_of(rows, columns, inside)
    facts = {"seed": SEED, "from_outside": round(float((source < 0).double().mean()), 3)}
    case = f"{images} crops {height}×{width}, their maps"
    for term, a, b in (("pseudo-masks that moved", moved, masks), ("teacher's labels that moved", theirs, labels)):
        ours = mix.warp(torch.from_numpy(b), source, IGNORE)
        yield compare(
            checkout, f"Three-stage: {term}", case, None, torch.from_numpy(a).double(), ours.double(), **facts
        )


def operators(checkout: Checkout, height: int = 64, width: int = 96) -> Iterator[Row]:
    """Where the pixels of a view come from, by each of their geometric operations, every magnitude, either sign.

    Shear by 4 tenths of 0.3 is left out: it moves some rows by whole pixels and a half, which may round either way.
    """
    policy = parsed(checkout, "randaugment_seg.py")
    sign = SimpleNamespace(random=lambda: 0.0)
    every, inside = np.indices((height, width)).astype(np.uint16), np.ones((height, width), dtype=np.uint8)
    affine = randaugment.F.affine
    for name in ("Rotate", "TranslateX", "TranslateY", "ShearX", "ShearY"):
        ours, cornered, theirs = [], [], []
        shift = randaugment.GEOMETRIC[re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()]
        names = policy.run(policy.tree.body)
        names["random"] = sign
        shear = name.startswith("Shear")
        levels = [level for level in range(1, 10) if not (shear and level == 4)]
        for level, up in itertools.product(levels, (False, True)):
            sign.random = lambda up=up: float(up)
            out = names["NAME_TO_TRANSFORM"][name].xform([Image.fromarray(x) for x in (*every, inside)], level)
            theirs.append(source_of(*(np.array(x) for x in out)))
            # the signs are equally likely; their plus is our minus, apart from shear
            move = shift(level / 10 if up != shear else -level / 10)
            ours.append(randaugment.moved(move, height, width))
            with patch.object(randaugment.F, "affine", functools.partial(affine, center=[0.0, 0.0])):
                cornered.append(randaugment.moved(move, height, width))
        a, b, c = (torch.stack(x).double() for x in (theirs, ours, cornered))
        more: dict[str, Any] = {"departure": "corner", "explained": c} if shear else {}
        yield compare(
            checkout, f"Three-stage: sources, {name.rstrip('XY').lower()}", f"{len(levels)} magnitudes, both signs",
            None, a, b,
            operation=name, size=[height, width],
            from_outside=[round(float((x < 0).double().mean()), 3) for x in (a, b)], **more,
        )  # fmt: skip
