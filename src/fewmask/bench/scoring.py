"""``fewmask bench evaluate``: scoring beside the forward passes that it needs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewmask.bench.pictures import noise
from fewmask.bench.setting import Arm, Setting
from fewmask.bench.turns import in_turn, ratio, summary
from fewmask.engine.evaluate import confusion_of
from fewmask.engine.infer import Protocol
from fewmask.run.arms import SUPERVISED

IMAGES = 16


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Return {"name", "E", "images_per_second", "passes"} for whole images, mirrored ones, and a sliding window.

    E is the time of the whole evaluation over that of its forward passes on noise.
    """
    arm = Arm.of(*next(setting.trainings(SUPERVISED)), setting.fabric)
    net, classes = arm.learner.nets["net"].eval(), setting.prepared.task.classes
    items, pictures = noise(setting, IMAGES)
    crop = setting.prepared.recipe.data.crop
    assert crop is not None
    window = Protocol(name="window", window=max(8, min(crop) // 2))
    jobs, passes = {}, dict[str, int]()
    for protocol in (Protocol(), Protocol(name="flip", flip=True), window):
        seen = list[Tensor]()
        score = partial(_score, net, items, pictures, classes, protocol)
        score(seen)
        passes[protocol.name] = len(seen)
        jobs |= {protocol.name: score, f"{protocol.name}, passes": partial(_passes, net, seen)}
    spent = in_turn(jobs, setting.rounds, setting.say)
    return [
        {
            "name": name, "E": ratio(spent[name], spent[f"{name}, passes"]), "passes": passes[name],
            "images_per_second": summary([len(items) / s for s in spent[name]]), "seconds": summary(spent[name]),
        }
        for name in passes
    ]  # fmt: skip


def _score(
    net: Any, items: Any, pictures: Any, classes: int, protocol: Protocol, seen: list[Tensor] | None = None
) -> None:
    def forward(images: Tensor) -> Tensor:
        if seen is not None:
            seen.append(torch.randn_like(images))
        return net(images)

    confusion_of(forward, items, pictures, classes, protocol)


@torch.no_grad()
def _passes(net: Any, batches: list[Tensor]) -> None:
    for images in batches:
        net(images)
