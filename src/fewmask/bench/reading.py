"""``fewmask bench data``: how fast one process makes batches."""

from __future__ import annotations

import time
from typing import Any

from fewmask.bench.setting import Setting
from fewmask.bench.turns import summary
from fewmask.run.pace import views_of
from fewmask.run.training import dataset_of, learner_of

_BATCHES = 8  # read in a round


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Return {"method", "views", "images_per_second", "images_per_second_first", "core_ms"} of every method.

    Files come from the disk, and then from the cache.
    """
    return [_row(setting, name) for name in setting.methods]


def _row(setting: Setting, name: str) -> dict[str, Any]:
    _, part, method = next(setting.trainings(name))  # the first reads nothing that is not there yet
    learner = learner_of(part, method, setting.fabric, trains=False)
    views, first, again, cores = views_of(method, learner), list[float](), list[float](), list[float]()
    for n in range(setting.rounds):
        setting.say(f"{name}: round {n + 1} of {setting.rounds}")
        dataset = dataset_of(part, method, learner)  # with an empty cache
        for spent in (first, again):
            began, used = time.perf_counter(), time.process_time()
            for t in range(_BATCHES):
                dataset[t]
            spent.append(_BATCHES * views / (time.perf_counter() - began))
            cores += [1000 * (time.process_time() - used) / (_BATCHES * views)] if spent is again else []
    return {
        "method": name, "views": views, "images_per_second": summary(again),
        "images_per_second_first": summary(first), "core_ms": summary(cores),
    }  # fmt: skip
