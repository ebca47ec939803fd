"""Wrong data, names, flags and files end with one clear line and its exit code, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fixtures_data import blocks, save_image, save_mask
from process.helpers import assert_refused, content, good, run, start, tiny_data, training

# --- the data


def undeclared_id(folder: Path) -> None:
    mask = blocks((5, 0, 9))
    mask[3:5, 2:9] = 37
    save_mask(folder / "masks/train/01.png", mask)


def other_size(folder: Path) -> None:
    save_mask(folder / "masks/val/01.png", blocks((5, 0, 9), height=14, width=20))


def truncated(folder: Path) -> None:
    path = folder / "images/train/bare2.jpg"
    path.write_bytes(path.read_bytes()[:300])


def empty_file(folder: Path) -> None:
    (folder / "masks/train/03.png").write_bytes(b"")


def no_bare_images(folder: Path) -> None:
    for path in folder.glob("images/train/bare*"):
        path.unlink()


def no_masks(folder: Path) -> None:
    shutil.rmtree(folder / "masks")


def a_leak(folder: Path) -> None:
    shutil.copy(folder / "images/val/00.jpg", folder / "images/train/bare0.jpg")


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        (undeclared_id, ("class id 37 ", "14 pixels", "x=2 y=3", "masks/train/01.png", "data.yaml")),
        (other_size, ("16x12", "20x14", "val/01")),
        (truncated, ("images/train/bare2.jpg", "Truncated")),
        (empty_file, ("masks/train/03.png",)),
        (no_bare_images, ("unlabelled images", "there are none", "--method supervised")),
        (no_masks, ("mask",)),
        (a_leak, ("the same picture", "val", "train")),
        (shutil.rmtree, ("does not exist",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_data(damage, fragments, own_data, tmp_path, io):
    damage(own_data)
    before = content(own_data)
    ended = run(io, training(own_data, tmp_path / "run", "--method", "fixmatch"))
    assert_refused(ended, 3, *fragments)
    assert not (tmp_path / "run").exists()
    assert content(own_data) == before


def test_a_leak_that_is_allowed_by_name(own_data, tmp_path, io):
    a_leak(own_data)
    command = training(own_data, tmp_path / "run", "--method", "supervised")
    assert_refused(run(io, [*command, "data.allow_leaks=[val/01]"]), 3, "the same picture", "allow_leaks (val/00)")
    assert run(io, [*command, "data.allow_leaks=[val/00]"]).code == 0


def test_a_file_is_no_folder(data, tmp_path, io):
    assert_refused(run(io, training(data / "data.yaml", tmp_path / "run")), 3, "is a file", "data.yaml")


@pytest.mark.parametrize(
    "workers",
    [
        "0",
        "1",
    ],
)
def test_a_file_vanishes_while_it_trains(workers, own_data, tmp_path, io):
    command = training(own_data, tmp_path / "run", "--method", "supervised", "--steps", "5000", "--workers", workers)
    running = start(io, [*command, "machine.cache_mb=0", "train.save_every=5000", "train.eval_every=0"])
    log = tmp_path / "run" / "metrics.jsonl"
    while running.process.is_alive() and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    for path in own_data.glob("images/train/0*.jpg"):
        path.unlink()
    assert_refused(running.wait(), 3, "does not exist", "images/train/0", first=False)


def other_masks(folder: Path) -> None:
    for path in folder.glob("masks/train/*.png"):
        renew(path, lambda new: save_mask(new, blocks((5, 0, 9), height=14, width=20)))


def other_images(folder: Path) -> None:
    for path in folder.glob("images/train/0*.jpg"):
        renew(path, lambda new: save_image(new, height=14, width=20))


def other_ids(folder: Path) -> None:
    for path in folder.glob("masks/val/*.png"):
        renew(path, lambda new: save_mask(new, blocks((5, 0, 37))))


def renew(path: Path, write: Callable[[Path], object]) -> None:
    new = path.with_name(f"new{path.suffix}")
    write(new)
    os.replace(new, path)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (other_masks, ("mask is 20x14", "16x12", "masks/train/", "put the old one back")),
        (other_images, ("mask is 16x12", "20x14", "masks/train/", "put the old one back")),
        (other_ids, ("class id 37", "masks/val/")),
    ],
)
def test_a_file_is_changed_while_it_trains(change, fragments, own_data, tmp_path, io):
    """Not only files that cannot be read any more: what was looked at before step 0 holds to the end."""
    command = training(own_data, tmp_path / "run", "--method", "supervised", "--steps", "5000", "--workers", "0")
    running = start(io, [*command, "machine.cache_mb=0", "train.save_every=5000", "train.eval_every=300"])
    log = tmp_path / "run" / "metrics.jsonl"
    while running.process.is_alive() and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    change(own_data)
    assert_refused(running.wait(), 3, *fragments, first=False)


def test_a_file_that_still_fits_is_named_when_it_ends(own_data, tmp_path, io):
    """The mask turned upside down: as many pixels of each class, and a run that has learned from both."""
    command = training(own_data, tmp_path / "run", "--method", "supervised", "--steps", "200")
    running = start(io, [*command, "train.save_every=200", "train.eval_every=0"])
    log, mask = tmp_path / "run" / "metrics.jsonl", own_data / "masks/train/03.png"
    while running.process.is_alive() and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    renew(mask, lambda new: save_mask(new, blocks((5, 0, 9, 255))[::-1]))
    told = good(running.wait()).stderr
    assert f"WARNING: 1 files of the data were changed while the command ran, such as {mask}: " in told


# --- names, flags and files of the command


def unfitting(folder: Path) -> str:
    save_file({"conv1.weight": torch.zeros(64, 3, 5, 5)}, folder / "w.safetensors")
    return str(folder / "w.safetensors")


RESNET = ("--method", "supervised", "--arch", "fpn", "--encoder", "resnet18", "--crop", "32")


@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (("--method", "fixmach"), ("unknown method 'fixmach'", "did you mean 'fixmatch'?")),
        (("--method", "nowhere.at:All"), ("nowhere.at:All", "cannot be imported")),
        (("optim.lrr=1",), ("unknown key 'optim.lrr'", "did you mean 'lr'?")),
        (("trian.steps=1",), ("unknown key 'trian'", "did you mean 'train'?")),
        (("--method", "fixmatch", "method.tua=1"), ("unknown key 'method.tua'", "did you mean 'tau'?")),
        (("--method", "fixmatch", "method.tau=2"), ("method.tau = 2",)),
        (("optim.lr=fast",), ("optim.lr", "'fast'")),
        (("steps",), ("'steps' is not key=value",)),
        (("--stepps", "3"), ("No such option: --stepps",)),
        (("--crop", "8by8"), ("'8by8' is not a size",)),
        (("--protocol", "hole"), ("unknown protocol 'hole'", "did you mean 'whole'?")),
        (("--arch", "deeplabv3pls"), ("unknown architecture", "did you mean 'deeplabv3plus'?")),
        (("--arch", "fpn", "--encoder", "resnet1"), ("unknown encoder", "did you mean 'resnet18'?")),
        (("--weights", "imagenet"), ("no ImageNet weights for 'tiny'", "--weights none")),
        ((*RESNET, "--weights", "{missing}"), ("weights file does not exist", "missing")),
        ((*RESNET, "--weights", "{unfitting}"), ("do not fit", "bn1.weight: missing", "more", "w.safetensors")),
        ((*RESNET, "--weights", "{text}"), ("not a safetensors file", "text")),
        (("--init", "{missing}"), ("does not exist", "missing")),
        (("--labelled", "99"), ("99 of 5",)),
        (("--labelled", "{missing}"), ("missing", "list")),
        (("--recipe", "{missing}"), ("cannot read the recipe", "missing")),
        (("--devices", "cpu:3"), ("batch of 2", "divide by 3", "data.batch")),
        (("--devices", "77"), ("77 CUDA devices are not here",)),
        (("--method", "fixmatch", "--unlabelled-batch", "1"), ("data.unlabelled_batch", "multiple of 2")),
    ],
    ids=lambda value: "-".join(value[-2:]).strip("-") if isinstance(value, tuple) else "",
)
def test_usage(more, fragments, data, tmp_path, io):
    (tmp_path / "text").write_text("hello")
    names = {"missing": str(tmp_path / "missing"), "text": str(tmp_path / "text"), "unfitting": unfitting(tmp_path)}
    before = content(tmp_path)
    ended = run(io, training(data, tmp_path / "run", *(word.format(**names) for word in more)))
    assert_refused(ended, 2, *fragments)
    after = content(tmp_path)
    assert {p: c for p, c in after.items() if io not in (p, *p.parents)} == before


def test_commands_without_what_they_need(io):
    assert_refused(run(io, ["trian"]), 2, "No such command", "train")
    for command in ("train", "evaluate", "predict", "check", "split"):
        ended = run(io, [command])
        assert ended.code == 2 and ended.error == "error: arguments are missing; command line; see --help"


def test_not_a_number(data, tmp_path, io):
    command = training(data, tmp_path / "run", "--method", "supervised", "optim.lr=1e30")
    ended = run(io, command)
    assert_refused(ended, 5, "NaN or infinite", "optim.lr", first=False)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_out_of_memory(data, tmp_path, io):
    """Only the last step is too large: it is rehearsed before anything is trained, and before the baseline."""
    ended = run(io, training(data, tmp_path / "run", "--method", "process.spy:Hungry", "--baseline"))
    assert_refused(ended, 7, "out of memory in the rehearsal", "tiny with tiny", "batch 2+2", "crop 12x12, fp32, cpu")
    table = dict(line.strip().split("  ", 1) for line in ended.stderr.splitlines() if line.startswith("  --"))
    # one view of each image: half of either batch is a quarter of the pixels
    assert {key: text.strip() for key, text in table.items()} == {
        "--unlabelled-batch 1": "25% fewer pixels a step", "--batch 1": "25% fewer pixels a step",
        "--precision bf16": "half the memory of activations",
    }  # fmt: skip
    assert not (tmp_path / "run").exists()


# --- other commands


def test_evaluate_and_predict(finished, data, tmp_path, io):
    assert_refused(run(io, ["evaluate", str(tmp_path / "none")]), 4, "no finished run here")
    assert_refused(run(io, ["evaluate", str(finished), str(tmp_path / "none")]), 3, "does not exist")
    assert_refused(run(io, ["evaluate", str(finished), "--split", "trian"]), 2, "'trian'")
    other = tiny_data(tmp_path / "other")
    (other / "data.yaml").write_text("classes: {0: sea, 5: sky, 9: rock}\n")
    assert_refused(run(io, ["evaluate", str(finished), str(other)]), 2, "rock", "sand")
    to = ("-o", str(tmp_path / "out"))
    image = str(data / "images/val/00.jpg")
    assert_refused(run(io, ["predict", str(tmp_path / "none"), image, *to]), 4, "no finished run here")
    assert_refused(run(io, ["predict", str(finished), str(tmp_path / "none"), *to]), 3, "no such file")
    assert_refused(run(io, ["predict", str(finished), str(data / "data.yaml"), *to]), 3, "data.yaml")
    (tmp_path / "empty").mkdir()
    assert_refused(run(io, ["predict", str(finished), str(tmp_path / "empty"), *to]), 3, "no images")
    assert not (tmp_path / "out").exists()


def test_check(own_data, io):
    undeclared_id(own_data)
    ended = run(io, ["check", str(own_data), "--json"])
    assert ended.code == 3 and "class id 37" in ended.error
    assert "37" in json.dumps(json.loads(ended.stdout)["problems"])
