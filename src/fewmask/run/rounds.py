"""A method of several rounds: each an ordinary training, on labels that the network of an earlier one made.

``RUN/rounds/<n>-<name>/`` is the run folder of round n, with its labels below ``pseudo/`` and, when it is finished, a
file DONE. The run's own folder tells what the last round has reached. An interrupted run continues inside its round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import nn

from fewmask.config import load_json
from fewmask.engine.faults import site
from fewmask.engine.files import json_text, write_atomic, write_json
from fewmask.engine.flatten import load_networks
from fewmask.engine.label import kept_share, read_manifest
from fewmask.errors import Interrupted
from fewmask.method import Round
from fewmask.methods import resolve
from fewmask.nets.segmenter import plain
from fewmask.run.arms import Arm
from fewmask.run.finish import take_delivery
from fewmask.run.folder import RunFolder
from fewmask.run.init import start_from
from fewmask.run.labelling import Labeller
from fewmask.run.notes import Notes
from fewmask.run.prepare import Prepared, recipe_of, steps_of
from fewmask.run.training import Start, Training, train_one


def train_arm(arm: Arm, whole_run: Prepared, fabric: Any, say: Notes, title: str | None = None) -> str:
    """Train one arm to its end, all of its rounds, continuing where it stands, and write its run folder.

    Args:
        arm: the training.
        whole_run: the command's run; its folder is begun with its first arm.
        fabric: launched.
        say: receives one sentence for each decision.
        title: announces the training, where there are several.

    Returns:
        Who asked to stop while it was being scored, which nothing interrupts; "" = nobody.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    prepared = arm.prepared
    recipe = prepared.recipe
    init = recipe.model.init
    names = prepared.index.classes
    start: Start | None = None if not init else lambda nets: start_from(nets, Path(init), say, names)
    method = resolve(recipe.method_name)(recipe.constants(), prepared.task)
    if rounds := method.rounds():
        return _Rounds(arm, rounds, whole_run, fabric, say).run(start, title)
    return train_one(Training(prepared, method, arm.baseline, start, title), [whole_run], fabric, say)


class _Rounds:
    """The rounds of one arm."""

    def __init__(self, arm: Arm, rounds: Sequence[Round], whole_run: Prepared, fabric: Any, say: Notes) -> None:
        self.prepared, self.baseline, self.rounds = arm.prepared, arm.baseline, rounds
        self.whole_run, self.fabric, self.say = whole_run, fabric, say
        self.steps = steps_of(rounds, arm.prepared.recipe.train.steps)
        self.labeller = Labeller(arm.prepared, rounds, self.steps, fabric, say)
        self.folder, self.first = self.labeller.folder, self.labeller.first

    def run(self, start: Start | None, title: str | None) -> str:
        """Train what is not finished; see ``train_arm``."""
        who = ""
        for n, one in enumerate(self.rounds):
            if self.fabric.broadcast(self.folder(n).done.is_file()):
                continue
            if who:
                raise Interrupted(
                    f"stopped by {who} after round {n} of {len(self.rounds)}", where="the state is saved",
                    todo="run the same command again to continue",
                )  # fmt: skip
            words = f"round {n + 1} of {len(self.rounds)}: {one.name}, {self.steps[n]} steps"
            job = Training(
                self._prepared(n), one.method, self.baseline if n + 1 == len(self.rounds) else None,
                start if one.init is None else self._continuing(one), f"{title}; {words}" if title else words,
                milestones=self.labeller.milestones(n),
            )  # fmt: skip
            who = train_one(job, [self.whole_run, self.prepared], self.fabric, self.say)
            if self.first:
                write_json(self.folder(n).done, {"round": one.name, "steps": self.steps[n]})
            site("round.done")
            self.fabric.barrier()
        if self.first:
            summarise(RunFolder(self.prepared.folder), [self.folder(n) for n in range(len(self.rounds))], self.baseline)
        self.fabric.barrier()
        return who

    def _prepared(self, n: int) -> Prepared:
        """Return what a round trains on: its recipe, its labels."""
        whole, one = self.prepared, self.rounds[n]
        recipe = recipe_of(whole.recipe, one).replace("train", steps=self.steps[n])
        recipe = recipe.model_copy(update={"baseline": False, "seeds": 1})
        mine = replace(whole, recipe=recipe, folder=self.folder(n).path)
        return replace(mine, pools=self.labeller.pools(n)) if one.labels else mine

    def _continuing(self, one: Round) -> Start:
        """Return a start from the last networks of an earlier round, by name; what that lacks keeps its own."""
        assert one.init is not None
        number = self.labeller.number[one.init]

        def start(nets: Mapping[str, nn.Module]) -> None:
            networks, _ = self.labeller.networks(number)
            if one.fresh_heads:
                reported = self.labeller.reported(number, networks).state_dict()
                for net in nets.values():
                    plain(net).load_state_dict(reported)
                return
            there = {key.split(".", 1)[0] for key in networks}
            load_networks({k: net for k, net in nets.items() if k in there}, networks)

        return start


def summarise(folder: RunFolder, rounds: Sequence[RunFolder], baseline: Path | None) -> dict[str, Any]:
    """Write the folder of a run of several rounds from those of its rounds, metrics.json last.

    Args:
        folder: the run.
        rounds: its finished rounds.
        baseline: the matched supervised run.

    Returns:
        The content of metrics.json: the last round's, with steps and seconds of all, and "rounds".
    """
    each = [r.read_metrics() for r in rounds]
    starts = [0, *accumulate(m["steps"] for m in each[:-1])]
    last, before = each[-1], starts[-1]
    own = last["delivered"]["run"] == "method"
    seconds = sum(m["seconds"] for m in each)
    metrics = last | {
        "steps": before + last["steps"], "best": last["best"] | {"step": before + last["best"]["step"]},
        "delivered": last["delivered"] | ({"step": before + last["delivered"]["step"]} if own else {}),
        "seconds": round(seconds, 1),
        "images_per_second": round(sum(m["images_per_second"] * m["seconds"] for m in each) / max(seconds, 1e-9), 1),
        "peak_memory_mb": max((m["peak_memory_mb"] for m in each if m["peak_memory_mb"] is not None), default=None),
        "deterministic": all(m.get("deterministic", False) for m in each),  # older versions did not say
        "skipped": [start + step for m, start in zip(each, starts, strict=True) for step in m["skipped"]],
        "baseline_run": None if baseline is None else RunFolder(baseline).path_from(folder),
        "rounds": [_told(r, m) for r, m in zip(rounds, each, strict=True)],
    }  # fmt: skip
    take_delivery(rounds[-1], folder)
    write_atomic(folder.evaluation, rounds[-1].evaluation.read_bytes())
    text = rounds[-1].next_steps.read_text(encoding="utf-8").replace(str(rounds[-1].path), str(folder.path))
    write_atomic(folder.next_steps, text)
    write_atomic(folder.log, "".join(_logs(rounds, [m["steps"] for m in each])))
    write_json(folder.metrics, metrics)
    return metrics


def _told(folder: RunFolder, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what metrics.json of the run tells of a round."""
    out = {"name": folder.path.name.partition("-")[2], **{k: metrics[k] for k in ("steps", "val", "test", "seconds")}}
    if not folder.pseudo.is_dir():
        return out | {"labels": None}
    made = read_manifest(folder.pseudo)
    told = {key: made.get(key) for key in ("select", "images", "divergence")}
    return out | {"labels": told | {"kept": kept_share(made)}}


def _logs(rounds: Sequence[RunFolder], steps: Sequence[int]) -> Iterator[str]:
    """Yield the lines of all logs, with the step of the run and the number of the round."""
    before = 0
    for n, (folder, count) in enumerate(zip(rounds, steps, strict=True)):
        for line in folder.log.read_text(encoding="utf-8").splitlines():
            record = load_json(line)
            yield json_text(record | {"step": before + record["step"], "round": n}) + "\n"
        before += count
