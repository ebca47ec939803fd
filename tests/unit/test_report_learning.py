"""What a learning curve says in words: in the counts of its reader, and nothing of a gain that is not foretold."""

from __future__ import annotations

import pytest

from fewmask.report.learning import learning
from fewmask.report.record import Record
from fewmask.run.curve import _sentence

POINTS = [{"images": 13.0, "draw": 0, "miou": 80.0}, {"images": 26.0, "draw": 0, "miou": 82.74}]


@pytest.mark.parametrize("miou, start", [(84.2, "With 52 labelled images instead of 26, 84.2 mIoU can be expected"),
    (82.45, "Nothing is shown to be gained by more masks: with 52 labelled images instead of 26, 82.5"),
    (82.70, "Nothing is shown to be gained by more masks"), (82.81, "With 52")])  # fmt: skip
def test_a_forecast_that_is_not_above_the_score_shows_nothing(miou, start):
    told = {"forecast": {"images": 52, "miou": miou, "low": 71.0, "high": 93.0}, "why_not": ""}
    text = _sentence(POINTS, told)
    assert text.startswith(start) and text.endswith("it is 82.7 now.")


@pytest.mark.parametrize("arm, name", [("dars", "DARS"), ("supervised", "supervised baseline")])
def test_the_legend_names_the_arm_as_the_rest_of_the_page(arm, name):
    found = learning(Record({"method": "dars"}, title="DARS", curve={"arm": arm, "points": POINTS, "text": ""}))
    assert found is not None and found.chart is not None and found.chart.series[0].name == name
