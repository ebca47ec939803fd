"""What a report calls delivered: its own scores, never those of another network; and what intervals cover."""

from __future__ import annotations

import json
import shutil

import pytest

from fewmask.report.facts import relabel_command
from fewmask.report.html import report_page
from fewmask.report.tables import class_table, score_rows, shown_sentences
from fewmask.report.verdict import verdict
from fewmask.run.report import read_record
from fixtures_run import Page, write_compared, write_seeds

NAMES = ["sky", "sea", "sand"]


def changed(folder, **keys):
    """Change metrics.json of a run, and return it as the report sees it."""
    file = folder / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def score(miou):
    return {"miou": miou, "iou": dict.fromkeys(NAMES, miou), "pixel_accuracy": miou + 20}


def delivered(record):
    """Return name, remark and scores of the rows that are said to be delivered."""
    return [(row.name, row.about, [text for text, _ in row.cells]) for row in score_rows(record) if row.delivered]


def test_a_baseline_s_best_has_a_row_of_its_own(tmp_path):
    _, theirs = write_compared(tmp_path / "run", NAMES)
    changed(tmp_path / "run/baseline", best={"step": 300, "val": score(66.25), "test": score(61.5)})
    told = {"run": "baseline", "checkpoint": "best", "step": 300, "val": 66.25}
    changed(tmp_path / "run", delivered=told)
    row = ("supervised baseline", "best, step 300, chosen on val", ["66.25", "86.25", "61.50", "81.50"])
    assert delivered(read_record(tmp_path / "run")) == [row]
    shutil.rmtree(tmp_path / "run/baseline")  # its mIoU is in the run's own file
    assert delivered(read_record(tmp_path / "run")) == [(*row[:2], ["66.25"] + ["not measured"] * 3)]
    changed(tmp_path / "run", delivered=told | {"checkpoint": "last", "step": 1200})
    assert [found[1] for found in delivered(read_record(tmp_path / "run"))] == ["last"]


@pytest.mark.parametrize("arm", ["method", "baseline"])
def test_of_several_seeds_the_delivered_training_has_a_row(tmp_path, arm):
    write_seeds(tmp_path / "run", NAMES)
    made = tmp_path / "run/seeds/2" / ("" if arm == "method" else "baseline")
    val = json.loads((made / "metrics.json").read_text())["val"]["miou"]
    told = {"run": arm, "checkpoint": "last", "step": 1200, "val": val, "seed": 2}
    changed(tmp_path / "run", delivered=told)
    record = read_record(tmp_path / "run")
    ((name, about, cells),) = delivered(record)
    assert (name, about) == (
        "FixMatch" if arm == "method" else "supervised baseline", "last, seed 2, step 1,200",
    )  # fmt: skip
    assert cells[0] == f"{val:.2f}" and "not measured" not in cells
    source = Page(report_page(record)).source
    assert source.count('<span class="tag">delivered</span>') == (2 if arm == "method" else 1)
    assert ('<th scope="row">2 <span class="tag">delivered</span>' in source) == (arm == "method")


def test_both_bars_of_several_seeds_have_an_interval(tmp_path):
    write_seeds(tmp_path / "run", NAMES)
    changed(
        tmp_path / "run", interval={"val": {"low": 40.0, "high": 90.0, "covers": ["images", "seeds"]}, "test": None}
    )
    ours, theirs = verdict(read_record(tmp_path / "run")).scores
    assert ours.interval == "40.0 to 90.0" and " to " in theirs.interval and theirs.low < theirs.at < theirs.high
    for n in range(3):
        (tmp_path / f"run/seeds/{n}/baseline/evaluation.npz").unlink()
    page = Page(report_page(read_record(tmp_path / "run")))
    assert "over seeds" in page.text and "with 95\u00a0% intervals" not in page.source


def test_summed_confusions_say_whose_they_are(tmp_path):
    write_seeds(tmp_path / "run", NAMES)
    text = Page(report_page(read_record(tmp_path / "run"))).text
    assert "pixels, of 3 seeds" in text and "that is not the mean of the seeds" in text
    assert "lacks to 100." in Page(report_page(read_record(tmp_path / "run/seeds/0"))).text


def test_class_intervals_of_one_seed_leave_the_seeds_out(tmp_path):
    write_compared(tmp_path / "run", NAMES)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    gain = metrics["gain"] | {"iou": {"sky": {"gain": 2.0, "low": 1.0, "high": 3.0}, "sea": None, "sand": None}}
    for covers, told in ((["images"], True), (["images", "seeds"], False)):
        changed(tmp_path / "run", gain=gain | {"covers": covers})
        said = shown_sentences(class_table(read_record(tmp_path / "run")))
        assert said[0].startswith("Ahead") and any("leave out the seeds" in text for text in said) == told


def test_the_command_that_ranks_masks_can_be_pasted():
    text = "# what to label next\nfewmask suggest 'my runs/a' -n 20 -o next\n"
    assert relabel_command(text) == "fewmask suggest 'my runs/a' --relabel -n 20 -o doubtful"
    assert relabel_command("") == "fewmask suggest RUN --relabel -n 20 -o doubtful"
