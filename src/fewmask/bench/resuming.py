"""``fewmask bench resume``: what saving and going back cost, and whether they give the same step again."""

from __future__ import annotations

from typing import Any

import torch

from fewmask.bench.setting import Arm, Setting
from fewmask.bench.turns import ratio, seconds_of, summary
from fewmask.engine.checkpoint import Store
from fewmask.run.pace import state_bytes


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Return {"method", "save", "load", "equal", "state_mb", "seconds"} of the last training of every method.

    "save" and "load" are times in steps: of a checkpoint onto the disk with everything synced, and back from it.
    "equal" says whether a step after going back gives the networks that it gave before, to the last bit.
    """
    return [_row(setting, name) for name in setting.methods]


def _row(setting: Setting, name: str) -> dict[str, Any]:
    arm = Arm.of(*list(setting.trainings(name))[-1], setting.fabric)
    store = Store(setting.scratch / f"resume-{name}")
    saves, loads, steps, equal = list[float](), list[float](), list[float](), True
    arm.step()
    for n in range(setting.rounds):
        setting.say(f"{name}: round {n + 1} of {setting.rounds}")
        saves.append(seconds_of(lambda n=n: store.save(arm.learner.snapshot(n, {}))))
        steps.append(seconds_of(arm.step))
        after = _networks(arm)
        loads.append(seconds_of(lambda: _restore(arm, store)))
        arm.step()
        equal = equal and all(torch.equal(a, b) for a, b in zip(after, _networks(arm), strict=True))
    return {
        "method": name, "save": ratio(saves, steps), "load": ratio(loads, steps), "equal": equal,
        "state_mb": round(state_bytes(arm.learner) / 1e6, 1), "seconds": summary(steps),
    }  # fmt: skip


def _restore(arm: Arm, store: Store) -> None:
    snapshot = store.latest()
    assert snapshot is not None  # it has just been saved
    arm.learner.restore(snapshot)


def _networks(arm: Arm) -> list[torch.Tensor]:
    return [x.clone() for net in arm.learner.nets.values() for x in net.state_dict().values()]
