"""fewmask.ops.select: by hand, and against sorted lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewmask.ops.select import (
    BINS,
    BUCKETS,
    LEVELS,
    Cut,
    KeyCut,
    Rule,
    count,
    cut,
    divergence,
    keep_of_image,
    keys,
    to_bits,
)
from oracles import select as oracle


def bits_of(*values: float) -> np.ndarray:
    return to_bits(np.array(values, dtype=np.float32))


def test_the_patterns_of_fp16_are_in_the_order_of_the_numbers() -> None:
    every = np.arange(BINS, dtype=np.int16).view(np.float16)
    assert every[0] == 0 and every[-1] == 1 and (np.diff(every.astype(np.float64)) > 0).all()
    assert (to_bits(every.astype(np.float32)) == np.arange(BINS)).all()


# Ten pixels: six of class 0 (0.9, 0.9, 0.9, 0.8, 0.6, 0.5), three of class 1 (0.7, 0.6, 0.4), one of class 2 (0.3).
LABEL = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
CONF = (0.9, 0.9, 0.9, 0.8, 0.6, 0.5, 0.7, 0.6, 0.4, 0.3)
SHARE = np.array([0.4, 0.4, 0.2])


@pytest.mark.parametrize(
    ("rule", "ratio", "reached", "stays"),
    [
        # floor(0.5·10) = 5: the fifth largest confidence of all ten is 0.7
        pytest.param("st", 0.5, [4, 1, 0], [4, 1, 0], id="st"),
        # floor(0.5·6) = 3, floor(0.5·3) = 1, floor(0.5·1) = 0
        pytest.param("cbst", 0.5, [3, 1, 0], [3, 1, 0], id="cbst"),
        # Eq. 4: 0.5·10·0.4 = 2, 2 and 1; the second largest of class 0 is 0.9, which three pixels have
        pytest.param("da", 0.5, [3, 2, 1], [3, 2, 1], id="da: equal confidences keep more"),
        pytest.param("dars", 0.5, [3, 2, 1], [2, 2, 1], id="dars: exactly as many"),
        # 10·0.4 = 4, 4 and 2: class 1 has three pixels and class 2 one, the least confidence that there is
        pytest.param("dars", 1.0, [4, 3, 1], [4, 3, 1], id="dars: fewer than wanted"),
        pytest.param("dars", 0.0, [0, 0, 0], [0, 0, 0], id="dars of nothing"),
        pytest.param("none", 0.5, [6, 3, 1], [6, 3, 1], id="none"),
    ],
)
def test_ten_pixels_by_hand(rule: Rule, ratio: float, reached: list[int], stays: list[int]) -> None:
    found = cut(count(LABEL, bits_of(*CONF), 3), rule, ratio, SHARE)
    assert found.reached_K.tolist() == reached and found.stays_K.tolist() == stays
    candidates = found.candidates(LABEL, bits_of(*CONF))
    assert np.bincount(LABEL[candidates], minlength=3).tolist() == reached


def test_whole_numbers_stay_whole() -> None:
    """0.7·100·0.1 and 0.29·100 are a last digit off in float64."""
    label, bits = np.zeros(100, dtype=int), bits_of(*np.linspace(0.1, 0.9, 100))
    for ratio, share, wanted in ((0.7, 0.1, 7), (0.29, 1.0, 29), (0.57, 1.0, 57), (0.1, 0.3, 3)):
        assert cut(count(label, bits, 1), "dars", ratio, np.array([share])).wanted_K.tolist() == [wanted]


def total(labels: list[np.ndarray], bits: list[np.ndarray], classes: int) -> np.ndarray:
    return np.sum([count(v, b, classes) for v, b in zip(labels, bits, strict=True)], axis=0)


def drop(images: list[np.ndarray], bits: list[np.ndarray], found: Cut, seed: int) -> list[np.ndarray]:
    """The whole random drop over a list of images; returns what stays."""
    key = [keys(seed, n, label.size) for n, label in enumerate(images)]
    candidate = [found.candidates(label, b) for label, b in zip(images, bits, strict=True)]
    last = KeyCut(found.stays_K)
    for _ in range(LEVELS):
        total = np.zeros((len(found.stays_K), BUCKETS), dtype=np.int64)
        for v, c, k in zip(images, candidate, key, strict=True):
            last.count(total, v[c], k[c])
        last.descend(total)
    return [c & last.stays(v, k) for v, c, k in zip(images, candidate, key, strict=True)]


@pytest.mark.parametrize("rule", ["st", "cbst", "da", "dars"])
@pytest.mark.parametrize("seed", range(6))
def test_against_sorted_lists(rule: Rule, seed: int) -> None:
    """Several images of other sizes, many equal confidences, classes that nothing is predicted as, odd ratios."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 6))
    sizes = rng.integers(5, 90, size=4)
    labels = [rng.integers(0, classes, n) for n in sizes]
    if seed % 2:
        labels = [np.where(label == 1, 0, label) for label in labels]  # class 1 is never predicted
    levels = rng.choice([0.2, 0.5, 0.9, 1.0], size=3) if seed < 3 else rng.random(400)
    bits = [bits_of(*rng.choice(levels, n)) for n in sizes]
    labelled = rng.integers(0, 50, classes)
    labelled[0] += 1
    percent = int(rng.integers(0, 101))
    share = labelled / labelled.sum()

    found = cut(total(labels, bits, classes), rule, percent / 100, share)
    stay = drop(labels, bits, found, seed)
    flat = [
        (int(v), float(c)) for v, c in zip(np.concatenate(labels), np.concatenate(bits).view(np.float16), strict=True)
    ]
    every_key = [int(k) for n, label in enumerate(labels) for k in keys(seed, n, label.size)]
    assert np.concatenate(stay).tolist() == oracle.kept(flat, every_key, rule, percent, labelled.tolist())
    if rule == "dars":
        _, wanted = oracle.thresholds(flat, rule, percent, labelled.tolist())
        here = [sum(v == j for v, _ in flat) for j in range(classes)]
        counts = np.bincount(np.concatenate(labels)[np.concatenate(stay)], minlength=classes)
        assert counts.tolist() == [min(n, m) for n, m in zip(wanted, here, strict=True)]


def test_the_order_and_division_of_the_images_do_not_count() -> None:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, 50) for _ in range(6)]
    bits = [bits_of(*rng.choice([0.5, 1.0], 50)) for _ in range(6)]
    whole = total(labels, bits, 3)
    halves = [total([labels[n] for n in part], [bits[n] for n in part], 3) for part in ((4, 0, 2), (5, 1, 3))]
    assert (whole == halves[0] + halves[1]).all()


def test_every_pixel_is_dropped_as_often_as_another() -> None:
    """Of twelve equal pixels in three images four stay: each with chance 1/3, 3,000 draws, within four deviations."""
    labels = [np.zeros(n, dtype=int) for n in (2, 3, 7)]
    bits = [bits_of(*[1.0] * n) for n in (2, 3, 7)]
    found = Cut(np.array([0]), np.array([12]), np.array([4]), np.array([4]))
    times = np.zeros(12)
    together = 0
    for seed in range(3000):
        stay = np.concatenate(drop(labels, bits, found, seed))
        assert stay.sum() == 4
        times += stay
        together += int(stay[0] and stay[11])
    assert np.abs(times / 3000 - 1 / 3).max() < 4 * math.sqrt(1 / 3 * 2 / 3 / 3000)
    assert abs(together / 3000 - 4 / 12 * 3 / 11) < 4 * math.sqrt(1 / 11 * 10 / 11 / 3000)  # as without replacement


def test_other_rounds_and_images_draw_other_keys() -> None:
    first = keys(0, 0, 1000)
    assert (first < 2**48).all() and len(set(first.tolist())) == 1000
    assert (keys(0, 0, 1000) == first).all() and (keys(0, 0, 10) == first[:10]).all()
    for other in (keys(1, 0, 1000), keys(0, 1, 1000), keys(0, 0, 1000, turn=1)):
        assert not set(other.tolist()) & set(first.tolist())


def test_each_image_drops_its_own_share() -> None:
    """s = 2/8: of 5 candidates floor(5·0.75) = 3 go, of 3 floor(2.25) = 2, of another class none."""
    found = Cut(np.array([0, 0]), np.array([8, 4]), np.array([2, 4]), np.array([2, 4]))
    for m, stays in ((5, 2), (3, 1), (0, 0)):
        label = np.array([0] * m + [1, 1])
        kept = keep_of_image(label, np.ones(m + 2, dtype=bool), keys(0, 0, m + 2), found)
        assert kept[:m].sum() == stays and kept[m:].all()
    candidate = np.array([True, False, True, True, True])
    kept = keep_of_image(np.zeros(5, dtype=int), candidate, np.array([4, 0, 3, 1, 2]), found)
    assert kept.tolist() == [True, False, False, False, False]  # 3 of 4 go: those with the keys 1, 2 and 3


def test_divergence() -> None:
    value, missing = divergence(SHARE, np.array([4, 4, 2]))
    assert value == pytest.approx(0, abs=1e-15) and missing == []
    value, _ = divergence(SHARE, np.array([6, 3, 1]))
    assert value == pytest.approx(oracle.divergence(SHARE.tolist(), [6, 3, 1]))
    # 0.4·log(0.4/0.6) + 0.4·log(0.4/0.3) + 0.2·log(0.2/0.1)
    assert value == pytest.approx(0.4 * math.log(2 / 3) + 0.4 * math.log(4 / 3) + 0.2 * math.log(2))


def test_a_class_that_is_never_predicted_is_named() -> None:
    value, missing = divergence(SHARE, np.array([3, 3, 0]))
    assert missing == [2] and value == pytest.approx(0, abs=1e-15)
    assert divergence(SHARE, np.array([0, 0, 0])) == (None, [0, 1, 2])
