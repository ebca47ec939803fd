"""U2PL on small images, by hand from Wang et al., CVPR 2022: anchors, positives, negatives, Eq. 4 and 9-16."""

from __future__ import annotations

import math

import pytest
import torch

from fewmask.ops import contrast
from hand_u2pl import (
    LABELLED,
    MASK,
    NEGATIVE,
    POSITIVE,
    ROWS,
    WEAK,
    Z_T,
    Featured,
    at,
    batch,
    method,
    nce,
    networks,
    run,
)


def sets(m, b=None, nets=None, now=None) -> tuple[list[set[int]], list[set[int]]]:
    """Return the codes of A_c and of N_c, class by class, as the draws receive them (2x2 images of distinct codes)."""
    seen: dict[str, torch.Tensor] = {}
    b = b or batch()
    codes = torch.cat((b["l"].weak, b["u"].weak))[:, 0].flatten().long()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_with_replacement", "draw_without_replacement"):
            real = getattr(contrast, name)
            patch.setattr(contrast, name, lambda mask, *a, n=name, f=real: (seen.update({n: mask}), f(mask, *a))[1])
        run(m, b, nets, now)
    return tuple([set(codes[row].tolist()) for row in seen[name]]
                 for name in ("draw_with_replacement", "draw_without_replacement"))  # fmt: skip


def loss(*classes: tuple[float, float], draws: int = 256, tau: float = 0.5) -> float:
    return sum(nce(p, n, draws, tau) for p, n in classes) / len(classes)


EVERY = list(zip(POSITIVE, NEGATIVE, strict=True))


# --- Eq. 9-11, 13-16 ---------------------------------------------------------------------------------------------


def test_sets() -> None:
    """Eq. 9-11 and 13-16, as the table in hand_u2pl derives them."""
    assert sets(method()) == ([{0, 4}, {5}, {2, 6}], [{1}, {0, 2}, {1, 7}])


@pytest.mark.parametrize(
    ("delta", "anchors"),
    [(0.0, [{0, 4}, {1, 5}, {2, 6}]), (0.19, [{0, 4}, {1, 5}, {2, 6}]), (0.21, [{0, 4}, {5}, {2, 6}]),
     (0.61, [{4}, {5}, {2}]), (0.85, [{4}, set(), set()]), (0.95, [set()] * 3)],
)  # fmt: skip
def test_delta(delta: float, anchors: list[set[int]]) -> None:
    """Eq. 9 and 10: p(c) > δ_p. The probabilities of the codes' classes are .6, .2, .7 and .9, .8, .6."""
    assert sets(method(delta=delta))[0] == anchors


def test_a_probability_of_delta_is_too_small() -> None:
    p = [(0.5, 0.25, 0.25)] * ROWS
    assert sets(method(delta=0.5), nets=networks(method(), t=p))[0] == [set()] * 3
    assert sets(method(delta=0.49), nets=networks(method(), t=p))[0] == [{0, 4, 5, 6, 7}, set(), set()]


@pytest.mark.parametrize(
    ("r_low", "r_high", "negatives"),
    [
        # O of code 0: 0 1 2, of 1: 0 2 1, of 2: 2 1 0, of 7: 0 1 2 (of equals the first); labelled below r_l and y ≠ c,
        # 7 from r_l below r_h
        (0, 20, [{7}, {7}, {7}]),
        (1, 20, [{1}, {7}, {7}]),
        (1, 2, [{1}, {7}, set()]),
        (2, 20, [{1}, {0, 2}, {1, 7}]),
        (2, 3, [{1}, {0, 2}, {1, 7}]),
        (2, 2, [{1}, {0, 2}, {1}]),
        (3, 20, [{1}, {0, 2}, {1, 7}]),  # r_l is at most K - 1 = 2
    ],
)
def test_bounds_of_the_order(r_low: int, r_high: int, negatives: list[set[int]]) -> None:
    """Eq. 14 and 15, Table 5."""
    assert sets(method(r_low=r_low, r_high=r_high))[1] == negatives


def test_without_the_order() -> None:
    """Table 6 without PRT: labelled pixels of other classes, and the unreliable one for every class; no void."""
    assert sets(method(ranked=False))[1] == [{1, 2, 7}, {0, 2, 7}, {0, 1, 7}]


@pytest.mark.parametrize(
    ("source", "pool"),
    # O of 4: 0 1 2 (equals), of 5: 2 0 1, of 6: 1 2 0; class c takes what has O(c) = 2 of the pool. "reliable" is the
    # 20 % quantile of four, .6 up: code 4 alone
    [("unreliable", [set(), set(), {7}]), ("reliable", [set(), set(), {4}]), ("all", [{5}, {6}, {4, 7}])],
)
def test_pixels_that_become_negatives(source: str, pool: list[set[int]]) -> None:
    """Table 4. The labelled ones stay as they are."""
    labelled = [{1}, {0, 2}, {1}]
    assert sets(method(negatives_from=source))[1] == [one | other for one, other in zip(labelled, pool, strict=True)]


def test_the_surest_are_as_many_as_the_unreliable() -> None:
    """Table 4's bottom share is α_t: 3·.4 = 1.2 places up, codes 4 and 5."""
    assert sets(method(negatives_from="reliable", alpha=0.4))[1] == [{1, 5}, {0, 2}, {1, 4}]
    falling = sets(method(negatives_from="reliable", alpha=0.4), now=at(epoch=3, epochs=4))  # .1: .3 places up
    assert falling[1] == [{1}, {0, 2}, {1, 4}]


def test_the_reading_of_the_authors_code() -> None:
    """Anchors of unlabelled images are the α_t surest, code 4. No labelled negatives: they would be y = c and y ≠ c.

    Unlabelled ones have ŷ = c from the first pass and O(c) = 2 in the second: here the passes agree, so none is there.
    """
    assert sets(method(negatives="authors_code")) == ([{0, 4}, set(), {2}], [set()] * 3)
    out, memo = run(method(negatives="authors_code"))
    assert out["contrast"].item() == 0 and not memo["real"].any()


def test_the_authors_code_needs_passes_that_disagree() -> None:
    """ŷ of code 7 is 2 in evaluation mode; its entropy is the highest and O(2) = 2 in training mode: N_2 = {7}."""

    class Moody(Featured):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(x if self.training else torch.where(x == 7, 6.0, x))

    m = method(negatives="authors_code")
    nets = networks(m)
    nets["teacher"].__class__ = Moody
    assert sets(m, nets=nets) == ([{0, 4}, set(), {2}], [set(), set(), {7}])
    nets = networks(m)
    nets["teacher"].__class__ = Moody
    out, _ = run(m, nets=nets)
    # A_2 = {2}: its centre is (1, 0), the anchor (0, -1); code 7 is (0, 5)
    assert out["contrast"].item() == pytest.approx(nce(0.0, -1.0, 256, 0.5), rel=1e-12)


TWO = [(0.8, 0.2), (0.71, 0.29), (0.4, 0.6), (0.9, 0.1), (0.95, 0.05), (0.1, 0.9), (0.2, 0.8), (0.55, 0.45)]


def test_two_classes_have_both_kinds_of_negatives() -> None:
    """K = 2: r_l = 1 and r_h = 2. Code 1, y = 1, is taken for 0 by the teacher: N_0. Code 7 is unreliable: O(1) = 1."""
    m = method(classes=2)
    b = batch(mask=[[[0, 1], [1, 255]]])
    assert sets(m, b, networks(m, s=TWO, t=TWO)) == ([{0, 4}, {2, 5, 6}], [{1}, {7}])  # .29 of code 1 is not above δ_p


def test_void_is_in_no_set() -> None:
    """A labelled image that is void but for one pixel."""
    b = batch(mask=[[[255, 255], [255, 2]]])
    assert sets(method(), b) == ([{4}, {5}, {6}], [set(), {3}, {7}])  # code 3 is now y = 2: O of it is 2 0 1


def test_labels_and_probabilities_are_sampled_on_the_grid_of_the_features() -> None:
    """4x4 pixels, 2x2 cells: the nearest pixel is the one at twice the row and column; no other plays a part."""

    def wide(grid: list[list[int]], other: int) -> list[list[int]]:  # fmt: skip
        return [[grid[y // 2][x // 2] if y % 2 == x % 2 == 0 else other for x in range(4)] for y in range(4)]

    m = method(alpha=0.05)  # of 16 entropies the highest alone, code 7
    b = batch(weak=[wide(WEAK, 4)], lab=[wide(LABELLED, 3)], mask=[wide(MASK, 1)])
    nets = networks(m, every=2)
    out, memo = run(m, b, nets)
    assert memo["kept"].item() == pytest.approx(15 / 16)
    assert out["contrast"].item() == pytest.approx(loss(*EVERY), rel=1e-12)


# --- Eq. 4 and 12 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [1, 7, 50])
@pytest.mark.parametrize("draws", [1, 12])
@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_contrast(anchors: int, draws: int, tau: float) -> None:
    """Eq. 4: class 0 -log(e^(√½/τ) / (e^(√½/τ) + N)), class 1 with .8 and 0, class 2 with √½ and -1; M changes nothing.

    Eq. 12: the centre of class 0 is (2, 0) + (0, 2) halved; of the directions alone it would be the same, of class 2's
    (1, 0) and (1, -2) not.
    """
    out, _ = run(method(anchors=anchors, draws=draws, temperature=tau))
    assert out["contrast"].item() == pytest.approx(loss(*EVERY, draws=draws, tau=tau), rel=1e-12)
    directions = (1 + 1 / math.sqrt(5), -2 / math.sqrt(5))  # (1, 0) + (1, -2)/√5
    other = -directions[1] / math.hypot(*directions)
    assert nce(POSITIVE[2], -1, draws, tau) != pytest.approx(nce(other, -1, draws, tau), rel=1e-3)


def test_contrast_by_one_number() -> None:
    """cos⁺ = 1, one negative with cos⁻ = -1, τ = ½: -log(e² / (e² + e⁻²)) = log(1 + e⁻⁴)."""
    found = contrast.info_nce(torch.ones(1, 1), -torch.ones(1, 1, 1), 0.5, torch.tensor([True]))
    assert found.item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)


def test_classes_without_anchors_or_negatives_do_not_count() -> None:
    """C of Eq. 4. δ = .85 leaves class 0 alone; r_l = r_h = 1 leaves N_0 = {1} alone."""
    out, _ = run(method(delta=0.85))
    # A_0 = {4}: the centre is (0, 2), the anchor (3, 0), the negative (0, 1)
    assert out["contrast"].item() == pytest.approx(nce(0.0, 0.0, 256, 0.5), rel=1e-12)
    out, _ = run(method(r_low=1, r_high=1))
    assert out["contrast"].item() == pytest.approx(loss(EVERY[0]), rel=1e-12)
    out, _ = run(method(delta=0.95))
    assert out["contrast"].item() == 0


def test_gradient() -> None:
    """Anchors take the gradient; the teacher's features, and student features of other pixels, none.

    Class 1 has one anchor, z = (0, 2) with cos⁺ = .8 to (.6, .8) and cos⁻ = 0 to (1, 0). With w = N e^(-.8/τ) over
    1 + that: dℓ/dcos⁺ = -w/τ, dℓ/dcos⁻ = w/τ; dcos⁺/dz = (.6, 0)/2 and dcos⁻/dz = (1, 0)/2. A third of it counts.
    """
    nets = networks(m := method())
    out, _ = run(m, nets=nets)
    gradient = nets["student"].gradient(out["contrast"])
    w = 256 * math.exp(-1.6) / (1 + 256 * math.exp(-1.6))
    assert gradient[5] == pytest.approx([w / 0.5 * (0.5 - 0.3) / 3, 0.0], abs=1e-12)
    assert all(gradient[code] == [0.0, 0.0] for code in (1, 3, 7))
    # class 0: 50 draws among (1, 0) and (3, 0); a gradient goes with 1/|z|, so lengths times gradients add up to one
    w = 256 * math.exp(-math.sqrt(2)) / (1 + 256 * math.exp(-math.sqrt(2)))
    expected = w / 0.5 * (1 - math.sqrt(0.5)) / 3
    assert gradient[0][1] + 3 * gradient[4][1] == pytest.approx(expected, rel=1e-12)
    assert gradient[0][1] > 0 < gradient[4][1]
    assert nets["teacher"].gradient(sum(out.values())) == [[0.0, 0.0]] * ROWS
    assert nets["student"].gradient(out["sup"] + out["unsup"]) == [[0.0, 0.0]] * ROWS


def test_positives_and_negatives_are_the_teachers_and_anchors_the_students() -> None:
    """Exchange the features: another loss. Move the student's features that are no anchors: the same."""
    m = method()
    other = [(-3.0, 1.0) if code in (1, 3, 7) else z for code, z in enumerate(networks(m)["student"].features.tolist())]
    out, _ = run(m, nets=networks(m, z_s=other))
    assert out["contrast"].item() == pytest.approx(loss(*EVERY), rel=1e-12)
    out, _ = run(m, nets=networks(m, z_s=Z_T))
    assert out["contrast"].item() != pytest.approx(loss(*EVERY), rel=1e-3)


@pytest.mark.parametrize("classes", range(2, 6))
@pytest.mark.parametrize("r_low", range(5))
def test_what_few_classes_change_is_told(classes: int, r_low: int) -> None:
    """The negatives are those of the bound that is told, and of no lower one."""
    m = method(classes, r_low=r_low)
    told = {"r_low": r_low} | m.adapted()
    assert bool(m.adapted()) == (r_low >= classes)
    if classes == 3:
        assert sets(method(**told))[1] == sets(m)[1] and (
            not r_low or sets(method(r_low=told["r_low"] - 1))[1] != sets(m)[1]
        )
