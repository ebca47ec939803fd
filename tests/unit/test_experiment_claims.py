"""What five pairs say of a paper's claim."""

from __future__ import annotations

import pytest
from benchmarks.experiments import claims, tables
from benchmarks.experiments.study import HERE, read_study

from fewmask.config import load_yaml
from fewmask.method import Task
from fewmask.methods import resolve
from fewmask.recipe import read_recipe


def test_the_interval_by_hand():
    """1, 2, 3, 4, 5: mean 3, deviation √2.5, t(4, 97.5 %) = 2.776: 3 ± 2.776·√(2.5/5)."""
    said, low, high = claims.verdict([1, 2, 3, 4, 5])
    assert said == "holds" and (low, high) == (pytest.approx(3 - 1.963, abs=1e-3), pytest.approx(3 + 1.963, abs=1e-3))


@pytest.mark.parametrize(
    ("differences", "said"),
    [([1, 2, 3], "not shown"), ([-1.1, -1, -0.9], "reversed"), ([3], "not shown"), ([], "not shown")],
)
def test_verdicts(differences, said):
    assert claims.verdict(differences)[0] == said


def test_a_row_takes_the_pairs_that_both_arms_have(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HERE", tmp_path)
    (tmp_path / "claims.yaml").write_text(
        "s:\n  claims:\n  - {paper: A, where: T1, what: x, from: a, to: b, figures: [70, 72]}\n"
        "  - {paper: A, where: T2, what: y, from: a, to: b, figures: [70, 71.9]}\n"
        "  - {paper: A, where: T3, what: z, from: a, to: c, figures: [70, 73]}\n"
    )
    scores = {"a": {(0, 0): 50.0, (0, 1): 51.0, (0, 2): 40.0}, "b": {(0, 0): 52.0, (0, 1): 53.2, (0, 3): 99.0}}
    tested, small, missing = claims.claims_block("s", scores).strip().splitlines()[2:]
    assert tested == ("| A, T1 | x | 70 → 72 = +2.0 | 50.5 | 52.6 | +2.1 ± 0.1 | +0.8 to +3.4 | 2 | holds |")
    assert small.endswith("| 2 | – |") and missing.endswith("| 0 | not run |")


def test_divergences_are_means_over_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HERE", tmp_path)
    row = "{{paper: A, where: T5, what: {0}, arm: {0}, figure: 0.05}}"
    rows = ", ".join(row.format(arm) for arm in "abc")
    (tmp_path / "claims.yaml").write_text(f"s: {{divergence: [{rows}]}}\n")
    lines = claims.divergence_block("s", {"a": [0.1, 0.3], "b": [0.2]}).strip().splitlines()[2:]
    ends = ["0.2000 ± 0.1414 | 2 |", "0.2000 | 1 |", "not run | 0 |"]
    assert lines == [f"| A, T5 | {arm} | 0.0500 | {end}" for arm, end in zip("abc", ends, strict=True)]


def test_every_claim_names_arms_of_its_study():
    for study, kinds in load_yaml((HERE / "claims.yaml").read_bytes()).items():
        arms = {e.arm: e for e in read_study(study)}
        known = arms.keys() | {f"{arm} after {name}" for arm, e in arms.items() for name in round_names(e)}
        assert all({row["from"], row["to"]} <= known for row in kinds["claims"]), study
        assert {row["arm"] for row in kinds.get("divergence", ())} <= arms.keys(), study


def round_names(experiment):
    recipe = read_recipe(None, experiment.keys | {"data.dir": "data"})
    return [one.name for one in resolve(recipe.method_name)(recipe.constants(), Task(3, (0.5, 0.3, 0.2))).rounds()]


def test_a_round_of_an_arm_has_its_own_score(tmp_path, monkeypatch):
    """Stage by stage, of one run: what its rounds scored, beside what it ended with."""
    rounds = [{"name": f"stage-{n}", "test": {"miou": 40.0 + n}, "labels": None} for n in (1, 2)]
    metrics = {"test": {"miou": 42.0}, "rounds": rounds}
    record = {"arm": "three_stage", "keys": {"train.seed": 0}, "metrics": metrics}
    monkeypatch.setattr(tables, "newest", lambda study: [record])
    seen = {}
    monkeypatch.setattr(tables, "claims_block", lambda study, scores: seen.update(scores) or "")
    tables.claims("s")
    assert seen == {"three_stage": {(0, 0): 42.0}, "three_stage after stage-1": {(0, 0): 41.0},
                    "three_stage after stage-2": {(0, 0): 42.0}}  # fmt: skip
