"""CPS on small images, worked out by hand from the equations of Chen et al., CVPR 2021."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from fewmask.batch import Batch
from fewmask.method import Task
from fewmask.methods.cps import CPS
from fewmask.ops import mix
from hand import Table, ce, items, slope, squared, step, top, total_slope

# the two networks' softmax; rows 0-2: the labelled image, 3-6: the unlabelled ones. Their argmax differ at 1, 3, 5
A = [
    (0.6, 0.3, 0.1),
    (0.2, 0.5, 0.3),
    (0.1, 0.2, 0.7),
    (0.7, 0.2, 0.1),
    (0.2, 0.6, 0.2),
    (0.3, 0.45, 0.25),
    (0.05, 0.15, 0.8),
]
B = [
    (0.5, 0.4, 0.1),
    (0.3, 0.25, 0.45),
    (0.3, 0.2, 0.5),
    (0.15, 0.8, 0.05),
    (0.1, 0.75, 0.15),
    (0.55, 0.05, 0.4),
    (0.25, 0.3, 0.45),
]
LABELLED, MASK = [[0, 1], [2, 0]], [[0, 2], [2, 255]]  # the last pixel is void
L_VALID = [[1, 1], [0, 1]]  # the third is padding
UNLABELLED = [[[3, 4], [5, 6]], [[5, 5], [3, 3]]]
U_VALID = [[[1, 1], [1, 1]], [[1, 0], [1, 0]]]

L_CODES = [0, 1, 0]  # valid pixels
U_CODES = [3, 4, 5, 6, 5, 3]
# Eq. 4: the mean over the labelled pixels, added over the networks (masks hold 2 where L_VALID says padding, as a
# decoy: the supervised loss goes by the mask)
SUP_A = (ce(A[0], 0) + ce(A[1], 2) + ce(A[2], 2)) / 3
SUP_B = (ce(B[0], 0) + ce(B[1], 2) + ce(B[2], 2)) / 3


def method(**config: object) -> CPS:
    return CPS(CPS.Config.model_validate(config), Task(3))


def batch() -> Batch:
    return {"l": items([LABELLED], mask=[MASK], valid=[L_VALID]), "u": items(UNLABELLED, valid=U_VALID)}


def run(m: CPS, given: Batch | None = None, **nets: Table) -> dict[str, Tensor]:
    memo: dict[str, Tensor] = {}
    nets = nets or ({"f1": Table(A)} if m.config.variant == "sps" else {"f1": Table(A), "f2": Table(B)})
    out = m.losses(nets, given or batch(), step(2, 100, l=1, u=2, v=2), memo)
    assert set(out) == set(m.flow) == {"sup", "cps"} and all(v.shape == () for v in out.values())
    assert memo["kept"].item() == float(memo["pseudo"].sum() > 0)  # every valid pixel
    return out


def cross(p: list, q: list, codes: list[int]) -> float:
    """Eq. 5 for one group of pixels: the mean of ℓ(p1, y2) + ℓ(p2, y1)."""
    return sum(ce(p[i], top(q[i])) + ce(q[i], top(p[i])) for i in codes) / len(codes)


def test_the_tables_disagree_where_they_should() -> None:
    assert [i for i in range(7) if top(A[i]) != top(B[i])] == [1, 3, 5]


def test_supervision() -> None:
    assert run(method())["sup"].item() == pytest.approx(SUP_A + SUP_B)


@pytest.mark.parametrize("lam", [0.0, 1.5, 6.0])
def test_cross_pseudo_supervision(lam: float) -> None:
    """Eq. 5 and 6: λ (L^l + L^u), each a mean over its own pixels."""
    out = run(method(lam=lam))
    assert out["cps"].item() == pytest.approx(lam * (cross(A, B, L_CODES) + cross(A, B, U_CODES)))
    assert out["sup"].item() == pytest.approx(SUP_A + SUP_B)  # λ weighs the pseudo supervision alone


def test_default_is_the_papers_constant_for_voc() -> None:
    assert method().config.lam == 1.5 and method().config.variant == "cps" and method().config.on == "both"


@pytest.mark.parametrize(("on", "codes"), [("labelled", L_CODES), ("unlabelled", U_CODES)])
def test_on_one_kind_of_image(on: str, codes: list[int]) -> None:
    """Table 4: L^l alone, L^u alone."""
    m = method(on=on, lam=2.0)
    out = run(m)
    assert out["cps"].item() == pytest.approx(2 * cross(A, B, codes))
    assert out["sup"].item() == pytest.approx(SUP_A + SUP_B)
    assert ("u" in m.streams) == (on == "unlabelled")


def test_train_padding() -> None:
    out = run(method(train_padding=True, lam=1.0))
    everywhere = cross(A, B, [0, 1, 2, 0]) + cross(A, B, [3, 4, 5, 6, 5, 5, 3, 3])
    assert out["cps"].item() == pytest.approx(everywhere)


def test_gradient_of_each_network() -> None:
    """Y2 trains P1 and Y1 trains P2; no gradient flows through a label, so neither network gets any through its own."""
    f1, f2 = Table(A), Table(B)
    out = run(method(lam=1.5), f1=f1, f2=f2)
    for net, own, peer in ((f1, A, B), (f2, B, A)):
        groups = ((1 / 3, L_CODES), (1 / 6, U_CODES))
        expected = [(1.5 * w, i, slope(own[i], top(peer[i]))) for w, codes in groups for i in codes]
        assert net.gradient(out["cps"]) == [pytest.approx(r, abs=1e-9) for r in total_slope(7, expected)]
        truth = [(1 / 3, i, slope(own[i], y)) for i, y in ((0, 0), (1, 2), (2, 2))]
        assert net.gradient(out["sup"]) == [pytest.approx(r, abs=1e-9) for r in total_slope(7, truth)]


def test_passes() -> None:
    """Eq. 1, 2: one pass a network and kind of image, the same images to both, trained mode."""
    f1, f2 = Table(A), Table(B)
    run(method(), f1=f1, f2=f2)
    assert f1.seen == f2.seen == [([LABELLED], True, True), (UNLABELLED, True, True)]


# --- Eq. 7: cross probability consistency -----------------------------------------------------------------------


@pytest.mark.parametrize(("on", "codes"), [("labelled", L_CODES), ("unlabelled", U_CODES)])
def test_cross_probability_on_one_kind_of_image(on: str, codes: list[int]) -> None:
    """ℓ2(p1, p2) + ℓ2(p2, p1) = 2 ‖p1 - p2‖²: a sum over the classes, a mean over the pixels."""
    out = run(method(variant="cpc", on=on, lam=2.0))
    expected = sum(squared(A[i], B[i]) + squared(B[i], A[i]) for i in codes) / len(codes)
    assert out["cps"].item() == pytest.approx(2 * expected)


def test_cross_probability_is_a_mean_over_the_union() -> None:
    out = run(method(variant="cpc", lam=1.0))
    codes = L_CODES + U_CODES
    assert out["cps"].item() == pytest.approx(sum(2 * squared(A[i], B[i]) for i in codes) / len(codes))


def test_cross_probability_trains_both_networks() -> None:
    f1, f2 = Table(A), Table(B)
    out = run(method(variant="cpc", on="unlabelled", lam=1.0), f1=f1, f2=f2)
    for net, own, peer in ((f1, A, B), (f2, B, A)):
        expected = []
        for i in U_CODES:
            # d/dz_c of 2 Σ_k (p_k - q_k)² = 4 p_c ((p_c - q_c) - Σ_k p_k (p_k - q_k))
            gap = [a - b for a, b in zip(own[i], peer[i], strict=True)]
            mean = sum(p * g for p, g in zip(own[i], gap, strict=True))
            expected.append((1 / 6, i, [4 * own[i][c] * (gap[c] - mean) for c in range(3)]))
        assert net.gradient(out["cps"]) == [pytest.approx(r, abs=1e-9) for r in total_slope(7, expected)]


# --- Eq. 9: single network --------------------------------------------------------------------------------------


def test_single_network() -> None:
    """Its own label map trains it; one network's supervised loss."""
    f1 = Table(A)
    m = method(variant="sps", lam=1.5)
    out = run(m, f1=f1)
    own = sum(ce(A[i], top(A[i])) for i in L_CODES) / 3 + sum(ce(A[i], top(A[i])) for i in U_CODES) / 6
    assert out["sup"].item() == pytest.approx(SUP_A)
    assert out["cps"].item() == pytest.approx(1.5 * own)
    assert m.flow == {"sup": ("f1",), "cps": ("f1",)} and tuple(m.predictors) == ("f1",)
    expected = [(1.5 * w, i, slope(A[i], top(A[i]))) for w, g in ((1 / 3, L_CODES), (1 / 6, U_CODES)) for i in g]
    assert f1.gradient(out["cps"]) == [pytest.approx(r, abs=1e-9) for r in total_slope(7, expected)]


# --- CutMix -----------------------------------------------------------------------------------------------------

SIDE = 8


def cutmix_batch() -> Batch:
    g = torch.Generator().manual_seed(3)
    draw = [torch.randint(3, 7, (2, SIDE, SIDE), generator=g).tolist() for _ in range(2)]
    valid = [(torch.rand(2, SIDE, SIDE, generator=g) < 0.8).tolist() for _ in range(2)]
    return {
        "l": items([LABELLED], mask=[MASK], valid=[L_VALID]),
        "u": items(draw[0], valid=valid[0]),
        "v": items(draw[1], valid=valid[1]),
    }


def mixture(given: Batch) -> list[tuple[int, int, int, bool]]:
    """Return (image, code, valid, from the partner) of every pixel of the mixed images, in reading order."""
    box = mix.cps_mask(step(2, 100, l=1, u=2, v=2).draws("u"), SIDE, SIDE)
    assert box.flatten(1).any(1).all() and not box.flatten(1).all(1).any()
    out = []
    for i, y, x in itertools.product(range(2), range(SIDE), range(SIDE)):
        source = given["v" if box[i, y, x] else "u"]
        out.append((i, int(source.weak[i, 0, y, x]), int(source.valid[i, y, x]), bool(box[i, y, x])))
    return out


@pytest.mark.parametrize("on", ["both", "unlabelled"])
@pytest.mark.parametrize("train_padding", [False, True])
@pytest.mark.parametrize("variant", ["cps", "sps"])
def test_cutmix(on: str, train_padding: bool, variant: str) -> None:
    """The labels of two source images, mixed like the images, train the mixture; unlabelled images only."""
    m = method(cutmix=True, lam=1.5, on=on, train_padding=train_padding, variant=variant)
    assert m.streams["v"].second_pass and m.streams["v"].pool == "unlabelled"
    given = cutmix_batch()
    codes = [code for _, code, valid, _ in mixture(given) if valid or train_padding]
    assert len(codes) == 2 * SIDE * SIDE if train_padding else len(codes) < 2 * SIDE * SIDE
    out = run(m, given)
    if variant == "cps":
        assert out["cps"].item() == pytest.approx(1.5 * cross(A, B, codes))
        assert out["sup"].item() == pytest.approx(SUP_A + SUP_B)
    else:
        assert out["cps"].item() == pytest.approx(1.5 * sum(ce(A[i], top(A[i])) for i in codes) / len(codes))
        assert out["sup"].item() == pytest.approx(SUP_A)


class Neighbour(Table):
    """A table whose label depends on the whole image: the code of a pixel is shifted by the image's first pixel.

    So the label map of a mixed image is not the mixture of label maps, and a test can tell them apart.
    """

    def forward(self, x: Tensor) -> Tensor:
        shift = x[:, :, :1, :1]
        return super().forward(torch.where(x >= 3, 3 + (x - 3 + shift) % 4, x))


def test_cutmix_labels_come_from_the_sources() -> None:
    """ "input two source images into each network and mix the two pseudo segmentation maps" (section 3)."""
    given = cutmix_batch()
    out = run(method(cutmix=True, lam=1.0), given, f1=Neighbour(A), f2=Neighbour(B))
    first = {name: given[name].weak[:, 0, 0, 0].long().tolist() for name in "uv"}
    pixels = mixture(given)
    corner = [pixels[0][1], pixels[SIDE * SIDE][1]]  # the first pixel of each mixed image
    total, count, other = 0.0, 0, 0.0
    for i, code, valid, partner in pixels:
        if not valid:
            continue
        source = 3 + (code - 3 + first["v" if partner else "u"][i]) % 4  # row of the source image's pass
        student = 3 + (code - 3 + corner[i]) % 4  # row of the mixed image's pass
        total += ce(A[student], top(B[source])) + ce(B[student], top(A[source]))
        other += ce(A[student], top(B[student])) + ce(B[student], top(A[student]))
        count += 1
    assert total != pytest.approx(other)
    assert out["cps"].item() == pytest.approx(total / count)


def test_cutmix_passes_and_gradient() -> None:
    """Four passes a network: the sources in training mode without gradient, the mixture with it."""
    given = cutmix_batch()
    f1, f2 = Table(A), Table(B)
    out = run(method(cutmix=True, lam=1.5), given, f1=f1, f2=f2)
    mixed = torch.tensor([code for _, code, _, _ in mixture(given)]).reshape(2, SIDE, SIDE).tolist()
    source = {name: given[name].weak[:, 0].long().tolist() for name in "uv"}
    for net in (f1, f2):
        assert sorted(net.seen, key=str) == sorted(
            [
                ([LABELLED], True, True),
                (source["u"], True, False),
                (source["v"], True, False),
                (mixed, True, True),
            ],
            key=str,
        )
    codes = [code for _, code, valid, _ in mixture(given) if valid]
    for net, own, peer in ((f1, A, B), (f2, B, A)):
        expected = [(1.5 / len(codes), i, slope(own[i], top(peer[i]))) for i in codes]
        assert net.gradient(out["cps"]) == [pytest.approx(r, abs=1e-9) for r in total_slope(7, expected)]


def test_cutmix_boxes_change_with_the_step() -> None:
    given, m = cutmix_batch(), method(cutmix=True)
    f1 = Table(A)
    for t in (2, 3):
        m.losses({"f1": f1, "f2": Table(B)}, given, step(t, 100, l=1, u=2, v=2), {})
    passes = [codes for codes, _, gradient in f1.seen if gradient and len(codes) == 2]
    assert len(passes) == 2 and passes[0] != passes[1]


# --- declarations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [{"cutmix": True, "variant": "cpc"}, {"cutmix": True, "on": "labelled"}, {"lam": -1.0}, {"lambda": 1.0}],
)
def test_combinations_that_the_paper_does_not_define_are_refused(config: dict) -> None:
    with pytest.raises(ValueError):
        CPS.Config.model_validate(config)


def test_networks_are_two_and_reported_is_the_first() -> None:
    built: list[str] = []

    def build(name: str) -> nn.Module:
        built.append(name)
        return nn.Conv2d(1, 3, 1)

    m = method()
    nets = m.networks(build)
    assert built == ["f1", "f2"] == list(nets) and nets["f1"] is not nets["f2"]
    assert m.predictors[0] == "f1" and m.flow == {"sup": ("f1", "f2"), "cps": ("f1", "f2")}
    assert {name: s.views for name, s in m.streams.items()} == {"l": ("weak",), "u": ("weak",)}


def test_nothing_valid_is_zero() -> None:
    given = {
        "l": items([LABELLED], mask=[[[255, 255], [255, 255]]], valid=[[[0, 0], [0, 0]]]),
        "u": items(UNLABELLED, valid=[[[0, 0], [0, 0]]] * 2),
    }
    for variant in ("cps", "cpc", "sps"):
        f1, f2 = Table(A), Table(B)
        nets = {"f1": f1} if variant == "sps" else {"f1": f1, "f2": f2}
        out = run(method(variant=variant), given, **nets)
        assert out["sup"].item() == 0 == out["cps"].item()
        assert all(net.gradient(out["sup"] + out["cps"]) == [[0.0] * 3] * 7 for net in nets.values())
