"""A step in parts, one after the other (gradient accumulation): what each part sees, and what all of them leave.

A part is to the step what a rank is: it holds some of the slots, with the draws of these slots, and its statistics
(BatchNorm's, of selections, what a loss divides by) are its own. Gradients and losses of the parts are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fewmask.batch import Batch
from fewmask.method import Step

Part = tuple[Batch, Step, dict[str, Tensor]]
"""What ``Method.losses`` receives beside the networks."""


def divided(batch: Batch, step: Step, count: int) -> list[Part]:
    """Return the parts of a rank's step, each with a memo of its own.

    Args:
        batch: this rank's; every stream holds a multiple of ``count`` items.
        step: this rank's.
        count: how many parts; 1 = the step as it is.
    """
    if count == 1:
        return [(batch, step, {})]
    return [
        (
            {name: items.part(n, count) for name, items in batch.items()},
            replace(
                step, rank=step.rank * count + n,
                slots={name: slots.part(n, count) for name, slots in step.slots.items()},
            ),
            {},
        )
        for n in range(count)
    ]  # fmt: skip


def whole(memos: Sequence[dict[str, Tensor]], joined: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the memo of a step from those of its parts: sums are added, items joined, and ``kept``, a share, averaged.

    Args:
        memos: what the parts have left.
        joined: ``Method.joined``.

    Raises:
        ValueError: a tensor that only some parts have left.
    """
    first, *others = memos
    if not others:
        return first
    if odd := sorted({name for memo in others for name in memo.keys() ^ first.keys()}):
        raise ValueError(f"some parts of a step leave {odd} in the memo, and some do not")
    out = {}
    for name in first:
        found = [memo[name] for memo in memos]
        if name in joined:
            out[name] = torch.cat(found, joined[name])
        else:
            total = torch.stack(found).sum(0)
            out[name] = total / len(memos) if name == "kept" else total
    return out
