"""Partial masks on the command line: which methods learn from them, what is said, and that a run can be resumed."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import yaml
from PIL import Image

from process.helpers import assert_same, good, outcome, run, training

LATER = 77


@pytest.fixture
def partial(own_data):
    """Three of the five training masks are finished in their left half only."""
    for n in range(3):
        path = own_data / "masks" / f"train/{n:02d}.png"
        mask = np.array(Image.open(path))
        mask[:, 8:] = LATER
        Image.fromarray(mask).save(path)
    with (own_data / "data.yaml").open("a") as file:
        file.write(f"unlabelled_id: {LATER}\n")
    return own_data


def test_a_method_that_learns_from_the_rest(partial, tmp_path, io):
    """The images stand in both pools, where nothing is unlabelled otherwise too; a killed run resumes to the same."""
    command = training(partial, tmp_path / "whole", "--method", "fixmatch")
    ended = good(run(io, command))
    assert "3 of 5 labelled images are labelled in part: their other pixels join the unlabelled images" in ended.stderr
    again = training(partial, tmp_path / "again", "--method", "fixmatch")
    assert run(io, again, "step.inside:7").code == -signal.SIGKILL
    good(run(io, again))
    assert_same(outcome(tmp_path / "again"), outcome(tmp_path / "whole"))
    for file in (partial / "images/train").glob("bare*"):
        file.unlink()
    ended = good(run(io, training(partial, tmp_path / "alone")))
    assert "method: fixmatch, since there are 0 unlabelled images, and 3 labelled in part" in ended.stderr
    assert yaml.safe_load((tmp_path / "alone/data.yaml").read_text())["unlabelled"] == 0
    ended = good(run(io, training(partial, tmp_path / "none", "--unlabelled", "none")))
    assert "method: supervised" in ended.stderr and "in part" not in ended.stderr


def test_a_method_that_does_not(partial, tmp_path, io):
    ended = good(run(io, training(partial, tmp_path / "run", "--method", "supervised")))
    assert (
        "3 of 5 labelled images are labelled in part: supervised does not learn from their other pixels" in ended.stderr
    )
    pixels = yaml.safe_load((tmp_path / "run/data.yaml").read_text())["labelled_pixels"]
    full = {"sky": 48, "sea": 48, "sand": 48}  # and a stripe of void
    half = {"sky": 48, "sea": 48, "sand": 0}
    assert pixels == {name: 2 * full[name] + 3 * half[name] for name in full}
