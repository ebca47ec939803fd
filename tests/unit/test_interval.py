"""fewmask.ops.interval: bootstrap over images or groups, t over seeds, and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewmask.ops import interval, metrics


def some_counts(images: int, classes: int, seed: int = 0, error: float = 0.3) -> np.ndarray:
    """Random images: each truth pixel is hit with probability 1 - error."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 200, (images, classes))
    hits = rng.binomial(truth, 1 - error)
    predicted = hits + rng.binomial(truth, error)
    return np.stack([hits, truth, predicted], axis=1)


def test_scores_are_those_of_the_confusion_matrix() -> None:
    matrix = torch.randint(0, 50, (4, 4), generator=torch.Generator().manual_seed(1))
    matrix[2] = 0  # class 2 is not in the truth
    counts = np.stack([matrix.diagonal().numpy(), matrix.sum(1).numpy(), matrix.sum(0).numpy()])
    expected = [math.nan if v is None else v for v in metrics.iou(matrix)]
    assert interval.ious(counts).tolist() == pytest.approx(expected, nan_ok=True)
    assert float(interval.mean_iou(counts)) == pytest.approx(metrics.mean_iou(matrix))


def test_interval_of_equal_images_has_no_width() -> None:
    counts = np.repeat(some_counts(1, 3), 8, axis=0)
    found = interval.score_interval(counts, [""] * 8)
    assert found is not None
    assert found.low == pytest.approx(found.value) and found.high == pytest.approx(found.value)


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    """One class, every pixel predicted, 100 truth pixels of 100+miss: nearly a mean of N ratios."""
    rng = np.random.default_rng(0)
    hit = rng.integers(40, 60, 400)
    counts = np.stack([hit, np.full(400, 100), hit], axis=1)[:, :, None]  # IoU = Σ hit / Σ 100
    found = interval.score_interval(counts, [""] * 400)
    half = 1.96 * hit.std() / math.sqrt(400)
    assert found is not None and found.value == pytest.approx(hit.mean())
    assert found.low == pytest.approx(hit.mean() - half, abs=0.08)
    assert found.high == pytest.approx(hit.mean() + half, abs=0.08)


def test_groups_widen_the_interval() -> None:
    """Ten copies of each of eight images are eight pieces of evidence, not eighty."""
    few = some_counts(8, 2, error=0.5)
    copies = np.repeat(few, 10, axis=0)
    groups = [f"video{i}" for i in range(8) for _ in range(10)]
    alone = interval.score_interval(few, [""] * 8)
    grouped, flat = (interval.score_interval(copies, g) for g in (groups, [""] * 80))
    assert alone and grouped and flat
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert grouped.high - grouped.low > 2 * (flat.high - flat.low)
    assert interval.covers(groups, 1) == ("groups",) and interval.covers(["one"] * 80, 1) == ("images",)


def test_copies_do_not_narrow_the_interval() -> None:
    """Eight images, one of them there eleven times: as if it weighed more, not as if there were eighteen."""
    few = some_counts(8, 2, error=0.5)
    copies = np.concatenate([few, np.repeat(few[:1], 10, axis=0)])
    units = ["first", *[""] * 7, *["first"] * 10]
    together, apart = (interval.score_interval(copies, g) for g in (units, [""] * 18))
    heavy = few.copy()
    heavy[0] *= 11
    once = interval.score_interval(heavy, [""] * 8)
    assert together and apart and once
    assert together.high - together.low > 1.3 * (apart.high - apart.low)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.1)


def test_a_gain_of_every_image_is_sure_though_images_differ() -> None:
    """Paired: what is hard for both arms cancels."""
    ours = np.stack([some_counts(30, 2, seed=1)] * 3)
    theirs = ours.copy()
    theirs[:, :, 0] -= theirs[:, :, 0] // 10  # a tenth of the hits less, for all images and seeds
    theirs[:, :, 2] -= ours[:, :, 0] - theirs[:, :, 0]
    gain = interval.paired_gain(ours, theirs, [""] * 30)
    score = interval.score_interval(ours[0], [""] * 30)
    assert gain and score
    assert gain.verdict == "helped" and gain.covers == ("images", "seeds")
    assert gain.miou.high - gain.miou.low < 0.3 * (score.high - score.low)
    reverse = interval.paired_gain(theirs, ours, [""] * 30)
    assert reverse and reverse.verdict == "hurt"
    assert reverse.miou.value == pytest.approx(-gain.miou.value)


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_show_nothing(seeds: int) -> None:
    ours = np.stack([some_counts(30, 2, error=0.1)] * seeds)
    theirs = np.stack([some_counts(30, 2, error=0.6)] * seeds)
    gain = interval.paired_gain(ours, theirs, [""] * 30)
    assert gain and gain.miou.low > 0
    assert gain.verdict == "not shown" and gain.covers == ("images",)


def test_seeds_are_a_student_t_interval() -> None:
    """With equal images the whole width is t(2) · sd / √3 = 4.303 · sd / √3."""
    gains = np.array([1.0, 2.0, 6.0])  # of 100 truth pixels each

    def arm(hits: np.ndarray) -> np.ndarray:
        one = np.stack([hits, np.full(3, 100.0), hits], axis=1)[:, None, :, None]
        return np.repeat(one, 5, axis=1).astype(np.int64)

    gain = interval.paired_gain(arm(50 + gains), arm(np.full(3, 50.0)), [""] * 5)
    half = 4.302653 * gains.std(ddof=1) / math.sqrt(3)
    assert gain and gain.miou.value == pytest.approx(3.0)
    assert gain.miou.low == pytest.approx(3.0 - half) and gain.miou.high == pytest.approx(3.0 + half)
    assert gain.verdict == "not shown"


def test_the_interval_of_a_mean_over_seeds() -> None:
    """Seeds that agree add nothing; those that do not add their Student t interval, from three on, in squares."""
    counts = some_counts(40, 2, error=0.4)
    alone = interval.score_interval(counts, [""] * 40)
    agreed = interval.score_interval(np.stack([counts] * 3), [""] * 40)
    assert alone and agreed
    assert (agreed.value, agreed.low, agreed.high) == pytest.approx((alone.value, alone.low, alone.high))
    others = np.stack([some_counts(40, 2, seed=s, error=0.3 + 0.1 * s) for s in range(3)])
    two, three = (interval.score_interval(others[:s], [""] * 40) for s in (2, 3))
    each = interval.mean_iou(others.sum(1))
    half = 4.302653 * each.std(ddof=1) / math.sqrt(3)
    assert two and three and three.value == pytest.approx(each.mean()) and two.value == pytest.approx(each[:2].mean())
    assert two.high - two.low < 2 * half < three.high - three.low < 2 * half + two.high - two.low
    assert interval.covers([""] * 40, 2) == ("images",) and interval.covers(["a", "b"], 3) == ("groups", "seeds")


@pytest.mark.parametrize("images", [2, 3, 5, 20])
def test_the_interval_holds_the_truth_as_often_as_it_says(images: int) -> None:
    """Also over two or three images, where a plain bootstrap holds it half of the time (49 and 71 %)."""
    rng = np.random.default_rng(images)

    def drawn(count: int) -> np.ndarray:
        hits = rng.binomial(200, rng.beta(6, 3, count))
        return np.stack([hits, np.full(count, 200), np.full(count, 200)], axis=1)[:, :, None]

    truth = float(interval.mean_iou(drawn(200_000).sum(0)))
    found = [interval.score_interval(drawn(images), [""] * images, seed=n) for n in range(250)]
    held = sum(one is not None and one.low <= truth <= one.high for one in found) / 250
    assert 0.88 <= held <= 1.0


def test_a_class_that_one_image_shows_has_no_interval() -> None:
    ours, theirs = some_counts(6, 3, error=0.2), some_counts(6, 3, error=0.4)
    theirs[:, 1] = ours[:, 1]
    for arm in (ours, theirs):
        arm[1:, :, 2] = 0
    gain = interval.paired_gain(ours[None], theirs[None], [""] * 6)
    assert gain and gain.classes[2] and math.isnan(gain.classes[2].low) and math.isnan(gain.classes[2].high)
    assert gain.classes[1] and gain.classes[1].low < gain.classes[1].value < gain.classes[1].high
    # a resample without it counts it with its IoU in all images, so that the mean does not jump
    alone = interval.score_interval(ours, [""] * 6)
    assert alone and alone.low < alone.value < alone.high and alone.high - alone.low < 30


def test_copies_of_one_picture_have_no_interval() -> None:
    counts, units = np.repeat(some_counts(1, 2), 5, axis=0), ["val/1"] * 5
    assert interval.score_interval(counts, units, [""] * 5) is None
    assert interval.paired_gain(counts[None], counts[None], units, [""] * 5) is None
    assert interval.score_interval(counts, units) is not None, "one group: its images are all there is"
    assert interval.score_interval(counts[:1], [""]) is None


def test_many_rare_classes_leave_the_score_inside() -> None:
    """150 classes, each on one of 12 images and mistaken on others: nearly all resamples score higher than all do."""
    random = np.random.default_rng(0)
    counts = np.zeros((12, 3, 150), np.int64)
    for k in range(150):
        owner, truth = random.integers(12), random.integers(100, 1000)
        counts[owner, :, k] = truth // 2, truth, truth // 2
        counts[random.permutation(12)[:4], 2, k] += random.integers(20, 200)
    found = interval.score_interval(counts, [""] * 12)
    assert found is not None
    below, above = found.value - found.low, found.high - found.value
    assert min(below, above) > 0.5
    assert max(below, above) < 3 * min(below, above)


def test_absent_classes_are_not_measured() -> None:
    counts = some_counts(6, 3)
    counts[:, 1, 1] = counts[:, 0, 1] = 0
    gain = interval.paired_gain(counts[None], counts[None], [""] * 6)
    assert gain and [c is None for c in gain.classes] == [False, True, False]
    nothing = np.zeros((1, 6, 3, 3), np.int64)
    assert interval.paired_gain(nothing, nothing, [""] * 6) is None
    assert interval.score_interval(nothing[0], [""] * 6) is None
    assert interval.paired_gain(counts[None, :1], counts[None, :1], [""]) is None


def test_equal_arms_are_rarely_told_apart() -> None:
    """Arms that differ by chance alone: 'helped' at most at half of five per cent, with room for luck."""
    rng = np.random.default_rng(3)
    wins = 0
    for trial in range(200):
        both = [
            np.stack([some_counts(12, 3, seed=1000 * trial + 10 * s + arm, error=0.3 + 0.05 * rng.random())
                      for s in range(3)])
            for arm in (0, 1)
        ]  # fmt: skip
        gain = interval.paired_gain(both[0], both[1], [""] * 12)
        wins += gain is not None and gain.verdict == "helped"
    assert wins <= 8
