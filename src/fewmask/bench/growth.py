"""``fewmask bench scale``: how times grow with the pool, the bank, the classes and the pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.bench.flops import counted
from fewmask.bench.setting import Arm, Setting
from fewmask.bench.turns import in_turn, slope, summary
from fewmask.data.index import Item
from fewmask.engine.label import write_labels
from fewmask.nets.bank import ClassBanks
from fewmask.ops.rng import order
from fewmask.ops.select import Selection

_POOLS = (10**3, 10**5, 10**7, 10**9)
_BANKS = (500, 2000, 8000, 32000)
_LABELLED = (50, 100, 200, 400)
_CLASSES = (2, 8, 21, 64, 150)
_SIDES = (64, 96, 128, 192)
_POSITION = 10**9


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Return {"name", "over", "sizes", "seconds", "slope"} of what grows, or must not.

    The slope is that of log time over log size: 0 = does not grow, 1 = in proportion. Rows over classes have "ops" too,
    the ATen operations of a step, which should be the same for any number of them.
    """
    out = [
        _row(setting, "order of the pool, at step 10^9", "images", {n: partial(_draw, n) for n in _POOLS}),
        _row(setting, "memory bank: push and draw", "features a class", {n: _bank(n) for n in _BANKS}),
        _row(setting, "selection of DARS", "images", {n: partial(_select, setting.scratch, n) for n in _LABELLED}),
    ]
    for name in setting.methods:
        arms = {k: _arm(setting.sized(classes=k), name) for k in _CLASSES}
        row = _row(setting, f"step of {name}", "classes", {k: arm.step for k, arm in arms.items()})
        out.append(row | {"ops": [counted(arm.step).ops for arm in arms.values()]})
        del arms  # before the next are built
        crops = {side**2: _arm(setting.sized(crop=(side, side)), name).step for side in _SIDES}
        out.append(_row(setting, f"step of {name}", "pixels", crops))
    return out


def _row(setting: Setting, name: str, over: str, jobs: Mapping[int, Callable[[], Any]]) -> dict[str, Any]:
    setting.say(f"{name}, over {over}")
    for job in jobs.values():
        job()
    spent = in_turn({str(size): job for size, job in jobs.items()}, setting.rounds, lambda text: None)
    seconds = [summary(each) for each in spent.values()]
    return {
        "name": name, "over": over, "sizes": list(jobs), "seconds": seconds,
        "slope": slope(list(jobs), [min(each) for each in spent.values()]),  # what disturbs a time only adds to it
    }  # fmt: skip


def _arm(setting: Setting, name: str) -> Arm:
    return Arm.of(*list(setting.trainings(name))[-1], setting.fabric)


def _draw(images: int) -> None:
    for position in range(_POSITION, _POSITION + 500):
        order(images, position, 0)


def _bank(length: int) -> Callable[[], None]:
    g = torch.Generator().manual_seed(0)
    classes, new, dim = 8, 64, 64
    bank = ClassBanks(classes, length, dim)
    bank.features.normal_(generator=g)
    bank.pushed.fill_(length)
    features, real = torch.randn(classes, new, dim, generator=g), torch.ones(classes, new, dtype=torch.bool)
    age = torch.randint(length, (classes, 50, 64), generator=g)

    def job() -> None:
        for _ in range(10):
            bank.push(features, real)
            bank.products(age, features[:, :50])

    return job


def _select(scratch: Path, images: int) -> None:
    """Choose from predictions that cost nothing."""
    height, width, classes = 60, 80, 11
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, classes, (6, 8)).astype(np.uint8), np.ones((10, 10), np.uint8))
    confidence = rng.random((height, width), dtype=np.float32)
    folder, items = scratch / "growth", [Item(str(n), Path(f"{n}.png")) for n in range(images)]
    share = (1 / classes,) * classes
    names = [str(k) for k in range(classes)]

    def predict(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        return label, confidence

    write_labels(predict, items, folder, Selection("dars", 0.5), names, frequency=share)
    shutil.rmtree(folder)
