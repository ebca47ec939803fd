"""Three-stage training by hand: Eq. 1-5 on 2x2 images, the stages of Algorithm 1, the switches of Tables V and VI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewmask.method import Method, Task
from fewmask.methods.three_stage import DECAYS, ThreeStage
from fewmask.nets import Builder
from fewmask.nets.branch import BranchedStage
from fewmask.nets.heads import SharedEncoder
from hand import Table, ce, items, slope, step, top, total_slope

# codes 0-1: the labelled image; 2-3: an image of L ∪ U as it is; 4-5: the same, strongly augmented
F = [(0.6, 0.3, 0.1), (0.2, 0.5, 0.3), (0.3, 0.3, 0.4), (0.8, 0.1, 0.1), (0.1, 0.7, 0.2), (0.25, 0.5, 0.25)]
G = [(0.5, 0.2, 0.3), (0.1, 0.6, 0.3), (0.2, 0.2, 0.6), (0.7, 0.2, 0.1), (0.3, 0.4, 0.3), (0.6, 0.2, 0.2)]
T = [(0.2, 0.7, 0.1), (0.1, 0.2, 0.7), (0.2, 0.2, 0.6), (0.9, 0.05, 0.05), (0.4, 0.4, 0.2), (0.2, 0.2, 0.6)]

LABELLED, MASK = [[0, 1], [1, 0]], [[0, 1], [2, 255]]
MASKED_BEFORE = [[0, 1], [1, 2]]  # pseudo-masks of the labelled image
WEAK, GUESS = [[2, 3], [3, 2]], [[2, 0], [1, 255]]
# the strong view is the weak one moved by one column to the right: its left column comes from outside
STRONG, SOURCE = [[4, 5], [5, 4]], [[-1, 0], [-1, 2]]

SEG = (ce(F[0], 0) + ce(F[1], 1) + ce(F[1], 2)) / 3
# (code of f, label of the teacher): four labelled pixels; two augmented ones, whose sources are the codes 2 and 3
CON = [(0, top(T[0])), (1, top(T[1])), (1, top(T[1])), (0, top(T[0])), (5, top(T[2])), (4, top(T[3]))]
# (code of g, pseudo-mask): likewise
PL = [(0, 0), (1, 1), (1, 1), (0, 2), (5, 2), (4, 1)]


class Both(nn.Module):
    """f and its branch: two tables."""

    def __init__(self, f: Table, g: Table) -> None:
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.f(x), self.g(x)]


def stages(**config: Any) -> list[Method]:
    return [r.method for r in ThreeStage(ThreeStage.Config.model_validate(config), Task(3)).rounds()]


def batch(method: Method) -> dict[str, Any]:
    views = {"weak": [WEAK], "geo": [STRONG]}
    kinds = method.streams["a"].views
    return {
        "l": items([LABELLED], mask=[MASK], pseudo=[MASKED_BEFORE]),
        "a": items(
            *(views[k] for k in kinds), kinds=kinds, pseudo=[GUESS], source=[SOURCE] if "geo" in kinds else None
        ),
    }


def terms(method: Method, branch: bool = True) -> tuple[dict[str, Tensor], Table, Table, Table]:
    f, g, teacher = Table(F), Table(G), Table(T)
    nets = {"student": Both(f, g) if branch else f}
    if method.config.ema:
        nets["teacher"] = Both(teacher, Table(G)) if branch else teacher
    out = method.losses(nets, batch(method), step(l=1, a=1), {})
    assert set(out) == set(method.flow)
    return out, f, g, teacher


def gradient(table: Table, loss: Tensor, rows: list[tuple[float, ...]], pairs: list[tuple[int, int]], weight: float):
    expected = total_slope(len(rows), [(weight / len(pairs), code, slope(rows[code], label)) for code, label in pairs])
    for found, wanted in zip(table.gradient(loss), expected, strict=True):
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize("number", [1, 2])
def test_stages_two_and_three(number: int) -> None:
    """Eq. 4 and Eq. 5: the same sum; λ_1 = 0.25, λ_2 = 2."""
    method = stages(lam_con=0.25, lam_pl=2.0)[number]
    out, f, g, teacher = terms(method)
    assert out["seg"].item() == pytest.approx(SEG)
    assert out["con"].item() == pytest.approx(0.25 * sum(ce(F[code], y) for code, y in CON) / 6)  # Eq. 1
    assert out["pl"].item() == pytest.approx(2 * sum(ce(G[code], y) for code, y in PL) / 6)  # Eq. 3
    gradient(f, out["con"], F, CON, 0.25)
    gradient(g, out["pl"], G, PL, 2.0)
    assert not any(any(row) for row in f.gradient(out["pl"])), "pseudo-masks are not seen by task 1"
    assert teacher.seen == [([LABELLED, WEAK], False, False)]  # evaluation mode, no gradient
    assert [codes for codes, _, _ in f.seen] == [[LABELLED, STRONG]]


def test_what_counts_of_the_masks() -> None:
    method = stages()[1]
    memo: dict[str, Tensor] = {}
    nets = {"student": Both(Table(F), Table(G)), "teacher": Both(Table(T), Table(G))}
    method.losses(nets, batch(method), step(l=1, a=1), memo)
    assert memo["kept"].item() == pytest.approx(6 / 8) and memo["pseudo"].tolist() == [1, 3, 2]


def test_without_strong_augmentation() -> None:
    """SA off: A and B are the identity; the pixel without a pseudo-mask does not count."""
    method = stages(strong=False)[1]
    assert method.streams["a"].views == ("weak",)
    out, f, _, _ = terms(method)
    con = [*CON[:4], (2, top(T[2])), (3, top(T[3])), (3, top(T[3])), (2, top(T[2]))]
    assert out["con"].item() == pytest.approx(0.5 * sum(ce(F[code], y) for code, y in con) / 8)
    pl = [*PL[:4], (2, 2), (3, 0), (3, 1)]
    assert out["pl"].item() == pytest.approx(0.5 * sum(ce(G[code], y) for code, y in pl) / 7)
    assert [codes for codes, _, _ in f.seen] == [[LABELLED, WEAK]]


def test_padding_has_no_label() -> None:
    method = stages(strong=False)[1]
    there = batch(method)
    there["a"] = items([WEAK], pseudo=[[[2, 0], [255, 255]]], valid=[[[1, 1], [0, 0]]])
    nets = {"student": Both(Table(F), Table(G)), "teacher": Both(Table(T), Table(G))}
    out = method.losses(nets, there, step(l=1, a=1), {})
    con = [*CON[:4], (2, top(T[2])), (3, top(T[3]))]
    assert out["con"].item() == pytest.approx(0.5 * sum(ce(F[code], y) for code, y in con) / 6)


def test_without_consistency_and_without_the_second_task() -> None:
    alone = stages(lam_con=0)[1]
    assert alone.streams["a"].views == ("geo",)
    out, *_ = terms(alone)
    assert set(out) == {"seg", "pl"} and out["pl"].item() == pytest.approx(0.5 * sum(ce(G[c], y) for c, y in PL) / 6)
    rounds = ThreeStage(ThreeStage.Config(lam_pl=0), Task(3)).rounds()
    assert [r.labels for r in rounds] == [(), (), ()]
    out, *_ = terms(rounds[2].method, branch=False)
    assert set(out) == {"seg", "con"} and out["con"].item() == pytest.approx(0.5 * sum(ce(F[c], y) for c, y in CON) / 6)


def test_without_the_moving_average_the_network_labels_itself() -> None:
    method = stages(ema=False)[1]
    assert method.predictors == ("student",)
    out, f, _, _ = terms(method)
    own = [(0, top(F[0])), (1, top(F[1])), (1, top(F[1])), (0, top(F[0])), (5, top(F[2])), (4, top(F[3]))]
    assert out["con"].item() == pytest.approx(0.5 * sum(ce(F[code], y) for code, y in own) / 6)
    assert ([LABELLED, WEAK], False, False) in f.seen


def test_the_stages_of_algorithm_1() -> None:
    one, two, three = ThreeStage(ThreeStage.Config(), Task(3)).rounds()
    assert list(one.method.streams) == ["l"] and not one.labels
    (first,), (second,) = two.labels, three.labels
    assert (first.by, second.by) == (one.name, two.name)
    assert first.pool == second.pool == "labelled+unlabelled" and first.select.rule == second.select.rule == "none"
    assert [r.init for r in (one, two, three)] == [None] * 3  # reinitialised
    assert [r.share for r in (one, two, three)] == pytest.approx([1 / 3] * 3)
    assert [r.init for r in ThreeStage(ThreeStage.Config(init="continue"), Task(3)).rounds()] == [
        None, "stage-1", "stage-2",
    ]  # fmt: skip
    assert two.method.predictors[0] == "student"  # Algorithm 1, lines 9 and 13
    assert stages(output="teacher")[1].predictors[0] == "teacher"  # the code
    assert len(stages(stages=4)) == 4 and len(stages(stages=1)) == 1


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({}, [BranchedStage, SharedEncoder]),
        ({"branch": "n-2"}, [BranchedStage, BranchedStage]),  # N2 in Table V
        ({"stages": 4}, [BranchedStage, SharedEncoder, SharedEncoder]),
    ],
)
def test_which_branch_a_stage_has(config: dict[str, Any], kinds: list[type]) -> None:
    build = Builder("tiny", "tiny", 3, weights="none", seed=0)
    for method, kind in zip(stages(**config)[1:], kinds, strict=True):
        nets = method.networks(build)
        assert type(nets["student"]) is kind is type(nets["teacher"])
        assert type(method.network(nets, "student")) is type(build("student"))


def test_the_decay_of_the_average() -> None:
    method = stages()[1]
    for t, decay in ((0, 0.99), (19, 0.99), (20, 0.995), (39, 0.995), (40, 0.9975), (50, 0.999), (59, 0.999)):
        student, teacher = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            student.weight.fill_(1.0)
            teacher.weight.fill_(0.0)
        method.after_step({"student": student, "teacher": teacher}, step(t, 60, l=1, a=1), {})
        assert teacher.weight.item() == pytest.approx(1 - decay, rel=1e-4)
    assert [d for _, d in DECAYS] == [0.99, 0.995, 0.9975, 0.999]


@pytest.mark.parametrize(
    ("share", "total", "decays"),
    [
        (0.1, 240, [1 - 1 / 24] * 4),  # at most 24 steps old on average
        (0.1, 1500, [0.99, 1 - 1 / 150, 1 - 1 / 150, 1 - 1 / 150]),
        (0.02, 60_000, [0.99, 0.995, 0.9975, 0.999]),  # the paper's stage: 1200 steps are no bound
        (0.001, 240, [0.0] * 4),  # less than a step: the network itself
    ],
)
def test_the_average_is_no_older_than_a_share_of_the_stage(share: float, total: int, decays: list[float]) -> None:
    method = stages(ema_share=share)[1]
    for at, decay in zip((0.0, 0.5, 0.7, 0.9), decays, strict=True):
        student, teacher = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(student.weight), nn.init.zeros_(teacher.weight)
        method.after_step({"student": student, "teacher": teacher}, step(t=int(at * total), total=total), {})
        assert teacher.weight.item() == pytest.approx(1 - decay, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "says"),
    [({"shares": (0.5, 0.5)}, "3 positive numbers"), ({"output": "teacher", "ema": False}, "needs the moving average")],
)
def test_bad_constants_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stages(**config)
