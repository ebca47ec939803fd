"""U2PL on small images, by hand from Wang et al., CVPR 2022: labels, thresholds and weights, Eq. 1-3 and 5-8."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewmask.ops import contrast, mix
from hand import ce, items, slope, total_slope
from hand_u2pl import LABELLED, MASK, NEGATIVE, POSITIVE, ROWS, WEAK, H, S, T, at, batch, method, nce, networks, run

SUP = (ce(S[0], 0) + ce(S[1], 1) + ce(S[2], 2)) / 3  # code 3 is void
# three of four are reliable: λ_u·L_u = 4/3 · the mean of three
UNSUP = 4 / 3 * (ce(S[4], 0) + ce(S[5], 1) + ce(S[6], 2)) / 3
CONTRAST = sum(nce(p, n, 256, 0.5) for p, n in zip(POSITIVE, NEGATIVE, strict=True)) / 3
NOTHING = [[0.0] * 3] * ROWS


def same(found: list[list[float]], expected: list[list[float]]) -> bool:
    return all(row == pytest.approx(want, abs=1e-12) for row, want in zip(found, expected, strict=True))


def test_terms() -> None:
    """Eq. 2, 3 with 8, and 4, at the paper's M, N and τ."""
    out, memo = run(method())
    assert out["sup"].item() == pytest.approx(SUP, rel=1e-12)
    assert out["unsup"].item() == pytest.approx(UNSUP, rel=1e-12)
    assert out["contrast"].item() == pytest.approx(CONTRAST, rel=1e-12)
    assert memo["kept"].item() == pytest.approx(3 / 4) and memo["pseudo"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("eta", "lam"), [(0.0, 0.1), (0.5, 2.0), (3.0, 1.0)])
def test_total(eta: float, lam: float) -> None:
    """Eq. 1: L = L_s + λ_u·L_u + λ_c·L_c; η scales the second, λ_c the third."""
    out, _ = run(method(eta=eta, lam_c=lam))
    assert sum(out.values()).item() == pytest.approx(SUP + eta * UNSUP + lam * CONTRAST, rel=1e-12)


def test_supervision_by_ohem() -> None:
    """p(y) is .5, .35, .6: with the threshold .4 the second alone counts. L_u stays plain cross-entropy."""
    out, _ = run(method(sup={"loss": "ohem", "ohem_threshold": 0.4, "ohem_min_kept": 1}))
    assert out["sup"].item() == pytest.approx(ce(S[1], 1), rel=1e-12)
    assert out["unsup"].item() == pytest.approx(UNSUP, rel=1e-12)


def test_gradient() -> None:
    """L_s and L_u train the student's predictions: 4/3 · 1/3 a reliable pixel; the teacher gets nothing."""
    nets = networks(m := method())
    out, _ = run(m, nets=nets)
    table = nets["student"].table
    assert same(table.gradient(out["sup"]), total_slope(ROWS, [(1 / 3, i, slope(S[i], i)) for i in range(3)]))
    assert same(table.gradient(out["unsup"]), total_slope(ROWS, [(4 / 9, 4 + i, slope(S[4 + i], i)) for i in range(3)]))
    assert table.gradient(out["contrast"]) == NOTHING  # it reaches the features alone
    assert nets["teacher"].table.gradient(sum(out.values())) == NOTHING


def test_entropy() -> None:
    """Eq. 5, in nats: of ½ ½ 0 it is log 2, of a sure pixel 0 exactly, of K equal ones log K."""
    rows = [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3), T[4]]
    p = torch.tensor(rows, dtype=torch.float64).T.view(1, 3, 2, 2)
    found = contrast.entropy(p).flatten().tolist()
    assert found == pytest.approx([math.log(2), 0.0, math.log(3), H(T[4])], rel=1e-12) and found[1] == 0


# H: .394, .613, .950, 1.09. The 1 - α quantile stands 3·(1 - α) places up: at α = 1/3 on the third itself, which is a
# tie and reliable; a bit above that between the second and the third
@pytest.mark.parametrize(("alpha", "kept"), [(0.0, 4), (0.01, 3), (0.2, 3), (0.333, 3), (0.34, 2), (0.6, 2), (0.7, 1)])
def test_threshold(alpha: float, kept: int) -> None:
    """Eq. 6: the 1 - α share of the lowest entropies trains; Eq. 8: times 4 over their number."""
    out, memo = run(method(alpha=alpha))
    each = [ce(S[4], 0), ce(S[5], 1), ce(S[6], 2), ce(S[7], 0)][:kept]
    assert memo["kept"].item() == pytest.approx(kept / 4)
    assert out["unsup"].item() == pytest.approx(4 / kept * sum(each) / kept, rel=1e-12)


def test_a_tie_with_the_threshold_is_reliable() -> None:
    """Two of four pixels of one entropy, the highest: γ is that entropy at α = .2 and .3, and all four count."""
    for alpha in (0.2, 0.3):
        out, memo = run(method(alpha=alpha), batch(weak=[[[4, 5], [7, 7]]]))
        assert memo["kept"].item() == 1
        assert out["unsup"].item() == pytest.approx((ce(S[4], 0) + ce(S[5], 1) + 2 * ce(S[7], 0)) / 4, rel=1e-12)


def test_a_tie_exactly_at_the_quantile() -> None:
    """Five pixels at α = .25: 4·.75 = 3 places up, the fourth of five is the threshold itself, and reliable."""
    lab, mask = [[0, 1, 2, 3, 3]], [[0, 1, 2, 255, 255]]
    out, memo = run(method(alpha=0.25), batch(weak=[[[4, 5, 6, 7, 1]]], lab=[lab], mask=[mask]))
    # H: code 1 has 1.03, between 6 and 7
    assert memo["kept"].item() == pytest.approx(4 / 5)
    each = ce(S[4], 0) + ce(S[5], 1) + ce(S[6], 2) + ce(S[1], 0)
    assert out["unsup"].item() == pytest.approx(5 / 4 * each / 4, rel=1e-12)


@pytest.mark.parametrize(
    ("dynamic", "epoch", "alpha"), [(True, 0, 0.2), (True, 1, 0.15), (True, 3, 0.05), (False, 0, 0.2), (False, 3, 0.2)]
)
def test_alpha(dynamic: bool, epoch: int, alpha: float) -> None:
    """Eq. 7: α_0·(1 - t/T) falls by the epoch to 0; Table 6 without DPA: it stays."""
    assert method(dynamic=dynamic).alpha_t(at(epoch=epoch, epochs=4)) == pytest.approx(alpha, rel=1e-12)


def test_alpha_moves_the_threshold() -> None:
    """α_0 = .7 lets one of four pass in epoch 0, two in epoch 1 of 4 (.525) and three in epoch 3 (.175)."""
    for epoch, kept in ((0, 1), (1, 2), (3, 3)):
        _, memo = run(method(alpha=0.7), now=at(epoch=epoch, epochs=4))
        assert memo["kept"].item() == pytest.approx(kept / 4)
    _, memo = run(method(alpha=0.7, dynamic=False), now=at(epoch=3, epochs=4))
    assert memo["kept"].item() == pytest.approx(1 / 4)


def test_padding_counts_nowhere() -> None:
    """The unreliable pixel is padding: of three the 80 % quantile is 1.6 up, so two count, and λ_u is 3/2.

    Whatever stands in the padding; and there are no more unlabelled negatives than code 6, unreliable now: O(1) = 1 is
    not in [2, 3), O(0) = 0 neither, and its own class 2 stands first. Class 2 keeps the labelled N_2 = {1}.
    """
    found = [run(method(), batch(weak=[[[4, 5], [6, w]]], valid=[[[1, 1], [1, 0]]])) for w in (0, 3, 4, 7)]
    for out, memo in found:
        assert memo["kept"].item() == pytest.approx(2 / 3) and memo["pseudo"].tolist() == [1, 1, 0]
        assert out["unsup"].item() == pytest.approx(3 / 2 * (ce(S[4], 0) + ce(S[5], 1)) / 2, rel=1e-12)
    assert len({(out["unsup"].item(), memo["real"].sum().item()) for out, memo in found}) == 1


@pytest.mark.parametrize("config", [{}, {"negatives": "authors_code"}, {"ranked": False, "negatives_from": "all"}])
def test_only_padding_and_only_void_is_zero(config: dict) -> None:
    nets = networks(m := method(**config))
    b = {
        "l": items([LABELLED], mask=[[[255, 255], [255, 255]]], valid=[[[0, 0], [0, 0]]]),
        "u": items([WEAK], valid=[[[0, 0], [0, 0]]]),
    }
    out, memo = run(m, b, nets)
    assert [out[k].item() for k in ("sup", "unsup", "contrast")] == [0, 0, 0]
    assert memo["kept"].item() == 0 and memo["pseudo"].sum().item() == 0 and not memo["real"].any()
    assert nets["student"].table.gradient(sum(out.values())) == NOTHING
    assert nets["student"].gradient(out["contrast"]) == [[0.0, 0.0]] * ROWS


# --- passes and mixing ------------------------------------------------------------------------------------------


def test_passes() -> None:
    """Labels in evaluation mode on the weak view; student, then teacher in training mode without gradient, on both."""
    nets = networks(m := method())
    run(m, nets=nets)
    assert nets["student"].table.seen == [([LABELLED, WEAK], True, True)]
    assert nets["teacher"].table.seen == [([WEAK], False, False), ([LABELLED, WEAK], True, False)]
    assert nets["student"].training and nets["teacher"].training and m.teacher_bn == "train"


def test_the_labels_of_the_unmixed_view_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image 1 gives its first row to image 0, image 0 its second column to image 1; labels and padding go along.

    The networks see codes 6 7 | 6 7 and 6 5 | 5 4. The padding of image 1 comes to image 0, and is covered in image 1.
    """
    box = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [0, 0]]]).bool()
    monkeypatch.setattr(mix, "half_area_mask", lambda draws, height, width, probability: box)
    weak = [[[4, 5], [6, 7]], [[6, 7], [5, 4]]]
    mixed = [[[6, 7], [6, 7]], [[6, 5], [5, 4]]]
    nets = networks(m := method(cutmix=1.0))
    valid = [[[1, 1], [1, 1]], [[1, 0], [1, 1]]]
    out, memo = run(m, batch(weak=weak, lab=[LABELLED] * 2, mask=[MASK] * 2, valid=valid), nets)
    assert nets["teacher"].table.seen == [(weak, False, False), ([LABELLED, LABELLED, *mixed], True, False)]
    assert nets["student"].table.seen == [([LABELLED, LABELLED, *mixed], True, True)]
    # codes of the seven that count, by entropy: 4 5 5 6 6 6 7; 4.8 places up lies between two of code 6, ties
    assert memo["kept"].item() == pytest.approx(6 / 7) and memo["pseudo"].tolist() == [1, 2, 3]
    each = ce(S[4], 0) + 2 * ce(S[5], 1) + 3 * ce(S[6], 2)
    assert out["unsup"].item() == pytest.approx(7 / 6 * each / 6, rel=1e-12)


def test_labels_come_from_the_first_pass_and_entropies_from_the_second() -> None:
    """A teacher that reads code 6 as 4 in evaluation mode: the label 0 there, the entropy of code 6 all the same."""

    class Moody(type(networks(method())["teacher"])):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(x if self.training else torch.where(x == 6, 4.0, x))

    nets = networks(m := method())
    nets["teacher"].__class__ = Moody
    out, memo = run(m, nets=nets)
    assert memo["pseudo"].tolist() == [2, 1, 0] and memo["kept"].item() == pytest.approx(3 / 4)
    assert out["unsup"].item() == pytest.approx(4 / 3 * (ce(S[4], 0) + ce(S[5], 1) + ce(S[6], 0)) / 3, rel=1e-12)


# --- warm-up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "on"), [(0, 0.0), (29, 0.0), (30, 1.0), (99, 1.0)])
def test_warmup(t: int, on: float) -> None:
    """warmup = .3 of 100 steps: L_u and L_c are exactly 0, and attached with gradient 0; then they are whole."""
    nets = networks(m := method(warmup=0.3))
    out, _ = run(m, nets=nets, now=at(t))
    assert out["sup"].item() == pytest.approx(SUP, rel=1e-12)
    assert out["unsup"].item() == pytest.approx(on * UNSUP, rel=1e-12, abs=0)
    assert out["contrast"].item() == pytest.approx(on * CONTRAST, rel=1e-12, abs=0)
    if not on:
        assert nets["student"].table.gradient(out["unsup"]) == NOTHING
        assert nets["student"].gradient(out["contrast"]) == [[0.0, 0.0]] * ROWS


def test_the_warmup_computes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the teacher, the student sees labelled images only, the bank stays empty, nothing counts as kept."""
    nets = networks(m := method(warmup=0.3))
    monkeypatch.setattr(nets["teacher"], "forward", lambda x: pytest.fail("the teacher was asked"))
    shapes: list[int] = []
    nets["student"].register_forward_pre_hook(lambda _, given: shapes.append(len(given[0])))
    _, memo = run(m, nets=nets, now=at(29))
    m.after_step(nets, at(29), memo)
    assert shapes == [1] and memo == {} and nets["bank"].held.tolist() == [0, 0, 0]


def test_the_warmup_can_show_the_student_both_kinds() -> None:
    """The loss is that of the labelled image; the unlabelled one, unmixed, stands behind it in the batch."""
    nets = networks(m := method(warmup=0.3, warmup_unlabelled=True))
    out, _ = run(m, nets=nets, now=at(29))
    assert nets["student"].table.seen == [([LABELLED, WEAK], True, True)] and nets["teacher"].table.seen == []
    assert out["sup"].item() == pytest.approx(SUP, rel=1e-12) and out["unsup"] == out["contrast"] == 0
    slopes, plain = (nets["student"].table.gradient(out["sup"]), networks(method())["student"].table)
    alone, _ = run(method(warmup=0.3), nets={**networks(method()), "student": (other := networks(method()))["student"]},
                   now=at(29))  # fmt: skip
    assert same(slopes, other["student"].table.gradient(alone["sup"])) and plain.seen == []


@pytest.mark.parametrize(("t", "mean"), [(29, 17 / 15), (30, 1.0)])
def test_statistics_follow_the_students_until_the_teacher_has_its_own(t: int, mean: float) -> None:
    """They are averaged like weights: at t = 29 d is 29/30, and 1·d + 5·(1 - d) = 17/15. Afterwards nothing is done."""
    student, teacher = nn.BatchNorm2d(2, dtype=torch.float64), nn.BatchNorm2d(2, dtype=torch.float64)
    for net, value in ((student, 5.0), (teacher, 1.0)):
        assert net.running_mean is not None and net.num_batches_tracked is not None
        net.running_mean.fill_(value)
        net.num_batches_tracked.fill_(int(value))
    method(warmup=0.3, lam_c=0.0).after_step({"student": student, "teacher": teacher}, at(t), {})
    assert teacher.running_mean is not None and teacher.num_batches_tracked is not None
    assert teacher.running_mean.tolist() == pytest.approx([mean, mean], rel=1e-12)
    assert teacher.num_batches_tracked.item() == (5 if t < 30 else 1)


@pytest.mark.parametrize(("t", "decay"), [(0, 0.0), (1, 0.5), (9, 0.9), (30, 30 / 31), (98, 98 / 99), (150, 0.99)])
def test_the_teacher_averages_from_the_start(t: int, decay: float) -> None:
    """θ_t' = d·θ_t + (1 - d)·θ_s with d = min(1 - 1/(t + 1), .99), in the warm-up (30 steps) as after it."""
    nets = networks(m := method(warmup=0.15))
    _, memo = run(m, nets=nets, now=at(t, total=200))
    m.after_step(nets, at(t, total=200), memo)
    one, two = (torch.tensor(rows, dtype=torch.float64).log() for rows in (T, S))
    torch.testing.assert_close(nets["teacher"].table.logits.data, decay * one + (1 - decay) * two, rtol=1e-12, atol=0)


# --- not in the paper -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "rise"), [(0, math.exp(-5)), (25, math.exp(-1.25)), (50, 1.0), (99, 1.0)])
def test_the_weight_rises(t: int, rise: float) -> None:
    """Over half of 100 steps λ_u is multiplied by e^(-5·(1 - t/50)²); L_c is not."""
    out, _ = run(method(ramp=0.5), now=at(t))
    assert out["unsup"].item() == pytest.approx(rise * UNSUP, rel=1e-12)
    assert out["contrast"].item() == pytest.approx(CONTRAST, rel=1e-12)


def test_a_strong_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student alone sees it, under the boxes of the weak view; labels and entropies are those of the weak one."""
    box = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [0, 0]]]).bool()
    monkeypatch.setattr(mix, "half_area_mask", lambda draws, height, width, probability: box)
    weak, strong = [[[4, 5], [6, 7]], [[6, 7], [5, 4]]], [[[5, 5], [4, 4]], [[7, 7], [6, 6]]]
    mixed, shown = [[[6, 7], [6, 7]], [[6, 5], [5, 4]]], [[[7, 7], [4, 4]], [[7, 5], [6, 6]]]
    nets = networks(m := method(cutmix=1.0, strong=True))
    b = batch(weak=weak, lab=[LABELLED] * 2, mask=[MASK] * 2)
    b["u"] = items(weak, strong, kinds=("weak", "strong"))
    out, memo = run(m, b, nets)
    assert nets["teacher"].table.seen == [(weak, False, False), ([LABELLED, LABELLED, *mixed], True, False)]
    assert nets["student"].table.seen == [([LABELLED, LABELLED, *shown], True, True)]
    # codes by entropy: 4 5 5 6 6 6 7 7; 5.6 places up lies between 6 and 7: labels 2 _ 2 _ | 2 1 1 0 where it counts
    assert memo["kept"].item() == pytest.approx(6 / 8) and memo["pseudo"].tolist() == [1, 2, 3]
    each = [(7, 2), (4, 2), (7, 2), (5, 1), (6, 1), (6, 0)]
    assert out["unsup"].item() == pytest.approx(8 / 6 * sum(ce(S[i], k) for i, k in each) / 6, rel=1e-12)
