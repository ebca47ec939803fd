"""ST++ and CBST by hand: the loss over both sets, Cutout, and which round labels which images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewmask.method import Labelling, Part, Task
from fewmask.methods.cbst import CBST
from fewmask.methods.st_plus_plus import STPlusPlus
from fewmask.offline import OnPseudoLabels, OnUnion
from fewmask.ops import mix
from hand import Table, ce, items, slope, step, total_slope

# rows 0-1: the labelled image; 2-3: the unlabelled ones
P = [(0.6, 0.3, 0.1), (0.2, 0.5, 0.3), (0.3, 0.3, 0.4), (0.8, 0.1, 0.1)]
LABELLED, MASK = [[0, 1], [1, 0]], [[0, 1], [2, 255]]
U = [[[2, 3], [3, 3]], [[2, 2], [2, 3]]]
PSEUDO = [[[2, 0], [255, 255]], [[1, 255], [2, 0]]]
PAIRS = [(0, 0), (1, 1), (1, 2), (2, 2), (3, 0), (2, 1), (2, 2), (3, 0)]
"""Code and label of the eight labelled pixels of both sets."""


def st(**config: Any) -> STPlusPlus:
    return STPlusPlus(STPlusPlus.Config.model_validate(config), Task(3))


def test_one_mean_over_the_pixels_of_both_sets() -> None:
    """Three true and five pseudo-labelled pixels: each weighs 1/8, in one pass of the network."""
    union, net, memo = OnUnion(OnUnion.Config(), Task(3)), Table(P), {}
    batch = {"l": items([LABELLED], mask=[MASK]), "u": items(U, pseudo=PSEUDO)}
    out = union.losses({"net": net}, batch, step(l=1, u=2), memo)
    assert set(out) == set(union.flow) == {"sup"} and len(net.seen) == 1
    assert out["sup"].item() == pytest.approx(sum(ce(P[code], label) for code, label in PAIRS) / 8)
    expected = total_slope(4, [(1 / 8, code, slope(P[code], y)) for code, y in PAIRS])
    for found, wanted in zip(net.gradient(out["sup"]), expected, strict=True):
        assert found == pytest.approx(wanted)
    assert memo["kept"].item() == pytest.approx(5 / 8) and memo["pseudo"].tolist() == [2, 1, 2]


def test_cutout_takes_pixels_and_labels_of_unlabelled_images() -> None:
    """With probability 1 every image loses the box that its draws name; the labelled one loses nothing."""
    union, memo = OnUnion(OnUnion.Config(cutout=1.0), Task(2)), {}
    seen: list[torch.Tensor] = []

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.zeros(len(x), 2, *x.shape[-2:], requires_grad=True)

    ones = [[1] * 16] * 16
    batch = {"l": items([ones], mask=[ones]), "u": items([ones, ones], pseudo=[ones, ones])}
    here = step(l=1, u=2)
    union.losses({"net": Net()}, batch, here, memo)
    box = mix.unimatch_mask(here.draws("u"), 16, 16, 1.0)
    assert 0 < box[0].sum() < 256 and 0 < box[1].sum() < 256
    labelled, unlabelled = seen[0][:1], seen[0][1:]
    assert (labelled != 0).all() and ((unlabelled == 0).all(1) == box).all()
    assert memo["kept"].item() == pytest.approx(1 - box.float().mean().item())
    assert memo["pseudo"].tolist() == [0, 512 - int(box.sum())]


def test_stable_images_first() -> None:
    """Algorithm 2: the teacher labels the stable half, that half's student the other; the last one trains on both."""
    teacher, stable, everything = st().rounds()
    assert teacher.keep == pytest.approx((1 / 3, 2 / 3)) and not teacher.labels
    assert [r.init for r in (teacher, stable, everything)] == [None] * 3
    assert [r.init for r in st(init="continue").rounds()] == [None, "teacher", "stable"]
    assert [r.share for r in (teacher, stable, everything)] == pytest.approx([1 / 3] * 3)
    sizes = {"scales": (0.5, 0.75, 1.0, 1.5, 2.0), "flip": True}
    assert stable.labels == (Labelling("teacher", part=Part("teacher", 0.0, 0.5), **sizes),)
    assert everything.labels == (*stable.labels, Labelling("stable", part=Part("teacher", 0.5, 1.0), **sizes))
    method = everything.method
    assert isinstance(method, OnUnion) and method.streams["u"].views == ("strong",) and method.config.cutout == 0.5


def test_st_has_one_student() -> None:
    """Algorithm 1."""
    teacher, student = st(prioritise=False, view="weak", cutout=0, scales=(1.0,), flip=False).rounds()
    assert student.labels == (Labelling("teacher"),) and teacher.keep == ()
    assert student.method.streams["u"].views == ("weak",)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-3.0,)])
def test_sizes_are_positive(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        st(scales=scales)


def test_the_first_share_of_cbst_is_not_above_the_largest() -> None:
    with pytest.raises(ValueError, match="start <= most"):
        CBST(CBST.Config(start=0.6), Task(3))
    ends = [r.labels[0].select.ratio for r in CBST(CBST.Config(), Task(3)).rounds()[1:]]
    assert ends == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.45])  # six rounds do not reach 0.5


@pytest.mark.parametrize("config", [{"shares": (0.5, 0.5)}, {"prioritise": False, "shares": (0.2, 0.3, 0.5)}])
def test_a_share_a_stage(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive numbers that sum to 1"):
        st(**config)


def test_cbst_labels_more_from_round_to_round() -> None:
    """p = 0.2, then 0.05 more a round until 0.5; each round goes on from the one before."""
    first, *later = CBST(CBST.Config(turns=8), Task(3)).rounds()
    assert not first.labels and first.share == pytest.approx(0.4)
    how = [r.labels[0].select for r in later]
    assert [s.ratio for s in how] == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5])
    assert {(s.rule, s.relabel) for s in how} == {("cbst", True)}
    assert [r.init for r in later] == [first.name, *[r.name for r in later[:-1]]] == [r.labels[0].by for r in later]
    assert sum(r.share for r in later) == pytest.approx(0.6)
    assert isinstance(later[0].method, OnPseudoLabels) and later[0].method.config.lam == 1
    assert not CBST(CBST.Config(relabel=False), Task(3)).rounds()[1].labels[0].select.relabel
