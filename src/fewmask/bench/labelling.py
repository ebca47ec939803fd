"""``fewmask bench select``: a labelling pass beside a plain inference pass over the same images."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any, get_args

from fewmask.bench.pictures import noise
from fewmask.bench.setting import Arm, Setting
from fewmask.bench.turns import in_turn, ratio, summary
from fewmask.engine.infer import PROTOCOLS
from fewmask.engine.label import confident, write_labels
from fewmask.ops.select import Rule, Selection
from fewmask.run.arms import SUPERVISED

IMAGES = 8


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Return {"name", "P", "seconds", "inference_seconds"} of every rule of selection.

    P is the whole pass (predict, count, choose, write the files) over the prediction alone.
    """
    arm = Arm.of(*next(setting.trainings(SUPERVISED)), setting.fabric)
    net, task = arm.learner.nets["net"].eval(), setting.prepared.task
    items, pictures = noise(setting, IMAGES)
    predict = confident(net, pictures, PROTOCOLS[setting.prepared.recipe.protocol])
    classes = [str(k) for k in range(task.classes)]
    share = task.frequency or (1 / task.classes,) * task.classes

    def label(rule: Rule) -> None:
        folder: Path = setting.scratch / "labels"
        write_labels(predict, items, folder, Selection(rule, 0.5), classes, frequency=share)
        shutil.rmtree(folder)

    def infer() -> None:
        for item in items:
            predict(item)

    jobs = {rule: partial(label, rule) for rule in get_args(Rule)} | {"inference": infer}
    for job in jobs.values():
        job()
    spent = in_turn(jobs, setting.rounds, setting.say)
    plain = spent.pop("inference")
    return [
        {
            "name": rule, "P": ratio(seconds, plain), "seconds": summary(seconds),
            "inference_seconds": summary(plain), "images": IMAGES,
        }
        for rule, seconds in spent.items()
    ]  # fmt: skip
