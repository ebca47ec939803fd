"""The papers' ablations beside ours: paired differences of arms, and a verdict where the paper claims much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from benchmarks.experiments.study import HERE
from fewmask.config import load_yaml

MUCH = 2.0
"""mIoU from which a claim is tested."""


def verdict(differences: Sequence[float]) -> tuple[str, float, float]:
    """Return what paired differences say of a claim that they are above 0, and their 95 % t interval.

    "holds" where the interval is above 0, "reversed" where it is below, else "not shown"; so with fewer than two.
    """
    if len(differences) < 2:
        return "not shown", math.nan, math.nan
    mean, n = fmean(differences), len(differences)
    reach = float(student.ppf(0.975, n - 1)) * stdev(differences) / math.sqrt(n)
    low, high = mean - reach, mean + reach
    return "holds" if low > 0 else "reversed" if high < 0 else "not shown", low, high


def claims_block(study: str, scores: dict[str, dict[tuple[int, int], float]]) -> str:
    """Return the Markdown table of a study's claims.

    Args:
        study: its name in claims.yaml.
        scores: arm to mIoU by (draw, seed).
    """
    rows = _rows(study, "claims")
    lines = [
        "| paper | claim | theirs | ours, from | to | difference, paired | 95 % interval | pairs | verdict |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        one, other = (scores.get(row[key], {}) for key in ("from", "to"))
        pairs = sorted(one.keys() & other.keys())
        theirs = row["figures"][1] - row["figures"][0]
        head = f"| {row['paper']}, {row['where']} | {row['what']} | {_figures(row['figures'])} = {theirs:+.1f} "
        if not pairs:
            lines.append(f"{head}| – | – | – | – | 0 | not run |")
            continue
        differences = [other[p] - one[p] for p in pairs]
        said, low, high = verdict(differences)
        spread = f" ± {stdev(differences):.1f}" if len(pairs) > 1 else ""
        between = f"{low:+.1f} to {high:+.1f}" if len(pairs) > 1 else "–"
        lines.append(
            f"{head}| {fmean(one[p] for p in pairs):.1f} | {fmean(other[p] for p in pairs):.1f} "
            f"| {fmean(differences):+.1f}{spread} | {between} | {len(pairs)} "
            f"| {said if theirs >= MUCH else '–'} |"
        )
    return "\n" + "\n".join(lines) + "\n\n"


def divergence_block(study: str, found: dict[str, list[float]]) -> str:
    """Return the Markdown table of how far the classes of pseudo-labels are from those of the labelled pixels.

    Args:
        study: its name in claims.yaml.
        found: arm to the divergence of its first pseudo-labels, one for each run.
    """
    lines = ["| paper | pseudo-labels | theirs, D_KL | ours | runs |", "|---" * 5 + "|"]
    for row in _rows(study, "divergence"):
        ours = found.get(row["arm"], [])
        spread = f" ± {stdev(ours):.4f}" if len(ours) > 1 else ""
        said = f"{fmean(ours):.4f}{spread}" if ours else "not run"
        lines.append(f"| {row['paper']}, {row['where']} | {row['what']} | {row['figure']:.4f} | {said} | {len(ours)} |")
    return "\n" + "\n".join(lines) + "\n\n"


def _rows(study: str, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_yaml((HERE / "claims.yaml").read_bytes())[study][kind]
    return rows


def _figures(figures: Sequence[float]) -> str:
    return f"{figures[0]:g} → {figures[1]:g}"
