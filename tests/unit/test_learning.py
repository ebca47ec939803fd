"""The power law of a learning curve, by hand."""

from __future__ import annotations

import math

import pytest

from fewmask.ops.learning import fit, forecast


def test_an_exact_law_is_found_and_foretold():
    """E = 80·n^-½: 60 with 4 images, 80 with 16, 90 with 64; so 95 with 256, and nothing is uncertain."""
    law = fit([4, 16, 64], [60, 80, 90])
    assert law is not None
    assert (law.a, law.b, law.spread) == pytest.approx((80, 0.5, 0), abs=1e-9)
    assert law.at(256) == pytest.approx((95, 95, 95), abs=1e-6)


def test_the_interval_by_hand():
    """Log E: 4, 3 and 3, 2 at log n = 0, 1, 1, 2, slope -1, no residuals; then ±δ at 1: s² = 2δ²/2.

    At log n = 3: middle 1, width 2, reach t(2, 90 %)·δ·√(1 + ¼ + 4/2), with t = 1.8856.
    """
    d = 0.1
    n = [1, math.e, math.e, math.e**2]
    law = fit(n, [100 - math.exp(v) for v in (4, 3 + d, 3 - d, 2)])  # type: ignore[arg-type]
    assert law is not None and (law.b, law.spread) == pytest.approx((1, d))
    reach = 1.885618 * d * math.sqrt(1 + 0.25 + 2)
    expected = (100 - math.exp(1), 100 - math.exp(1 + reach), 100 - math.exp(1 - reach))
    assert law.at(math.e**3) == pytest.approx(expected, abs=1e-5)


def test_no_mean_iou_below_0():
    law = fit([10, 10, 20, 20], [1, 60, 2, 80])
    assert law is not None and law.at(5)[1] == 0


@pytest.mark.parametrize(
    ("images", "miou", "why"),
    [
        ([4, 4, 8, 8], [50, 52, 60, 61], "fewer than 3 numbers"),
        ([4, 8], [50, 60], "fewer than 3 numbers"),
        ([4, 8, 16], [50, 60, 70], "too few trainings to test it on"),
        ([4, 4, 8, 8, 16], [60, 61, 60, 59, 58], "did not raise the score"),
        ([4, 4, 8, 8, 16], [50, 51, 60, 61, 61], "the smaller numbers foretold .* for 16 images, and it is 61.0"),
        ([4, 4, 8, 8, 16], [50, 51, 60, 61, 68.5], ""),
    ],
)
def test_nothing_is_foretold_that_was_not_tested(images, miou, why):
    import re

    found = forecast(images, miou)
    assert bool(re.search(why, found.why_not)) if why else found.why_not == ""


def test_nothing_at_all():
    assert fit([], []) is None and forecast([], []).law is None


def test_what_is_foretold_is_less_than_the_law():
    """By hand: the law says 95, there is 92; two thirds of 3 are 2. Its points lie on it, so that it has no spread."""
    law = fit([4, 16, 64], [100 - 80 / n**0.5 for n in (4, 16, 64)])
    assert law is not None and law.at(256) == pytest.approx((95, 95, 95), abs=1e-6)
    assert law.ahead(256, 92.0) == pytest.approx((94, 92, 95), abs=1e-6)
    noisy = fit([4, 16, 64, 64], [60.0, 80.0, 91.0, 88.0])
    assert noisy is not None
    central, low, high = noisy.at(128)
    told = noisy.ahead(128, 89.5)
    assert told[0] == pytest.approx(89.5 + 2 / 3 * (central - 89.5))
    assert told[1] <= min(89.5, told[0] - (high - low) / 2) + 1e-9 and told[2] >= central
    assert told[2] - told[1] >= high - low - 1e-9
