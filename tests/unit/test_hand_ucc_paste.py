"""UCC's copy-paste, worked out by hand: Eq. 3, where each variant pastes, what pasted pixels count, which are drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fewmask.batch import Batch, Slots
from fewmask.methods.ucc import UCC
from fewmask.ops.rng import Purpose
from hand import ce, double, items, slope, step, total_slope
from hand_ucc import OTHER, ROWS, STRONG, WEAK, A, B, method, networks, run, tables

# each labelled image shows one class, so whatever is drawn, it is drawn: class 1 of the first, class 2 of the second
X0, Y0 = [[0, 1], [2, 3]], [[1, 255], [255, 1]]
X1, Y1 = [[4, 5], [6, 7]], [[255, 2], [255, 255]]
# onto each other
X0_PASTED, Y0_PASTED = [[0, 5], [2, 3]], [[1, 2], [255, 1]]
X1_PASTED, Y1_PASTED = [[0, 5], [6, 3]], [[1, 2], [255, 1]]
# onto the unlabelled images; of the second, pixels 1 and 2 are padding, and 1 is pasted onto
WEAK1, STRONG1, OTHER1 = [[9, 8], [11, 9]], [[13, 14], [15, 12]], [[17, 18], [19, 16]]
VALID1 = [[1, 0], [0, 1]]
S0_PASTED, S1_PASTED = [[0, 13], [14, 3]], [[13, 5], [15, 12]]

L_S = sum(
    ce(p[i], c) for p in (A, B) for i, c in [(0, 1), (5, 2), (3, 1), (0, 1), (5, 2), (3, 1)]
) / 6  # fmt: skip
PLAIN_L_S = sum(ce(p[i], c) for p in (A, B) for i, c in [(0, 1), (3, 1), (5, 2)]) / 3


def batch(own: bool = False) -> Batch:
    views = ([WEAK, WEAK1], [STRONG, STRONG1]) + (([OTHER, OTHER1],) if own else ())
    kinds = ("weak", "strong", "strong")[: len(views)]
    return {
        "l": items([X0, X1], mask=[Y0, Y1]),
        "u": items(*views, kinds=kinds, valid=[[[1, 1], [1, 1]], VALID1]),
    }


def certain(**config: object) -> UCC:
    return method(**({"paste": "dcscp", "paste_chance": 1.0, "lam": 1.0} | config))


def test_pasted_pixels_teach_both_heads_with_their_ground_truth() -> None:
    """Eq. 3 and L_u.

    First image: pixels 0 and 3 carry class 1 with weight 1 for both heads; head 1 teaches pixel 1 (.9); 2 is a tie.
    Second: pixel 1, padding before, carries class 2 for both heads; head 1 teaches 0 and 3 (.9); 2 is padding.
    """
    out, memo = run(certain(), batch())
    first = (ce(B[0], 1) + ce(B[3], 1) + 0.9 * ce(B[13], 2)) / 2.9 + (ce(A[0], 1) + ce(A[3], 1)) / 2
    second = (0.9 * ce(B[13], 2) + ce(B[5], 2) + 0.9 * ce(B[12], 2)) / 2.8 + ce(A[5], 2)
    assert out["unsup"].item() == pytest.approx((first + second) / 2, rel=1e-12)
    assert out["sup"].item() == pytest.approx(L_S, rel=1e-12)
    assert memo["kept"].item() == pytest.approx(6 / 7)  # of the seven pixels that count, one is a tie


def test_pasted_pixels_are_counted_once() -> None:
    """memo["pseudo"]: of the pixels that trained, how many had each class as their label; two are of class 1."""
    _, memo = run(certain(), batch())
    assert memo["pseudo"].tolist() == [0, 2, 4]


def test_gradient_of_pasted_pixels() -> None:
    nets = networks(m := certain())
    out, _ = run(m, batch(), nets)
    one, two = tables(nets)
    to_one = [(1 / 4, 0, slope(A[0], 1)), (1 / 4, 3, slope(A[3], 1)), (1 / 2, 5, slope(A[5], 2))]
    to_two = [
        (1 / 5.8, 0, slope(B[0], 1)), (1 / 5.8, 3, slope(B[3], 1)), (0.9 / 5.8, 13, slope(B[13], 2)),
        (0.9 / 5.6, 13, slope(B[13], 2)), (1 / 5.6, 5, slope(B[5], 2)), (0.9 / 5.6, 12, slope(B[12], 2)),
    ]  # fmt: skip
    for net, expected in ((one, to_one), (two, to_two)):
        for row, want in zip(net.gradient(out["unsup"]), total_slope(ROWS, expected), strict=True):
            assert row == pytest.approx(want, abs=1e-12)


def test_passes_see_the_pasted_images() -> None:
    """Labels come from the weak views as they are; the training pass sees both kinds of images pasted."""
    for heads in ("shared", "separate"):
        nets = networks(m := certain(heads=heads))
        run(m, batch(), nets)
        for net in tables(nets):
            assert net.seen == [
                ([WEAK, WEAK1], False, False),
                ([X0_PASTED, X1_PASTED, S0_PASTED, S1_PASTED], True, True),
            ]


def test_own_views_have_the_same_pixels_pasted() -> None:
    nets = networks(m := certain(own_views=True))
    out, _ = run(m, batch(own=True), nets)
    others = [[[0, 17], [18, 3]], [[17, 5], [19, 16]]]
    assert tables(nets)[0].seen[-1][0] == [X0_PASTED, X1_PASTED, S0_PASTED, S1_PASTED, *others]
    first = (ce(B[0], 1) + ce(B[3], 1) + 0.9 * ce(B[17], 2)) / 2.9 + (ce(A[0], 1) + ce(A[3], 1)) / 2
    second = (0.9 * ce(B[17], 2) + ce(B[5], 2) + 0.9 * ce(B[16], 2)) / 2.8 + ce(A[5], 2)
    assert out["unsup"].item() == pytest.approx((first + second) / 2, rel=1e-12)


@pytest.mark.parametrize("view", ["w", "s"])
def test_one_view_has_its_labels_from_the_image_before_pasting(view: str) -> None:
    given = batch()
    image = given["u"].views["ws".index(view)]
    u = replace(given["u"], views=(image,), kinds=({"w": "weak", "s": "strong"}[view],))
    nets = networks(m := certain(views=view))
    run(m, given | {"u": u}, nets)
    first, second = ([WEAK, WEAK1], [STRONG, STRONG1])["ws".index(view)]
    pasted = [[[0, first[0][1]], [first[1][0], 3]], [[second[0][0], 5], second[1]]]
    assert tables(nets)[0].seen == [([first, second], False, False), ([X0_PASTED, X1_PASTED, *pasted], True, True)]


@pytest.mark.parametrize(
    ("paste", "labelled", "unlabelled"),
    [("none", 0, 0), ("cp", 1, 0), ("dcp", 1, 0), ("cscp", 1, 1), ("dcscp", 1, 1)],
)
@pytest.mark.parametrize("reweight", ["text", "printed", "none"])
def test_where_each_variant_pastes(paste: str, labelled: int, unlabelled: int, reweight: str) -> None:
    """Table 5: copy-paste onto labelled images, dynamic or not; across the sets, onto unlabelled ones too."""
    nets = networks(m := certain(paste=paste, reweight=reweight))
    out, _ = run(m, batch(), nets)
    onto_l = [X0_PASTED, X1_PASTED] if labelled else [X0, X1]
    onto_u = [S0_PASTED, S1_PASTED] if unlabelled else [STRONG, STRONG1]
    assert tables(nets)[0].seen[-1][0] == onto_l + onto_u
    assert out["sup"].item() == pytest.approx(L_S if labelled else PLAIN_L_S, rel=1e-12)
    plain, _ = run(method(lam=1.0, reweight=reweight), batch())
    assert (out["unsup"].item() == plain["unsup"].item()) == (not unlabelled)


def test_an_image_without_weight_of_its_own_trains_on_what_is_pasted() -> None:
    """All ties, or all padding: the pasted pixel alone is left, with the mean over itself."""
    ties = [[10, 10], [10, 10]]
    for valid in ([[1, 1], [1, 1]], [[0, 0], [0, 0]]):
        u = items([ties, ties], [STRONG, STRONG1], kinds=("weak", "strong"), valid=[valid, valid])
        out, memo = run(certain(), {"l": batch()["l"], "u": u})
        first = sum(ce(p[i], 1) for p in (A, B) for i in (0, 3)) / 2
        assert out["unsup"].item() == pytest.approx((first + ce(A[5], 2) + ce(B[5], 2)) / 2, rel=1e-12)
        assert memo["kept"].item() == pytest.approx(3 / 8 if valid[0][0] else 1)


def test_void_and_padding_of_the_donor_are_never_pasted() -> None:
    """A donor of void alone gives nothing, however often it is drawn; ours are void but for one or two pixels."""
    void = [[255, 255], [255, 255]]
    given = batch() | {"l": items([X0, X1], mask=[void, Y1], valid=[[[0, 0], [0, 0]], [[1, 1], [1, 0]]])}
    for t in range(5):
        nets = networks(m := certain(paste_classes=9))
        run(m, given, nets, t)
        assert tables(nets)[0].seen[-1][0] == [[[0, 5], [2, 3]], X1, STRONG, S1_PASTED]


def test_sigma_counts_the_pasted_images() -> None:
    """Eq. 4 over what the heads were shown: twice code 0 and 3 (class 1), twice code 5 (class 2); class 0 is absent."""
    nets = networks(m := certain(alpha=0.5), sigma=[0.4, 0.2, 0.6])
    _, memo = run(m, batch(), nets)
    assert memo["pixels"].tolist() == [0, 4, 2]
    m.after_step(nets, step(3, 100, l=2, u=2), memo)
    one = (A[0][1] + A[3][1] + B[0][1] + B[3][1]) / 4
    two = (A[5][2] + B[5][2]) / 2
    assert nets["confidence"].mean.tolist() == pytest.approx([0.4, (0.2 + one) / 2, (0.6 + two) / 2], rel=1e-6)


def test_a_last_odd_labelled_image_takes_its_left_neighbour_and_donors_repeat() -> None:
    """Labelled 0-1, 2 takes from 1; five unlabelled images have donors among three."""
    third, mask = [[8, 8], [8, 8]], [[0, 0], [255, 255]]
    u = items([WEAK] * 5, [STRONG] * 5, kinds=("weak", "strong"))
    nets = networks(m := certain())
    run(m, {"l": items([X0, X1, third], mask=[Y0, Y1, mask]), "u": u}, nets)
    seen = tables(nets)[0].seen[-1][0]
    assert seen[:3] == [X0_PASTED, X1_PASTED, [[8, 5], [8, 8]]]
    each = {str([[0, 13], [14, 3]]): 0, str([[12, 5], [14, 15]]): 1, str([[8, 8], [14, 15]]): 2}
    assert {each[str(image)] for image in seen[3:]} == {0, 1, 2}


def test_donors_do_not_depend_on_the_number_of_ranks() -> None:
    """Four labelled and eight unlabelled images, on one process and on two: the same pixels go onto the same images."""
    labelled = [[[i, i], [i, i]] for i in range(4)]
    masks = [[[0, 255], [255, 255]], [[255, 1], [255, 255]], [[255, 255], [2, 255]], [[255, 255], [255, 0]]]

    def seen(first: int, ranks: int) -> list:
        lab, un = 4 // ranks, 8 // ranks
        slots = {"l": Slots(first * lab, lab, 0, 4, 1000), "u": Slots(first * un, un, 1, 8, 1000)}
        here = slice(first * lab, first * lab + lab)
        given = {
            "l": items(labelled[here], mask=masks[here]),
            "u": items([WEAK] * un, [STRONG] * un, kinds=("weak", "strong")),
        }
        nets = networks(m := certain())
        with double():
            m.losses(nets, given, replace(step(3, 100), slots=slots), {})
        return tables(nets)[0].seen[-1][0][lab:]

    assert seen(0, 2) + seen(1, 2) == seen(0, 1)


# --- which classes, how often -----------------------------------------------------------------------------------

SLOTS = 4000


def drawn(m: UCC, shown: list[int], sigma: list[float], stream: str = "u", t: int = 3) -> torch.Tensor:
    """Return [SLOTS, len(shown)]: which classes of donors that show each of `shown` once, and void, are pasted."""
    donor = torch.tensor([[*shown, 255]]).expand(SLOTS, 1, -1)
    now = step(t, 100, l=SLOTS, u=SLOTS)
    pasted = m._pasted(networks(m, sigma=sigma), donor, now, stream)
    assert pasted.shape == (SLOTS, 1, len(shown) + 1) and pasted.dtype == torch.bool
    assert not pasted[:, 0, -1].any()  # void
    return pasted[:, 0, :-1]


def near(count: float, p: float, n: int = SLOTS) -> bool:
    return abs(count - n * p) <= 3 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.5, 1.0])
def test_share_of_the_images_that_get_something(chance: float) -> None:
    for stream in ("l", "u"):
        got = drawn(certain(paste_chance=chance), [1, 2], [0.0] * 3, stream).any(1).sum().item()
        assert near(got, chance)


def test_three_draws_with_replacement() -> None:
    """Two classes of probability p and 1 - p: one alone with p³ or (1-p)³, both else; none is left empty."""
    p = math.exp(1.0) / (math.exp(1.0) + math.exp(math.sqrt(0.1)))
    got = drawn(certain(), [0, 2], [0.0, 0.0, 0.9])
    assert got.any(1).all()
    assert near(got.all(1).sum().item(), 1 - p**3 - (1 - p) ** 3)
    assert near(got[:, 0].sum().item(), 1 - (1 - p) ** 3)


@pytest.mark.parametrize(("paste", "dynamic"), [("cp", False), ("cscp", False), ("dcp", True), ("dcscp", True)])
def test_dynamic_variants_alone_prefer_classes_of_low_confidence(paste: str, dynamic: bool) -> None:
    sigma = [0.9, 0.0, 0.99]
    weight = [math.exp(math.sqrt(1 - s)) if dynamic else 1.0 for s in sigma]
    got = drawn(certain(paste=paste, paste_classes=1), [0, 1, 2], sigma, "l")
    assert (got.sum(1) == 1).all()
    for c in range(3):
        assert near(got[:, c].sum().item(), weight[c] / sum(weight))


def test_a_confidence_a_little_above_one_is_one() -> None:
    """A moving average in float32 may end beyond 1; the root of what is missing would be NaN."""
    got = drawn(certain(paste_classes=1), [0, 1], [1.0 + 1e-6, 1.0, 0.5])
    assert near(got[:, 0].sum().item(), 0.5) and got.any(1).all()


def test_draws_are_keyed_by_slot_step_and_stream() -> None:
    m, classes, sigma = certain(paste_chance=0.5), [0, 1, 2], [0.0] * 3
    got = drawn(m, classes, sigma)
    assert torch.equal(got, drawn(m, classes, sigma))
    assert not torch.equal(got, drawn(m, classes, sigma, t=4))
    assert not torch.equal(got, drawn(m, classes, sigma, "l"))
    now = step(3, 100, l=SLOTS, u=SLOTS)
    later = replace(now, slots={"u": Slots(100, 50, now.slots["u"].key, SLOTS, 1000)})
    donor = torch.tensor([[*classes, 255]]).expand(50, 1, -1)
    assert torch.equal(m._pasted(networks(m, sigma=sigma), donor, later, "u")[:, 0, :-1], got[100:150])
    assert [d.uniform() for d in later.draws("u")] == [d.uniform() for d in now.draws("u", Purpose.MIX)[100:150]]
