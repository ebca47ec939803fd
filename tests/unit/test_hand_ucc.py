"""UCC on small images, worked out by hand from Fan et al., CVPR 2022: Eq. 1, 2, 5 to 9, L_s and L_u; no pasting."""

from __future__ import annotations

import itertools

import pytest
import torch

from fewmask.batch import Batch
from hand import ce, items, slope, total_slope
from hand_ucc import (
    LABELLED,
    MASK,
    OTHER,
    ROWS,
    STRONG,
    SUP,
    WEAK,
    A,
    B,
    Heads,
    method,
    networks,
    run,
    tables,
    unlabelled,
)

NOTHING = [[0.0] * 3] * ROWS
# L_u of WEAK and STRONG, λ apart: head 1 teaches pixel 1 with .9; head 2 pixels 0 and 3 with .8 and .75
FROM_1 = 0.9 * ce(B[13], 2) / 0.9
FROM_2 = (0.8 * ce(A[12], 1) + 0.75 * ce(A[15], 1)) / (0.8 + 0.75)


def same(found: list[list[float]], expected: list[list[float]]) -> bool:
    return all(row == pytest.approx(want, abs=1e-12) for row, want in zip(found, expected, strict=True))


def test_reweighting_by_the_text() -> None:
    """Eq. 1, 5 to 9 and L_u: the surer head's label trains the other head, in a mean weighted by its confidence."""
    out, memo = run(method(lam=1.0), unlabelled(WEAK))
    assert out["unsup"].item() == pytest.approx(FROM_1 + FROM_2, rel=1e-12)
    assert memo["kept"].item() == pytest.approx(3 / 4)  # all but the tie
    assert memo["pseudo"].tolist() == [0, 2, 1]


def test_reweighting_as_printed() -> None:
    """Eq. 7 and 8 to the letter: u_1 = w_1 where w_2 > w_1, pixels 0 and 3; u_2 = w_2 where w_1 > w_2, pixel 1."""
    out, memo = run(method(lam=1.0, reweight="printed"), unlabelled(WEAK))
    first = (0.7 * ce(B[12], 0) + 0.6 * ce(B[15], 1)) / (0.7 + 0.6)
    assert out["unsup"].item() == pytest.approx(first + 0.6 * ce(A[13], 1) / 0.6, rel=1e-12)
    assert memo["kept"].item() == pytest.approx(3 / 4) and memo["pseudo"].tolist() == [1, 2, 0]


def test_without_reweighting() -> None:
    """Both heads teach every pixel, ties too, with weight 1."""
    out, memo = run(method(lam=1.0, reweight="none"), unlabelled(WEAK))
    first = (ce(B[12], 0) + ce(B[13], 2) + ce(B[14], 0) + ce(B[15], 1)) / 4
    second = (ce(A[12], 1) + ce(A[13], 1) + ce(A[14], 1) + ce(A[15], 1)) / 4
    assert out["unsup"].item() == pytest.approx(first + second, rel=1e-12)
    assert memo["kept"].item() == 1


def test_supervision() -> None:
    """L_s, unnumbered: the mean over the three labelled pixels of both heads' cross-entropies, added; no λ."""
    for lam in (0.0, 3.0):
        out, _ = run(method(lam=lam), unlabelled(WEAK))
        assert out["sup"].item() == pytest.approx(SUP, rel=1e-12)


def test_supervision_by_ohem_mines_each_head_on_its_own() -> None:
    """Of p(y), head 1: .6 .5 .7, head 2: .5 .25 .5, those of at most .5 count: one of three, and three of three."""
    m = method(sup={"loss": "ohem", "ohem_threshold": 0.501, "ohem_min_kept": 1})
    out, _ = run(m, unlabelled(WEAK))
    assert out["sup"].item() == pytest.approx(ce(A[1], 1) + (ce(B[0], 0) + ce(B[1], 1) + ce(B[2], 2)) / 3, rel=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0, 4.0])
def test_total(lam: float) -> None:
    """Eq. 2: L = L_s + λ·L_u."""
    out, _ = run(method(lam=lam), unlabelled(WEAK))
    assert sum(out.values()).item() == pytest.approx(SUP + lam * (FROM_1 + FROM_2), rel=1e-12)


def test_defaults_are_the_papers() -> None:
    cfg = method().config
    assert (cfg.lam, cfg.heads, cfg.views, cfg.reweight) == (2.0, "shared", "ws", "text")
    assert not cfg.own_views
    assert type(cfg)().paste == "dcscp"


def test_gradient() -> None:
    """Head 1 learns from head 2's labels and the other way round; none flows through a label or a weight."""
    nets = networks(m := method(lam=2.0))
    out, _ = run(m, unlabelled(WEAK), nets)
    one, two = tables(nets)
    to_one = [(2 * 0.8 / 1.55, 12, slope(A[12], 1)), (2 * 0.75 / 1.55, 15, slope(A[15], 1))]
    assert same(one.gradient(out["unsup"]), total_slope(ROWS, to_one))
    assert same(two.gradient(out["unsup"]), total_slope(ROWS, [(2.0, 13, slope(B[13], 2))]))
    for net, p in ((one, A), (two, B)):
        truth = [(1 / 3, i, slope(p[i], i)) for i in range(3)]
        assert same(net.gradient(out["sup"]), total_slope(ROWS, truth))


def test_gradient_as_printed() -> None:
    nets = networks(m := method(lam=1.0, reweight="printed"))
    out, _ = run(m, unlabelled(WEAK), nets)
    one, two = tables(nets)
    assert same(one.gradient(out["unsup"]), total_slope(ROWS, [(1.0, 13, slope(A[13], 1))]))
    to_two = [(0.7 / 1.3, 12, slope(B[12], 0)), (0.6 / 1.3, 15, slope(B[15], 1))]
    assert same(two.gradient(out["unsup"]), total_slope(ROWS, to_two))


def test_every_image_has_a_mean_of_its_own() -> None:
    """1/N_u Σ_i of weighted means: pixels of an image with little weight count for more than those of another."""
    second, strong = [[9, 9], [9, 8]], [[15, 12], [13, 14]]
    out, _ = run(method(lam=1.0), unlabelled(WEAK, second, strong=(STRONG, strong)))
    from_1 = (ce(B[15], 2) + ce(B[12], 2) + ce(B[13], 2)) / 3  # all with .9
    per_image = (FROM_1 + FROM_2 + from_1 + ce(A[14], 1)) / 2
    assert out["unsup"].item() == pytest.approx(per_image, rel=1e-12)
    over_all = (ce(B[13], 2) + 3 * from_1) / 4 + (1.55 * FROM_2 + 0.8 * ce(A[14], 1)) / 2.35
    assert per_image != pytest.approx(over_all)


@pytest.mark.parametrize("reweight", ["text", "printed"])
def test_an_image_without_weight_is_zero(reweight: str) -> None:
    """Ties everywhere: loss 0, gradient 0, and in a batch it counts as an image, N_u = 2."""
    ties = [[10, 10], [10, 10]]
    nets = networks(m := method(lam=1.0, reweight=reweight))
    out, memo = run(m, unlabelled(ties), nets)
    assert out["unsup"].item() == 0 == memo["kept"].item() and out["unsup"].requires_grad
    assert all(net.gradient(out["unsup"]) == NOTHING for net in tables(nets))
    alone, _ = run(m, unlabelled(WEAK))
    both, memo = run(m, unlabelled(ties, WEAK, strong=(STRONG, STRONG)))
    assert both["unsup"].item() == pytest.approx(alone["unsup"].item() / 2, rel=1e-12)
    assert memo["kept"].item() == pytest.approx(3 / 8)


def test_a_head_that_teaches_nothing_in_an_image() -> None:
    """Head 1 is never the surer one: its half is 0 / 0, read as 0; the other half stands."""
    nets = networks(m := method(lam=1.0))
    out, _ = run(m, unlabelled([[8, 11], [8, 10]]), nets)
    expected = (0.8 * ce(A[12], 1) + 0.75 * ce(A[13], 1) + 0.8 * ce(A[14], 1)) / 2.35
    assert out["unsup"].item() == pytest.approx(expected, rel=1e-12)
    assert tables(nets)[1].gradient(out["unsup"]) == NOTHING


@pytest.mark.parametrize("reweight", ["text", "printed", "none"])
def test_padding_counts_nowhere(reweight: str) -> None:
    """Pixels 1 and 3 are padding: with the first and the third alone the same comes out, whatever stands there."""
    valid = [[[1, 0], [1, 0]]]
    m = method(lam=1.0, reweight=reweight)
    found = [run(m, unlabelled([[8, w], [10, w]], strong=([[12, s], [14, s]],), valid=valid))
             for w, s in ((9, 13), (11, 15), (8, 14))]  # fmt: skip
    assert len({out["unsup"].item() for out, _ in found}) == 1
    first = {"text": 0.0, "printed": ce(B[12], 0), "none": (ce(B[12], 0) + ce(B[14], 0)) / 2}
    second = {"text": ce(A[12], 1), "printed": 0.0, "none": (ce(A[12], 1) + ce(A[14], 1)) / 2}
    assert found[0][0]["unsup"].item() == pytest.approx(first[reweight] + second[reweight], rel=1e-12)
    assert found[0][1]["kept"].item() == (1.0 if reweight == "none" else 0.5)


def test_only_padding_and_only_void_is_zero() -> None:
    for heads, reweight in itertools.product(("shared", "separate"), ("text", "printed", "none")):
        batch = {
            "l": items([LABELLED], mask=[[[255, 255], [255, 255]]], valid=[[[0, 0], [0, 0]]]),
            "u": unlabelled(WEAK, valid=[[[0, 0], [0, 0]]])["u"],
        }
        nets = networks(m := method(heads=heads, reweight=reweight))
        out, memo = run(m, batch, nets)
        assert out["sup"].item() == 0 == out["unsup"].item()
        assert memo["kept"].item() == 0 and memo["pseudo"].sum().item() == 0
        assert all(net.gradient(out["sup"] + out["unsup"]) == NOTHING for net in tables(nets))


# --- passes, heads and views ------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_passes(heads: str) -> None:
    """Labels in evaluation mode without gradient; then one training pass over labelled and strong images together."""
    nets = networks(m := method(heads=heads))
    out, _ = run(m, unlabelled(WEAK), nets)
    for net in tables(nets):
        assert net.seen == [([WEAK], False, False), ([LABELLED, STRONG], True, True)]
    assert all(net.training for net in nets.values())
    assert out["unsup"].item() == pytest.approx(2 * (FROM_1 + FROM_2), rel=1e-12)
    assert out["sup"].item() == pytest.approx(SUP, rel=1e-12)


def test_separate_heads_have_the_gradient_of_shared_ones() -> None:
    found = []
    for heads in ("shared", "separate"):
        nets = networks(m := method(heads=heads))
        out, _ = run(m, unlabelled(WEAK), nets)
        found.append([net.gradient(out["unsup"] + out["sup"]) for net in tables(nets)])
    assert found[0] == found[1]


def test_weak_view_for_both() -> None:
    """views = w (Table 4): head 1 teaches 2 with code 9, head 2 teaches 1 with codes 8 and 11, on the weak view."""
    nets = networks(m := method(lam=1.0, views="w"))
    batch: Batch = {"l": items([LABELLED], mask=[MASK]), "u": items([WEAK])}
    out, _ = run(m, batch, nets)
    expected = ce(B[9], 2) + (0.8 * ce(A[8], 1) + 0.75 * ce(A[11], 1)) / 1.55
    assert out["unsup"].item() == pytest.approx(expected, rel=1e-12)
    assert tables(nets)[0].seen == [([WEAK], False, False), ([LABELLED, WEAK], True, True)]
    assert same(tables(nets)[1].gradient(out["unsup"]), total_slope(ROWS, [(1.0, 9, slope(B[9], 2))]))


def test_strong_view_for_both() -> None:
    """views = s: the strong view alone gives labels and trains.

    Codes 12: (0, .5) (2, .45), 13: (2, .75) (0, .6), 14: (1, .6) (0, .4), 15: (2, .5) (0, .55): head 1 teaches the
    first three, head 2 the last.
    """
    nets = networks(m := method(lam=1.0, views="s"))
    batch: Batch = {"l": items([LABELLED], mask=[MASK]), "u": items([STRONG], kinds=("strong",))}
    out, _ = run(m, batch, nets)
    first = (0.5 * ce(B[12], 0) + 0.75 * ce(B[13], 2) + 0.6 * ce(B[14], 1)) / 1.85
    assert out["unsup"].item() == pytest.approx(first + ce(A[15], 0), rel=1e-12)
    assert tables(nets)[1].seen == [([STRONG], False, False), ([LABELLED, STRONG], True, True)]


def own(heads: str = "shared") -> tuple[Batch, dict]:
    kinds = ("weak", "strong", "strong")
    batch: Batch = {"l": items([LABELLED], mask=[MASK]), "u": items([WEAK], [STRONG], [OTHER], kinds=kinds)}
    return batch, networks(method(own_views=True, heads=heads))


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_own_views(heads: str) -> None:
    """Head 1 learns on the first strong view, head 2 on the second: codes 12 and 15 of A, code 17 of B."""
    batch, nets = own(heads)
    out, _ = run(method(lam=1.0, own_views=True, heads=heads), batch, nets)
    assert out["unsup"].item() == pytest.approx(ce(B[17], 2) + FROM_2, rel=1e-12)
    one, two = tables(nets)
    to_one = [(0.8 / 1.55, 12, slope(A[12], 1)), (0.75 / 1.55, 15, slope(A[15], 1))]
    assert same(one.gradient(out["unsup"]), total_slope(ROWS, to_one))
    assert same(two.gradient(out["unsup"]), total_slope(ROWS, [(1.0, 17, slope(B[17], 2))]))
    assert out["sup"].item() == pytest.approx(SUP, rel=1e-12)


def test_labels_change_no_mode_and_restore_a_mixed_one() -> None:
    nets = networks(m := method())
    heads = nets["heads"]
    assert isinstance(heads, Heads)
    heads.second.eval()
    run(m, unlabelled(WEAK), nets)
    assert heads.training and heads.first.training and not heads.second.training
    assert torch.is_grad_enabled()
