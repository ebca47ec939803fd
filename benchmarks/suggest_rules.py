"""Which rule should ``fewmask suggest`` follow? Rounds of labelling simulated with a cheap head, many draws each.

    FEWMASK_SHARED=… python -m benchmarks.suggest_rules [--data wbc-dev camvid-dev-b camvid-mixed scenes] [--draws 12]

From a few random images on, three rounds of as many more, by each rule. A network here is the logistic regression of
``benchmarks/interval_coverage.py``, on features of a 16×16 grid; it gives the probabilities from which uncertainty and
rarity come, the encoder the vectors between which distances lie. Everything is development data, no test image is
looked at: a part of the training images is the pool, the others are scored. ``camvid-dev-b`` holds out another video
than those of the pool; ``camvid-mixed`` eight neighbours of each sixteen. Writes results/suggest_rules-cpu2.json after
every draw; draws that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.experiments.__main__ import SCRATCH
from benchmarks.experiments.study import SHARED, WEIGHTS, data_folder
from benchmarks.interval_coverage import Cells
from fewmask.batch import IGNORE
from fewmask.data.index import DataIndex
from fewmask.data.layouts import read_folder
from fewmask.data.scenes import write_scenes
from fewmask.nets import build
from fewmask.ops.interval import mean_iou
from fewmask.ops.rank import by_covered_worth, distance
from fewmask.ops.rng import Permutation
from fewmask.run.environment import environment
from fewmask.run.look import Look
from fewmask.run.suggest import rarity_of

OUT = Path(__file__).parent / "results" / "suggest_rules-cpu2.json"
GRID, ROUNDS = 16, 3
FIRST = {"wbc-dev": 6, "camvid-dev-b": 10, "camvid-mixed": 10, "scenes": 8}
"""Masks to begin with, and added in each round."""

Rule = Callable[[Tensor, np.ndarray, np.ndarray, Tensor, int], Tensor]
"""Vectors [N, D], uncertainty [N], rarity [N], vectors that are labelled [M, D], count → places."""


def covering(worth: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    """Return the rule that brings most of some worth close to a label."""

    def rule(points: Tensor, uncertainty: np.ndarray, rarity: np.ndarray, before: Tensor, count: int) -> Tensor:
        return by_covered_worth(points, torch.from_numpy(worth(uncertainty, rarity)), before, count)[0]

    return rule


def product(points: Tensor, uncertainty: np.ndarray, rarity: np.ndarray, before: Tensor, count: int) -> Tensor:
    """Each the image with the largest uncertainty · rarity · distance: weighted k-centre, the rule before."""
    worth, far, taken = torch.from_numpy(uncertainty * rarity), distance(points, before), list[int]()
    for _ in range(count):
        value = worth * far
        value[taken] = -1
        taken.append(int(value.argmax()))
        far = torch.minimum(far, (1 - points @ points[taken[-1]]) / 2)
    return torch.tensor(taken)


def surest_last(points: Tensor, uncertainty: np.ndarray, rarity: np.ndarray, before: Tensor, count: int) -> Tensor:
    """The images of which the network is the least sure."""
    return torch.from_numpy(np.argsort(-uncertainty, kind="stable")[:count].copy())


RULES: dict[str, Rule | None] = {
    "random": None,
    "uncertainty": surest_last,
    "product": product,
    "coverage": covering(lambda uncertainty, rarity: np.ones(len(rarity))),
    "coverage of worth": covering(lambda uncertainty, rarity: uncertainty * rarity),
    "coverage of its root": covering(lambda uncertainty, rarity: np.sqrt(uncertainty * rarity)),
}
"""The last one is that of ``fewmask suggest``."""


@dataclass(frozen=True)
class Task:
    """Images as a cheap head sees them, their vectors [N, D], and the places of pool and scored images."""

    cells: Cells
    vectors: Tensor
    pool: list[int]
    scored: list[int]


def task_of(data: str) -> Task:
    """Return a data set by its name."""
    if data == "scenes":
        folder = SCRATCH / "data" / "suggest-scenes"
        index = read_folder(folder if folder.is_dir() else write_scenes(folder, labelled=184, unlabelled=0, seed=10))
    else:
        index = read_folder(data_folder("camvid-dev-b" if data == "camvid-mixed" else data, SCRATCH))
    kept: DataIndex = replace(index, items=index.items | {"train": (*index.items["train"], *index.items["val"])})
    cells = Cells(kept, GRID)
    net = build("deeplabv3plus", WEIGHTS, cells.classes, weights=str(SHARED / "weights" / f"{WEIGHTS}.safetensors"))
    vectors, _ = Look(net, torch.device("cpu"))(cells.items, skip=False)
    train = {item.name for item in index.items["train"]}
    inside = [item.name in train if data != "camvid-mixed" else n // 8 % 2 == 0 for n, item in enumerate(cells.items)]
    places = range(len(inside))
    return Task(cells, vectors.double(), [n for n in places if inside[n]], [n for n in places if not inside[n]])


def simulate(task: Task, rule: Rule | None, first: int, draw: int) -> list[float]:
    """Return the mIoU on the scored images after no, one, two and three rounds."""
    order = Permutation(len(task.pool), draw)
    drawn = [task.pool[order[n]] for n in range(first * (ROUNDS + 1))]
    chosen, found = drawn[:first], list[float]()
    for n in range(1, ROUNDS + 2):
        weights = task.cells.fit(chosen)
        found.append(float(mean_iou(task.cells.counts(weights, task.scored).sum(0))))
        if rule is None:
            chosen = drawn[: first * (n + 1)]
        elif n <= ROUNDS:
            rest = [place for place in task.pool if place not in set(chosen)]
            uncertainty, rarity = worth_of(task, weights, chosen, rest)
            places = rule(task.vectors[rest], uncertainty, rarity, task.vectors[chosen], first)
            chosen = chosen + [rest[place] for place in places.tolist()]
    return found


def worth_of(task: Task, weights: Tensor, chosen: Sequence[int], rest: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return uncertainty and rarity of some images, as ``fewmask suggest`` has them."""
    p = (task.cells.features[list(rest)] @ weights[:-1] + weights[-1]).softmax(-1).double()
    entropy = -(p * p.clamp(min=1e-12).log()).sum(-1).mean(1) / np.log(task.cells.classes)
    known = task.cells.known[list(chosen)].flatten()
    frequency = torch.bincount(known[known != IGNORE], minlength=task.cells.classes).double().numpy()
    return entropy.numpy(), rarity_of(p.mean(1).numpy(), frequency / frequency.sum())


def table(found: dict[str, dict[str, list[list[float]]]]) -> str:
    """Return the gain over random images as Markdown: mean over rounds and draws ± standard error of the draws."""
    lines = ["| data | draws | random |" + "".join(f" {rule} |" for rule in list(RULES)[1:])]
    lines.append("|---" * (len(RULES) + 2) + "|")
    for data, rules in found.items():
        draws = min(len(rules.get(rule, ())) for rule in RULES)
        if draws < 2:
            continue
        means = {rule: [fmean(one[1:]) for one in rules[rule][:draws]] for rule in RULES}
        cells = [f"{data}, {FIRST[data]} masks", str(draws), f"{fmean(means['random']):.2f}"]
        for rule in list(RULES)[1:]:
            gains = [ours - theirs for ours, theirs in zip(means[rule], means["random"], strict=True)]
            cells.append(f"{fmean(gains):+.2f} ± {stdev(gains) / draws**0.5:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description="Which rule should fewmask suggest follow?")
    parser.add_argument("--data", nargs="+", choices=list(FIRST), default=list(FIRST))
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"miou": {}}
    for data in args.data:
        rules = told["miou"].setdefault(data, {})
        if all(len(rules.get(rule, ())) >= args.draws for rule in RULES):
            continue
        task = task_of(data)
        for draw in range(args.draws):
            for name, rule in RULES.items():
                if len(rules.setdefault(name, [])) <= draw:
                    rules[name].append([round(v, 3) for v in simulate(task, rule, FIRST[data], draw)])
            told["environment"] = environment()
            args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(table(told["miou"]))


if __name__ == "__main__":
    main()
