"""Killed at any moment, the same command again gives what an unbroken run gives, bit for bit (P1, F1, F2, F7)."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

import pytest

from fewmask.engine.faults import SITES
from process.helpers import STEPS, VARIANTS, assert_same, outcome, popen, run, start, training

NEVER_HERE = {"save.mid_replace"}  # no step is saved twice
BETWEEN = {"select.inside", "round.labelled", "round.done"}  # only where there are rounds
RANKS = "rank.inside"  # only ST++
EVERYWHERE = {"supervised", "cps", "u2pl", "dars"}  # killed at every site here; the others in the slow test

IN_TURN = (
    "step.begin:2", "step.inside:1", "step.end:2", "save.open:1", "save.mid_write:2", "save.before_fsync:2",
    "save.before_manifest:1", "save.before_rename:1", "save.after_rename:1", "validate.inside:2", "round.done:1",
    "select.inside:2", "round.labelled:1", "save.mid_prune:1",
)  # fmt: skip
"""Where one run's processes die one after the other: every site but those of NEVER_HERE and RANKS."""

THREE = {
    "mean_teacher": ("step.inside:5", "save.mid_write:3", "step.end:3"),
    "fixmatch": ("save.before_fsync:6", "step.end:5", "save.mid_prune:1"),
    "fixmatch-ema": ("step.end:4", "save.before_manifest:1", "step.inside:5"),
    "ucc": ("step.inside:4", "save.before_manifest:2", "step.end:3"),
    "three_stage": ("select.inside:5", "step.end:2", "select.inside:3"),  # labels for stage 2, stage 2, labels for 3
    "self_training": ("round.done:1", "select.inside:3", "step.end:5"),
    "self_training-cbst": ("select.inside:9", "round.labelled:1", "step.end:4"),
    "cbst": ("select.inside:10", "select.inside:9", "step.end:2"),
    "st_plus_plus": ("step.end:3", "rank.inside:2", "round.labelled:2"),
    "cps-cutmix": ("save.before_rename:1", "step.inside:2", "save.mid_write:8"),
}
"""Variant to the three places where its processes die, one after the other; counts are of calls in one process."""


def _rounds(variant):
    return VARIANTS[variant][1] in ("cbst", "dars", "self_training", "st_plus_plus", "three_stage")


def _is_there(variant, fault):
    site = fault.partition(":")[0]
    return (_rounds(variant) or site not in BETWEEN) and (variant == "st_plus_plus" or site != RANKS)


def test_every_method_is_here_and_every_site():
    """A new method gets its own line above, or this fails."""
    assert THREE.keys() | EVERYWHERE == VARIANTS.keys() and not THREE.keys() & EVERYWHERE
    assert {fault.partition(":")[0] for fault in IN_TURN} == SITES.keys() - NEVER_HERE - {RANKS}
    assert any(RANKS in fault for fault in THREE["st_plus_plus"])


@pytest.mark.parametrize("variant", THREE)
def test_three_kills(variant, data, unbroken, tmp_path, io):
    _killed_and_continued(data, unbroken, tmp_path / "run", io, variant, THREE[variant])


@pytest.mark.parametrize("variant", sorted(EVERYWHERE))
def test_killed_at_every_site_in_turn(variant, data, unbroken, tmp_path, io):
    faults = [f for f in IN_TURN if _is_there(variant, f)]
    _killed_and_continued(data, unbroken, tmp_path / "run", io, variant, faults, _save_every(variant))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "site"), [(v, s) for v in VARIANTS for s in sorted(SITES.keys() - NEVER_HERE) if _is_there(v, s)]
)
def test_one_kill_at_every_site(variant, site, data, unbroken, tmp_path, io):
    calls = 1 if site in ("save.mid_prune", "save.before_manifest", "round.labelled") else 2
    save_every = _save_every(variant) if site == "save.mid_prune" else 3
    _killed_and_continued(data, unbroken, tmp_path / "run", io, variant, [f"{site}:{calls}"], save_every)


def _killed_and_continued(data, unbroken, out, io, variant, faults, save_every=3):
    command = training(data, out, *VARIANTS[variant], save_every=save_every)
    for fault in faults:
        ended = run(io, command, fault)
        assert ended.code == -signal.SIGKILL, f"{fault} did not strike: {ended.stderr}"
        assert not (out / "metrics.json").exists()
    ended = run(io, command)
    assert ended.code == 0, ended.stderr
    assert "continuing after step" in ended.stderr or len(faults) == 1 or _rounds(variant)
    assert_same(outcome(out), outcome(unbroken(variant, save_every)))


def _save_every(variant):
    """A short round saves at every step, or it would never have a checkpoint to delete."""
    return 1 if _rounds(variant) else 3


def test_killed_from_outside_at_any_time(data, unbroken, tmp_path, io):
    """At shares of an unbroken run's time: among them the start, before config.yaml, and the scoring at the end."""
    began = time.perf_counter()
    assert run(io, training(data, tmp_path / "timed", *VARIANTS["cps-cutmix"])).code == 0
    whole = time.perf_counter() - began
    killed = 0
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        out = tmp_path / f"run-{share}"
        command = training(data, out, *VARIANTS["cps-cutmix"])
        running = start(io, command)
        time.sleep(share * whole)
        running.kill()
        killed += running.wait().code == -signal.SIGKILL
        ended = run(io, command)
        assert ended.code == 0, ended.stderr
        assert_same(outcome(out), outcome(unbroken("cps-cutmix")))
        assert not [p for p in out.rglob(".*") if p.name != ".lock"], "leftovers of the killed process"
    assert killed > 0, "every process was faster than its signal"


def test_killed_before_config_yaml(data, unbroken, tmp_path, io):
    """The files of a start are written one by one; the last one makes it a run that can be continued."""
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", "data.yaml", "environment.json"):
        shutil.copy(unbroken("cps") / name, out / name)
    (out / ".tmp-1-0123abcd").write_text("vers")  # config.yaml was being written
    ended = run(io, training(data, out, *VARIANTS["cps"]))
    assert ended.code == 0, ended.stderr
    assert_same(outcome(out), outcome(unbroken("cps")))
    assert not list(out.glob(".tmp-*"))


def test_killed_as_a_user_starts_it(data, unbroken, tmp_path, io):
    """A command line from nothing, killed from outside while it trains; the same command line finishes."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fewmask", *training(data, out, *VARIANTS["cps"])]
    process = popen(io, command)
    while process.poll() is None and len(_lines(out)) < 5:
        time.sleep(0.002)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert popen(io, command).wait(240) == 0, (io / "stderr").read_text()
    assert_same(outcome(out), outcome(unbroken("cps")))


def _lines(out):
    log = out / "metrics.jsonl"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("name", "workers"),
    [("SIGTERM", "0"), ("SIGINT", "0"), ("SIGUSR1", "0"), ("SIGTERM", "2"), ("SIGINT", "2")],
)
def test_asked_to_stop(name, workers, data, unbroken, tmp_path, io, monkeypatch):
    """The signal arrives in the middle of step 6; the step is finished and saved.

    With loader processes it is sent to all of them too, as timeout, systemd and a terminal do.
    """
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    out, gate = tmp_path / "run", tmp_path / "gate"
    gate.mkdir()
    command = training(data, out, "--method", "process.spy:Waiting", "--workers", workers)
    monkeypatch.setenv("SPY_WAIT", str(gate))
    running = start(io, command)
    while not (gate / "reached").exists() and running.process.is_alive():
        time.sleep(0.005)
    if workers == "0":
        running.kill(signal.Signals[name])
    else:
        os.killpg(running.pid, signal.Signals[name])
    (gate / "go").touch()
    ended = running.wait()
    assert ended.code == 75, ended.stderr
    assert ended.error == (
        f"error: stopped by {name} after step 6 of {STEPS}; the state is saved; run the same command again to continue"
    )
    assert (out / "checkpoints" / "step-00000006" / "MANIFEST.json").is_file()
    assert not (out / "metrics.json").exists()

    ended = run(io, command)
    assert ended.code == 0, ended.stderr
    assert "continuing after step 6" in ended.stderr
    whole = outcome(tmp_path / "run")
    same = outcome(unbroken("cps"))
    # only its name differs; the checkpoint of step 6 was a due one anyway
    assert whole["metrics.json"].pop("method") == "process.spy:Waiting" and same["metrics.json"].pop("method") == "cps"
    assert_same(whole, same)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_asked_to_stop_before_it_trains(name, data, tmp_path, io, monkeypatch):
    """In the rehearsal, of the last step: nothing is begun, and the code is that of a stop."""
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("SPY_WAIT", str(gate))
    command = training(data, tmp_path / "run", "--method", "process.spy:Waiting", "--steps", "6")
    running = start(io, command)
    while not (gate / "reached").exists() and running.process.is_alive():
        time.sleep(0.005)
    running.kill(signal.Signals[name])
    ended = running.wait()
    assert ended.code == 75 and ended.stderr.startswith(f"error: stopped by {name} between trainings; "), ended.stderr
    assert not (tmp_path / "run").exists()
    (gate / "go").touch()
    assert run(io, command).code == 0


def test_second_interrupt_is_now(data, tmp_path, io, monkeypatch):
    out, gate = tmp_path / "run", tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("SPY_WAIT", str(gate))
    running = start(io, training(data, out, "--method", "process.spy:Waiting"))
    while not (gate / "reached").exists() and running.process.is_alive():
        time.sleep(0.005)
    for _ in range(2):
        running.kill(signal.SIGINT)
        time.sleep(0.1)
    ended = running.wait()
    assert ended.code == 130 and "Traceback" not in ended.stderr
    assert ended.error.startswith("error: interrupted; what was not saved yet is lost; ")
