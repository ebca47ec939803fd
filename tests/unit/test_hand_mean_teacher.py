"""Mean teacher on 2x2 images, worked out by hand from CPS Eq. 8 and Tarvainen and Valpola."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewmask.batch import Batch
from fewmask.method import Task
from fewmask.methods.mean_teacher import MeanTeacher
from hand import Table, ce, items, squared, step

# rows 0-1: the labelled image; 2-3: weak view; 4-5: strong view of the unlabelled ones
S = [(0.6, 0.3, 0.1), (0.2, 0.5, 0.3), (0.3, 0.3, 0.4), (0.8, 0.1, 0.1), (0.1, 0.7, 0.2), (0.25, 0.5, 0.25)]
T = [(0.5, 0.4, 0.1), (0.1, 0.7, 0.2), (0.2, 0.2, 0.6), (0.9, 0.05, 0.05), (0.4, 0.4, 0.2), (0.2, 0.2, 0.6)]

LABELLED = [[0, 1], [1, 0]]
MASK = [[0, 1], [2, 255]]
WEAK = [[[2, 3], [3, 3]], [[2, 2], [2, 3]]]
STRONG = [[[4, 5], [5, 4]], [[4, 4], [5, 5]]]
VALID = [[[1, 1], [1, 0]], [[1, 0], [1, 1]]]
# (weak, strong) of the six valid pixels
PAIRS = [(2, 4), (3, 5), (3, 5), (2, 4), (2, 5), (3, 5)]
SUP = (ce(S[0], 0) + ce(S[1], 1) + ce(S[1], 2)) / 3


def method(**config: object) -> MeanTeacher:
    return MeanTeacher(MeanTeacher.Config.model_validate(config), Task(3))


def batch(m: MeanTeacher) -> Batch:
    views = [WEAK, STRONG][: len(m.streams["u"].views)]
    # the labelled image's last pixel is void; its second is padding as well
    return {
        "l": items([LABELLED], mask=[MASK], valid=[[[1, 0], [1, 1]]]),
        "u": items(*views, kinds=m.streams["u"].views, valid=VALID),
    }


def terms(m: MeanTeacher, t: int = 100, total: int = 100) -> tuple[dict[str, float], Table, Table, dict]:
    student, teacher = Table(S), Table(T)
    teacher.requires_grad_(False)
    memo: dict[str, torch.Tensor] = {}
    out = m.losses({"student": student, "teacher": teacher}, batch(m), step(t, total, l=1, u=2), memo)
    assert set(out) == set(m.flow) == {"sup", "con"}
    return {k: v.item() for k, v in out.items()}, student, teacher, memo


def test_both_terms() -> None:
    """L_s + w·mean over classes and pixels of (P1 - P2)²; P1 of the student on X1, P2 of the teacher on X2."""
    out, student, teacher, memo = terms(method(weight=7.0))
    assert out["sup"] == pytest.approx(SUP)
    assert out["con"] == pytest.approx(7 * sum(squared(S[s], T[w]) for w, s in PAIRS) / (6 * 3))
    assert [codes for codes, _, _ in student.seen] == [[LABELLED, *STRONG]]  # BatchNorm sees them together
    assert teacher.seen == [(WEAK, False, False)]  # evaluation mode, no gradient
    assert memo["kept"].item() == 1


@pytest.mark.parametrize(
    ("t", "factor"),
    [(0, math.exp(-5)), (5, math.exp(-5 * 0.75**2)), (10, math.exp(-5 * 0.5**2)), (20, 1.0), (99, 1.0)],
)
def test_ramp(t: int, factor: float) -> None:
    """w(t) = w·exp(-5 (1 - t/T)²) with T = 0.2 · 100."""
    out, *_ = terms(method(weight=7.0, ramp=0.2), t=t)
    assert out["con"] == pytest.approx(factor * 7 * sum(squared(S[s], T[w]) for w, s in PAIRS) / (6 * 3))
    assert out["sup"] == pytest.approx(SUP)  # not ramped


def test_a_pass_each() -> None:
    """The same terms of networks without BatchNorm."""
    once, *_ = terms(method(weight=7.0))
    out, student, teacher, _ = terms(method(weight=7.0, together=False))
    assert out == pytest.approx(once)
    assert [codes for codes, _, _ in student.seen] == [[LABELLED], STRONG] and len(teacher.seen) == 1


def test_no_ramp() -> None:
    out, *_ = terms(method(weight=7.0, ramp=0.0), t=0)
    assert out["con"] == pytest.approx(7 * sum(squared(S[s], T[w]) for w, s in PAIRS) / (6 * 3))


def test_same_input() -> None:
    m = method(weight=1.0, same_input=True)
    assert m.streams["u"].views == ("weak",)
    out, student, _, _ = terms(m)
    assert out["con"] == pytest.approx(sum(squared(S[w], T[w]) for w, _ in PAIRS) / (6 * 3))
    assert student.seen[0][0] == [LABELLED, *WEAK]


def test_distance_of_logits() -> None:
    """Tables hold log p, so logit differences are log ratios."""
    out, *_ = terms(method(weight=1.0, distance="logits"))
    expected = sum(math.log(a / b) ** 2 for w, s in PAIRS for a, b in zip(S[s], T[w], strict=True)) / (6 * 3)
    assert out["con"] == pytest.approx(expected)


def test_on_labelled() -> None:
    """One mean over the valid pixels of both: void pixels count here, padding does not."""
    out, _, teacher, _ = terms(method(weight=1.0, on_labelled=True))
    labelled = [0, 1, 0]  # codes of the three valid pixels
    together = sum(squared(S[s], T[w]) for w, s in PAIRS) + sum(squared(S[i], T[i]) for i in labelled)
    assert out["con"] == pytest.approx(together / (9 * 3))
    assert out["sup"] == pytest.approx(SUP)
    assert [codes for codes, _, _ in teacher.seen] == [WEAK, [LABELLED]]


def test_gradient_reaches_the_student_through_p1_alone() -> None:
    m = method(weight=1.0)
    student, teacher = Table(S), Table(T)  # a teacher left trainable: the method itself must not train it
    out = m.losses({"student": student, "teacher": teacher}, batch(m), step(100, 100, l=1, u=2), {})
    assert teacher.gradient(out["con"]) == [[0.0] * 3] * 6 == teacher.gradient(out["sup"])
    expected = [[0.0] * 3 for _ in range(6)]
    for w, s in PAIRS:
        # d/dz_c Σ_k (p_k - q_k)² = 2 p_c ((p_c - q_c) - Σ_k p_k (p_k - q_k))
        gap = [a - b for a, b in zip(S[s], T[w], strict=True)]
        mean = sum(p * g for p, g in zip(S[s], gap, strict=True))
        for c in range(3):
            expected[s][c] += 2 * S[s][c] * (gap[c] - mean) / (6 * 3)
    assert student.gradient(out["con"]) == [pytest.approx(row, abs=1e-9) for row in expected]


def test_student_on_the_teachers_place_gives_zero() -> None:
    """The check that failed for years in a published framework, turned round: equal maps 0, others not."""
    m = method(weight=1.0, same_input=True)
    student = Table(S)
    out = m.losses({"student": student, "teacher": Table(S)}, batch(m), step(100, 100, l=1, u=2), {})
    assert out["con"].item() == pytest.approx(0, abs=1e-15)
    assert terms(m)[0]["con"] > 1e-3


def test_torchsemiseg() -> None:
    """Weight 100, no ramp, the same input, labelled and unlabelled, batch statistics, the student reported."""
    m = method(authors_code="torchsemiseg")
    out, _, teacher, _ = terms(m, t=0)
    pixels = [w for w, _ in PAIRS] + [0, 1, 0]
    assert out["con"] == pytest.approx(100 * sum(squared(S[i], T[i]) for i in pixels) / (9 * 3))
    assert [training for _, training, _ in teacher.seen] == [True, True] and not teacher.seen[0][2]
    assert m.teacher_bn == "train" and tuple(m.predictors) == ("student", "teacher")
    assert m.config.ema_decay == 0.99


def test_pixelssl() -> None:
    """Weight 1 on logits of unlabelled images, the same input, sigmoid ramp, batch statistics, the student reported."""
    m = method(authors_code="pixelssl", ramp=0.1)
    out, _, teacher, _ = terms(m, t=5)
    logs = sum(math.log(a / b) ** 2 for w, _ in PAIRS for a, b in zip(S[w], T[w], strict=True))
    assert out["con"] == pytest.approx(math.exp(-5 * 0.5**2) * logs / (6 * 3))
    assert [training for _, training, _ in teacher.seen] == [True]
    assert m.teacher_bn == "train" and tuple(m.predictors) == ("student", "teacher") and m.config.together


def test_a_value_beside_authors_code_wins() -> None:
    config = MeanTeacher.Config.model_validate({"authors_code": "torchsemiseg", "weight": 3.0, "report": "teacher"})
    assert (config.weight, config.report, config.same_input) == (3.0, "teacher", True)


def test_defaults() -> None:
    m = method()
    assert m.teacher_bn == "eval" and tuple(m.predictors) == ("teacher", "student")
    assert m.streams["u"].views == ("weak", "strong") and m.streams["l"].views == ("weak",)


def test_teacher_starts_as_a_copy() -> None:
    nets = method().networks(lambda name: nn.Conv2d(1, 3, 1))
    assert tuple(nets) == ("student", "teacher") and nets["teacher"] is not nets["student"]
    pairs = zip(nets["teacher"].parameters(), nets["student"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [p.requires_grad for p in nets["teacher"].parameters()] == [False, False]
    assert [p.requires_grad for p in nets["student"].parameters()] == [True, True]


def pair() -> dict[str, nn.Module]:
    nets: dict[str, nn.Module] = {}
    for name in ("student", "teacher"):
        nets[name] = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    for name, value in (("student", 2.0), ("teacher", 6.0)):
        for entry in nets[name].state_dict().values():
            entry.fill_(value)
    return nets


@pytest.mark.parametrize(("t", "d"), [(0, 0.0), (1, 1 - 1 / 2), (4, 1 - 1 / 5), (99, 0.99), (5000, 0.99)])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_after_step(t: int, d: float, mode: str) -> None:
    """θ̄ ← d·θ̄ + (1-d)·θ; the statistics too, unless the teacher's own passes make them."""
    nets = pair()
    method(teacher_mode=mode).after_step(nets, step(t, 10**4), {})
    state = {k: v.item() for k, v in nets["teacher"].state_dict().items()}
    for name in ("0.weight", "1.weight", "1.bias"):
        assert state[name] == pytest.approx(d * 6 + (1 - d) * 2), name
    for name in ("1.running_mean", "1.running_var"):
        assert state[name] == pytest.approx(d * 6 + (1 - d) * 2 if mode == "eval" else 6), name
    assert state["1.num_batches_tracked"] == (2 if mode == "eval" else 6)
    assert all(v.item() == 2 for v in nets["student"].state_dict().values())


def test_torchsemiseg_does_not_ramp_the_decay() -> None:
    nets = pair()
    method(authors_code="torchsemiseg").after_step(nets, step(1, 100), {})
    assert nets["teacher"].state_dict()["0.weight"].item() == pytest.approx(0.99 * 6 + 0.01 * 2)


def test_nothing_valid_is_zero() -> None:
    m = method()
    given = {
        "l": items([LABELLED], mask=[[[255, 255], [255, 255]]]),
        "u": items(WEAK, STRONG, kinds=("weak", "strong"), valid=[[[0, 0], [0, 0]]] * 2),
    }
    student = Table(S)
    out = m.losses({"student": student, "teacher": Table(T)}, given, step(50, 100, l=1, u=2), {})
    assert out["sup"].item() == 0 == out["con"].item()
    assert student.gradient(out["sup"] + out["con"]) == [[0.0] * 3] * 6
