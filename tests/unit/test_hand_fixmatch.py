"""FixMatch on small images, worked out by hand from Sohn et al. Eq. 3 and 4 and UniMatch's CutMix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewmask.batch import Items
from fewmask.method import Task
from fewmask.methods.fixmatch import FixMatch
from fewmask.ops import mix
from hand import Table, ce, items, slope, step, top, total_slope
from hand_fixmatch import LABELLED, MASK, STRONG, SUP, WEAK, S, T, method, run, small


def test_threshold() -> None:
    """Eq. 4: (1/4) Σ 1[max q ≥ τ] ℓ(q̂, p(strong)); of .97 .96 .9 .4 two pass .95, and four are counted."""
    student = Table(S)
    out, memo = run(method(cutmix=0.0), small(), student=student)
    assert out["sup"].item() == pytest.approx(SUP)  # Eq. 3
    assert out["unsup"].item() == pytest.approx((ce(S[6], 0) + ce(S[7], 1)) / 4)
    assert memo["kept"].item() == pytest.approx(2 / 4) and not memo["kept"].requires_grad
    # labels in evaluation mode without gradient; then one training pass over labelled and strong views together
    assert student.seen == [([WEAK], False, False), ([LABELLED, STRONG], True, True)]
    assert student.training


@pytest.mark.parametrize(("tau", "kept"), [(0.0, 4), (0.39, 4), (0.41, 3), (0.9499, 2), (0.965, 1), (0.98, 0)])
def test_thresholds(tau: float, kept: int) -> None:
    each = [ce(S[6], 0), ce(S[7], 1), ce(S[8], 2), ce(S[6], 0)]
    out, memo = run(method(cutmix=0.0, tau=tau), small())
    assert out["unsup"].item() == pytest.approx(sum(each[:kept]) / 4)
    assert memo["kept"].item() == pytest.approx(kept / 4)


def test_confidence_at_the_threshold_passes() -> None:
    """max q ≥ τ, not >."""
    table = [(1.0, 0.0), (0.5, 0.5), (0.25, 0.75)]
    student = Table([(1 - 1e-12, 1e-12), *table[1:]])
    batch = {"l": items([[[0]]], mask=[[[0]]]), "u": items([[[1]]], [[[2]]], kinds=("weak", "strong"))}
    out, memo = run(FixMatch(FixMatch.Config(tau=0.5, cutmix=0.0), Task(2)), batch, student=student)
    assert memo["kept"].item() == 1 and out["unsup"].item() == pytest.approx(ce(table[2], 0))


def test_padding_counts_neither_above_nor_below() -> None:
    out, memo = run(method(cutmix=0.0), small([[0, 1], [1, 1]]))
    assert out["unsup"].item() == pytest.approx(ce(S[7], 1) / 3)
    assert memo["kept"].item() == pytest.approx(1 / 3)


def test_only_padding_is_zero() -> None:
    student = Table(S)
    out, memo = run(method(cutmix=0.0), small([[0, 0], [0, 0]]), student=student)
    assert out["unsup"].item() == 0 == memo["kept"].item()
    assert student.gradient(out["unsup"]) == [[0.0] * 3] * 9


def test_weight_and_average() -> None:
    unsup = (ce(S[6], 0) + ce(S[7], 1)) / 4
    out, _ = run(method(cutmix=0.0, lam=3.0), small())
    assert (out["sup"].item(), out["unsup"].item()) == (pytest.approx(SUP), pytest.approx(3 * unsup))
    out, _ = run(method(cutmix=0.0, lam=3.0, average=True), small())  # UniMatch: (L_s + λ L_u) / 2
    assert (out["sup"].item(), out["unsup"].item()) == (pytest.approx(SUP / 2), pytest.approx(3 * unsup / 2))


def test_gradient_reaches_the_strong_view_alone() -> None:
    student = Table(S)
    out, _ = run(method(cutmix=0.0), small(), student=student)
    # rows 2-5, the weak view, get none: no gradient through the label
    expected = total_slope(9, [(1 / 4, 6, slope(S[6], 0)), (1 / 4, 7, slope(S[7], 1))])
    assert student.gradient(out["unsup"]) == [pytest.approx(row, abs=1e-9) for row in expected]


def test_moving_average_labels() -> None:
    """teacher = ema: its labels and confidences (.98 for 2, .5, .97 for 1, .99 for 0) train the student."""
    student, teacher = Table(S), Table(T)
    m = method(cutmix=0.0, teacher="ema")
    assert m.predictors == ("teacher", "student")
    out, memo = run(m, small(), student=student, teacher=teacher)
    assert out["unsup"].item() == pytest.approx((ce(S[6], 2) + ce(S[8], 1) + ce(S[6], 0)) / 4)
    assert memo["kept"].item() == pytest.approx(3 / 4)
    assert teacher.seen == [([WEAK], False, False)] and student.seen == [([LABELLED, STRONG], True, True)]
    assert teacher.gradient(out["unsup"]) == [[0.0] * 3] * 9


def test_labels_from_the_statistics_of_the_weak_views() -> None:
    """``teacher_mode = train``: the labelling network sees the weak views in training mode, without gradient."""
    student, teacher = Table(S), Table(T)
    m = method(teacher="ema", teacher_mode="train", cutmix=0.0)
    run(m, small(), student=student, teacher=teacher)
    assert teacher.seen == [([WEAK], True, False)] and m.teacher_bn == "train"
    alone = Table(S)
    run(method(teacher_mode="train", cutmix=0.0), small(), student=alone)
    assert alone.seen == [([WEAK], True, False), ([LABELLED, STRONG], True, True)]


def test_statistics_of_a_teacher_that_has_its_own() -> None:
    """In training mode its running mean is its own; in evaluation mode it follows the student's, as the weights do."""
    for mode, expected in (("train", 0.5), ("eval", 0.99 * 0.5 + 0.01 * 2.0)):
        m = method(teacher="ema", teacher_mode=mode, ema_decay=0.99)
        nets = m.networks(lambda name: nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)))
        nets["student"][1].running_mean.fill_(2.0)
        nets["teacher"][1].running_mean.fill_(0.5)
        m.after_step(nets, step(500, 1000, l=1, u=1), {})
        assert nets["teacher"][1].running_mean.tolist() == pytest.approx([expected] * 3)


# --- the ramp of λ -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "ramp", "factor"),
    [(0, 0.0, 1.0), (0, 0.5, math.exp(-5)), (10, 0.5, math.exp(-3.2)), (25, 0.5, math.exp(-1.25)),
     (49, 0.5, math.exp(-0.002)), (50, 0.5, 1.0), (99, 0.5, 1.0), (50, 1.0, math.exp(-1.25))],
)  # fmt: skip
def test_ramp(t: int, ramp: float, factor: float) -> None:
    """λ·exp(-5(1 - t/T)²) with T = ramp·100: at t = 10 of T = 50, (1 - 0.2)² = 0.64. L_s has no ramp."""
    memo: dict[str, torch.Tensor] = {}
    m = method(cutmix=0.0, lam=3.0, average=True, ramp=ramp)
    out = m.losses({"student": Table(S)}, small(), step(t, 100, l=1, u=1), memo)
    assert out["unsup"].item() == pytest.approx(3 * factor * (ce(S[6], 0) + ce(S[7], 1)) / 4 / 2)
    assert out["sup"].item() == pytest.approx(SUP / 2)
    assert memo["pseudo"].tolist() == [1, 1, 0]


# --- CutMix on four 24x24 images ----------------------------------------------------------------------------------

SIDE, IMAGES = 24, 4


def large() -> Items:
    """Return four images whose codes, weak 2-5 and strong 6-8, and padding differ from image to image."""
    g = torch.Generator().manual_seed(5)
    shape = (IMAGES, SIDE, SIDE)
    weak, strong = torch.randint(2, 6, shape, generator=g), torch.randint(6, 9, shape, generator=g)
    valid = torch.rand(shape, generator=g) < 0.8
    return items(weak.tolist(), strong.tolist(), kinds=("weak", "strong"), valid=valid.tolist())


def mixed(u: Items, box: torch.Tensor, labeller: list, tau: float) -> tuple[float, int, int]:
    """Return (sum of ℓ over the selected pixels, how many they are, how many are valid), pixel by pixel."""
    weak, strong = u.views[0][:, 0].long().tolist(), u.views[1][:, 0].long().tolist()
    total, kept, valid = 0.0, 0, 0
    for i in range(IMAGES):
        partner = {0: 1, 1: 0, 2: 3, 3: 2}[i]
        for y in range(SIDE):
            for x in range(SIDE):
                j = partner if box[i, y, x] else i  # inside the box everything is the partner's
                if not u.valid[j, y, x]:
                    continue
                valid += 1
                q = labeller[weak[j][y][x]]
                if max(q) >= tau:
                    kept += 1
                    total += ce(S[strong[j][y][x]], top(q))
    return total, kept, valid


@pytest.mark.parametrize("teacher", ["self", "ema"])
def test_cutmix(teacher: str) -> None:
    u = large()
    now = step(3, 100, l=1, u=IMAGES)
    box = mix.unimatch_mask(now.draws("u"), SIDE, SIDE, 1.0)
    assert (box.flatten(1).sum(1) > 0).all()  # the law gave every image a box
    nets = {"student": Table(S)} | ({"teacher": Table(T)} if teacher == "ema" else {})
    memo: dict[str, torch.Tensor] = {}
    batch = {"l": items([LABELLED], mask=[MASK]), "u": u}
    # labelled and strong views share a pass, so they share a size
    wide, wide_mask = ([row * (SIDE // 2) for row in image] * (SIDE // 2) for image in (LABELLED, MASK))
    batch["l"] = items([wide], mask=[wide_mask])
    out = method(cutmix=1.0, teacher=teacher).losses(nets, batch, now, memo)
    total, kept, valid = mixed(u, box, S if teacher == "self" else T, 0.95)
    plain, _, _ = mixed(u, torch.zeros_like(box), S if teacher == "self" else T, 0.95)
    assert total != pytest.approx(plain) and 0 < kept < valid < IMAGES * SIDE * SIDE
    assert out["unsup"].item() == pytest.approx(total / valid)
    assert memo["kept"].item() == pytest.approx(kept / valid)
    assert out["sup"].item() == pytest.approx(SUP)
    # the network saw the mixed strong views
    strong = torch.tensor(u.views[1][:, 0].long().tolist())
    expected = torch.where(box, strong[[1, 0, 3, 2]], strong)
    assert nets["student"].seen[-1][0][1:] == expected.tolist()


def test_cutmix_of_one_threshold_a_class() -> None:
    """The pixels are chosen in the whole images, and mixed then; the pseudo-labels are counted after that."""
    u, share = large(), 0.3
    now = step(3, 100, l=1, u=IMAGES)
    box = mix.unimatch_mask(now.draws("u"), SIDE, SIDE, 1.0)
    weak, strong = (view[:, 0].long().tolist() for view in u.views)
    places = [(i, y, x) for i in range(IMAGES) for y in range(SIDE) for x in range(SIDE) if u.valid[i, y, x]]
    chosen: set[tuple[int, int, int]] = set()
    for k in range(3):
        mine = [p for p in places if top(S[weak[p[0]][p[1]][p[2]]]) == k]
        mine.sort(key=lambda p: -max(S[weak[p[0]][p[1]][p[2]]]))  # stable: of equals the first
        chosen |= set(mine[: math.ceil(share * len(mine))])
    total, valid, pseudo = 0.0, 0, [0, 0, 0]
    for i in range(IMAGES):
        for y in range(SIDE):
            for x in range(SIDE):
                j = {0: 1, 1: 0, 2: 3, 3: 2}[i] if box[i, y, x] else i
                valid += bool(u.valid[j, y, x])
                if (j, y, x) in chosen:
                    label = top(S[weak[j][y][x]])
                    total += ce(S[strong[j][y][x]], label)
                    pseudo[label] += 1
    wide, mask = [[0] * SIDE] * SIDE, [[0] * SIDE] * SIDE
    memo: dict[str, torch.Tensor] = {}
    m = method(cutmix=1.0, threshold="class_share", share=share)
    out = m.losses({"student": Table(S)}, {"l": items([wide], mask=[mask]), "u": u}, now, memo)
    assert out["unsup"].item() == pytest.approx(total / valid)
    assert memo["kept"].item() == pytest.approx(sum(pseudo) / valid) and memo["pseudo"].tolist() == pseudo


def test_cutmix_mixes_its_share_of_images() -> None:
    """With probability ½ an image stays as it is; the box is keyed by step and slot."""
    m, u = method(cutmix=0.5), large()
    wide, mask = [[0] * SIDE] * SIDE, [[0] * SIDE] * SIDE
    student, boxes = Table(S), 0
    for t in range(12):
        now = step(t, 100, l=1, u=IMAGES)
        m.losses({"student": student}, {"l": items([wide], mask=[mask]), "u": u}, now, {})
        box = mix.unimatch_mask(now.draws("u"), SIDE, SIDE, 0.5)
        strong = u.views[1][:, 0].long()
        assert student.seen[-1][0][1:] == torch.where(box, strong[[1, 0, 3, 2]], strong).tolist()
        boxes += int(box.flatten(1).any(1).sum())
    assert 10 <= boxes <= 38  # of 48, half: beyond this with probability 5e-5


# --- the teacher ------------------------------------------------------------------------------------------------


def test_networks() -> None:
    nets = method(teacher="ema").networks(lambda name: nn.Conv2d(1, 3, 1))
    assert tuple(nets) == ("student", "teacher") and nets["teacher"] is not nets["student"]
    pairs = zip(nets["teacher"].parameters(), nets["student"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(p.requires_grad for p in nets["teacher"].parameters())
    alone = method()
    assert tuple(alone.networks(lambda name: nn.Conv2d(1, 3, 1))) == ("student",) == tuple(alone.predictors)
    assert alone.streams["u"].views == ("weak", "strong") and alone.streams["u"].together == 2


@pytest.mark.parametrize(("t", "d"), [(0, 0.0), (3, 1 - 1 / 4), (249, 0.996), (9999, 0.996)])
def test_after_step(t: int, d: float) -> None:
    """UniMatch V2: d = min(1 - 1/(t+1), 0.996), for weights and BatchNorm statistics."""
    nets = {n: nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)) for n in ("student", "teacher")}
    for name, value in (("student", 2.0), ("teacher", 6.0)):
        for entry in nets[name].state_dict().values():
            entry.fill_(value)
    method(teacher="ema").after_step(nets, step(t, 10**4), {})
    for name, entry in nets["teacher"].state_dict().items():
        expected = 2 if name.endswith("num_batches_tracked") else d * 6 + (1 - d) * 2
        assert entry.item() == pytest.approx(expected), name


def test_without_a_teacher_after_step_does_nothing() -> None:
    method().after_step({"student": nn.Linear(1, 1)}, step(5), {})
