"""The contract of every method: fourteen points, and proof that each can fail."""

import json
import re
from pathlib import Path

import pytest
import torch

from fewmask.contract import POINTS, Case, check_method, golden, processes, run_two_ranks
from fewmask.errors import ConfigError
from fewmask.methods import METHODS

GOLDEN = Path(__file__).parent.parent / "golden"

VARIANTS = [
    Case("supervised", {"sup": {"loss": "ohem"}}),
    Case("supervised", {"sup": {"loss": "focal"}}),
    Case("supervised", {"sup": {"loss": "ce+dice", "class_weights": "balanced"}}),
    Case("mean_teacher", {"authors_code": "torchsemiseg"}),
    Case("mean_teacher", {"authors_code": "pixelssl"}),
    Case("fixmatch", {"teacher": "ema", "average": True}),
    Case("fixmatch", {"teacher": "ema", "teacher_mode": "train"}),
    Case("fixmatch", {"align": 1.0, "threshold": "class_floor"}),
    Case("cps", {"cutmix": True}),
    Case("cps", {"on": "labelled"}),
    Case("cps", {"on": "unlabelled", "train_padding": True}),
    Case("cps", {"variant": "sps"}),
    Case("cps", {"variant": "sps", "cutmix": True}),
    Case("cps", {"variant": "cpc"}),
    Case("ucc", {"heads": "separate"}),
    Case("ucc", {"own_views": True, "reweight": "none"}),
    Case("ucc", {"views": "s", "paste": "cp"}),
    Case("ucc", {"views": "w", "paste": "dcp", "reweight": "printed"}),
    Case("u2pl", {"lam_c": 0.0}),
    Case("u2pl", {"bank": 0, "negatives": "authors_code"}),
    Case("u2pl", {"negatives_from": "all", "ranked": False}),
    Case("u2pl", {"warmup": 0.1}),
    Case("u2pl", {"ramp": 0.5, "strong": True}),
    Case("u2pl", {"augment": "ael"}),
    Case("dars", {"alpha": [0.2], "aux": 0.4}),
    Case("three_stage", {"stages": 2, "ema": False, "strong": False}),
    Case("three_stage", {"stages": 2, "lam_pl": 0.0, "output": "teacher"}),
    Case("three_stage", {"lam_con": 0.0, "branch": "n-2"}),
    Case("self_training", {"view": "strong", "init": "continue"}),
    Case("st_plus_plus", {"view": "weak", "cutout": 0.0}),
    Case("planted:Adversarial"),
]
CASES = [one for case in [*map(Case, METHODS), *VARIANTS] for one in case.each_round()]
APART = {
    ("11 pixels", "cps-on=unlabelled-train_padding=True"): "what it is for: the authors' code trains padding",
    ("13 processes", "supervised-sup={'loss': 'ohem'}"): "each process mines its own pixels, as the authors' code does",
    ("13 processes", "supervised-sup={'loss': 'ce+dice', 'class_weights': 'balanced'}"): "Dice is of each process",
}
"""Points that a variant does not keep, and why it need not: each must fail."""
QUICK = [point for point in POINTS if not point.startswith("7")]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("point", QUICK)
def test_point(point, case):
    if (point, str(case)) not in APART:
        POINTS[point](case)
        return
    with pytest.raises(AssertionError):
        POINTS[point](case)


def test_every_exemption_is_of_a_case():
    assert {name for _, name in APART} <= set(map(str, CASES)) and {point for point, _ in APART} <= set(QUICK)


def test_every_method_has_a_case():
    assert {case.name for case in CASES} >= set(METHODS)


def test_two_ranks_stay_equal(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    found = run_two_ranks(CASES)
    assert found == {str(case): "" for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden_losses(case):
    """Point 8: a refactor may not move the first losses. tests/contract/record_golden.py records them anew."""
    recorded = json.loads((GOLDEN / f"{case.name.split(':')[-1]}.json").read_text())[str(case)]
    for now, then in zip(golden(case), recorded, strict=True):
        assert now == pytest.approx(then, rel=2e-4, abs=1e-6)


FAULTS = {
    "TeacherWithGradient": ("2 gradient map", "trains ['student', 'teacher'], flow declares ['student']"),
    "ComparedWithItself": ("2 gradient map", "term 'con' trains nothing"),
    "UnusedView": ("3 views matter", "view 1 (strong) of stream 'u' is declared and changes no term"),
    "LostBank": ("6 resume", "not in the checkpoint: method.bank"),
    "HiddenBuffer": ("6 resume", "not in the checkpoint: bank.values"),
    "MovesTeacherInLosses": ("5 untrained", "changes outside after_step"),
    "UndeclaredTerm": ("1 terms", "flow declares ['con', 'sup']"),
    "IdleParameters": ("4 all trained", "get no gradient: ['spare.weight'"),
    "KeepsItems": ("10 parts", "memo 'sure' has shape (4, 16, 16), in two parts (2, 16, 16): it is no sum"),
    "Twins": ("9 initial", "'other' and 'student' start equal"),
    "IgnoresLabels": ("3 views matter", "the labels of stream 'l' change no term"),
    "UnknownNetwork": ("1 terms", "flow names 'studnet', networks() makes ['student', 'teacher']"),
    "LearnsPadding": ("11 pixels", "term 'con' trains pixels of the padding"),
    "LearnsKnown": ("11 pixels", "term 'con' trains pixels that have a label"),
    "LearnsVoid": ("11 pixels", "term 'sup' trains void pixels of labelled images"),
    "Counts": ("12 repeats", "called twice with one step and batch, losses return another con"),
    "DrawsGlobally": (
        "12 repeats",
        "another state of a global random generator (of torch, numpy or Python) gives another con",
    ),
    "LeavesMode": ("12 repeats", "losses leave network 'student' in another mode"),
    "ChangesBatch": ("12 repeats", "losses change stream 'u' of the batch in place"),
    "LocalMean": ("13 processes", "term 'con' is "),
    "OneWaits": ("13 processes", "one of two processes waits for the other"),
    "UnknownPredictor": ("14 prediction", "predictors names 'averaged', networks() makes ['student', 'teacher']"),
    "FewerClasses": ("14 prediction", "predict of 'teacher' returns the shape (2, 2, 16, 12), not (2, 3, 16, 12)"),
    "Probabilities": ("14 prediction", "predict of 'teacher' returns probabilities, not logits"),
    "Undeliverable": (
        "14 prediction",
        "'teacher' is delivered, and no network of the run's architecture: ['spare.bias'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault, monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 2.0)  # of a process that waits in vain
    point, reason = FAULTS[fault]
    with pytest.raises(AssertionError) as failure:
        POINTS[point](Case(f"planted:{fault}"))
    assert reason in str(failure.value)


def test_the_base_of_the_planted_faults_is_right():
    for point in QUICK:
        POINTS[point](Case("planted:_Teacher"))


def test_check_method_reports_each_point(monkeypatch):
    lines = []
    monkeypatch.setitem(POINTS, "7 two ranks", lambda case: None)  # two processes are another test's business
    failures = check_method("planted:UnusedView", lines.append)
    assert len(lines) == len(POINTS)
    assert [f.split(":")[0] for f in failures] == ["3 views matter"]


def test_a_fault_fails_at_its_point_alone():
    """A counter, say, must not look like labels that something reads; that a resume differs is its fault, too."""
    for fault in ("Counts", "DrawsGlobally", "ChangesBatch", "LocalMean", "LearnsVoid", "IgnoresLabels"):
        for point in QUICK:
            if point != FAULTS[fault][0] and (fault, point) != ("Counts", "6 resume"):
                POINTS[point](Case(f"planted:{fault}"))


def test_an_exception_of_the_method_is_a_failed_point_with_its_line(monkeypatch):
    lines = []
    monkeypatch.setitem(POINTS, "7 two ranks", lambda case: None)
    failures = check_method("planted:Raises", lines.append)
    assert len(lines) == len(POINTS) and len(failures) > 5
    assert re.fullmatch(r"1 terms: IndexError: tuple index out of range \(.*planted\.py:\d+, in source\)", failures[0])
    assert f"FAILED {failures[0]}" in lines and "FAILED 2 gradient map: as above" in lines
    assert "ok     14 prediction" in lines


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:\n", r"SyntaxError: .* \(bad_one\.py:1\)"),
        ("x = 1\ny\n", r"NameError: .* \(bad_one\.py:2, in <module>\)"),
        ("x = {}\n\nx['y']\n", r"KeyError: 'y' \(bad_one\.py:3, in <module>\)"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_with_its_line(text, told, tmp_path, monkeypatch):
    (tmp_path / "bad_one.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=told):
        check_method("bad_one:Method", print)
