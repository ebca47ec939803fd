"""The progress of a pass over files: a bar on a terminal, plain lines elsewhere, nothing for short ones."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fewmask.data.index import Item, MaskCode
from fewmask.data.scan import scan
from fewmask.engine import progress
from fewmask.engine.progress import Ticker
from fixtures_data import save_image


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_plain_lines(clock, monkeypatch):
    said = []
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=io.StringIO(), force_terminal=False))
    with Ticker("looking", said.append) as tick:
        for seconds, done in ((1, 50), (9, 100), (12, 150), (15, 200), (40, 400)):
            clock[0] = 100.0 + seconds
            tick(done, 1000)
    assert said == ["looking 150/1000  ETA 1:08", "looking 400/1000  ETA 1:00"]
    with Ticker("looking") as tick:
        clock[0] += 99
        tick(1, 2)


def test_a_bar_that_leaves_nothing_behind(clock, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    with Ticker("looking", pytest.fail) as tick:
        tick(1, 10)
        assert screen.getvalue() == "", "it is over soon"
        clock[0] += 3
        tick(5, 10)
    assert "looking" in screen.getvalue() and "5/10" in screen.getvalue()


def test_a_scan_tells_how_far_it_is(tmp_path):
    image = save_image(tmp_path / "x.jpg")
    told = []
    scan([Item(f"x{n}", image) for n in range(120)], 2, MaskCode(), cache=False, tick=lambda *n: told.append(n))
    assert told == [(50, 120), (100, 120)]
