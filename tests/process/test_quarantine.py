"""Unlabelled images that cannot be read: left out before step 0, passed over later, and both again on resume."""

from __future__ import annotations

import json
import signal
import time
from types import SimpleNamespace

import pytest
import yaml

from fewmask.data.feed import Feed
from fewmask.data.quarantine import Quarantine, QuarantineFile, Skip
from fewmask.data.stream import ItemLoader, StepDataset, plan_slots
from fewmask.data.views import Augment
from fewmask.errors import DataError
from fewmask.ops.rng import order
from fewmask.recipe import read_recipe
from fewmask.run.data import read_data
from process.helpers import VARIANTS, assert_refused, assert_same, good, outcome, run, start, training
from process.test_streams import streams_of

SKIP = "data.on_bad_unlabelled=skip"
WAITING = ["--method", "process.spy:Waiting", "machine.cache_mb=0", SKIP]


def dataset(data, quarantine) -> StepDataset:
    # a run that has left nothing out: what is bad is met while it trains
    begun = SimpleNamespace(set_aside={}, folds=[], recipe=lambda: SimpleNamespace(folds=1), data=data / "none")
    found = read_data(read_recipe(None, {"data.dir": str(data)}, [SKIP]), lambda _: None, begun)
    index, pools = found.index, found.pools
    streams = streams_of("cps-cutmix")
    slots = plan_slots(streams, pools, 2, 2)
    return StepDataset(
        pools, streams, slots, ItemLoader(index.code, None), (12, 12), Augment(), seed=0, quarantine=quarantine
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:300])


def test_found_before_step_0(own_data, tmp_path, io):
    """The run is that of a folder without it; decided once: a file that is mended stays out of a run that has begun."""
    bare = own_data / "images" / "train" / "bare2.jpg"
    whole = bare.read_bytes()
    cut(bare)
    out = tmp_path / "run"
    command = training(own_data, out, "--method", "fixmatch", SKIP)
    assert run(io, command, "step.begin:8").code == -signal.SIGKILL
    told = (io / "stderr").read_text()
    assert "WARNING: 1 unlabelled images cannot be read and are left out, such as train/bare2" in told
    assert "Truncated" in yaml.safe_load((out / "data.yaml").read_text())["set_aside"]["train/bare2"]
    bare.write_bytes(whole)
    assert "left out" not in good(run(io, command)).stderr
    bare.unlink()
    without = tmp_path / "without"
    good(run(io, training(own_data, without, "--method", "fixmatch", SKIP)))
    assert_same(outcome(out), outcome(without))
    assert not (out / "quarantine.jsonl").exists()


def test_the_next_of_the_order_takes_its_place(own_data):
    """Of the keyed permutation at position 2t + slot, then + 1, whatever process reads it; again without reading."""
    skips = Quarantine()
    source = dataset(own_data, skips)
    bad = source.sample("u", 3, 1)
    name = source.item("u", bad).name
    file = source.item("u", bad).image
    content = file.read_bytes()
    file.write_bytes(b"")
    expected = order(7, 2 * 3 + 1 + 1, 0, stream=source.slots["u"].key)
    assert source[3]["u"].index.tolist() == [source.sample("u", 3, 0), expected]
    (skip,) = [s for s in skips.found if s.stream == "u"]
    assert (skip.step, skip.slot, skip.image) == (4, 1, name) and "empty" in skip.reason
    found = []
    with_worker = list(Feed(dataset(own_data, Quarantine()), 1, False, skipped=found.extend).steps(3, 5))
    file.write_bytes(content)  # mended
    again = dataset(own_data, Quarantine(frozenset(s.place for s in found)))
    for t, batch in zip((3, 4), with_worker, strict=True):
        for stream, items in batch.items():
            assert items.index.tolist() == again[t][stream].index.tolist()
            assert items.views[0].equal(again[t][stream].views[0])
    assert again.quarantine is not None and not again.quarantine.found
    assert dataset(own_data, None)[3]["u"].index.tolist() == [source.sample("u", 3, 0), bad], "it can be read again"


def test_labelled_images_are_never_passed_over(own_data):
    source = dataset(own_data, Quarantine())
    source.item("l", source.sample("l", 0, 0)).image.unlink()
    with pytest.raises(DataError, match="does not exist"):
        source[0]


def test_the_file_ends_a_run_that_passes_over_too_many(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    file = QuarantineFile(path, 3000)
    some = [Skip(1, n, "u", f"image{n}", "gone") for n in range(3)]
    file.write([*some, some[0]])
    assert len(path.read_text().splitlines()) == 3
    with pytest.raises(DataError, match="4 of 3000 unlabelled images cannot be read, more than 0.1%.*image9"):
        file.write([Skip(2, 0, "u", "image9", "gone")])
    with pytest.raises(DataError, match="4 of 3000"):  # nor does the same command go on afterwards
        QuarantineFile(path, 3000).read()
    two = QuarantineFile(path, 4000)  # of another process, which has passed over none itself
    assert len(two.read()) == 4
    with pytest.raises(DataError, match="5 of 4000"):
        QuarantineFile(path, 4000).write([Skip(2, 1, "u", "image10", "gone")])


def test_a_torn_line_is_no_decision_and_spoils_none(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    first, second = (Skip(n, 0, "u", f"image{n}", "gone") for n in (1, 2))
    QuarantineFile(path, 9000).write([first])
    path.write_bytes(path.read_bytes() + b'{"step": 3, "sl')  # killed while it wrote
    file = QuarantineFile(path, 9000)
    assert file.read() == {first.place}
    file.write([second])
    assert QuarantineFile(path, 9000).read() == {first.place, second.place}


@pytest.mark.parametrize(
    "line", [b"{}", b'{"step": [], "slot": 0, "stream": "u", "image": "a", "reason": ""}', b'{"a":' * 9000 + b"}"],
    ids=["empty", "no place", "deep"],
)  # fmt: skip
def test_lines_of_others_are_refused(line, tmp_path):
    (tmp_path / "q").write_bytes(line + b"\n")
    with pytest.raises(DataError, match="no decision"):
        QuarantineFile(tmp_path / "q", 3000).read()


@pytest.fixture
def broken_in_step_6(own_data, io, monkeypatch, tmp_path):
    """Start a run, and damage the image that stands in slot 0 of step 7 before that is read."""
    source = dataset(own_data, None)
    image = source.item("u", source.sample("u", 6, 0)).image

    def begin(out, *more, fault=""):
        gate = tmp_path / f"gate-{out.name}"
        gate.mkdir()
        monkeypatch.setenv("SPY_WAIT", str(gate))
        running = start(io, training(own_data, out, *WAITING, "method.cutmix=true", *more), fault)
        while not (gate / "reached").exists() and running.process.is_alive():
            time.sleep(0.005)
        content = image.read_bytes()
        image.write_bytes(content[:300])
        (gate / "go").touch()
        return running.wait(), lambda: image.write_bytes(content)

    return begin


def test_found_while_it_trains(broken_in_step_6, own_data, tmp_path, io):
    """It goes on; a run that is killed later repeats the decisions it had made, although the file is whole again."""
    ended, mend = broken_in_step_6(tmp_path / "whole")
    good(ended)
    mend()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "quarantine.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 7 and lines[0]["slot"] == 0 and lines[0]["image"].startswith("train/bare")
    assert {line["image"] for line in lines} == {lines[0]["image"]}

    left = tmp_path / "left"
    ended, mend = broken_in_step_6(left, fault="step.end:9")
    assert ended.code == -signal.SIGKILL
    good(run(io, training(own_data, left, *WAITING, "method.cutmix=true")))  # it is still damaged
    assert_same(outcome(left), outcome(tmp_path / "whole"))
    mend()

    out = tmp_path / "killed"
    ended, mend = broken_in_step_6(out, fault="step.end:8")
    assert ended.code == -signal.SIGKILL
    assert "train/bare" in (out / "quarantine.jsonl").read_text()
    mend()
    good(run(io, training(own_data, out, *WAITING, "method.cutmix=true")))
    mine, theirs = (outcome(folder)["metrics.jsonl"] for folder in (out, tmp_path / "whole"))
    first = [line for line in theirs if line["step"] <= 8]
    assert [line for line in mine if line["step"] <= 8] == first


def test_without_it_the_run_stops(broken_in_step_6, tmp_path):
    ended, _ = broken_in_step_6(tmp_path / "run", "data.on_bad_unlabelled=stop")
    assert_refused(ended, 3, "train/bare", "Truncated", first=False)


def test_met_while_labelling(own_data, tmp_path, io):
    """Between two rounds: it gets no labels and is no image of the next round; images are ranked without it, too."""
    for variant, fault in (("self_training", "select.inside:1"), ("st_plus_plus", "rank.inside:1")):
        bare = own_data / "images" / "train" / "bare2.jpg"
        whole, out = bare.read_bytes(), tmp_path / variant
        command = training(own_data, out, *VARIANTS[variant], SKIP)
        assert run(io, command, fault).code == -signal.SIGKILL
        cut(bare)
        told = good(run(io, command)).stderr
        assert "WARNING: 1 images cannot be read and get no labels, such as train/bare2" in told
        (manifest,) = [p for p in out.glob("rounds/*/pseudo/manifest.json") if "unread" in p.read_text()]
        assert "Truncated" in json.loads(manifest.read_text())["unread"]["train/bare2"]
        assert not (manifest.parent / "train" / "bare2.png").exists()
        assert len(list(out.glob("rounds/*/pseudo/train/bare*.png"))) == 6
        assert not (out / "quarantine.jsonl").exists(), "no round has met it"
        bare.write_bytes(whole)
