"""DARS and self-training by hand: Eq. 1 and 2 on 2x2 images, and which rounds there are. Eq. 3-4: test_select.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewmask.method import Method, Task
from fewmask.methods.dars import DARS
from fewmask.methods.self_training import SelfTraining
from fewmask.nets import Builder
from fewmask.nets.auxiliary import Auxiliary
from fewmask.offline import OnPseudoLabels
from hand import Table, ce, items, slope, step, total_slope

# rows 0-1: the labelled image; 2-3: the unlabelled ones
P = [(0.6, 0.3, 0.1), (0.2, 0.5, 0.3), (0.3, 0.3, 0.4), (0.8, 0.1, 0.1)]
LABELLED, MASK = [[0, 1], [1, 0]], [[0, 1], [2, 255]]
U = [[[2, 3], [3, 3]], [[2, 2], [2, 3]]]
# five of the eight pixels have a pseudo-label; the last one of the first image is padding
PSEUDO = [[[2, 0], [255, 255]], [[1, 255], [2, 0]]]
VALID = [[[1, 1], [1, 0]], [[1, 1], [1, 1]]]
PAIRS = [(2, 2), (3, 0), (2, 1), (2, 2), (3, 0)]
SUP = (ce(P[0], 0) + ce(P[1], 1) + ce(P[1], 2)) / 3
GUESSED = sum(ce(P[code], label) for code, label in PAIRS) / 5


def dars(**config: Any) -> DARS:
    return DARS(DARS.Config.model_validate(config), Task(3, (0.5, 0.3, 0.2)))


def terms(method: Method) -> tuple[dict[str, torch.Tensor], Table, dict[str, torch.Tensor]]:
    net, memo = Table(P), {}
    batch = {"l": items([LABELLED], mask=[MASK]), "u": items(U, valid=VALID, pseudo=PSEUDO)}
    batch = {name: batch[name] for name in method.streams}
    out = method.losses({"net": net}, batch, step(l=1, u=2), memo)
    assert set(out) == set(method.flow)
    return out, net, memo


def test_round_0_is_equation_1() -> None:
    first = dars().rounds()[0]
    assert not first.labels and first.init is None and list(first.method.streams) == ["l"]
    out, net, _ = terms(first.method)
    assert out["sup"].item() == pytest.approx(SUP)
    expected = total_slope(4, [(1 / 3, code, slope(P[code], y)) for code, y in ((0, 0), (1, 1), (1, 2))])
    for found, wanted in zip(net.gradient(out["sup"]), expected, strict=True):
        assert found == pytest.approx(wanted)


def test_round_k_is_equation_2() -> None:
    later = dars(lam=2.0).rounds()[1]
    out, net, memo = terms(later.method)
    assert out["sup"].item() == pytest.approx(SUP) and out["unsup"].item() == pytest.approx(2 * GUESSED)
    expected = total_slope(4, [(2 / 5, code, slope(P[code], y)) for code, y in PAIRS])
    for found, wanted in zip(net.gradient(out["unsup"]), expected, strict=True):
        assert found == pytest.approx(wanted)
    assert memo["kept"].item() == pytest.approx(5 / 7) and memo["pseudo"].tolist() == [2, 1, 2]
    assert [codes for codes, _, _ in net.seen] == [[LABELLED], U]  # a pass each: BatchNorm sees them apart


def test_one_pass_where_it_is_asked_for() -> None:
    together = OnPseudoLabels(OnPseudoLabels.Config(together=True), Task(3))
    out, net, _ = terms(together)
    assert out["unsup"].item() == pytest.approx(GUESSED) and len(net.seen) == 1


def test_one_loss_weighs_the_classes_of_pseudo_labels_too() -> None:
    """Σ w_y·ℓ / Σ w_y, with weights 1, 2 and 4."""
    weights = (1.0, 2.0, 4.0)
    sup = {"class_weights": weights}
    given = sum(weights[y] * ce(P[code], y) for code, y in ((0, 0), (1, 1), (1, 2))) / 7
    guessed = sum(weights[y] * ce(P[code], y) for code, y in PAIRS) / sum(weights[y] for _, y in PAIRS)
    for one_loss, wanted in ((False, GUESSED), (True, guessed)):
        config = {"sup": sup, "one_loss": one_loss}
        for method in (dars(**config), SelfTraining(SelfTraining.Config.model_validate(config), Task(3))):
            out, _, _ = terms(method.rounds()[1].method)
            assert out["sup"].item() == pytest.approx(given) and out["unsup"].item() == pytest.approx(wanted)


def test_the_switches_of_later_rounds() -> None:
    """together: one pass; flip: the mirror image is asked too, in every round."""
    config = {"together": True, "flip": True}
    for method in (dars(**config), SelfTraining(SelfTraining.Config.model_validate(config | {"more": 1}), Task(3))):
        for later in method.rounds()[1:]:
            out, net, _ = terms(later.method)
            assert out["unsup"].item() == pytest.approx(GUESSED) and len(net.seen) == 1
            assert [m.flip for m in later.labels] == [True]


def test_the_auxiliary_classifier_weighs_in_both_terms() -> None:
    """ℓ(p) + 0.4·ℓ(q), labelled and pseudo-labelled; what is delivered is the network without it."""
    first, later, _ = (r.method for r in dars(aux=0.4).rounds())
    q = [(0.2, 0.2, 0.6), (0.1, 0.8, 0.1), (0.5, 0.2, 0.3), (0.1, 0.6, 0.3)]

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.q = Table(P), Table(q)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.p(x), self.q(x)]

    batch = {"l": items([LABELLED], mask=[MASK]), "u": items(U, valid=VALID, pseudo=PSEUDO)}
    side = (ce(q[0], 0) + ce(q[1], 1) + ce(q[1], 2)) / 3
    guessed = sum(ce(q[code], label) for code, label in PAIRS) / 5
    out = first.losses({"net": Two()}, {"l": batch["l"]}, step(l=1), {})
    assert out["sup"].item() == pytest.approx(SUP + 0.4 * side)
    out = later.losses({"net": Two()}, batch, step(l=1, u=2), {})
    assert out["sup"].item() == pytest.approx(SUP + 0.4 * side)
    assert out["unsup"].item() == pytest.approx(GUESSED + 0.4 * guessed)
    build = Builder("tiny", "tiny", 3, weights="none", seed=0)
    nets = later.networks(build)
    assert type(nets["net"]) is Auxiliary and type(later.network(nets, "net")) is type(build("student"))


def test_no_pseudo_label_at_all() -> None:
    """Exactly 0, with a gradient of 0."""
    later = dars().rounds()[1].method
    net = Table(P)
    batch = {"l": items([LABELLED], mask=[MASK]), "u": items([U[0]], pseudo=[[[255, 255], [255, 255]]])}
    memo: dict[str, torch.Tensor] = {}
    out = later.losses({"net": net}, batch, step(l=1, u=1), memo)
    assert out["unsup"].item() == 0 and not any(any(row) for row in net.gradient(out["unsup"]))
    assert memo["kept"].item() == 0


def test_the_rounds_of_the_paper() -> None:
    """Two self-training rounds; α 0.2 then 0.5; the scales grow in the second; each resumes from the one before."""
    first, one, two = dars().rounds()
    assert [r.share for r in (first, one, two)] == pytest.approx([1 / 3] * 3)
    (by_first,), (by_one,) = one.labels, two.labels
    assert (one.init, by_first.by, two.init, by_one.by) == (first.name, first.name, one.name, one.name)
    assert [(m.select.rule, m.select.ratio, m.select.drop) for m in (by_first, by_one)] == [
        ("dars", 0.2, "dataset"),
        ("dars", 0.5, "dataset"),
    ]
    assert first.scale == one.scale == (1, 1) and two.scale == pytest.approx((0.8, 1.5))


def test_the_switches_of_its_tables() -> None:
    for rule in ("st", "cbst", "da"):
        assert [r.labels[0].select.rule for r in dars(select=rule).rounds()[1:]] == [rule, rule]
    warm = dars(temperature=1.27, drop="image").rounds()[1].labels[0].select
    assert warm.temperature == 1.27 and warm.drop == "image"
    assert [r.scale for r in dars(beta=(0, 0)).rounds()] == [(1, 1)] * 3
    early = [r.scale for r in dars(beta_from=1).rounds()]
    assert early[0] == (1, 1) and early[1] == early[2] == pytest.approx((0.8, 1.5))
    single = dars(alpha=(0.2,), shares=(0.25, 0.75)).rounds()
    assert [r.share for r in single] == [0.25, 0.75]


def test_the_first_round_may_have_a_batch_of_its_own() -> None:
    assert [r.batch for r in dars(first_batch=16).rounds()] == [16, None, None]
    assert [r.batch for r in dars().rounds()] == [None] * 3


def test_the_rate_goes_on_falling_as_in_the_code() -> None:
    """Epochs 200 to 400 of 400, 400 to 600 of 600: rounds start at lr·(1 - 200/400)^0.9 and lr·(1 - 400/600)^0.9."""
    rates = (1.0, 0.5**0.9, (1 / 3) ** 0.9)
    assert [round(r, 3) for r in rates] == [1, 0.536, 0.372]  # as the docstring spells them
    assert [r.rate for r in dars(rates=rates).rounds()] == list(rates)
    assert [r.rate for r in dars().rounds()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"alpha": ()}, "one ratio"),
        ({"rates": (1.0, 0.5)}, "rates takes 3"),
        ({"rates": (1.0, 0.5, 0.0)}, "rates takes 3"),
        ({"alpha": (0.2, 1.5)}, "one ratio"),
        ({"beta": (1.0, 0.5)}, "β_min"),
        ({"shares": (0.5, 0.5)}, "3 positive numbers"),
        ({"shares": (0.5, 0.5, 0.5)}, "3 positive numbers"),
    ],
)
def test_bad_constants_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dars(**config)


def test_self_training_labels_once_and_starts_again() -> None:
    first, second = SelfTraining(SelfTraining.Config(), Task(3)).rounds()
    assert second.init is None and [(m.by, m.select.rule) for m in second.labels] == [(first.name, "none")]
    assert (first.share, second.share) == pytest.approx((0.4, 0.6))
    out, _, _ = terms(second.method)
    assert {k: v.item() for k, v in out.items()} == pytest.approx({"sup": SUP, "unsup": GUESSED})


def test_self_training_after_another_method() -> None:
    """CPS Table 7: its first network labels, and another one is trained from scratch."""
    config = {"teacher": "cps", "teacher_constants": {"lam": 0.5}}
    first, second = SelfTraining(SelfTraining.Config.model_validate(config), Task(3)).rounds()
    assert type(first.method).__name__ == "CPS" and first.method.config.lam == 0.5 and first.name == "cps"
    assert second.init is None and [m.by for m in second.labels] == ["cps"]


def test_a_teacher_has_the_same_supervised_loss_and_all_its_constants() -> None:
    config = SelfTraining.Config.model_validate({"teacher": "mean_teacher", "sup": {"class_weights": "balanced"}})
    assert config.teacher_constants["sup"]["class_weights"] == "balanced" and config.teacher_constants["together"]
    assert SelfTraining.Config.model_validate(config.model_dump(mode="json")) == config  # as config.yaml brings it back
    first, *_ = SelfTraining(config, Task(3)).rounds()
    assert first.method.config.sup.class_weights == "balanced"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"teacher": "cps", "init": "continue"}, "supervised training"),
        ({"teacher_constants": {"lam": 0.5}}, "without a teacher"),
        ({"teacher": "cps", "teacher_constants": {"lambda": 0.5}}, "lambda"),
        ({"teacher": "dars"}, "several rounds itself"),
    ],
)
def test_teachers_that_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SelfTraining(SelfTraining.Config.model_validate(config), Task(3)).rounds()


def test_self_training_again_and_again() -> None:
    config = SelfTraining.Config(more=2, rule="st", ratio=0.3, init="continue", view="strong")
    rounds = SelfTraining(config, Task(3)).rounds()
    assert [r.init for r in rounds] == [None, *[r.name for r in rounds[:-1]]]
    assert [[m.by for m in r.labels] for r in rounds] == [[], *[[r.name] for r in rounds[:-1]]]
    assert sum(r.share for r in rounds) == pytest.approx(1) and len({r.name for r in rounds}) == 4
    assert rounds[1].labels[0].select.ratio == 0.3 and rounds[1].method.streams["u"].views == ("strong",)
