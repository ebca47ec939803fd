"""U2PL with AEL's augmentation, by hand: pasted labelled images, boxes of unlabelled ones, the class confidence σ.

σ = 0, ¾, 1. Of three classes shown, the numbers below these bounds draw class 0, 1 and 2:

    to paste  exp(√(1 - σ)): e, √e, 1, the sum 5.367      .5065  .8137  1
    to cut    exp(1 - σ):    e, e^¼, 1, the sum 5.002     .5434  .8001  1

Labelled images A and B, each with its codes as labels and code 3 void; A takes classes 0 and 1 of B, B class 2 of A:

    A  0 1   B  2 0   A'  0 0   B'  2 0
       2 3      3 1       2 1       2 1

Unlabelled images C and D, of which the teacher sees 4 as 0, 5 as 1, 6 as 2, 7 as 0; * is padding. D shows classes 1
and 2 (e^¼ to 1: below .562 it is 1): that object touches itself at corners only, its box is the image, padding
included. Of C the number .52 draws class 0 (to paste it were 1): the left column.

    C  4 5   D  5 6*   C'  5 6*   D'  4 6*
       7 6      6 5        6 5        7 5
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fewmask.batch import Batch, Slots
from fewmask.engine.checkpoint import Snapshot, Store, load_networks, networks_to_flat
from fewmask.method import Step, Task, make_networks
from fewmask.methods.u2pl import U2PL
from fewmask.nets import Builder
from fewmask.nets.running import RunningMean
from hand import DealtStep, ce, double, items, slope, total_slope
from hand_u2pl import ROWS, S, at, batch, method, nce, networks, run

SIGMA = [0.0, 0.75, 1.0]
A, Y_A = [[0, 1], [2, 3]], [[0, 1], [2, 255]]
B, Y_B = [[2, 0], [3, 1]], [[2, 0], [255, 1]]
A_PASTED, B_PASTED = [[0, 0], [2, 1]], [[2, 0], [2, 1]]
C, D = [[4, 5], [7, 6]], [[5, 6], [6, 5]]
C_MIXED, D_MIXED = [[5, 6], [6, 5]], [[4, 6], [7, 5]]
ALL, BUT_ONE = [[1, 1], [1, 1]], [[1, 0], [1, 1]]

# the chance, below ½, and three classes; of 2x2 pixels the rectangle needs three numbers, then come class and object
DEALT: dict[str, list[list[float]]] = {
    "l": [[0.49, 0.1, 0.52, 0.807], [0.49, 0.82, 0.9, 0.99]],
    "u": [[0.3, 0.3, 0.3, 0.55, 0.5], [0.3, 0.3, 0.3, 0.52, 0.5]],
}


def dealt(now: Step | None = None, **numbers: list[list[float]]) -> Step:
    return DealtStep(**vars(now or at(images=2)), dealt=DEALT | numbers)


def given() -> Batch:
    return batch(weak=[C, D], lab=[A, B], mask=[Y_A, Y_B], valid=[ALL, BUT_ONE])


def ael(**config: Any) -> U2PL:
    """Return the method; ``cutmix`` is 0 there, and yet every unlabelled image is mixed. A tenth is unreliable."""
    return method(**({"augment": "ael", "alpha": 0.1} | config))


def confidence(nets: dict) -> list[float]:
    return RunningMean.of(nets, "confidence").mean.tolist()


# three pixels of class 0, two of class 1, three of class 2; without a paste two of each
L_S = (3 * ce(S[0], 0) + 2 * ce(S[1], 1) + 3 * ce(S[2], 2)) / 8


def test_terms() -> None:
    """Eq. 2-4 of the mixed batch.

    Valid are 5 6 5 of C' and 4 7 5 of D'. H is .394 .613 .613 .613 .950 1.09; 4.5 places up lies between the last two,
    so five of six are reliable, and λ_u = 6/5.

    The centre of A_0 is that of three (2, 0) and one (0, 2): (6, 2), at 3/√10 to (1, 0); A_1 are the three (3, 4); A_2
    three (1, 0) and one (1, -2): (4, -2), at 1/√5 to (0, -1). Negatives as in the table of ``hand_u2pl``.
    """
    nets = networks(m := ael(), sigma=SIGMA)
    out, memo = run(m, given(), nets, dealt())
    assert out["sup"].item() == pytest.approx(L_S, rel=1e-12)
    assert memo["kept"].item() == pytest.approx(5 / 6) and memo["pseudo"].tolist() == [1, 3, 1]
    each = ce(S[4], 0) + 3 * ce(S[5], 1) + ce(S[6], 2)
    assert out["unsup"].item() == pytest.approx(6 / 5 * each / 5, rel=1e-12)
    contrast = nce(3 / math.sqrt(10), 0, 256, 0.5) + nce(0.8, 0, 256, 0.5) + nce(1 / math.sqrt(5), -1, 256, 0.5)
    assert out["contrast"].item() == pytest.approx(contrast / 3, rel=1e-12)


def test_gradient() -> None:
    """1/8 a labelled pixel, at the codes that were pasted."""
    nets = networks(m := ael(), sigma=SIGMA)
    out, _ = run(m, given(), nets, dealt())
    expected = total_slope(ROWS, [(n / 8, i, slope(S[i], i)) for i, n in enumerate((3, 2, 3))])
    for row, want in zip(nets["student"].table.gradient(out["sup"]), expected, strict=True):
        assert row == pytest.approx(want, abs=1e-12)


def test_passes() -> None:
    """Labels and objects come from the unmixed views, and both networks' training passes see what is mixed."""
    nets = networks(m := ael(), sigma=SIGMA)
    now = dealt()
    run(m, given(), nets, now)
    mixed = [A_PASTED, B_PASTED, C_MIXED, D_MIXED]
    assert nets["student"].table.seen == [(mixed, True, True)]
    assert nets["teacher"].table.seen == [([C, D], False, False), (mixed, True, False)]


def seen(m: U2PL, nets: dict, b: Batch, now: Step) -> list:
    """Return the codes that the student saw in the one pass."""
    run(m, b, nets, now)
    ((codes, _, _),) = nets["student"].table.seen
    return codes


def test_a_neighbour_of_padding_alone_gives_a_rectangle() -> None:
    """2x2 pixels have two rectangles, their rows; .6 is the lower one. It takes the padding along."""
    b = batch(weak=[C, D], lab=[A, B], mask=[Y_A, Y_B], valid=[ALL, [[0, 0], [0, 0]]])
    nets = networks(m := ael(), sigma=SIGMA)
    out, memo = run(m, b, nets, dealt(u=[[0.3, 0.6, 0.3], [0.3, 0.3, 0.3, 0.52, 0.5]]))
    assert nets["student"].table.seen[0][0][2:] == [[[4, 5], [6, 5]], D_MIXED]
    # valid are 4 5 of the first and, of the second, 4 7 that came from C; 2.7 places up 7 is not reliable
    assert memo["kept"].item() == pytest.approx(3 / 4) and memo["pseudo"].tolist() == [2, 1, 0]
    assert out["unsup"].item() == pytest.approx(4 / 3 * (2 * ce(S[4], 0) + ce(S[5], 1)) / 3, rel=1e-12)


def test_the_chance_of_a_paste() -> None:
    """.5 is not below paste_chance = .5: A stays; with 0 both stay, with 1 none."""
    numbers = [[0.5, 0.1, 0.52, 0.807], DEALT["l"][1]]
    for chance, expected in ((0.5, [A, B_PASTED]), (0.0, [A, B]), (1.0, [A_PASTED, B_PASTED])):
        m = ael(paste_chance=chance)
        assert seen(m, networks(m, sigma=SIGMA), given(), dealt(l=numbers))[:2] == expected


def test_draws_of_a_class() -> None:
    """One draw: class 0 onto A, 2 onto B; as many numbers are drawn as ``paste_classes`` says, and no more."""
    m = ael(paste_classes=1)
    nets = networks(m, sigma=SIGMA)
    assert seen(m, nets, given(), dealt(l=[[0.1, 0.1], [0.1, 0.9]]))[:2] == [[[0, 0], [2, 3]], B_PASTED]


def test_void_is_never_pasted() -> None:
    b = batch(weak=[C, D], lab=[A, B], mask=[[[255, 255], [255, 255]], Y_B], valid=[ALL, BUT_ONE])
    nets = networks(m := ael(), sigma=SIGMA)
    out, memo = run(m, b, nets, dealt())
    assert nets["student"].table.seen[0][0][:2] == [A_PASTED, B]
    # onto the void of A came the codes 0 and 1, beside B's own 2, 0 and 1
    assert out["sup"].item() == pytest.approx((2 * ce(S[0], 0) + 2 * ce(S[1], 1) + ce(S[2], 2)) / 5, rel=1e-12)
    assert memo["pixels"].tolist() == [2, 2, 1]


def test_a_last_odd_image_takes_from_its_left_neighbour() -> None:
    """Third images A and C: A takes classes 0 and 1 of B, C the box of D."""
    b = batch(weak=[C, D, C], lab=[A, B, A], mask=[Y_A, Y_B, Y_A], valid=[ALL, BUT_ONE, ALL])
    numbers = {name: [*rows, rows[0]] for name, rows in DEALT.items()}
    m = ael()
    codes = seen(m, networks(m, sigma=SIGMA), b, dealt(at(images=3), **numbers))
    assert codes == [A_PASTED, B_PASTED, A_PASTED, C_MIXED, D_MIXED, C_MIXED]


def test_warmup_pastes_and_observes() -> None:
    out, memo = run(m := ael(warmup=0.5), given(), networks(m, sigma=SIGMA), dealt(at(3, images=2)))
    assert [out[k].item() for k in ("unsup", "contrast")] == [0, 0]
    assert out["sup"].item() == pytest.approx(L_S, rel=1e-12) and memo["pixels"].tolist() == [3, 2, 3]


def test_neighbours_and_draws_do_not_depend_on_the_number_of_ranks() -> None:
    """Four images a stream on one process and on two, with the run's own random numbers: the same pixels."""
    labelled = [[[i, i], [i, i]] for i in range(4)]
    masks = [Y_A, Y_B, [[1, 1], [2, 2]], [[0, 255], [1, 2]]]
    weak = [C, D, [[6, 6], [4, 4]], [[5, 4], [5, 6]]]
    m = ael(paste_chance=0.8, paste_classes=1, lam_c=0.0)

    def both(t: int, first: int, ranks: int) -> tuple[list, list]:
        n = 4 // ranks
        here = slice(first * n, first * n + n)
        slots = {"l": Slots(first * n, n, 0, 4, 1000), "u": Slots(first * n, n, 1, 4, 1000)}
        b: Batch = {"l": items(labelled[here], mask=masks[here]), "u": items(weak[here])}
        nets = networks(m, sigma=SIGMA)
        with double():
            m.losses(nets, b, replace(at(t), slots=slots), {})
        codes = nets["student"].seen[0][0]
        return codes[:n], codes[n:]

    different = set()
    for t in range(5):
        one, halves = both(t, 0, 1), [both(t, first, 2) for first in range(2)]
        assert one == (halves[0][0] + halves[1][0], halves[0][1] + halves[1][1])
        assert one[0] != labelled and one[1] != weak
        different.add(str(one))
    assert len(different) > 2  # the draws are keyed by the step


# --- σ ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_confidence(momentum: float) -> None:
    """The student's probability of the true class after the paste: .5 ·3, .35 ·2, .6 ·3 (the teacher's are .6 .2 .7).

    σ' = m·σ + (1 - m)·mean, in after_step alone.
    """
    nets = networks(m := ael(momentum=momentum), sigma=SIGMA)
    _, memo = run(m, given(), nets, dealt())
    assert memo["sums"].tolist() == pytest.approx([1.5, 0.7, 1.8], rel=1e-12) and memo["pixels"].tolist() == [3, 2, 3]
    assert confidence(nets) == SIGMA
    m.after_step(nets, at(images=2), memo)
    expected = [momentum * s + (1 - momentum) * p for s, p in zip(SIGMA, (0.5, 0.35, 0.6), strict=True)]
    assert confidence(nets) == pytest.approx(expected, rel=1e-6)


def test_a_class_without_pixels_keeps_its_confidence() -> None:
    """Class 1 alone is labelled, at code 1 (.35) and 3 (.1); void besides."""
    nets = networks(m := ael(momentum=0.5), sigma=SIGMA)
    void = [[255, 255], [255, 255]]
    b = batch(weak=[C, D], lab=[A, B], mask=[[[255, 1], [255, 1]], void], valid=[ALL, BUT_ONE])
    _, memo = run(m, b, nets, dealt(l=[[0.9] * 4, [0.9] * 4]))
    m.after_step(nets, at(images=2), memo)
    assert confidence(nets) == pytest.approx([0.0, (0.75 + 0.225) / 2, 1.0], rel=1e-6)


def test_confidence_over_the_ranks() -> None:
    """Sums and pixels are added before they are divided: elsewhere class 0 has 6 pixels of .1, class 1 none."""
    nets = networks(m := ael(momentum=0.0), sigma=SIGMA)
    _, memo = run(m, given(), nets, dealt())
    elsewhere = iter([torch.tensor([0.6, 0.0, 2.7]), torch.tensor([6, 0, 3])])
    m.after_step(nets, replace(at(images=2), reduce=lambda x: x + next(elsewhere)), memo)
    assert confidence(nets) == pytest.approx([2.1 / 9, 0.35, 4.5 / 6], rel=1e-6)


def test_the_new_confidence_decides_the_next_step() -> None:
    """.52 draws class 1 of B at σ = 0, ¾, 1 (bound .5065), and class 0 where class 1 too is sure: below e/(e + 2)."""
    numbers = [[0.1, 0.52], [0.9, 0.5]]
    m = ael(momentum=0.0, paste_classes=1)
    nets = networks(m, sigma=SIGMA)
    run(m, given(), nets, dealt(l=numbers))
    now = at(images=2)
    m.after_step(nets, now, {"sums": torch.tensor([0.0, 8.0, 1.0]), "pixels": torch.tensor([1, 8, 1])} | held(nets))
    run(m, given(), nets, dealt(now, l=numbers))
    first, second = (codes[0] for codes, _, _ in nets["student"].table.seen)
    assert first == [[0, 1], [2, 1]] and second == [[0, 0], [2, 3]]


def held(nets: dict) -> dict[str, torch.Tensor]:
    """Return what after_step pushes into the banks: nothing."""
    return {"negatives": torch.zeros(3, 1, 2, dtype=torch.float64), "real": torch.zeros(3, 1).bool()}


def built(**config: object) -> tuple[U2PL, dict[str, nn.Module]]:
    m = U2PL(U2PL.Config.model_validate({"dim": 6, "bank": 9} | config), Task(3))
    return m, make_networks(m, Builder("tiny", "tiny", 3, weights="none", seed=0), seed=0)


def test_confidence_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    _, nets = built(augment="ael")
    assert confidence(nets) == [0, 0, 0] and not list(nets["confidence"].parameters())
    RunningMean.of(nets, "confidence").update(torch.tensor([0.5, 0.2, 0.0]), torch.tensor([1, 1, 0]), 0.5)
    Store(tmp_path).save(Snapshot(1, networks_to_flat(nets), {}, {}))
    again = built(augment="ael")[1]
    flat = Store(tmp_path).load(1).networks
    assert [key for key in flat if key.startswith("confidence")] == ["confidence.mean"]
    load_networks(again, flat)
    assert confidence(again) == pytest.approx([0.25, 0.1, 0.0])


# --- what is declared -------------------------------------------------------------------------------------------


def test_streams_are_paired() -> None:
    streams = ael().streams
    assert {name: (s.pool, s.views, s.together) for name, s in streams.items()} == {
        "l": ("labelled", ("weak",), 2),
        "u": ("unlabelled", ("weak",), 2),
    }


@pytest.mark.parametrize("config", [{}, {"lam_c": 0.0}, {"bank": 0}])
def test_networks(config: dict) -> None:
    """σ is the one addition; the others begin as they do with cutmix."""
    mine, plain = built(augment="ael", **config)[1], built(**config)[1]
    assert list(mine) == [*plain, "confidence"]
    for name, net in plain.items():
        state = mine[name].state_dict()
        assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


def test_without_contrast() -> None:
    m = ael(lam_c=0.0, momentum=0.0)
    nets = networks(m, sigma=SIGMA)
    out, memo = run(m, given(), nets, dealt())
    assert set(memo) == {"kept", "pseudo", "agree", "sums", "pixels"} and out["sup"].item() == pytest.approx(
        L_S, rel=1e-12
    )
    m.after_step(nets, at(images=2), memo)
    assert confidence(nets) == pytest.approx([0.5, 0.35, 0.6], rel=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"augment": "AEL"}, {"augment": "none"}, {"paste_chance": 1.1}, {"paste_chance": -0.1}, {"paste_classes": 0},
        {"momentum": 1.0}, {"momentum": -0.1},
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(config: dict) -> None:
    with pytest.raises(ValidationError):
        U2PL.Config.model_validate(config)


@pytest.mark.parametrize("config", [{}, {"augment": "cutmix"}])
def test_with_cutmix_nothing_of_this_exists(config: dict) -> None:
    """The default: no σ, no pairs of labelled images, and constants of the paste change no bit."""
    m, nets = built(**config)
    assert "confidence" not in nets and not any("confidence" in key for key in networks_to_flat(nets))
    assert (m.streams["l"].together, m.streams["u"].together) == (1, 2)
    keys = {"paste_chance": 1.0, "paste_classes": 9, "momentum": 0.0}
    found = []
    for extra in ({}, keys):
        m = method(cutmix=0.5, **config, **extra)
        nets = networks(m)
        out, memo = run(m, given(), nets)
        assert set(memo) == {"kept", "pseudo", "agree", "negatives", "real"}
        codes = nets["student"].table.seen[0][0]
        assert codes[:2] == [A, B]
        m.after_step(nets, at(images=2), memo)
        found.append((codes, {k: v.item() for k, v in out.items()}, nets["teacher"].table.logits.tolist()))
    assert found[0] == found[1]


def test_with_ael_the_probability_of_cutmix_changes_nothing() -> None:
    found = [run(m := ael(cutmix=p), given(), networks(m, sigma=SIGMA))[0] for p in (0.0, 0.5, 1.0)]
    assert len({tuple(v.item() for v in out.values()) for out in found}) == 1
