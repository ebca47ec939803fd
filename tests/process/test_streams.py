"""What a step sees is a function of (seed, step): not of workers, ranks or where a run started (promise P2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from fewmask.batch import Items
from fewmask.data.feed import Feed
from fewmask.data.stream import ItemLoader, StepDataset, plan_slots
from fewmask.data.views import Augment
from fewmask.method import Step, Task, trainings
from fewmask.methods import resolve
from fewmask.recipe import read_recipe
from fewmask.run.data import read_data
from process.helpers import STEPS, VARIANTS, assert_same, outcome, popen, run, training

FORK_IN_THREADS = (
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"  # Python 3.12: pytest has threads of its own
)


def streams_of(variant: str) -> dict:
    """Return the streams that a variant declares, in its last round."""
    _, name, *settings = VARIANTS[variant]
    recipe = read_recipe(None, {"data.dir": "unused", "method": name}, settings)
    return dict(trainings(resolve(name)(recipe.constants(), Task(3)))[-1].streams)


def dataset(data: Path, variant: str, rank: int = 0, world: int = 1, batch: int = 4) -> StepDataset:
    """Return one rank's dataset; crops larger than some scaled images, so that padding occurs."""
    found = read_data(read_recipe(None, {"data.dir": str(data)}), lambda _: None)
    index, pools = found.index, found.pools
    streams = streams_of(variant)
    slots = plan_slots(streams, pools, batch, batch, rank, world)
    return StepDataset(pools, streams, slots, ItemLoader(index.code, None), (12, 12), Augment(), seed=3)


def same_items(one: Items, other: Items) -> bool:
    pairs = [*zip(one.views, other.views, strict=True), (one.valid, other.valid), (one.index, other.index)]
    pairs += zip(one.source, other.source, strict=True)
    for mine, theirs in ((one.mask, other.mask), (one.pseudo, other.pseudo)):
        if (mine is None) != (theirs is None):
            return False
        pairs += [] if mine is None or theirs is None else [(mine, theirs)]
    return one.kinds == other.kinds and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings(FORK_IN_THREADS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_number_of_workers(variant, data):
    with_none = list(Feed(dataset(data, variant), workers=0, pin=False).steps(0, 5))
    assert len(with_none) == 5
    for workers in (1, 2):
        found = list(Feed(dataset(data, variant), workers=workers, pin=False).steps(0, 5))
        for one, other in zip(with_none, found, strict=True):
            assert one.keys() == other.keys() == streams_of(variant).keys()
            assert all(same_items(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("labelled", "least", "most"), [("strong", 8, 16), ("half", 3, 12)])
def test_photometry_of_labelled_images(labelled, least, most, data):
    """It changes the pixels of labelled images, and nothing else: neither masks nor other pools."""
    plain, coloured = (dataset(data, "fixmatch"), dataset(data, "fixmatch"))
    coloured.augment = Augment(labelled=labelled)
    differ = 0
    for t in range(4):
        (one, other), u = ((d[t]["l"] for d in (plain, coloured)), coloured[t]["u"])
        assert other.kinds == ("weak",) and same_items(plain[t]["u"], u)
        assert one.mask is not None and other.mask is not None
        assert torch.equal(one.mask, other.mask) and torch.equal(one.valid, other.valid)
        differ += sum(not torch.equal(a, b) for a, b in zip(one.weak, other.weak, strict=True))
    # of 16: jitter, grey and blur all stay away with probability 0.08
    assert least <= differ <= most


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_start_in_the_middle_sees_the_same_steps(variant, data):
    whole, rest = dataset(data, variant), dataset(data, variant)
    for t, late in zip(range(3, 6), Feed(rest, workers=0, pin=False).steps(3, 6), strict=True):
        assert all(same_items(items, late[name]) for name, items in whole[t].items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_differ(variant, data):
    """Without this the equalities here could be those of a constant."""
    source = dataset(data, variant)
    for name, items in source[0].items():
        later = source[1][name]
        assert not torch.equal(items.views[0], later.views[0])
        assert len({view.numpy().tobytes() for view in items.views[0]}) == len(items)
    seen = [items.valid.all() for t in range(8) for items in source[t].values()]
    assert not all(seen) and any(seen), "padding and full crops both occur"


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_together_see_what_one_sees(variant, world, data):
    batch = 8
    one = dataset(data, variant, batch=batch)
    ranks = [dataset(data, variant, r, world, batch) for r in range(world)]
    for t in (0, 1, 7, 1000):
        for name, items in one[t].items():
            parts = [rank[t][name] for rank in ranks]
            views = tuple(torch.cat(v) for v in zip(*(p.views for p in parts), strict=True))
            mask = torch.cat([p.labels for p in parts]) if items.mask is not None else None
            valid, index = torch.cat([p.valid for p in parts]), torch.cat([p.index for p in parts])
            source = tuple(torch.cat(s) for s in zip(*(p.source for p in parts), strict=True))
            assert same_items(items, Items(views, items.kinds, valid, index, mask, source=source))
            drawn = [draw.words(6).tolist() for draw in _step(one, t).draws(name)]
            divided = [draw.words(6).tolist() for rank in ranks for draw in _step(rank, t).draws(name)]
            assert drawn == divided and len({str(d) for d in drawn}) == batch


def _step(source: StepDataset, t: int) -> Step:
    return Step(t, 9999, 0, 1, seed=3, rank=0, slots=source.slots, reduce=lambda x: x)


@pytest.mark.parametrize("variant", ["cps-cutmix", "fixmatch-ema"])
def test_workers_change_no_tensor_of_a_run(variant, data, unbroken, tmp_path, io):
    for workers in ("1", "2"):
        out = tmp_path / workers
        ended = run(io, training(data, out, *VARIANTS[variant], "--workers", workers))
        assert ended.code == 0, ended.stderr
        assert_same(outcome(out), outcome(unbroken(variant)))


def test_two_processes_see_the_stream_of_one(data, tmp_path, io, monkeypatch):
    """torchrun with gloo; the method is CPS with CutMix, whose partner stream is a second pass over the unlabelled."""
    method = ["--method", "process.spy:Recording", "method.cutmix=true"]
    seen_by = {}
    for world in (1, 2):
        seen, out = tmp_path / f"seen-{world}", tmp_path / f"run-{world}"
        seen.mkdir()
        monkeypatch.setenv("SPY_OUT", str(seen))
        command = training(data, out, *method)
        if world == 1:
            code, told = (ended := run(io, command)).code, ended.stderr
        else:
            code, told = torchrun(io, command), (io / "stderr").read_text()
        assert code == 0, told
        seen_by[world] = seen
    for t in range(STEPS):
        one = torch.load(seen_by[1] / f"seen-{t}-0.pt", weights_only=True)
        ranks = [torch.load(seen_by[2] / f"seen-{t}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert one.keys() == {"l", "u", "v"}
        for name, items in one.items():
            parts = [rank[name] for rank in ranks]
            assert items["draws"] == [d for p in parts for d in p["draws"]]
            for key in ("index", "valid") if items["mask"] is None else ("index", "valid", "mask"):
                assert torch.equal(items[key], torch.cat([p[key] for p in parts])), (t, name, key)
            for view, *halves in zip(items["views"], *(p["views"] for p in parts), strict=True):
                assert torch.equal(view, torch.cat(halves)), (t, name)
        digests = {(seen_by[2] / f"nets-{t}-{rank}").read_text() for rank in (0, 1)}
        assert len(digests) == 1, f"the ranks' networks differ after step {t + 1}"
    assert len({path.read_text() for path in seen_by[2].glob("nets-*-0")}) == STEPS, "every step changes the networks"


def torchrun(io: Path, arguments: list[str], fault: str = "") -> int:
    """Run a command in two processes to their end and return torchrun's exit code."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "fewmask"]
    return popen(io, [sys.executable, *start, *arguments], fault).wait(280)


@pytest.mark.slow
def test_fabrics_own_launcher(data, tmp_path, io):
    """--devices cpu:2 starts the second process by itself; the run is that of torchrun."""
    here, there = tmp_path / "here", tmp_path / "there"
    four = [*VARIANTS["fixmatch"], "--unlabelled-batch", "4"]
    code = popen(io, [sys.executable, "-m", "fewmask", *training(data, here, *four, "--devices", "cpu:2")]).wait(280)
    told = (io / "stderr").read_text()
    assert code == 0, told
    assert told.count("precision: ") == 1, "only the first process speaks"
    assert torchrun(io, training(data, there, *four)) == 0, (io / "stderr").read_text()
    assert_same(outcome(here), outcome(there))
    # the same command again: both processes leave, and nobody waits for the other
    assert torchrun(io, training(data, there, *four)) == 0
    assert "is already finished" in (io / "stderr").read_text()


@pytest.mark.slow
def test_two_processes_stop_together(data, tmp_path, io):
    """One is asked to stop: both save, and leave with 75. One is lost, or hangs: the other leaves with 7 and a line."""
    endless = [*VARIANTS["supervised"], "--devices", "cpu:2", "--steps", "999999", "train.eval_every=0"]
    endless.append("machine.rank_timeout=10")
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, 7), (signal.SIGSTOP, 7)):
        out = tmp_path / number.name
        first = popen(io, [sys.executable, "-m", "fewmask", *training(data, out, *endless)])
        while first.poll() is None and not ((log := out / "metrics.jsonl").exists() and log.stat().st_size):
            time.sleep(0.05)
        second = int(subprocess.check_output(["pgrep", "-P", str(first.pid), "-f", "fewmask"], text=True).split()[0])
        os.kill(first.pid if code == 75 else second, number)
        try:
            assert first.wait(100) == code, (io / "stderr").read_text()
        finally:
            with suppress(ProcessLookupError):
                os.kill(second, signal.SIGKILL)
        told = (io / "stderr").read_text()
        assert "Traceback" not in told and "deprecated" not in told
        expected = "stopped by SIGTERM" if code == 75 else "another process of this run was lost"
        assert f"error: {expected}" in told, told
        assert any(out.glob("checkpoints/step-*")) or code != 75


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "fault", "reached"),
    [
        ("fixmatch-ema", "step.inside:7", "checkpoints/step-00000006"),
        ("u2pl", "step.inside:8", "checkpoints/step-00000006"),  # banks, thresholds
        ("dars", "step.inside:9", "rounds/1-dars-1/checkpoints"),
        # seven images to label: one process has labelled all three of its own, the other one not all four
        ("dars", "select.inside:4", "rounds/1-dars-1/pseudo/.raw"),
    ],
)
def test_two_processes_killed_and_continued(variant, fault, reached, data, tmp_path, io):
    """One process dies at a step, torchrun ends the other; the same command again gives the unbroken run."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    four = [*VARIANTS[variant], "--unlabelled-batch", "4", "machine.rank_timeout=60"]
    assert torchrun(io, training(data, whole, *four)) == 0, (io / "stderr").read_text()
    assert torchrun(io, training(data, broken, *four), fault=fault) != 0
    assert (broken / reached).is_dir() and not (broken / "metrics.json").exists()
    assert torchrun(io, training(data, broken, *four)) == 0, (io / "stderr").read_text()
    assert_same(outcome(broken), outcome(whole))
