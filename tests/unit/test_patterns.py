"""Patterns that users write end in time, whatever they are, and match what ``re`` matches."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from fewmask.data import patterns
from fewmask.data.files import image_files
from fewmask.data.groups import read_groups
from fewmask.data.patterns import matched
from fewmask.data.roles import _glob
from fewmask.errors import ConfigError

ENDLESS = ["(a+)+$", "(a|aa)+$", "(.*a){25}$", "a*a*a*a*a*a*a*a*a*$"]
"""Each takes years on the name below; a look at nested quantifiers would find the first one alone."""


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 2.0)
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("rule", ENDLESS)
def test_groups_that_would_take_years(rule, tmp_path, soon):
    with pytest.raises(ConfigError, match="takes more than 2 s to be matched with 2 names") as error:
        read_groups({"train/b": Path("b"), "train/" + 400 * "a" + "!": Path("a")}, rule, tmp_path)
    assert repr(rule) in error.value.what and error.value.exit_code == 2


def test_a_glob_that_would_take_years(tmp_path, soon):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"{240 * 'a'}.png").touch()
    with pytest.raises(ConfigError, match="takes more than 2 s") as error:
        image_files(tmp_path, f"images/{12 * '*a'}*b.png", [])
    assert error.value.where == str(tmp_path)


@pytest.mark.parametrize("pattern", ["(a.)(b)?", "^x", "", "a|(b)", "\\d+$", "é"])
def test_what_is_matched(pattern):
    names = ["ab1", "xaxb", "b", "é\udcff", "", "line\nend 7"]
    hits = [re.search(pattern, name) for name in names]
    expected = [m and [m[0], *m.groups()] for m in hits]
    assert matched("search", pattern, 0, names, told="") == expected


def test_a_glob_over_names_is_that_of_a_regular_expression():
    draw = random.Random(0)
    found = set()
    for _ in range(4000):
        name = "".join(draw.choices("ab/?[\n", k=draw.randint(0, 7)))
        pattern = "".join(draw.choices("ab*?[]", k=draw.randint(0, 6)))
        regex = re.compile(re.escape(pattern).replace(r"\*", ".*"), re.DOTALL)
        hit = _glob(pattern).match(name) is not None
        assert hit == (regex.fullmatch(name) is not None), (pattern, name)
        found.add(hit)
    assert found == {True, False}
    assert not _glob(300 * "*a" + "b").match(9000 * "a"), "and in no time"
