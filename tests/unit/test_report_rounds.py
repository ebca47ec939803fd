"""The table of rounds: what is told, of one seed and of several."""

from __future__ import annotations

from typing import Any

from fewmask.report.html import report_page
from fewmask.report.record import Record
from fewmask.report.rounds import round_rows
from fixtures_run import Page


def rounds(first: float, second: float | None, kept: float = 0.2) -> dict[str, Any]:
    how = {"rule": "dars", "ratio": 0.2}
    labels = {"select": how, "images": 351, "kept": kept, "divergence": 0.00051}
    return {
        "method": "dars", "rounds": [
            {"name": "labelled", "steps": 400, "val": {"miou": first}, "test": None, "labels": None},
            {"name": "dars-1", "steps": 1600, "val": {"miou": second}, "test": {"miou": 61.0}, "labels": labels},
        ],
    }  # fmt: skip


def test_a_row_a_round() -> None:
    one, two = round_rows(Record(rounds(60.0, 63.25)))
    assert (one.name, one.steps, one.val, one.gain, one.test) == ("labelled", "400", "60.00", "", "not measured")
    assert (one.labels, one.kept, one.divergence) == ("", "", "")
    assert (two.val, two.gain, two.test, two.kept) == ("63.25", "+3.25", "61.00", "20 %")
    assert two.labels == "as the labels are distributed, 20 %, of 351 images" and two.divergence == "0.0005"


def test_the_mean_of_several_seeds() -> None:
    several = Record({}, seeds=[Record(rounds(60.0, 63.0, 0.1)), Record(rounds(62.0, 61.0, 0.3))])
    one, two = round_rows(several)
    assert (one.val, two.val, two.gain, two.kept) == ("61.00", "62.00", "+1.00", "20 %")
    assert round_rows(Record({}, seeds=[Record(rounds(60.0, 63.0)), Record({})])) == []


def test_what_is_not_measured_has_no_gain() -> None:
    _, two = round_rows(Record(rounds(60.0, None)))
    assert (two.val, two.gain) == ("not measured", "")
    assert round_rows(Record({"method": "cps"})) == []


def test_the_section_and_its_link() -> None:
    log = [{"step": n, "round": 1, "sup": 0.5, "loss": 0.5, "lr": 0.1} for n in range(1, 50)]
    page = Page(report_page(Record(rounds(60.0, 63.25), log=log)))
    assert ("a", "href", "#rounds") in page.attributes and "Rounds" in page.text and "+3.25" in page.text
    assert "Loss terms" in page.text and "sup 0.50" in page.text and "round 1.00" not in page.text
    plain = Page(report_page(Record({"method": "cps"})))
    assert "Rounds" not in plain.text
