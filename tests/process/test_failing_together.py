"""A bad file that one of two processes meets ends both, with the code and the words of what was wrong."""

from __future__ import annotations

import sys
import time

import pytest

from process.helpers import ending, popen, training, two_tasks
from process.test_quarantine import cut, dataset

WAITING = ["--method", "process.spy:Waiting", "machine.cache_mb=0", "machine.rank_timeout=900"]
"""A collective that waits for its timeout would take longer than the tests wait."""


@pytest.fixture
def broken_for(own_data, tmp_path, monkeypatch):
    """Damage the image that one rank alone reads for step 7, while both are held up in step 6."""
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("SPY_WAIT", str(gate))

    def damage(rank, first):
        source = dataset(own_data, None)
        image = source.item("u", source.sample("u", 6, rank)).image  # a batch of two: a slot is a rank
        while not (gate / "reached").exists() and first.poll() is None:
            time.sleep(0.02)
        cut(image)
        (gate / "go").touch()
        return str(image)

    yield damage
    (gate / "go").touch()  # after a failure, too: nobody is to wait for ever


@pytest.mark.parametrize("rank", [0, 1])
def test_both_end_with_the_cause(rank, own_data, tmp_path, io, monkeypatch, broken_for):
    """The first process holds the store that they have met at, so that it must not leave before it is read."""
    tasks = two_tasks(io, training(own_data, tmp_path / "run", *WAITING), monkeypatch)
    with ending(*tasks):
        image = broken_for(rank, tasks[0])
        codes = [task.wait(240) for task in tasks]
    told = [(io / task / "stderr").read_text() for task in ("0", "1")]
    assert codes == [3, 3], told
    errors = [[line for line in text.splitlines() if line.startswith("error:")] for text in told]
    assert errors[0] == errors[1] and len(errors[0]) == 1 and image in errors[0][0] and "Truncated" in errors[0][0]
    assert not any("Traceback" in text for text in told)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.slow
def test_started_by_devices(rank, own_data, tmp_path, io, broken_for):
    """Fabric, which has started the second process, does not kill the first one over it."""
    command = training(own_data, tmp_path / "run", *WAITING, "--devices", "cpu:2")
    with ending(first := popen(io, [sys.executable, "-m", "fewmask", *command])):
        image = broken_for(rank, first)
        assert first.wait(240) == 3, (io / "stderr").read_text()
    assert f"{image}; " in (io / "stderr").read_text()
