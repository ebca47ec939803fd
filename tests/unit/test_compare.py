"""Comparisons of generated run folders: what stands together, means and gains by hand, JSON, the terminal."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from fewmask.cli import run as cli
from fewmask.ops.interval import paired_gain, score_interval
from fewmask.report.compare import as_json
from fewmask.run.report import compare_runs, write_comparison
from fixtures_run import Page, write_evaluation, write_run, write_seeds

NAMES = ["sky", "sea", "sand"]
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a'b\"c&amp;", "</title></style>",
    "[bold]x[/bold]", "\x1b[31mred",
]  # fmt: skip


def scored(miou, sky=50.0):
    return {"miou": miou, "iou": {"sky": sky, "sea": None, "sand": 10.0}, "pixel_accuracy": 80.0}


def write_scored(folder, method, seed, val, test, best=None, **more):
    best = {"step": 600, "val": scored(best or val), "test": scored(test)}
    metrics = {"val": scored(val, sky=val), "test": scored(test), "best": best} | more.pop("metrics", {})
    write_run(folder, NAMES, method=method, seed=seed, new=False, metrics=metrics, **more)
    return folder


def cells(page):
    """Return the text of a page with a space between any two cells."""
    return " ".join(re.sub("<[^>]*>", " ", page.read_text()).replace("\u2212", "-").split())


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """FixMatch with seeds 0, 1, 2, supervised with seeds 0, 1; and runs that must stay apart."""
    base = tmp_path_factory.mktemp("family")
    return base, [
        write_scored(base / "f0", "fixmatch", 0, 40.0, 30.0, best=41.0, vanished=[1]),
        write_scored(base / "f1", "fixmatch", 1, 43.0, 32.0),
        write_scored(base / "s0", "supervised", 0, 39.0, 31.0),
        write_scored(base / "f2", "fixmatch", 2, 46.0, 37.0, data__dir="/elsewhere/photos", data__labelled="1/16"),
        write_scored(base / "s1", "supervised", 1, 44.0, 31.0),
        write_scored(base / "tau", "fixmatch", 0, 20.0, 10.0, method__tau=0.7),
        write_scored(base / "data", "fixmatch", 3, 90.0, 90.0, data_hash="e" * 16),
        write_scored(base / "protocol", "fixmatch", 3, 91.0, 91.0, protocol="cityscapes"),
        write_scored(base / "labelled", "fixmatch", 3, 92.0, 92.0, labelled=("train/a", "train/c")),
    ]


def test_runs_that_do_not_compare_are_kept_apart(family):
    base, runs = family
    found = as_json(compare_runs(runs))
    assert [len(g["rows"]) for g in found["groups"]] == [3, 1, 1, 1]
    assert [g["rows"][0]["val"]["last"]["mean"] for g in found["groups"][1:]] == [90.0, 91.0, 92.0]
    assert [g["protocol"] for g in found["groups"]] == ["whole", "whole", "cityscapes", "whole"]
    assert any("4 groups" in note for note in found["notes"])


def test_seeds_of_one_configuration_are_averaged(family):
    base, runs = family
    fixmatch, supervised, tau = as_json(compare_runs(runs))["groups"][0]["rows"]
    assert fixmatch["seeds"] == [0, 1, 2] and fixmatch["method"] == "fixmatch"
    assert fixmatch["val"]["last"] == {"mean": 43.0, "sd": 3.0, "n": 3, "values": [40.0, 43.0, 46.0]}
    assert fixmatch["val"]["best"]["values"] == [41.0, 43.0, 46.0]
    assert fixmatch["test"]["last"]["mean"] == 33.0 and fixmatch["test"]["last"]["sd"] == pytest.approx(13**0.5)
    assert fixmatch["val"]["iou"]["sky"] == {"mean": 43.0, "sd": 3.0, "n": 3}
    assert fixmatch["val"]["iou"]["sea"] == {"mean": None, "sd": None, "n": 0}, "not measured is not 0"
    assert supervised["seeds"] == [0, 1] and supervised["val"]["last"]["mean"] == 41.5 and supervised["gain"] is None
    assert tau["name"] == "FixMatch, method.tau=0.7" and tau["val"]["last"]["sd"] is None
    assert fixmatch["name"] == "FixMatch, method.tau=0.95"


def test_the_gain_is_paired_over_the_seeds_of_both(family):
    base, runs = family
    fixmatch, _, tau = as_json(compare_runs(runs))["groups"][0]["rows"]
    # seed 0: 40 - 39, seed 1: 43 - 44; seed 2 has no pair
    assert fixmatch["gain"]["seeds"] == [0, 1] and fixmatch["gain"]["to"] == "Supervised baseline"
    assert fixmatch["gain"]["val"] == {"mean": 0.0, "sd": pytest.approx(2**0.5), "n": 2, "values": [1.0, -1.0]}
    assert fixmatch["gain"]["test"]["values"] == [-1.0, 1.0]
    assert tau["gain"]["val"]["values"] == [-19.0]


@pytest.mark.parametrize("change", [{"steps": 2400}, {"model__encoder": "resnet50"}, {"model__weights": "none"}])
def test_a_supervised_run_that_does_not_match_is_no_baseline(tmp_path, change):
    ours = write_scored(tmp_path / "f", "fixmatch", 0, 40.0, 30.0)
    theirs = write_scored(tmp_path / "s", "supervised", 0, 39.0, 31.0, **change)
    rows = as_json(compare_runs([ours, theirs]))["groups"][0]["rows"]
    assert [row["gain"] for row in rows] == [None, None]


def test_a_repeated_seed_is_no_new_draw(family, tmp_path):
    base, runs = family
    again = write_scored(tmp_path / "again", "fixmatch", 1, 47.0, 32.0)
    copy = shutil.copytree(base / "f2", tmp_path / "copy")
    comparison = compare_runs([*runs[:4], again, copy, runs[0]])
    rows = as_json(comparison)["groups"][0]["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [1], [0]] and rows[0]["val"]["last"]["mean"] == 43.0
    assert len({row["name"] for row in rows}) == 3
    assert [note.partition(" ")[2][:35] for note in comparison.notes] == ["repeats a seed of the same configur"] * 2
    assert "with other scores" in comparison.notes[0] and "counted once" in comparison.notes[1]


def test_a_run_of_several_seeds_stands_for_its_seeds(tmp_path):
    write_seeds(tmp_path / "run", NAMES)
    scores = [json.loads((tmp_path / f"run/seeds/{n}/metrics.json").read_text())["val"]["miou"] for n in range(3)]
    found = as_json(compare_runs([tmp_path / "run"]))
    row, along = found["groups"][0]["rows"]
    assert row["seeds"] == [0, 1, 2] and row["val"]["last"]["values"] == scores
    baselines = [tmp_path / f"run/seeds/{n}/baseline" for n in range(3)]
    assert along["runs"] == list(map(str, baselines)) and along["taken_along"] and not row["taken_along"]
    assert row["gain"]["to"] == along["name"] == "Supervised baseline (taken along)"
    assert "taken along" in found["notes"][0] and str(baselines[0]) in found["notes"][0]
    given, typed = as_json(compare_runs([tmp_path / "run", *baselines]))["groups"][0]["rows"]
    assert given["gain"] == {**row["gain"], "to": typed["name"]} and not typed["taken_along"]
    assert row["gain"]["val"]["n"] == 3
    arms = [
        np.stack([np.load(run / "evaluation.npz")["val_counts"] for run in arm])
        for arm in ([tmp_path / f"run/seeds/{n}" for n in range(3)], baselines)
    ]
    groups = [f"video {n // 8}" for n in range(24)]
    expected, found = paired_gain(*arms, groups), row["gain"]["interval"]["val"]
    assert expected and found["covers"] == ["groups", "seeds"] and found["verdict"] == expected.verdict
    assert (found["low"], found["high"]) == pytest.approx((expected.miou.low, expected.miou.high), abs=1e-4)
    score = score_interval(arms[0], groups)
    assert score and row["val"]["interval"]["low"] == pytest.approx(score.low, abs=1e-4)
    text = cells(write_comparison(compare_runs([tmp_path / "run", *baselines]), tmp_path / "c.html"))
    assert f"{found['low']:+.1f} to {found['high']:+.1f} {expected.verdict}" in text
    assert f"{score.low:.1f} to {score.high:.1f}" in text and "cover which groups were drawn" in text
    for name, part in zip(NAMES, expected.classes, strict=True):
        assert part and row["gain"]["iou"]["val"][name] == {
            "gain": pytest.approx(part.value), "low": pytest.approx(part.low, abs=1e-4),
            "high": pytest.approx(part.high, abs=1e-4),
        }  # fmt: skip
        assert f"{part.value:+.1f} {part.low:+.1f} to {part.high:+.1f}" in text
    shutil.rmtree(tmp_path / "run/seeds")  # only the mean is left
    for file in ("config.yaml", "data.yaml"):
        (tmp_path / "run" / file).write_text("data_hash: x\n")
    (row,) = as_json(compare_runs([tmp_path / "run"]))["groups"][0]["rows"]
    assert (
        row["gain"] is None
        and row["val"]["last"]["n"] == 3
        and row["val"]["last"]["mean"] == pytest.approx(np.mean(scores))
    )
    assert row["val"]["last"]["sd"] == pytest.approx(np.std(scores, ddof=1))
    assert row["val"]["interval"] is None, "a sum of seeds does not tell how they differ"


def test_a_baseline_is_taken_along_once(tmp_path):
    """Of two methods that were compared with the same one; not where a supervised run of that kind was given."""
    for name, method in (("a", "fixmatch"), ("b", "cps")):
        write_run(tmp_path / name, NAMES, method=method, metrics={"baseline_run": str(tmp_path / "s")})
    write_run(tmp_path / "s", NAMES, method="supervised", skill=0.6)
    runs = [tmp_path / "a", tmp_path / "b"]
    comparison = compare_runs(runs)
    found = as_json(comparison)["groups"][0]["rows"]
    assert [row["runs"] for row in found] == [[str(path)] for path in (*runs, tmp_path / "s")]
    assert [row["gain"] and row["gain"]["to"] for row in found] == ["Supervised baseline (taken along)"] * 2 + [None]
    assert "Comparison of 2 runs" in cells(write_comparison(comparison, tmp_path / "c.html"))
    given = as_json(compare_runs([*runs, tmp_path / "s"]))
    assert [row["taken_along"] for row in given["groups"][0]["rows"]] == [False] * 3 and not given["notes"]
    shutil.rmtree(tmp_path / "s")
    found = as_json(compare_runs(runs))
    assert [row["gain"] for row in found["groups"][0]["rows"]] == [None, None]
    assert f"no gain of {tmp_path / 'a'}: its baseline, {tmp_path / 's'}, cannot be read" in found["notes"][0]


def test_methods_have_a_paired_difference(tmp_path, capsys):
    """To the first row that is not supervised, with the interval of the same images."""
    for n in range(3):
        write_run(tmp_path / f"s{n}", NAMES, method="supervised", seed=n, skill=0.5)
        write_run(tmp_path / f"a{n}", NAMES, seed=n, skill=0.7)
        write_run(tmp_path / f"b{n}", NAMES, method="cps", seed=n, skill=0.6)
    write_run(tmp_path / "far", NAMES, method="u2pl", seed=9)
    runs = [tmp_path / f"{name}{n}" for name in "sab" for n in range(3)] + [tmp_path / "far"]
    supervised, first, second, far = as_json(compare_runs(runs))["groups"][0]["rows"]
    assert supervised["difference"] is first["difference"] is far["difference"] is None
    found = second["difference"]
    arms = [np.stack([np.load(run / "evaluation.npz")["val_counts"] for run in runs[a : a + 3]]) for a in (6, 3)]
    expected = paired_gain(*arms, [f"video {n // 8}" for n in range(24)])
    assert found["to"] == first["name"] and found["seeds"] == [0, 1, 2] and expected
    assert found["val"]["mean"] == pytest.approx(expected.miou.value)
    told = found["interval"]["val"]
    assert (told["low"], told["high"]) == pytest.approx((expected.miou.low, expected.miou.high), abs=1e-4)
    assert (expected.verdict, told["verdict"]) in [("hurt", "behind"), ("not shown", "not shown")]
    text = cells(write_comparison(compare_runs(runs), tmp_path / "c.html"))
    assert f"{told['low']:+.1f} to {told['high']:+.1f} {told['verdict']}" in text and "Beside FixMatch" in text
    assert cli(["compare", *map(str, runs)]) == 0
    line = f"{second['name']} beside {first['name']} on val: {found['val']['mean']:+.2f}".replace("-", "\u2212")
    assert line in capsys.readouterr().out


def test_no_interval_where_the_masks_differ(tmp_path):
    write_run(tmp_path / "f0", NAMES, skill=0.7)
    write_run(tmp_path / "s0", NAMES, skill=0.6, method="supervised")
    whole = as_json(compare_runs([tmp_path / "f0", tmp_path / "s0"]))["groups"][0]["rows"][0]["gain"]["interval"]
    assert whole["val"]["covers"] == ["groups"] and whole["val"]["verdict"] == "not shown"
    with np.load(tmp_path / "s0/evaluation.npz") as arrays:
        changed = dict(arrays)
    changed["val_counts"][0, 1, 0] += 1
    np.savez_compressed(tmp_path / "s0/evaluation.npz", **changed)
    found = as_json(compare_runs([tmp_path / "f0", tmp_path / "s0"]))["groups"][0]["rows"][0]["gain"]
    assert found["interval"]["val"] is None and found["interval"]["test"] is not None and found["val"]["n"] == 1
    (tmp_path / "s0/evaluation.npz").unlink()
    found = as_json(compare_runs([tmp_path / "f0", tmp_path / "s0"]))["groups"][0]["rows"][0]["gain"]
    assert found["interval"] == {"val": None, "test": None} and found["val"]["n"] == 1


def test_a_class_that_the_masks_lack_has_no_gain(tmp_path, capsys):
    """Nor an interval one that a single image shows; without counts the gain of a class is known, its interval not."""
    runs = [tmp_path / "f", tmp_path / "s"]
    each = np.zeros((4, 3, 3), np.int64)  # sky everywhere, sand in the first image alone, no sea
    each[:, 0, 0], each[:, 0, 2], each[0, 2, 2] = 90, 10, 50
    for run, method, wrong in zip(runs, ("fixmatch", "supervised"), (0, 20), strict=True):
        write_run(run, NAMES, method=method, matrix=each.sum(0) + wrong * np.array([[-1, 0, 1], [0] * 3, [0] * 3]))
        write_evaluation(run, {"val": each + wrong // 4 * np.array([[-1, 0, 1], [0] * 3, [0] * 3])})
    (row, _) = as_json(compare_runs(runs))["groups"][0]["rows"]
    found = row["gain"]["iou"]["val"]
    assert found["sea"] is None
    # sky: 360/400 and 340/400; sand: 50 of 90, and of 110
    assert found["sky"]["gain"] == pytest.approx(5) and found["sky"]["low"] == pytest.approx(5, abs=1e-4)
    assert found["sand"] == {"gain": pytest.approx(100 * (5 / 9 - 5 / 11)), "low": None, "high": None}
    text = cells(write_comparison(compare_runs(runs), tmp_path / "c.html"))
    assert "sea not measured not measured not measured" in text and "90.0 +5.0 +5.0 to +5.0 85.0" in text
    for run in runs:
        (run / "evaluation.npz").unlink()
    (row, _) = as_json(compare_runs(runs))["groups"][0]["rows"]
    assert row["gain"]["iou"]["val"]["sky"] == {"gain": pytest.approx(5), "low": None, "high": None}
    assert cli(["compare", *map(str, runs)]) == 0
    assert "No intervals" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_tells_intervals(tmp_path, capsys, monkeypatch, width):
    """Of each score and each paired difference, on val and on test, as the JSON has them; also where it is narrow."""
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(width))
    write_seeds(tmp_path / "run", NAMES)
    words = [str(tmp_path / "run"), *(str(tmp_path / f"run/seeds/{n}/baseline") for n in range(3))]
    assert cli(["compare", *words]) == 0
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).replace("\u2212", "-").splitlines()
    assert cli(["compare", *words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["groups"][0]["rows"][0]
    assert all(len(line) <= width for line in lines)
    for role in ("val", "test"):
        start = next(n for n, line in enumerate(lines) if f" {role} " in line)
        told = " ".join(lines[start : start + 4]).split()  # a folded cell goes on below
        score, gain = row[role]["interval"], row["gain"]["interval"][role]
        ends = [f"{score['low']:.1f}", f"{score['high']:.1f}", f"{gain['low']:+.1f}", f"{gain['high']:+.1f},"]
        means = [f"{row[role]['last']['mean']:.2f}", f"{row['gain'][role]['mean']:+.2f}", gain["verdict"]]
        assert all(word in told for word in [*ends, *means]), (told, ends, means)


def test_runs_without_data_yaml_stand_alone(tmp_path):
    runs = [write_scored(tmp_path / name, "fixmatch", n, 40.0, 30.0) for n, name in enumerate("ab")]
    for run in runs:
        (run / "data.yaml").unlink()
    comparison = compare_runs(runs)
    assert len(comparison.groups) == 2 and "stands alone" in comparison.notes[0]


def test_json_is_alone_on_stdout(family, tmp_path, capsys):
    base, runs = family
    words = ["compare", *map(str, runs), "--json", "-o", str(tmp_path / "c.html")]
    assert cli(words) == 0
    captured = capsys.readouterr()
    value, end = json.JSONDecoder().raw_decode(captured.out)
    assert captured.out[end:] == "\n" and value == as_json(compare_runs(runs))
    assert str(tmp_path / "c.html") in captured.err
    page = Page((tmp_path / "c.html").read_bytes())
    for words in ("Comparison of 9 runs", "43.00 ± 3.00", "0.00 ± 1.41", "41.50 ± 3.54", "protocol cityscapes"):
        assert words in page.text, words
    assert page.tags.count("section") == 4 and 'class="thin"' in page.source


def test_tables_on_the_terminal_hold_hostile_names_as_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    write_run(tmp_path / "run", HOSTILE, new=False)
    assert cli(["compare", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out and "<script>" in out and "\x1b[31m" not in out and "IoU on val, last" in out


def test_comparison_pages_escape_names(tmp_path):
    write_run(tmp_path / "<script>alert(1)<", HOSTILE, new=False)
    target = write_comparison(compare_runs([tmp_path / "<script>alert(1)<"]), tmp_path / "c.html")
    page = Page(target.read_bytes())
    assert "script" not in page.tags and "<script>alert(1)<" in page.text
