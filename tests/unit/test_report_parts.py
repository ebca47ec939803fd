"""The parts of a report by hand: numbers, axes, files, verdict, tables, pseudo-labels, pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fewmask.report.confusion import _costs, largest, row_shares
from fewmask.report.curves import pseudo
from fewmask.report.embed import gallery
from fewmask.report.facts import next_steps
from fewmask.report.figures import Series, axis, binned, line_chart, stack_chart
from fewmask.report.pictures import palette
from fewmask.report.record import Record, read_counts, read_log
from fewmask.report.tables import class_table, evenness, miou
from fewmask.report.text import clean, listing, number, percent, signed, span
from fewmask.report.verdict import verdict
from fewmask.run.report import read_record, write_report
from fixtures_run import Page, write_evaluation, write_pictures, write_run

NAMES = ["sky", "sea", "sand"]
MATRIX = np.array([[80, 20, 0], [10, 90, 0], [0, 0, 0]])  # IoU 80/110, 90/120, not measured


def page_of(folder, **options) -> Page:
    return Page(write_report(folder, **options).read_bytes())


def pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


# --- numbers, axes, lines


def test_numbers_as_text():
    assert [number(v) for v in (48.04, -0.5, None, float("nan"), True)] == [
        "48.0", "−0.5", "not measured", "not measured", "not measured",
    ]  # fmt: skip
    assert [signed(v) for v in (1.26, -1.26, 0.04, -0.04, None)] == ["+1.3", "−1.3", "0.0", "0.0", "not measured"]
    assert [percent(v) for v in (0, 0.0004, 0.004, 0.25, None)] == ["0 %", "< 0.1 %", "0.4 %", "25 %", "not measured"]
    assert span({"low": -0.31, "high": 2}, sign=True) == "−0.3 to +2.0"
    assert span({"low": None, "high": 2}) == "" == span(None)
    assert listing("abc") == "a, b and c" and listing("a") == "a" and listing("abcd", 2) == "a, b and 2 more"
    assert clean("a\x1b[31m\n") == "a\ufffd[31m\ufffd"


@pytest.mark.parametrize(
    "low, high, ticks",
    [(35.4, 48.1, [35, 40, 45, 50]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 2.8, [-1, 0, 1, 2, 3]), (5, 5, None)],
)
def test_axes_have_round_ticks_around_the_values(low, high, ticks):
    found = axis(low, high)
    assert ticks is None or found.ticks == pytest.approx(ticks)
    assert found.low <= low <= high <= found.high and found.at(found.low) == 0 and found.at(found.high) == 100
    assert len({text for _, text in found.marks}) == len(found.ticks), "two ticks read the same"


def test_a_tight_axis_ends_at_the_values():
    found = axis(0, 1500, tight=True)
    assert (found.low, found.high) == (0, 1500) and found.ticks == [0, 500, 1000, 1500]
    assert axis(0, 1495, tight=True).high == 1500, "a tick that is nearly reached"
    assert axis(0, 1300, tight=True).high == 1300


def test_a_line_is_where_its_numbers_are():
    chart = line_chart("mIoU", [Series("a", [(0, 10.0), (50, 30.0), (100, 20.0)], dots=True)])
    assert chart is not None and (chart.y.low, chart.y.high) == (10, 30)
    assert chart.series[0].line == "M0 1000L500 0L1000 500" and chart.series[0].value == "20.0"
    assert chart.series[0].dots == "M0 1000h0M500 0h0M1000 500h0"
    assert "a goes from 10.0 at step 0 to 20.0 at step 100" in chart.summary
    assert line_chart("nothing", [Series("a", [])]) is None


def test_noisy_points_become_a_mean_and_a_band():
    line, band = binned([(1, 0.0), (2, 4.0), (3, 1.0), (4, 3.0)], 2)
    assert line == [(1.5, 2.0), (3.5, 2.0)] and band == [(1.5, 0.0, 4.0), (3.5, 1.0, 3.0)]
    assert binned([(1, 0.0), (2, 4.0)], 80) == ([(1, 0.0), (2, 4.0)], [])


def test_shares_are_stacked():
    shares, side = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0.4, 0.6])
    found = stack_chart("x", [50, 100], shares, side, ["a", "b"], [0, None])
    assert found.areas[0].path == "M0 750L500 750L1000 500L1000 500L1000 1000L1000 1000L500 1000L0 1000Z"
    assert [(a.side_at, a.side) for a in found.areas] == [(0.0, 40.0), (40.0, 60.0)]
    late = stack_chart("x", [80, 90, 100], np.repeat(shares, 2, 0)[:3], side, ["a", "b"], [0, None])
    assert late.areas[0].path.startswith("M800 750")  # nothing is drawn where nothing was recorded


# --- files of a run


def test_a_torn_last_line_is_no_damage_and_others_are_told(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss"')
    assert read_log(file) == ([{"step": 1, "loss": 1}], "")
    file.write_text('{"step": 1}\nnonsense\n[3]\n{"loss": 2}\n{"step": 4}\n')
    records, note = read_log(file)
    assert [r["step"] for r in records] == [1, 4] and note.startswith("3 lines of metrics.jsonl")
    assert "no curves" in read_log(tmp_path / "nowhere")[1]


def test_counts_are_read_or_refused(tmp_path):
    write_evaluation(tmp_path, {"val": MATRIX[None]})
    file = tmp_path / "evaluation.npz"
    found, note = read_counts(file, 3)
    assert note == "" and found["val"].matrix_KK.tolist() == MATRIX.tolist() and "test" not in found
    assert found["val"].counts_N3K.tolist() == [[[80, 90, 0], [100, 100, 0], [90, 110, 0]]]
    assert read_counts(file, 4) == ({}, "evaluation.npz does not fit the run's 4 classes and is left out")
    np.savez(file, val_matrix=np.array([{"a": 1}], dtype=object))
    assert "cannot be read" in read_counts(file, 3)[1], "pickles are not loaded"
    file.write_bytes(b"PK\x03\x04 torn")
    assert "cannot be read" in read_counts(file, 3)[1]
    assert read_counts(tmp_path / "nowhere.npz", 3) == ({}, "")


def test_next_steps_in_parts():
    found = next_steps("# All.\n\n# predict\nfewmask predict a b\nfewmask predict c\n\n# worst\n#   val/1\n")
    assert [(s.about, s.lines) for s in found] == [
        (["All."], []), (["predict"], ["fewmask predict a b", "fewmask predict c"]), (["worst", "val/1"], []),
    ]  # fmt: skip


# --- verdict


def record_of(**metrics) -> Record:
    base = {"method": "fixmatch", "seed": 0, "steps": 100, "val": {"miou": 48.03}, "delivered": {"run": "method",
            "checkpoint": "last"}}  # fmt: skip
    return Record(base | metrics, title="FixMatch")


GAIN = {"miou": 1.22, "low": 0.4, "high": 2.1, "covers": ["images"]}


@pytest.mark.parametrize(
    "kind, start",
    [("helped", "The unlabelled images helped: +1.2"), ("hurt", "The unlabelled images hurt: +1.2"),
     ("not shown", "Not shown whether the unlabelled images help: +1.2")],
)  # fmt: skip
def test_the_verdict_is_one_sentence_with_its_interval(kind, start):
    found = verdict(record_of(gain=GAIN | {"verdict": kind}, baseline={"val": {"miou": 46.81}}))
    assert found.kind == kind and found.headline.startswith(start) and "+0.4 to +2.1" in found.headline
    assert [(b.text, b.interval) for b in found.scores] == [("48.0", ""), ("46.8", "")]
    assert found.gain is not None and found.gain_axis is not None and found.gain.text == "+1.2"
    assert found.gain_axis.at(0) < found.gain.low < found.gain.at < found.gain.high
    assert "it does not cover the seed" in " ".join(found.details)


def test_the_recorded_sentence_is_the_headline():
    text = "ahead by 1.2 mIoU on this validation set, one seed: not shown"
    found = verdict(record_of(gain=GAIN | {"verdict": "not shown", "text": text}))
    assert found.headline == "Ahead by 1.2 mIoU on this validation set, one seed: not shown."


def test_why_there_is_no_baseline():
    def said(record):
        found = verdict(record)
        assert found.kind == "none" and found.gain is None
        return " ".join((found.headline, *found.details))

    assert "no baseline" in said(record_of()) and "--baseline of fewmask train" in said(record_of())
    refused = Record(record_of().metrics, recipe={"baseline": False}, title="FixMatch")
    assert "started with --no-baseline" in said(refused)
    assert "supervised run: it used no unlabelled images" in said(record_of(method="supervised"))
    assert "there are no validation images" in said(record_of(val=None))
    assert "no matched" not in said(record_of(val=None))


def test_which_arm_is_delivered():
    best = {"run": "method", "checkpoint": "best"}
    assert verdict(record_of(delivered=best, best={"step": 60})).details[-1] == (
        "Delivered in model/: the best checkpoint (step 60) of FixMatch."
    )
    baseline = {"run": "baseline", "checkpoint": "last", "step": 80}
    assert "(step 80) of the supervised baseline" in verdict(record_of(delivered=baseline)).details[-1]
    assert "not recorded" in verdict(record_of(delivered=None)).details[-1]


# --- tables


def test_classes_have_scores_support_and_not_measured(tmp_path):
    theirs = {"val": {"miou": 70, "iou": {"sky": 70.0, "sea": 75.0, "sand": None}}}
    gain = {"miou": 1.0, "verdict": "not shown", "iou": {"sky": {"gain": 2.7, "low": 0.5, "high": 4.9}, "sea": None}}
    write_run(tmp_path / "run", NAMES, matrix=MATRIX, metrics={"baseline": theirs, "gain": gain})
    table = class_table(read_record(tmp_path / "run"))
    sky, sea, sand = table.rows
    assert (sky.iou, sky.baseline, sky.gain, sky.interval) == ("72.7", "70.0", "+2.7", "+0.5 to +4.9")
    assert (sea.iou, sea.gain, sea.interval) == ("75.0", "0.0", ""), "the difference, without an interval"
    assert (sand.iou, sand.at, sand.baseline, sand.gain) == ("not measured", None, "not measured", "")
    assert [(r.pixels, r.images) for r in table.rows] == [("100", "1"), ("100", "1"), ("0", "0")]
    assert sky.labelled == "1,000,000" and sky.colour == "rgb(0 0 0)" and sea.colour == "rgb(128 0 0)"
    assert (table.ahead, table.behind, table.unmeasured) == (["sky"], [], ["sand"])
    text = page_of(tmp_path / "run").text
    assert "Not measured, because the val masks do not contain them: sand." in text
    assert "72.7" in text and "+0.5 to +4.9" in text and "73.86" in text  # mean of 72.73 and 75.00


def test_images_and_groups_by_hand(tmp_path):
    each = np.stack([MATRIX, np.diag([10, 10, 0]), np.array([[0, 10, 0], [0, 10, 0], [0, 0, 0]]), MATRIX])
    write_run(tmp_path / "run", NAMES)
    write_evaluation(tmp_path / "run", {"val": each}, ["b", "a", "b", "a"])
    found = evenness(read_record(tmp_path / "run"))
    assert [miou(c) for c in (np.array([[80, 90, 0], [100, 100, 0], [90, 110, 0]]), np.zeros((3, 3)))] == [
        pytest.approx(50 * (80 / 110 + 90 / 120)), None,
    ]  # fmt: skip
    # images: 73.9, 100, (0 + 50) / 2, 73.9; groups: a = (90/120 + 100/130) / 2, b = (80/120 + 100/140) / 2
    assert found is not None and "the lowest 25.0, the highest 100.0" in found.sentence
    assert [(text, n) for _, text, n in found.bars if n] == [("25 to 30", 1), ("70 to 75", 2), ("95 to 100", 1)]
    assert found.groups == [("b", 2, "69.0"), ("a", 2, "76.0")]


def test_confusions_account_for_the_whole_distance_from_100():
    worst = largest(MATRIX, NAMES)
    assert [(c.truth, c.called, c.share, c.pixels) for c in worst] == [
        ("sky", "sea", "20 %", "20"), ("sea", "sky", "10 %", "10"),
    ]  # fmt: skip
    assert [c.cost for c in worst] == [f"{20 * (1 / 110 + 1 / 120) * 50:.2f}", f"{10 * (1 / 110 + 1 / 120) * 50:.2f}"]
    random = np.random.default_rng(0).integers(0, 50, (7, 7))
    hit, union = random.diagonal(), random.sum(0) + random.sum(1) - random.diagonal()
    assert sum(cost for *_, cost in _costs(random)) == pytest.approx(100 - 100 * (hit / union).mean())
    assert row_shares(MATRIX).tolist() == [[0.8, 0.2, 0], [0.1, 0.9, 0], [0, 0, 0]]


# --- pseudo-labels


def test_vanished_classes_are_named():
    lines = [{"step": 10 * n, "kept": 0.5, "pseudo": [0.7, 0.295, 0.005]} for n in range(1, 11)]
    lines.insert(0, {"step": 1, "kept": 0.1, "pseudo": [1, 0, 0]})
    lines += [{"step": 110, "pseudo": [0, 0, 0]}, {"step": 120, "pseudo": [1, 2]}, {"step": 130, "pseudo": None}]
    manifest = {"classes": NAMES, "labelled_pixels": {"sky": 600, "sea": 300, "sand": 100}}
    found = pseudo(Record({}, manifest=manifest, log=lines))
    assert found is not None and found.vanished == ["sand"]  # 0.005 < 0.1 * 0.1
    assert [(s.end, s.prior, s.ratio, s.vanished) for s in found.shares] == [
        ("70 %", "60 %", "1.17", False), ("30 %", "30 %", "0.98", False), ("0.5 %", "10 %", "0.05", True),
    ]  # fmt: skip
    assert found.kept_sentence.startswith("At the end 50 %")
    ten = {"labelled_pixels": {"sky": 600, "sea": 356, "sand": 44}}  # 0.005 is above a tenth of 0.044
    unharmed = pseudo(Record({}, manifest=manifest | ten, log=lines))
    assert unharmed is not None and unharmed.vanished == []


def test_the_end_of_a_short_run_is_its_last_logged_step():
    """The table then says what the chart ends with; one batch alone makes no class vanish."""
    lines = [{"step": 10 * n, "kept": 0.5, "pseudo": [0.7, 0.3 - 0.05 * n, 0.05 * n]} for n in range(1, 7)]
    manifest = {"classes": NAMES, "labelled_pixels": {"sky": 600, "sea": 300, "sand": 100}}
    recipe = {"data": {"unlabelled_batch": 4, "crop": [100, 50]}}
    found = pseudo(Record({}, recipe=recipe, manifest=manifest, log=lines))
    assert found is not None and [s.end for s in found.shares] == ["70 %", "0 %", "30 %"] and found.vanished == []
    assert found.window == "At the end: the last of 6 logged steps."
    # half of 4 x 100 x 50 pixels
    assert "50 % of the valid unlabelled pixels trained, 10,000 of the 20,000 in a step at most" in found.kept_sentence
    assert [s.pixels for s in found.shares] == ["7,000", "0", "3,000"]
    many = pseudo(Record({}, manifest=manifest, log=[{**lines[0], "step": n} for n in range(1, 31)]))
    assert many is not None and many.window == "At the end: the mean of the last 3 of 30 logged steps."
    assert [s.pixels for s in many.shares] == [""] * 3


def test_without_labelled_pixels_nothing_is_said_to_have_vanished():
    lines = [{"step": n, "pseudo": [1, 0, 0]} for n in (1, 2)]
    found = pseudo(Record({}, manifest={"classes": NAMES}, log=lines))
    assert found is not None and found.vanished == [] and found.shares[0].prior == ""
    assert pseudo(Record({}, manifest={"classes": NAMES}, log=[{"step": 1, "sup": 1}])) is None


def test_alarms_of_the_training_are_told_again():
    """A class takes over from the first line on: told once it has lasted, a round and a seed at a time."""
    manifest = {"classes": NAMES, "labelled_pixels": {"sky": 600, "sea": 380, "sand": 20}}
    sick = [{"step": 10 * n, "kept": 0.9, "pseudo": [0.97, 0.01, 0.02], "agree": 0.75} for n in range(1, 31)]
    found = pseudo(Record({}, manifest=manifest, log=sick))
    assert found is not None and [text.partition(" (")[0] for text in found.alarms] == [
        "step 200: class 'sky' takes over the pseudo-labels", "step 200: class 'sea' vanishes from the pseudo-labels",
    ]  # fmt: skip
    assert found.kept_sentence == (
        "At the end 90 % of the valid unlabelled pixels trained; on 75 % of these the trained network itself said what "
        "the pseudo-label says."
    )
    rounds = [{**line, "round": n > 15} for n, line in enumerate(sick)]
    apart = pseudo(Record({}, manifest=manifest, log=rounds))
    assert apart is not None and apart.alarms == [], "neither round lasts long enough"
    both = Record({}, manifest=manifest, seeds=[Record({"seed": n}, log=sick) for n in range(2)])
    twice = pseudo(both)
    assert twice is not None and len(twice.alarms) == 4 and twice.alarms[2].startswith("seed 1, step 200: class")
    folds = pseudo(Record({}, manifest=manifest, folds=[Record({}, log=sick), Record({}, log=sick)]))
    assert folds is not None and folds.alarms[0].startswith("fold 1, step 200: class")
    well = [{**line, "step": 300 + line["step"], "pseudo": [0.6, 0.38, 0.02]} for line in sick]
    over = pseudo(Record({}, manifest=manifest, log=[*sick, *well]))
    assert over is not None and over.alarms == [] and [text.partition(": ")[0] for text in over.passed] == [
        "step 200 to 410", "step 200 to 320",
    ]  # fmt: skip


# --- pictures


def test_masks_keep_their_colours_and_are_told_in_words(tmp_path):
    write_run(tmp_path / "run", NAMES)
    write_pictures(tmp_path / "run", 3, height=60, width=80)
    found = gallery(read_record(tmp_path / "run"))
    assert found is not None and [r.kind for r in found.rows] == ["best", "median", "worst"] and len(found.more) == 6
    assert [(r.number, r.score, r.name) for r in found.rows] == [
        (1, "59", "val/001"), (2, "38", "val/002"), (3, "17", "val/003"),
    ]  # fmt: skip
    with Image.open(tmp_path / "run/pictures/best-1-59-val_001.png") as file:
        whole = np.asarray(file)
    photograph, truth, prediction = found.rows[0].panels
    assert (pixels(truth.uri) == whole[:, 86:166]).all() and (pixels(prediction.uri) == whole[:, 172:]).all()
    assert np.abs(pixels(photograph.uri).astype(int) - whole[:, :80]).mean() < 6
    differ, mistakes = (whole[:, 86:166] != whole[:, 172:]).any(-1), found.rows[0].mistakes
    assert mistakes is not None and f"{percent(float(differ.mean()))} of the pixels" in mistakes.alt
    with Image.open(io.BytesIO(base64.b64decode(mistakes.uri.partition(",")[2]))) as file:
        assert (np.asarray(file.convert("RGBA"))[..., 3] == 255 * differ).all() and 0 < differ.mean() < 1
    shares = [(whole[:, 86:166] == palette()[k]).all(-1).mean() for k in range(3)]
    assert all(f"{name} {percent(float(s))}" in truth.alt for name, s in zip(NAMES, shares, strict=True))
    assert found.legend == [("sky", 0), ("sea", 1), ("sand", 2)] and not found.notes


def test_large_and_broken_pictures(tmp_path):
    write_run(tmp_path / "run", NAMES)
    folder = tmp_path / "run/pictures"
    write_pictures(tmp_path / "run", 3, height=900, width=1400, kinds=("best", "worst"), each=1)
    noise = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)  # no three panels: 100 - 12 = 88
    Image.fromarray(noise).save(folder / "median-1-40-odd.png")
    (folder / "best-2-50-torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "mine.png").write_bytes(b"not of the run")
    record = read_record(tmp_path / "run")
    found = gallery(record)
    assert found is not None and [len(r.panels) for r in found.rows] == [3, 1, 3]
    assert all(p.width <= 640 and p.height <= 960 for p in found.rows[0].panels)
    known = {tuple(c) for c in palette()[:3].tolist()}
    assert {tuple(c) for c in pixels(found.rows[0].panels[1].uri).reshape(-1, 3).tolist()} <= known
    assert found.notes == ["best-2-50-torn.png is damaged or too large"]
    small = gallery(record, budget=30_000)
    assert small is not None and sum(len(p.uri) for r in small.rows for p in r.panels) <= 40_000
    assert small.rows[0].panels[0].width < 640
    none = gallery(record, budget=500)
    assert none is not None and none.rows == [] and "the page would become too large" in none.notes[-1]
