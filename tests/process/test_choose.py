"""--unlabelled-by: the part of a pool that is like the labelled images, or that is not like itself."""

from __future__ import annotations

import json
import signal

import pytest
from PIL import Image
from safetensors.torch import save_file

from fewmask.nets import build
from fixtures_data import blocks, save_mask
from process.helpers import VARIANTS, assert_refused, assert_same, good, outcome, run, training

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 220, 30)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Two labelled red images; unlabelled: 3 red, 3 blue, 3 green."""
    root = tmp_path_factory.mktemp("colours")
    names = [("red", n) for n in range(5)] + [(c, n) for c in ("blue", "green") for n in range(3)]
    for colour, n in names:
        path = root / "images" / "train" / f"{colour}{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        r, g, b = COLOURS[colour]
        Image.new("RGB", (16, 12), (r, g + n, b + n)).save(path)
    (root / "images" / "val").mkdir()
    Image.new("RGB", (16, 12), (90, 90, 90)).save(root / "images" / "val" / "0.png")
    for name in ("train/red3", "train/red4", "val/0"):
        save_mask(root / "masks" / f"{name}.png", blocks((0, 1)))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An encoder that nothing was learned by; colours are far enough from each other for it."""
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file(build("deeplabv3plus", "mobilenet_v2", 2, weights="none").encoder.state_dict(), path)
    return str(path)


def split(colours, out, weights, *more):
    return ["split", str(colours), "--labelled", "2", "-o", str(out), "--weights", weights, *more]


def listed(out):
    return [line.removeprefix("train/") for line in (out / "unlabelled.txt").read_text().splitlines()]


def test_near_and_diverse(colours, weights, tmp_path, io):
    near, diverse = tmp_path / "near", tmp_path / "diverse"
    good(run(io, split(colours, near, weights, "--unlabelled", "3", "--unlabelled-by", "near-labelled")))
    assert listed(near) == ["red0", "red1", "red2"]
    told = good(run(io, split(colours, diverse, weights, "--unlabelled", "2", "--unlabelled-by", "diverse"))).stderr
    assert {name[:-1] for name in listed(diverse)} == {"blue", "green"}
    assert "2 of 9 unlabelled images, diverse, by the features of mobilenet_v2" in told


def test_of_a_list_and_of_an_index_file(colours, weights, tmp_path, io):
    """N:FILE, drawn and chosen."""
    names = ["red0", "blue0", "blue1", "green2"]
    plain, index = tmp_path / "some.txt", tmp_path / "some.jsonl"
    plain.write_text("".join(f"train/{name}\n" for name in names))
    index.write_text("".join(
        json.dumps({"image": str(colours / "images" / "train" / f"{n}.png"), "name": f"train/{n}"}) + "\n"
        for n in names
    ))  # fmt: skip
    for n, file in enumerate((plain, index)):
        outside = ["data.outside=true"] if file is index else []
        command = training(colours, tmp_path / f"run{n}", *VARIANTS["fixmatch"], "--weights", "none", *outside)
        good(run(io, [*command, "--unlabelled", f"2:{file}"]))
        out = tmp_path / f"near{n}"
        good(run(io, split(colours, out, weights, "--unlabelled", f"1:{plain}", "--unlabelled-by", "near-labelled")))
        assert listed(out) == ["red0"]


def test_a_run_keeps_its_choice(colours, weights, tmp_path, io):
    """Killed and continued without looking again; finished, and asked for again."""
    network = ["--arch", "deeplabv3plus", "--encoder", "mobilenet_v2", "--weights", weights, "--crop", "12"]
    by = [*VARIANTS["fixmatch"], *network, "--unlabelled", "4", "--unlabelled-by", "diverse", "--steps", "3"]
    by += ["train.save_every=1"]
    whole, broken = training(colours, tmp_path / "whole", *by), training(colours, tmp_path / "broken", *by)
    good(run(io, whole))
    names = json.loads((tmp_path / "whole" / "unlabelled.json").read_text())
    assert len(names) == 4 and names == sorted(names)
    assert run(io, broken, "step.end:2").code == -signal.SIGKILL
    assert "by the features" not in good(run(io, broken)).stderr
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "broken"))
    assert "already finished" in good(run(io, whole)).stderr
    (tmp_path / "whole" / "unlabelled.json").write_text('["train/red0", "train/gone"]')
    assert_refused(run(io, whole), 4, "1 of 2 chosen unlabelled images are gone")
    (tmp_path / "whole" / "unlabelled.json").unlink()
    assert_refused(run(io, whole), 4, "the list of the chosen unlabelled images is lost")
    plan = good(run(io, [*training(colours, tmp_path / "plan", *by), "--plan"])).stdout
    assert json.loads(plan)["unlabelled"] == 4


def test_what_it_refuses(colours, weights, tmp_path, io):
    near = ["--unlabelled-by", "near-labelled"]
    assert_refused(run(io, split(colours, tmp_path / "a", weights, *near)), 2, "need a number")
    assert_refused(run(io, split(colours, tmp_path / "a", "none", "--unlabelled", "2", *near)), 2, "pretrained")
    assert_refused(run(io, split(colours, tmp_path / "a", weights, "--unlabelled", "10", *near)), 2, "10 of 9")
    assert_refused(run(io, split(colours, tmp_path / "a", weights, "--unlabelled-by", "best")), 2, "unlabelled_by")
    assert not (tmp_path / "a").exists()


def test_images_that_cannot_be_read(colours, weights, tmp_path, io):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    index = tmp_path / "pool.jsonl"
    images = [str(colours / "images" / "train" / "red0.png"), str(bad), str(colours / "images" / "train" / "blue0.png")]
    index.write_text("".join(json.dumps({"image": image}) + "\n" for image in images))
    network = ["--arch", "deeplabv3plus", "--encoder", "mobilenet_v2", "--weights", weights, "--crop", "12"]
    by = [*VARIANTS["fixmatch"], *network, "--unlabelled", f"2:{index}", "--unlabelled-by", "diverse", "--steps", "2"]
    command = [*training(colours, tmp_path / "run", *by), "data.outside=true"]
    assert_refused(run(io, command), 3, "bad.png", first=False)
    told = good(run(io, [*command, "data.on_bad_unlabelled=skip"])).stderr
    assert "WARNING: 1 unlabelled images cannot be read and are not chosen from" in told
