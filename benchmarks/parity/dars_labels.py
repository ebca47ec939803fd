"""DARS's selection of pseudo-labels and its CBST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.parity.authors import Checkout
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.dars_images import LABEL, Images, tensor
from benchmarks.parity.inputs import SEED
from fewmask.ops import select
from fewmask.ops.select import Selection

SMALL = [(33, 47)] * 3


def selections(checkout: Checkout) -> Iterator[Row]:
    """Thresholds, shares and labels of each rule, and what may differ."""
    for data, alpha, sizes, whole, temperature in (
        ("VOC", 0.2, SMALL, 0.0, None), ("VOC", 0.5, SMALL, 0.0, None), ("VOC", 0.5, SMALL, 6.0, None),
        ("Cityscapes 1/8", 0.2, SMALL, 0.0, None), ("Cityscapes 1/8", 0.5, SMALL, 6.0, None),
        ("Cityscapes 1/4", 0.65, SMALL, 0.0, None), ("VOC", 0.4, SMALL, 0.0, 1.27),
        ("VOC", 0.2, [(375, 500)] * 2, 0.0, None),
    ):  # fmt: skip
        images = Images(checkout, data, sizes, whole, temperature=temperature)
        yield from dars(images, data, alpha, "many ties" if whole else "few ties")
    for data, alpha, whole in (("VOC", 0.2, 0.0), ("VOC", 0.5, 6.0), ("Cityscapes 1/8", 0.2, 6.0)):
        yield from cbst(
            Images(checkout, data, SMALL, whole), data, alpha, "many ties" if whole else "few ties"
        )  # fmt: skip


def dars(images: Images, data: str, alpha: float, case: str) -> Iterator[Row]:
    """Their selection against ours on the same confidences."""
    theirs, reached = images.theirs(alpha), images.theirs(alpha, drop=False)
    ours, found = images.ours(Selection("dars", alpha, "image"))
    da, _ = images.ours(Selection("da", alpha))
    exact, _ = images.ours(Selection("dars", alpha))
    predicted, wanted = np.array(found["predicted"]), np.floor(alpha * images.pixels * images.share_K)
    enough, nothing = (predicted >= wanted) & (wanted >= 1), wanted < 1
    least_there = np.array([b.min() for b in images.bank()])
    facts = {
        "data": data, "α": alpha, "T": images.temperature or 1, "images": images.sizes,
        "predicted": found["predicted"], "wanted": wanted.tolist(),
        "reached": found["reached"], "classes_with_enough": int(enough.sum()), "not_wanted": int(nothing.sum()),
        "most_equal": int(images.our_histogram(fp16=True)[1:].max()), "seed": SEED,
        "dropped_at_random": int(reached.kept().sum() - theirs.kept().sum()),
    }  # fmt: skip

    def row(term: str, a: Tensor, b: Tensor, switch: str = LABEL, **more: Any) -> Row:
        return compare(images.checkout, f"DARS: {term}", case, None, a, b, switch=switch, **facts, **more)

    yield row("thresholds, enough predicted", tensor(theirs.least_K[enough]), tensor(ours.least_K[enough]))
    if (predicted < wanted).any():
        filled = np.where(predicted < wanted, least_there, ours.least_K)
        yield row("thresholds", tensor(theirs.least_K), tensor(ours.least_K), departure="least",
                  explained=tensor(filled))  # fmt: skip
    if nothing.any():
        every = [p.argmax(2).numpy() for p in images.probabilities()]
        whole = replace(da, maps=tuple(np.where(nothing[y], y, m) for y, m in zip(every, da.maps, strict=True)))
        yield row("pixels that reach it", reached.pixels(), da.pixels(), "select=da", departure="none wanted",
                  explained=whole.pixels())  # fmt: skip
    else:
        yield row("pixels that reach it", reached.pixels(), da.pixels(), "select=da")
        yield row("counts that reach it", reached.kept(), da.kept(), "select=da")
    yield row("shares that stay", tensor(theirs.share_K), tensor(ours.share_K))
    yield row("pixels that stay, same keys", theirs.pixels(), ours.pixels())
    yield row("counts that stay", theirs.kept(), ours.kept())
    if facts["dropped_at_random"]:
        yield row("counts that stay", theirs.kept().sum(0), exact.kept().sum(0), "select=dars drop=dataset",
                  departure="per image", explained=ours.kept().sum(0))  # fmt: skip


def cbst(images: Images, data: str, alpha: float, case: str) -> Iterator[Row]:
    """Their other rule."""
    theirs, (ours, _) = images.theirs(alpha, "cbst", scaled=False), images.ours(Selection("cbst", alpha))
    floor = select._floor
    with patch.object(select, "_floor", lambda x: floor(x) + 1):
        more, _ = images.ours(Selection("cbst", alpha))
    facts = {"data": data, "α": alpha, "images": images.sizes, "seed": SEED}
    for term, a, b, c in (
        ("thresholds", *(tensor(x.least_K) for x in (theirs, ours, more))),
        ("pixels that stay", *(x.pixels() for x in (theirs, ours, more))),
        ("counts that stay", *(x.kept() for x in (theirs, ours, more))),
    ):
        yield compare(images.checkout, f"DARS, CBST: {term}", case, None, a, b, switch="select=cbst",
                      departure="one more", explained=c, **facts)  # fmt: skip


def special(checkout: Checkout) -> Iterator[Row]:
    """What their script cannot do, counts otherwise, or rounds otherwise."""
    gone = Images(checkout, "VOC", SMALL, absent=True)
    before, error = gone.until_it_stops(0.2)
    ours, found = gone.ours(Selection("dars", 0.2, "image"))
    bank = gone.bank()
    first = np.array([b.min() if len(b) else 0.0 for b in bank])
    few = np.array(found["predicted"]) < np.floor(0.2 * gone.pixels * gone.share_K)
    all_of_ours = np.where(few, first, ours.least_K)  # the departure "least" is another one
    n = len(before)
    yield compare(
        checkout, "DARS: thresholds found", "a class is never predicted", None,
        tensor([True] * n + [False] * (gone.classes - n)), tensor(np.isfinite(ours.least_K)), switch=LABEL,
        departure="never", explained=tensor(np.array([len(b) for b in bank]) > 0), error=error, seed=SEED,
    )  # fmt: skip
    yield compare(
        checkout, "DARS: thresholds of the others", "a class is never predicted", None, tensor(before),
        tensor(all_of_ours[:n]), switch=LABEL, classes=n, seed=SEED,
    )  # fmt: skip

    uneven = Images(checkout, "VOC", [(33, 47), (47, 33), (20, 31)])
    theirs, (ours, _) = uneven.theirs(0.2), uneven.ours(Selection("dars", 0.2, "image"))
    constant = 33 * 47 * 3 / uneven.pixels
    counted, _ = uneven.ours(Selection("dars", 0.2 * constant, "image"))
    yield compare(
        checkout, "DARS: counts that stay", "images of several sizes", None, theirs.kept(), ours.kept(), switch=LABEL,
        departure="pixels counted", explained=counted.kept(), images=uneven.sizes, α=0.2, seed=SEED,
    )  # fmt: skip

    one = Images(checkout, "VOC", [(36, 397)])
    one.logits = [torch.zeros(36, 397, one.classes).index_fill(2, torch.tensor([0]), 5.0)]
    reached, wanted = 26625996, 15995719  # of all images of a set: here float32 has not enough digits
    m, share = 36 * 397, wanted / reached
    label, none_K = np.zeros((36, 397), dtype=np.uint8), np.zeros(one.classes, dtype=np.int64)
    cut = select.Cut(none_K, *(np.eye(1, one.classes, dtype=np.int64)[0] * n for n in (reached, wanted, wanted)))
    with one.script() as space:
        args = one.arguments(0.2, "DARS", scaled=True)
        one.first(space, args)
        found = [0.0] * one.classes, [share] + [1.0] * (one.classes - 1)
        space.second_forward.__globals__["get_threshold_and_sampling_ratio"] = lambda *_: found
        (left,) = one.second(space, args)

    def stay() -> Tensor:
        keep = select.keep_of_image(label, np.ones_like(label, dtype=bool), one.keys(0).reshape(label.shape), cut)
        return torch.tensor(float(keep.sum()))

    with patch.object(select, "_floor", lambda _: np.floor(m - np.float32(m) * np.float32(share)).astype(np.int64)):
        rounded = stay()
    yield compare(
        checkout, "DARS: counts that stay", "an image of 36×397", None, torch.tensor(float((left == 0).sum())), stay(),
        switch=LABEL, departure="float32", explained=rounded, pixels=m, reached=reached, wanted=wanted,
    )  # fmt: skip

    for temperature in (None, 1.27):
        plain = Images(checkout, "VOC", SMALL, temperature=temperature)
        theirs_h, ours_h = plain.histogram(plain.bank()), plain.our_histogram(fp16=False)
        yield compare(
            checkout, "DARS: confidences of each class", f"T = {temperature or 1}", None, theirs_h, ours_h,
            switch=f"temperature={temperature or 1.0}", departure="fp16 logits",
            explained=plain.our_histogram(fp16=True), pixels=plain.pixels, seed=SEED,
            pixels_that_differ=int((theirs_h - ours_h).abs().sum() / 2),
        )  # fmt: skip
