"""FixMatch on small images, worked out by hand from Sohn et al. Eq. 3 and 4 and UniMatch's CutMix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewmask.batch import Batch, Items
from fewmask.method import Task
from fewmask.methods.fixmatch import FixMatch
from fewmask.nets.running import RunningMean
from fewmask.ops import mix, pseudo
from hand import Table, ce, items, slope, step, top, total_slope

# rows 0-1: labelled; 2-5: weak views, of falling confidence; 6-8: strong views
S = [
    (0.6, 0.3, 0.1),
    (0.2, 0.5, 0.3),
    (0.97, 0.02, 0.01),
    (0.02, 0.96, 0.02),
    (0.05, 0.05, 0.9),
    (0.4, 0.35, 0.25),
    (0.5, 0.2, 0.3),
    (0.1, 0.15, 0.75),
    (0.3, 0.6, 0.1),
]
# of the moving average: other labels, other confidences
T = [S[0], S[1], (0.01, 0.01, 0.98), (0.5, 0.3, 0.2), (0.02, 0.97, 0.01), (0.99, 0.005, 0.005), *S[6:]]

LABELLED, MASK = [[0, 1], [1, 0]], [[0, 1], [2, 255]]
SUP = (ce(S[0], 0) + ce(S[1], 1) + ce(S[1], 2)) / 3
WEAK, STRONG = [[2, 3], [4, 5]], [[6, 7], [8, 6]]


def method(**config: object) -> FixMatch:
    return FixMatch(FixMatch.Config.model_validate(config), Task(3))


def small(valid: list | None = None) -> Batch:
    u = items([WEAK], [STRONG], kinds=("weak", "strong"), valid=None if valid is None else [valid])
    return {"l": items([LABELLED], mask=[MASK]), "u": u}


def run(m: FixMatch, batch: Batch, **nets: Table) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    memo: dict[str, torch.Tensor] = {}
    out = m.losses(nets or {"student": Table(S)}, batch, step(3, 100, l=1, u=len(batch["u"])), memo)
    assert set(out) == set(m.flow) == {"sup", "unsup"} and all(v.shape == () for v in out.values())
    return out, memo


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
