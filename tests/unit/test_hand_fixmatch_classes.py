"""FixMatch on small images, by hand: one threshold a class, and aligned labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewmask.batch import Batch
from fewmask.method import Task
from fewmask.methods.fixmatch import FixMatch
from fewmask.nets.running import RunningMean
from fewmask.ops import pseudo
from hand import Table, ce, items, slope, step, total_slope
from hand_fixmatch import S, T, method, run, small

# --- one threshold a class ---------------------------------------------------------------------------------------

# of the weak codes 2-5 the labels are 0, 1, 2, 0 with confidence .97, .96, .9, .4


def unlabelled_row(weak: list[int], strong: list[int], valid: list[int] | None = None) -> Batch:
    """Return one labelled and one unlabelled image of a single row."""
    row = items([[weak]], [[strong]], kinds=("weak", "strong"), valid=None if valid is None else [[valid]])
    return {"l": items([[[0] * len(weak)]], mask=[[[0] * len(weak)]]), "u": row}


@pytest.mark.parametrize(
    ("share", "kept"),
    [(1.0, (0, 1, 2, 3, 4, 5)), (0.8, (0, 1, 2, 3, 4, 5)), (0.75, (0, 1, 2, 4, 5)), (0.5, (0, 1, 4, 5)),
     (0.25, (0, 4, 5)), (0.01, (0, 4, 5))],
)  # fmt: skip
def test_class_share(share: float, kept: tuple[int, ...]) -> None:
    """Class 0 is predicted four times, at .97 .4 .4 .4, classes 1 and 2 once: ceil(share·4), 1 and 1 pixels are kept.

    Of the three equals the first stay. Six pixels are counted, whatever is kept; τ has no say, though .4 < .95 < .96.
    """
    strong = [6, 7, 8, 6, 7, 8]
    m, student = method(cutmix=0.0, threshold="class_share", share=share), Table(S)
    out, memo = run(m, unlabelled_row([2, 5, 5, 5, 3, 4], strong), student=student)
    labels = [0, 0, 0, 0, 1, 2]
    assert out["unsup"].item() == pytest.approx(sum(ce(S[strong[i]], labels[i]) for i in kept) / 6)
    assert memo["kept"].item() == pytest.approx(len(kept) / 6)
    assert memo["pseudo"].tolist() == [len(kept) - 2, 1, 1]
    expected = total_slope(9, [(1 / 6, strong[i], slope(S[strong[i]], labels[i])) for i in kept])
    assert student.gradient(out["unsup"]) == [pytest.approx(row, abs=1e-9) for row in expected]


@pytest.mark.parametrize(("tau", "kept"), [(0.95, (0, 1, 4, 5)), (0.965, (0, 1, 4, 5)), (0.3, (0, 1, 2, 3, 4, 5))])
def test_class_floor(tau: float, kept: tuple[int, ...]) -> None:
    """Half of every class, of the four of class 0 the .97 and the first .4; and all that reach τ, of any class."""
    strong = [6, 7, 8, 6, 7, 8]
    m, student = method(cutmix=0.0, threshold="class_floor", share=0.5, tau=tau), Table(S)
    out, memo = run(m, unlabelled_row([2, 5, 5, 5, 3, 4], strong), student=student)
    labels = [0, 0, 0, 0, 1, 2]
    assert out["unsup"].item() == pytest.approx(sum(ce(S[strong[i]], labels[i]) for i in kept) / 6)
    assert memo["kept"].item() == pytest.approx(len(kept) / 6)


def test_class_floor_is_above_its_parts() -> None:
    """Class 1 three times at .96: a quarter of it is one pixel, but all three reach τ; of the .4 one is kept."""
    m = method(cutmix=0.0, threshold="class_floor", share=0.25, tau=0.95)
    out, memo = run(m, unlabelled_row([3, 3, 3, 5, 5], [6, 7, 8, 6, 7]))
    assert memo["kept"].item() == pytest.approx(4 / 5) and memo["pseudo"].tolist() == [1, 3, 0]
    assert out["unsup"].item() == pytest.approx((ce(S[6], 1) + ce(S[7], 1) + ce(S[8], 1) + ce(S[6], 0)) / 5)


def test_class_share_counts_valid_pixels_only() -> None:
    """The .97 is padding: of the three left, at .4 each, ceil(.5·3) = 2 are kept, and five pixels are counted."""
    batch = unlabelled_row([2, 5, 5, 5, 3, 4], [6, 7, 8, 6, 7, 8], [0, 1, 1, 1, 1, 1])
    out, memo = run(method(cutmix=0.0, threshold="class_share", share=0.5), batch)
    assert out["unsup"].item() == pytest.approx((ce(S[7], 0) + ce(S[8], 0) + ce(S[7], 1) + ce(S[8], 2)) / 5)
    assert memo["kept"].item() == pytest.approx(4 / 5) and memo["pseudo"].tolist() == [2, 1, 1]


def test_class_share_of_the_moving_average() -> None:
    """The teacher's labels are 2, 0, 1, 0 with .98, .5, .97, .99: of class 0 the .99 is kept."""
    nets = {"student": Table(S), "teacher": Table(T)}
    out, _ = run(method(cutmix=0.0, teacher="ema", threshold="class_share", share=0.5), small(), **nets)
    assert out["unsup"].item() == pytest.approx((ce(S[6], 2) + ce(S[8], 1) + ce(S[6], 0)) / 4)


# --- alignment of the label distribution ---------------------------------------------------------------------------


def test_align() -> None:
    """Class 2 has half of the labelled pixels and a fifth of the predictions: its probability counts 2.5 times.

    Of weak code 5, (.4, .35, .25), times (.25/.5, .25/.3, .5/.2): (.2, .2916667, .625), so 2 with .625/1.1166667; code
    2, (.97, .02, .01), stays 0 with .485/(.485 + .0166667 + .025) = .9209; 3 stays 1 with .8/(.01 + .8 + .05).
    """
    m = FixMatch(FixMatch.Config(align=1.0, cutmix=0.0, tau=0.5), Task(3, frequency=(0.25, 0.25, 0.5)))
    nets = {"student": Table(S), "predicted": RunningMean((0.5, 0.3, 0.2))}
    memo: dict[str, torch.Tensor] = {}
    now = step(3, 100, l=1, u=1)
    batch = small([[1, 1], [0, 1]])  # code 4 is padding
    out = m.losses(nets, batch, now, memo)
    assert out["unsup"].item() == pytest.approx((ce(S[6], 0) + ce(S[7], 1) + ce(S[6], 2)) / 3)
    sure = FixMatch(FixMatch.Config(align=1.0, cutmix=0.0, tau=0.922), Task(3, frequency=(0.25, 0.25, 0.5)))
    assert sure.losses(nets, batch, now, {})["unsup"].item() == pytest.approx(ce(S[7], 1) / 3)
    # the sums before alignment, over what is valid: .97 + .02 + .4, .02 + .96 + .35, .01 + .02 + .25
    assert memo["predicted"].tolist() == pytest.approx([1.39, 1.33, 0.28])
    m.after_step(nets, now, memo)
    expected = [0.99 * a + 0.01 * b / 3 for a, b in zip((0.5, 0.3, 0.2), (1.39, 1.33, 0.28), strict=True)]
    assert nets["predicted"].mean.tolist() == pytest.approx(expected)
    m.after_step(nets, now, {"predicted": torch.zeros(3)})  # nothing was valid
    assert nets["predicted"].mean.tolist() == pytest.approx(expected)


def test_align_at_half_strength_and_without_labels_of_a_class() -> None:
    """At ½ the ratio's root counts; a class that no label has keeps its probability."""
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().view(1, 3, 1, 1)
    have, want = torch.tensor([0.64, 0.16, 0.2]), torch.tensor([0.16, 0.84, 0.0])
    half = pseudo.align(logits, have, want, 0.5).exp().flatten().tolist()
    assert half == pytest.approx([0.5 * 0.5, 0.3 * math.sqrt(5.25), 0.2])
    assert pseudo.align(logits, have, want, 0.0).equal(logits)


def test_align_starts_at_the_labelled_shares_and_needs_them() -> None:
    build = lambda name: nn.Conv2d(1, 3, 1)  # noqa: E731
    nets = FixMatch(FixMatch.Config(align=0.5), Task(3, frequency=(0.2, 0.3, 0.5))).networks(build)
    assert tuple(nets) == ("student", "predicted")
    assert RunningMean.of(nets, "predicted").mean.tolist() == pytest.approx([0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="frequencies"):
        method(align=0.5).networks(build)
