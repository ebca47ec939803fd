"""``--time``: steps that fit, chosen once; the same command continues, another time is another run."""

from __future__ import annotations

import json
import signal
import time

from process.helpers import assert_refused, good, metrics_of, run, training


def timed(data, out, *more):
    """Return the arguments of ``training`` without its steps and intervals."""
    words = training(data, out, *more)
    at = words.index("--steps")
    return [w for w in [*words[:at], *words[at + 2 :]] if not w.startswith(("train.eval", "train.save"))]


def test_a_run_of_a_given_time(data, tmp_path, io):
    """Killed, continued, finished; the steps are those of the first call. What it took is near what was asked."""
    out = tmp_path / "run"
    words = timed(data, out, "--method", "supervised", "--time", "12s")
    assert run(io, words, "step.end:30").code == -signal.SIGKILL
    plan = json.loads((out / "plan.json").read_text())
    assert plan["time"] == 12 and plan["steps"] >= 100 and plan["expected"]["seconds"] <= 12
    ended = good(run(io, words))
    assert "is already finished" not in ended.stderr
    assert metrics_of(out)["steps"] == plan["steps"]
    assert "is already finished" in good(run(io, words)).stderr
    assert_refused(
        run(io, timed(data, out, "--method", "supervised", "--time", "13s")), 4, "began with --time 12s, not 13s"
    )
    assert_refused(run(io, training(data, out, "--method", "supervised")), 4, "another configuration", "train.steps")


def test_an_untimed_run_is_not_continued_with_a_time(unbroken, data, io):
    out = unbroken("supervised")
    assert_refused(run(io, timed(data, out, "--method", "supervised", "--time", "12s")), 4, "began with no --time")


def test_refusals(data, tmp_path, io):
    out = tmp_path / "run"
    both = training(data, out, "--method", "supervised", "--time", "12s")
    assert_refused(run(io, both), 2, "--time chooses the steps, and they are given")
    assert_refused(run(io, timed(data, out, "--method", "supervised", "--time", "soon")), 2, "'soon' is no time")
    short = run(io, timed(data, out, "--method", "supervised", "--time", "1s"))
    assert_refused(short, 2, "1 s are enough for", "give more time")
    assert not out.exists()


def test_a_time_in_place_of_a_recipe_s_steps(unbroken, data, tmp_path, io):
    """A recipe says how many steps; who gives a time on the command line has decided otherwise."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\ntrain: {steps: 77}\nmachine: {workers: 0}\n")
    words = timed(data, tmp_path / "run", "--method", "supervised", "--recipe", str(recipe), "--plan")
    plan = json.loads(good(run(io, [*words, "--time", "1h"])).stdout)
    assert plan["time"] == 3600 and plan["steps"] > 77
    assert json.loads(good(run(io, [*words[:-1], "--out", str(tmp_path / "b"), "--plan"])).stdout)["steps"] == 77
    assert_refused(run(io, [*words, "--time", "1h", "--steps", "5"]), 2, "--time chooses the steps")


def test_the_plan_of_a_time(data, tmp_path, io):
    """Two arms; the plan says what both take, and why what was chosen."""
    began = time.perf_counter()
    ended = good(run(io, timed(data, tmp_path / "run", "--method", "fixmatch", "--time", "1h", "--baseline", "--plan")))
    plan = json.loads(ended.stdout)
    assert plan["time"] == 3600 and plan["recipe"]["train"]["steps"] == plan["trainings"][0]["steps"] > 1000
    assert 3000 < plan["expected"]["seconds"] <= 3600 and time.perf_counter() - began < 60
    assert [t["method"] for t in plan["expected"]["trainings"]] == ["supervised", "fixmatch"]
    assert all(t["step_seconds"] > 0 for t in plan["expected"]["trainings"])
    assert plan["fingerprint"]["classes"].keys() == {"sky", "sea", "sand"} and plan["fingerprint"]["labelled"] == 5
    assert any(sentence.startswith("expected: ") for sentence in plan["why"])
    assert not (tmp_path / "run" / "config.yaml").exists()
