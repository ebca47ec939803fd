"""Data that have changed since a run: what it is scored on, and what the next run is, stays what it was."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewmask.config import load_yaml
from fixtures_data import blocks, make_folder, save_mask
from process.helpers import assert_refused, good, metrics_of, one_json, run, training

ALONE = ["--method", "supervised", "--folds", "1"]


def without_roles(root: Path, masked: int, bare: int) -> Path:
    """Images whose val is drawn, 16x12 pixels; ids 0 and 1."""
    names = [f"{i:02d}" for i in range(masked)]
    make_folder(root, names, [f"{i:02d}" for i in range(masked, masked + bare)])
    return root


def told(folder: Path) -> dict:
    return load_yaml((folder / "data.yaml").read_text())


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> tuple[Path, Path]:
    """A run on ten masks of twenty images, and the folder with five more masks."""
    root = tmp_path_factory.mktemp("grown")
    data = without_roles(root / "photos", 10, 10)
    good(run(root / "io", training(data, root / "run", *ALONE)))
    for i in range(10, 15):
        save_mask(data / "masks" / f"{i:02d}.png", blocks((0, 1)))
    return data, root / "run"


def test_a_run_is_scored_on_the_images_that_were_drawn_for_it(grown, io):
    """New masks change which images would be drawn; with another draw some would be its training images."""
    data, folder = grown
    val = told(folder)["val_names"]
    assert len(val) == metrics_of(folder)["labelled"] // 4 == 2 and not set(val) & set(told(folder)["labelled_names"])
    found = one_json(good(run(io, ["evaluate", str(folder), "--which", "last", "--json"])).stdout)
    assert found["images"] == 2
    assert {key: found[key] for key in ("miou", "iou", "pixel_accuracy")} == metrics_of(folder)["val"]
    moved = shutil.copytree(data, io.parent / "elsewhere")
    ended = good(run(io, ["evaluate", str(folder), str(moved), "--which", "last", "--json"]))
    assert one_json(ended.stdout) == found and "taken for the run's own data" in ended.stderr


def test_the_next_run_keeps_its_val_images(grown, tmp_path, io):
    data, folder = grown
    words = ["--init", str(folder), *ALONE]
    ended = good(run(io, training(data, tmp_path / "next", *words)))
    assert told(tmp_path / "next")["val_names"] == told(folder)["val_names"]
    assert told(tmp_path / "next")["labelled"] == 13 and "those of the run before" in ended.stderr
    assert "WARNING" not in ended.stderr
    again = good(run(io, training(data, tmp_path / "next", *words)))
    assert "already finished" in again.stderr
    plain = tmp_path / "plain"
    good(run(io, training(data, plain, *ALONE)))
    assert len(told(plain)["val_names"]) == 3, "without --init a fifth of today's masks"


def test_lost_val_images_are_told(grown, tmp_path, io):
    data, folder = grown
    moved = shutil.copytree(data, tmp_path / "photos")
    (moved / "masks" / f"{told(folder)['val_names'][0]}.png").unlink()
    ended = run(io, ["evaluate", str(folder), str(moved), "--json"])
    assert_refused(ended, 4, "1 of the 2 val images that were drawn for the run are gone", first=False)


def test_other_data_without_roles_are_scored_whole(grown, tmp_path, io):
    _, folder = grown
    other = without_roles(tmp_path / "other", 7, 2)
    for part in ("images", "masks"):
        for path in sorted((other / part).iterdir()):
            path.rename(path.with_name(f"other-{path.name}"))
    ended = good(run(io, ["evaluate", str(folder), str(other), "--json"]))
    assert one_json(ended.stdout)["images"] == 7 and "no roles: all 7 images with masks are scored" in ended.stderr


def test_the_working_directory_does_not_matter(grown, tmp_path, io):
    """A run that was made with a relative path is evaluated, and continued, from anywhere."""
    data, _ = grown
    words = training(Path(data.name), tmp_path / "run", *ALONE)
    good(run(io, words, cwd=data.parent))
    assert told(tmp_path / "run")["root"] == data.name
    found = one_json(good(run(io, ["evaluate", str(tmp_path / "run"), "--json"], cwd=tmp_path)).stdout)
    assert found["images"] == len(told(tmp_path / "run")["val_names"])
    again = good(run(io, training(data, tmp_path / "run", *ALONE), cwd=tmp_path))
    assert "already finished" in again.stderr


def test_masks_that_nobody_drew_are_nobody_s_truth(tmp_path, io):
    """``empty_masks: unlabelled`` holds in every command, not in training alone."""
    data = without_roles(tmp_path / "photos", 12, 1)
    empty = [f"{i:02d}" for i in (1, 4, 6, 7)]
    for name in empty:
        save_mask(data / "masks" / f"{name}.png", np.zeros_like(np.array(Image.open(data / "masks/00.png"))))
    (data / "data.yaml").write_text("empty_masks: unlabelled\n")
    folder = tmp_path / "run"
    good(run(io, training(data, folder, *ALONE)))
    assert not set(empty) & {*told(folder)["labelled_names"], *told(folder)["val_names"]}
    found = one_json(good(run(io, ["evaluate", str(folder), "--which", "last", "--json"])).stdout)
    assert {key: found[key] for key in ("miou", "iou", "pixel_accuracy")} == metrics_of(folder)["val"]
    ended = good(run(io, ["suggest", str(folder), "-n", "20", "-o", str(tmp_path / "next")]))
    assert {line.split(",")[1] for line in (tmp_path / "next/suggestions.csv").read_text().splitlines()[1:]} <= {
        *empty,
        "12",
    }
    assert "-n 20: only " in ended.stderr
    good(run(io, ["split", str(data), "--labelled", "3", "-o", str(tmp_path / "lists")]))
    listed = (tmp_path / "lists/labelled.txt").read_text().split()
    assert len(listed) == 3 and not set(empty) & {Path(line).stem for line in listed}


def test_the_pictures_of_a_run_are_no_data(tmp_path, io):
    """A run folder inside the data folder, of a layout that finds images anywhere."""
    data = tmp_path / "photos"
    data.mkdir()
    made = without_roles(tmp_path / "made", 9, 1)
    for path in sorted((made / "images").iterdir()):
        shutil.copy(path, data / path.name)
        mask = made / "masks" / f"{path.stem}.png"
        if mask.is_file():
            shutil.copy(mask, data / f"{path.stem}_mask.png")
    words = training(data, data / "runs/one", *ALONE)
    good(run(io, words))
    assert list((data / "runs/one/pictures").iterdir())
    assert "already finished" in good(run(io, words)).stderr
    good(run(io, training(data, data / "runs/two", *ALONE)))
    assert told(data / "runs/two")["data_hash"] == told(data / "runs/one")["data_hash"]


def test_a_folder_whose_name_is_a_pattern(tmp_path, io):
    data = without_roles(tmp_path / "pho [2024]", 6, 0)
    words = training(data, tmp_path / "unused", *ALONE)
    at = words.index("--out")
    words = words[:at] + words[at + 2 :]
    for number in (1, 2):
        good(run(io, [*words, *(["--new"] if number == 2 else [])], cwd=tmp_path))
        assert (tmp_path / f"runs/pho [2024]-supervised-{number:03d}/metrics.json").is_file()


def test_other_classes_are_no_start(grown, tmp_path, io):
    data, folder = grown
    other = shutil.copytree(data, tmp_path / "photos")
    (other / "classes.txt").write_text("b\na\n")
    ended = run(io, training(other, tmp_path / "run", "--init", str(folder), *ALONE))
    assert_refused(ended, 4, "the classes are ['b', 'a'], and ['a', 'b'] in the run", first=False)
    ended = run(io, training(data, tmp_path / "run", "--init", str(tmp_path / "nope"), *ALONE))
    assert_refused(ended, 2, "what --init names does not exist", first=False)


def test_the_line_that_a_run_prints_goes_on_from_where_it_was(tmp_path, io):
    """As pasted from NEXT_STEPS.txt: its network, input and settings; step 0 scores what the run scored."""
    data = without_roles(tmp_path / "photos", 12, 2)
    words = ["--method", "fixmatch", "--folds", "1", "--resize", "18x24", "method.tau=0.4", "optim.lr=0.01"]
    good(run(io, training(data, tmp_path / "run", *words)))
    save_mask(data / "masks" / "12.png", blocks((0, 1)))
    line = next(
        line
        for line in (tmp_path / "run" / "NEXT_STEPS.txt").read_text().splitlines()
        if line.startswith("fewmask train")
    )
    for word in ("method.tau=0.4", "optim.lr=0.01", "--crop 12x12", "--steps 12", "--folds 1"):
        assert word in line
    machine = ["--precision", "fp32", "--devices", "cpu", "--workers", "0"]
    ended = good(run(io, [*shlex.split(line)[1:], "--out", str(tmp_path / "next"), *machine]))
    assert f"tiny with tiny, from {tmp_path / 'run'}" in ended.stderr
    first = json.loads((tmp_path / "next" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and first["val"] == metrics_of(tmp_path / "run")["delivered"]["val"]
    again = good(run(io, [*shlex.split(line)[1:], "--out", str(tmp_path / "next"), *machine]))
    assert "already finished" in again.stderr
