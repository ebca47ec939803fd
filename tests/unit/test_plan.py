"""fewmask.run.plan: times as people write them, how long a run takes, how many steps a time allows; by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fewmask.errors import ConfigError
from fewmask.recipe import Recipe, read_recipe
from fewmask.run.pace import Cost, Pace
from fewmask.run.plan import duration, expected, fitted, seconds_of, spoken


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("2d", 172800), (" 1h0m5s ", 3605)],
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-2h", "2 hours", "30m1h", "1e3s", "2h2h"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time; --time; write 2h"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(50, "50 s"), (119, "2 min"), (840, "14 min"), (7800, "2 h 10 min"), (86400, "24 h 0 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def data(val: int = 10, test: int = 0, folds: tuple[int, ...] = ()) -> Any:
    """Return what a run has of ``Prepared``; ``folds`` are numbers of images."""

    def index(val: int) -> Any:
        return SimpleNamespace(items={"val": [None] * val, "test": [None] * test})

    return SimpleNamespace(index=index(val), folds=[SimpleNamespace(index=index(n)) for n in folds])


def recipe(**train: Any) -> Recipe:
    return read_recipe(None, {"data.dir": "x"} | {f"train.{key}": value for key, value in train.items()})


SUPERVISED = Cost("supervised", (Pace(0.1, 0.5, 10**6, 2),), (1.0,), (0,))
FIXMATCH = Cost("fixmatch", (Pace(0.3, 0.5, 3 * 10**6, 3),), (1.0,), (0,))


def test_expected_by_hand() -> None:
    """100 steps, a score every 50 on 10 images of .5 s, 4 test images, 5 s to begin.

    Supervised: 10 + (2 + 2)·10·.5 + 2·4·.5 + 5 = 39; FixMatch: 30 + (2 + 3)·5 + 4 + 5 = 64. Four checkpoints each of
    the larger state.
    """
    found = expected(recipe(steps=100, eval_every=50), [SUPERVISED, FIXMATCH], data(test=4))
    assert found["seconds"] == pytest.approx(39 + 64) and found["disk_mb"] == 2 * 4 * 3
    assert [t["method"] for t in found["trainings"]] == ["supervised", "fixmatch"]
    assert spoken(found) == "expected: 2 min, 24 MB of checkpoints (supervised 0.1 s a step, fixmatch 0.3 s a step)"


def test_rounds_by_hand() -> None:
    """A quarter of the steps at .1 s, the rest at .3: .25 a step; the second round labels 20 images of .5 s before."""
    one = Cost("st", (Pace(0.1, 0.5, 0, 2), Pace(0.3, 0.5, 0, 2)), (0.25, 0.75), (0, 20))
    assert one.step == pytest.approx(0.25)
    plain = recipe(steps=100, eval_every=0)
    assert one.seconds(plain, val=0, test=0) == pytest.approx(25 + 10 + 10)


def test_as_many_steps_as_fit() -> None:
    """1000 s. A score of both arms takes 10 s, so that eight take less than a fifth: every 279th step, seven times.

    .4 s a step of both arms, 70 s of scores, (2 + 3)·5 s at the end, 10 s to begin: (1000 - 105)/.4 = 2237, and tens.
    """
    found = fitted(recipe(), 1000, [SUPERVISED, FIXMATCH], data())
    assert found.train.steps == 2230 and found.train.eval_every == found.train.save_every == 279
    assert expected(found, [SUPERVISED, FIXMATCH], data())["seconds"] == pytest.approx(892 + 70 + 25 + 10)
    assert expected(found.replace("train", steps=2250), [SUPERVISED, FIXMATCH], data())["seconds"] > 1000


def test_scores_take_no_more_than_a_fifth() -> None:
    """100 s: a score of both takes 10 s, so that two are made."""
    found = fitted(recipe(), 100, [SUPERVISED, FIXMATCH], data())
    assert -(-found.train.steps // found.train.eval_every) == 2 and found.train.steps > 100


def test_too_little_time() -> None:
    with pytest.raises(ConfigError, match=r"40 s are enough for 0 steps of supervised and fixmatch; 20 take \d+ s"):
        fitted(recipe(), 40, [SUPERVISED, FIXMATCH], data())


def test_folds_by_hand() -> None:
    """Three folds of 10, 9 and 9 images: three trainings of each arm as above, and the method once more on all."""
    crossed = recipe(steps=100, eval_every=50).model_copy(update={"folds": 3})
    found = expected(crossed, [SUPERVISED, FIXMATCH], data(val=0, test=4, folds=(10, 9, 9)))
    assert found["seconds"] == pytest.approx(3 * 39 + 4 * 64) and found["disk_mb"] == (3 + 4) * 4 * 3
    one = fitted(recipe(), 5000, [SUPERVISED, FIXMATCH], data())
    several = fitted(crossed.replace("train", steps=1), 5000, [SUPERVISED, FIXMATCH], data(folds=(10, 9, 9)))
    assert one.train.steps * 0.4 == pytest.approx(several.train.steps * (3 * 0.1 + 4 * 0.3), rel=0.1)


def test_seeds_share_the_time() -> None:
    one, three = (fitted(recipe().model_copy(update={"seeds": n}), 3000, [FIXMATCH], data()) for n in (1, 3))
    assert one.train.steps == pytest.approx(3 * three.train.steps, rel=0.1)
