"""S: a supervised step of the engine ÷ a step of a plain PyTorch loop on the same network and images. Gate: 1.03.

    .venv/bin/python benchmarks/step_overhead.py [--rounds 9] [--steps 8] [--precision fp32] [--json FILE]

One process, interleaved rounds, median and range of the per-round ratios: times of a shared machine say little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from fewmask.batch import Items, Slots
from fewmask.data.stream import to_device
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.optim import OptimConfig
from fewmask.engine.precision import FORMATS, Format
from fewmask.engine.signals import StopRequest
from fewmask.engine.train import Progress, Surroundings, TrainConfig, fit
from fewmask.method import Task
from fewmask.methods.supervised import Supervised
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD, Builder
from fewmask.run.environment import environment

CLASSES, BATCH, CROP = 11, 4, (96, 128)
ARCH, ENCODER = "deeplabv3plus", "mobilenet_v2"
MEAN, STD = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)


def images(n: int) -> list[Items]:
    g = torch.Generator().manual_seed(0)
    out = []
    for _ in range(n):
        x = torch.randint(0, 256, (BATCH, 3, *CROP), generator=g, dtype=torch.uint8)
        y = torch.randint(0, CLASSES, (BATCH, *CROP), generator=g, dtype=torch.uint8)
        out.append(Items((x,), ("weak",), torch.ones(BATCH, *CROP, dtype=torch.bool), torch.arange(BATCH), y))
    return out


def plain(batches: list[Items], precision: str) -> Callable[[int], None]:
    """What one would write without a framework."""
    net = Builder(ARCH, ENCODER, CLASSES, weights="none", seed=0)("net").train()
    layout = torch.channels_last if precision != "fp32" else torch.contiguous_format
    net = net.to(memory_format=layout)
    head = [p for n, p in net.named_parameters() if not n.startswith("encoder")]
    groups = [{"params": net.encoder.parameters()}, {"params": head, "lr": 2e-3}]
    optimiser = torch.optim.AdamW(groups, lr=5e-4, weight_decay=0.01)
    source = itertools.cycle(batches)
    mean, std = MEAN.view(1, 3, 1, 1) * 255, STD.view(1, 3, 1, 1) * 255

    def run(steps: int) -> None:
        for t in range(steps):
            items = next(source)
            x = ((items.views[0] - mean) / std).contiguous(memory_format=layout)
            y = items.mask.long()
            with torch.autocast("cpu", FORMATS[precision]) if FORMATS[precision] else nullcontext():
                loss = F.cross_entropy(net(x), y, ignore_index=255)
            loss.backward()
            for group, rate in zip(optimiser.param_groups, (5e-4, 2e-3), strict=True):
                group["lr"] = rate * (1 - t / steps) ** 0.9
            optimiser.step()
            optimiser.zero_grad()
        loss.item()

    return run


def ours(batches: list[Items], precision: str) -> Callable[[int], None]:
    """The engine's own loop, logging as it does by default."""
    method = Supervised(Supervised.Config(), Task(CLASSES))
    slots = {"l": Slots(0, BATCH, 0, BATCH, 100)}
    layout = Format(precision, precision != "fp32", "")
    fabric = launch("cpu", precision)
    build = Builder(ARCH, ENCODER, CLASSES, weights="none", seed=0)
    learner = Learner(fabric, method, build, OptimConfig(), slots, 10**6, 0, layout)
    source = itertools.cycle(batches)
    around = Surroundings(
        batches=lambda start, stop: ({"l": next(source)} for _ in range(start, stop)),
        prepare=lambda raw: to_device(raw, torch.device("cpu"), MEAN, STD, layout.channels_last),
        validate=None, store=None, log=None, tensorboard=None, stop=StopRequest(), barrier=lambda: None,
        agree=learner.any_rank, report=lambda record: None, rewind=_never, names=lambda raw: {}, say=print,
    )  # fmt: skip
    return lambda steps: (fit(learner, around, TrainConfig(steps=steps), Progress()), None)[1]


def _never() -> Progress:
    raise AssertionError("these images give finite losses")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--json")
    args = parser.parse_args()
    batches = images(8)
    arms = {"plain": plain(batches, args.precision), "ours": ours(batches, args.precision)}
    for arm in arms.values():
        arm(2)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for n in range(args.rounds):
        for name in list(arms) if n % 2 else list(arms)[::-1]:  # neither arm is always the first
            start = time.perf_counter()
            arms[name](args.steps)
            seconds[name].append((time.perf_counter() - start) / args.steps)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
    row = {
        "S": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "S_of_minima": min(seconds["ours"]) / min(seconds["plain"]),
        "seconds": {name: {"median": statistics.median(v), "low": min(v)} for name, v in seconds.items()},
        "precision": args.precision, "rounds": args.rounds, "steps": args.steps,
    }  # fmt: skip
    print(json.dumps(row, indent=2))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"environment": environment(), "rows": [row]}, f, indent=2)


if __name__ == "__main__":
    main()
