"""What benchmarks/label_budget.py makes of its records: pairs by seed, a table, and a figure that is drawn alike."""

from __future__ import annotations

import json

import pytest
from benchmarks import label_budget

RECORDS = [
    ("cells", 0, "start", 2, 40.0), ("cells", 0, "random-1", 4, 50.0), ("cells", 0, "suggest-1", 4, 53.0),
    ("cells", 1, "start", 2, 42.0), ("cells", 1, "random-1", 4, 51.0), ("cells", 1, "suggest-1", 4, 56.0),
    ("cells", 2, "start", 2, 80.0), ("cells", 2, "random-1", 4, 99.0),
]  # fmt: skip


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setattr(label_budget, "OUT", tmp_path)
    for data, seed, label, masks, miou in RECORDS:
        one = {"data": data, "seed": seed, "label": label, "names": ["a"] * masks, "test": {"miou": miou}}
        (tmp_path / f"{data}-{seed}-{label}.json").write_text(json.dumps(one))
    return label_budget.scores()


def test_only_seeds_of_both_ways_count_and_the_difference_is_paired(found):
    first, second = label_budget.table(found).splitlines()[2:]
    assert first == "| cells | 2 | 54.00 ± 22.54 | 54.00 ± 22.54 | +0.00 ± 0.00 | 3 |"
    # +3 and +5; the third seed has no round of suggestions yet
    assert second == "| cells | 4 | 50.50 ± 0.71 | 54.50 ± 2.12 | +4.00 ± 1.41 | 2 |"


def test_the_curves_are_drawn_and_the_same_again(found, tmp_path):
    (file,) = label_budget.draw(found, tmp_path)
    first = file.read_bytes()
    assert file.name == "label-budget-cells.svg" and first.count(b"random") and first.count(b"suggest")
    assert label_budget.draw(found, tmp_path) == [file] and file.read_bytes() == first


def test_a_random_set_holds_the_smaller_ones():
    pool = [f"image-{n}" for n in range(30)]
    sets = [label_budget.random_names(pool, 1, n) for n in (6, 12, 18)]
    assert sets[2][:12] == sets[1] and sets[1][:6] == sets[0] and len(set(sets[2])) == 18
    assert sets[0] != label_budget.random_names(pool, 2, 6)
