"""The rules that benchmarks/suggest_rules.py compares, on points of the unit circle, and its table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from benchmarks import suggest_rules
from benchmarks.suggest_rules import FIRST, OUT, RULES, table


def at(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=torch.float64)


@pytest.mark.parametrize(("rule", "first"), [
    ("uncertainty", [5, 4]), ("product", [5, 4]), ("coverage", [2, 5]), ("coverage of worth", [2, 5]),
    ("coverage of its root", [2, 5]),
])  # fmt: skip
def test_which_images_each_rule_takes_first(rule, first):
    """Five images like each other, 90 degrees from the labelled one; a sixth is unlike all of them, and unsurer."""
    uncertainty = np.array([0.5, 0.5, 0.5, 0.5, 0.55, 0.9])
    choose = RULES[rule]
    assert choose is not None
    taken = choose(at(86, 88, 90, 92, 94, 270), uncertainty, np.ones(6), at(0), 2)
    assert taken.tolist() == first


def test_the_table_is_paired_by_draw():
    rules = {rule: [[1.0, 10.0, 10.0, 10.0], [1.0, 20.0, 20.0, 20.0]] for rule in RULES}
    rules["product"] = [[1.0, 11.0, 11.0, 11.0], [1.0, 23.0, 23.0, 23.0]]
    (row,) = table({"scenes": rules}).splitlines()[2:]
    assert row.startswith("| scenes, 8 masks | 2 | 15.00 | +0.00 ± 0.00 | +2.00 ± 1.00 |")


@pytest.mark.skipif(not OUT.is_file(), reason="benchmarks/suggest_rules.py has written nothing")
def test_what_is_committed_is_whole():
    found = json.loads(OUT.read_text(encoding="utf-8"))["miou"]
    for data, rules in found.items():
        assert data in FIRST and set(rules) == set(RULES)
        assert {len(one) for draws in rules.values() for one in draws} == {suggest_rules.ROUNDS + 1}
        assert len({tuple(draws[0][:1]) for draws in rules.values()}) == 1, "all begin with the same masks"
