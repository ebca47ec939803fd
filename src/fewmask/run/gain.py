"""Did the unlabelled images help? The gain of a run over its matched supervised baseline, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.errors import CheckpointError
from fewmask.ops.interval import SEEDS, Gain, Interval, paired_gain
from fewmask.report.paired import told_interval
from fewmask.run.evaluation import Evaluation, load_evaluation
from fewmask.run.folder import RunFolder

VAL, FOLDED = "this validation set", "the labelled images"
"""What a gain is measured on: val images, or the folds of a cross-fitted run."""


def gain_over(
    ours: Sequence[Evaluation | None], theirs: Sequence[RunFolder], classes: Sequence[str],
    scored: str = VAL,
) -> dict[str, Any] | None:  # fmt: skip
    """Return ``gain`` of metrics.json, on val; None where it cannot be measured.

    Args:
        ours: the method's results on val, one a seed.
        theirs: the baselines' folders, same seeds.
        classes: names.
        scored: what the images are.

    Raises:
        CheckpointError: a baseline's scores are missing, or of other images or masks.
    """
    mine = [e for e in ours if e is not None]
    if not mine or len(mine) < len(ours):
        return None
    others: list[Evaluation] = []
    for folder in theirs:
        other = load_evaluation(folder.evaluation, "val")
        if other is None or other.names != mine[0].names or not np.array_equal(other.truth, mine[0].truth):
            raise CheckpointError(
                "the baseline was scored on other images or masks", where=folder.path,
                todo="train again with --baseline",
            )  # fmt: skip
        others.append(other)
    counts = [np.stack([one.counts for one in arm]) for arm in (mine, others)]
    gain = paired_gain(counts[0], counts[1], mine[0].units, mine[0].groups)
    if gain is None:
        return None
    return {
        **_rounded(gain.miou, "miou"), "verdict": gain.verdict, "covers": list(gain.covers),
        "iou": {
            name: None if part is None else _rounded(part, "gain")
            for name, part in zip(classes, gain.classes, strict=True)
        },
        "text": sentence(gain, len(mine), scored),
    }  # fmt: skip


def _rounded(interval: Interval, name: str) -> dict[str, float | None]:
    ends = {"low": interval.low, "high": interval.high}
    return {name: round(interval.value, 4)} | {k: None if math.isnan(v) else round(v, 4) for k, v in ends.items()}


def sentence(gain: Gain, seeds: int, scored: str = VAL) -> str:
    """Return the verdict as one sentence for people."""
    points = gain.miou
    between = f"95 % interval {points.low:+.1f} to {points.high:+.1f} over {' and '.join(gain.covers)}"
    if gain.verdict != "not shown":
        return f"The unlabelled images {gain.verdict}: {points.value:+.1f} mIoU over supervised training ({between})."
    ahead = "ahead" if points.value >= 0 else "behind"
    if seeds < SEEDS:
        count = "one seed" if seeds == 1 else f"{seeds} seeds"
        return (
            f"Not shown whether the unlabelled images help: {ahead} by {abs(points.value):.1f} mIoU on {scored}, "
            f"{count} ({between}); --seeds {SEEDS} can show it."
        )
    return (
        f"Not shown whether the unlabelled images help: {ahead} by {abs(points.value):.1f} mIoU, and the interval "
        f"includes 0 ({between})."
    )


def interval_of(*each: Evaluation | None) -> dict[str, Any] | None:
    """Return {"low", "high", "covers"} of a score or of its mean over seeds, 95 %, as ``score_interval`` has it.

    Args:
        each: results on the same images, one a seed.

    Returns:
        None with fewer than two images that are no copies, or where a seed was not scored or was scored on others.
    """
    known = [one for one in each if one is not None]
    if not known or len(known) < len(each) or any(one.names != known[0].names for one in known):
        return None
    return told_interval(np.stack([one.counts for one in known]), known[0].units, known[0].groups)
