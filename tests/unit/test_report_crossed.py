"""A cross-fitted run in the report, in a comparison and on its card: folds are folds, and nothing is called val."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from fewmask.report.compare import as_json
from fewmask.report.curves import val_chart
from fewmask.report.html import compare_page, report_page
from fewmask.report.rounds import round_rows
from fewmask.report.tables import score_rows
from fewmask.run.folder import RunFolder
from fewmask.run.hub import card_of
from fewmask.run.report import compare_runs, read_record
from fixtures_run import Page, write_compared, write_run

NAMES = ["sky", "sea", "sand"]


def write_crossed(folder, seed=0):
    """Write a run of two folds with their baselines, and the training on all labelled images."""
    ours, theirs = write_compared(folder, NAMES, seed=seed, pictures=False)
    for k in (1, 2):
        write_compared(folder / f"folds/{k}", NAMES, seed=seed, pictures=False, skill=0.5 + 0.1 * k)
        file = folder / f"folds/{k}/metrics.json"
        rounds = [
            {"name": name, "steps": 600, "val": {"miou": 50.0 + k + n}, "test": None, "labels": None}
            for n, name in enumerate(("labelled", "dars-1"))
        ]
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rounds": rounds}))
    write_run(folder / "all", NAMES, seed=seed, skill=0.8)
    test = json.loads((folder / "all/metrics.json").read_text())["test"]["miou"]
    folds = [{"images": 12, "val": ours["val"], "test": ours["test"], "baseline": ours["baseline"]}] * 2
    told = {"run": "method", "checkpoint": "last", "step": 1200, "val": ours["val"]["miou"], "test": test}
    for path, metrics in ((folder, ours), (folder / "baseline", theirs)):
        content = metrics | {"folds": folds, "labelled": 24, "delivered": told}
        (path / "metrics.json").write_text(json.dumps(content))
        manifest = yaml.safe_load((path / "data.yaml").read_text())
        (path / "data.yaml").write_text(yaml.safe_dump(manifest | {"val": 0, "folds": [["a"], ["b"]]}, sort_keys=False))
    return ours, test


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossed") / "run"
    return folder, *write_crossed(folder)


def test_rounds_are_those_of_the_folds(crossed):
    record = read_record(crossed[0])
    assert [(row.name, row.val, row.gain) for row in round_rows(record)] == [
        ("labelled", "51.50", ""), ("dars-1", "52.50", "+1.00"),
    ]  # fmt: skip
    assert "means over the folds" in Page(report_page(record)).text


def test_the_curve_has_the_folds_of_both_arms(crossed):
    chart = val_chart(read_record(crossed[0]))
    assert chart is not None and [(s.name, len(s.siblings)) for s in chart.series] == [
        ("FixMatch", 2), ("supervised baseline", 2),
    ]  # fmt: skip


def test_nothing_is_called_val(crossed):
    text = Page(report_page(read_record(crossed[0]))).text
    assert "There are no val images" in text and "none: labelled images, by networks that had not seen them" in text
    for words in ("on val", "val images with", "val pixels", "val mIoU", "Val images 0"):
        assert words not in text, words
    assert "mIoU on labelled images" in text and "Half of the 24 labelled images score" in text


def test_the_delivered_network_is_scored_on_test_alone(crossed):
    (row,) = [row for row in score_rows(read_record(crossed[0])) if row.delivered]
    assert row.about == "last, step 1,200, trained on all labelled images"
    assert [text for text, _ in row.cells] == ["not measured", "not measured", f"{crossed[2]:.2f}", "not measured"]


def test_the_card_speaks_of_labelled_images(crossed):
    folder, ours, test = crossed
    manifest = yaml.safe_load((folder / "data.yaml").read_text())
    assert manifest["val"] == 0
    card = card_of(RunFolder(folder), "me/x")
    assert f"| labelled, each scored by networks that had not seen it: 24 | {ours['val']['miou']:.2f} |" in card
    assert f"| test: 12 | {test:.2f} |" in card and "val: 0" not in card and "interval on val" not in card


def test_a_comparison_has_the_curves_of_the_folds(crossed):
    folder = crossed[0]
    comparison = compare_runs([folder])
    ours, theirs = as_json(comparison)["groups"][0]["rows"]
    assert theirs["runs"] == [str(folder / "baseline")] and ours["gain"]["interval"]["val"] is not None
    page = Page(compare_page(comparison))
    assert page.source.count('class="thin"') == 4 and "mIoU on the images of the fold" in page.text
    assert "on val" not in page.text


def test_seeds_of_folds_are_told_apart(tmp_path):
    for n in (3, 5):
        ours, _ = write_crossed(tmp_path / f"run/seeds/{n}", seed=n)
    folds = [{"images": 12, "val": ours["val"], "test": None, "baseline": None}] * 2
    (tmp_path / "run/metrics.json").write_text(
        json.dumps(ours | {"seeds": [3, 5], "folds": folds, "baseline_run": None})
    )
    record = read_record(tmp_path / "run")
    assert [name for name, _ in record.trainings] == [f"seed {n}, fold {k}" for n in (3, 5) for k in (1, 2)]
    assert record.baseline is not None and len(record.baseline.trainings) == 4
    assert np.isfinite(float(round_rows(record)[0].val))
    assert "means over 4 trainings of all seeds and folds" in Page(report_page(record)).text
