"""The contract of every method: ten points, and proof that each can fail."""

import json
from pathlib import Path

import pytest
import torch

from fewmask.contract import POINTS, Case, check_method, golden, run_two_ranks
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
    POINTS[point](case)


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
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault):
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
