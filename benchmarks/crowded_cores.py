"""What a step takes on a CPU whose cores other programs use too, by how threads wait for each other.

    .venv/bin/python benchmarks/crowded_cores.py [--json FILE]

Training steps of DeepLabV3+ with MobileNetV2 (4 images of 96×128), each kind in a process of its own, beside so many
programs that do nothing but count; times are ratios to a step on the idle machine with the default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from fewmask.nets import build
from fewmask.run.environment import environment

KINDS = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}, "one thread": {"OMP_NUM_THREADS": "1"}}
WARM = 3


def step_seconds(seconds: float) -> float:
    """Return the mean of as many steps as fit into a time."""
    torch.manual_seed(0)
    net, images = build("deeplabv3plus", "mobilenet_v2", 11, weights="none").train(), torch.randn(4, 3, 96, 128)
    optimiser = torch.optim.AdamW(net.parameters())
    began, steps = time.perf_counter(), -WARM
    while steps < 1 or time.perf_counter() - began < seconds:
        if steps == 0:
            began = time.perf_counter()
        optimiser.zero_grad()
        net(images).square().mean().backward()
        optimiser.step()
        steps += 1
    return (time.perf_counter() - began) / steps


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """Let so many programs use a core each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--one", action="store_true", help="one measurement, in this process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        print(step_seconds(args.seconds))
        return
    found: dict[str, dict[str, float]] = {}
    for count in args.others:
        found[str(count)] = {}
        for kind, variables in KINDS.items():
            words = [sys.executable, __file__, "--one", "--seconds", str(args.seconds)]
            with others(count):
                done = subprocess.run(words, env=os.environ | variables, check=True, capture_output=True, text=True)
            found[str(count)][kind] = float(done.stdout)
    unit = found[str(args.others[0])]["default"]
    ratios = {count: {kind: round(s / unit, 2) for kind, s in row.items()} for count, row in found.items()}
    print(json.dumps(ratios, indent=1))
    if args.json:
        told = {"default_seconds": unit, "others": ratios, "threads": torch.get_num_threads()}
        args.json.write_text(json.dumps(told | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
