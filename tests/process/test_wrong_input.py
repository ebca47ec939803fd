"""Wrong input ends with one clear line and its exit code, before anything is written, and nothing is written over."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fixtures_data import blocks, save_mask
from process.helpers import VARIANTS, Ended, assert_same, outcome, run, start, tiny_data, training


def assert_refused(ended: Ended, code: int, *fragments: str, first: bool = True) -> None:
    """One line `error: what; where; what to do` with all fragments, the exit code, no traceback, empty stdout.

    It is the first line, unless something had been trained (and said) before.
    """
    assert ended.code == code, ended.stderr
    lines = ended.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == 1 and (lines[0] == errors[0] or not first), ended.stderr
    assert "Traceback" not in ended.stderr and 'File "' not in ended.stderr
    assert [f for f in fragments if f not in errors[0]] == [], errors[0]
    assert errors[0].count("; ") >= 1, "what is wrong, and where or what to do"
    assert ended.stdout == ""


def content(*folders: Path) -> dict[Path, bytes | None]:
    """Return every file below with its bytes, and every folder; but for locks, which come and go."""
    found = [p for folder in folders for p in [folder, *folder.rglob("*")] if not p.name.startswith(".lock")]
    return {p: p.read_bytes() if p.is_file() else None for p in found}


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
        (("--devices", "77"), ("devices '77' are not here",)),
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


# --- the run folder


@pytest.fixture
def finished(unbroken, tmp_path) -> Path:
    """A finished run that this test may damage."""
    return shutil.copytree(unbroken("cps"), tmp_path / "finished")


def test_finished_already(finished, data, io):
    before = content(finished)
    ended = run(io, training(data, finished, *VARIANTS["cps"]))
    assert ended.code == 0 and "is already finished" in ended.stderr
    assert content(finished) == before


def test_a_finished_run_continued_from_elsewhere(finished, data, io, monkeypatch):
    """The folder may be spelled with a slash, and what a machine has may differ."""
    monkeypatch.chdir(data.parent)
    command = training(Path("x"), finished, *VARIANTS["cps"], "--workers", "1", "machine.cache_mb=7")
    command[1] = f"{data}/"
    assert run(io, command).code == 0


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (("optim.lr=0.5",), ("optim.lr: ", "0.5 asked")),
        (("--steps", "13"), ("train.steps: 12 in the run, 13 asked",)),
        (("--method", "supervised"), ("method.name: 'cps' in the run, 'supervised' asked",)),
        (("--labelled", "3"), ("data.labelled: None in the run, '3' asked",)),
        (("--resize", "12x16"), ("data.resize: None in the run, [12, 16] asked",)),
    ],
)
def test_another_configuration(state, more, fragments, finished, data, io):
    if state == "unfinished":
        (finished / "metrics.json").unlink()
    before = content(finished)
    assert_refused(run(io, training(data, finished, *VARIANTS["cps"], *more)), 4, *fragments, str(finished))
    assert content(finished) == before


def test_a_limit_that_is_left_out_is_another_configuration(data, tmp_path, io):
    """Null means every mask and native sizes; it is no wildcard that any run satisfies."""
    out = tmp_path / "run"
    limits = ("--labelled", "2", "--unlabelled", "4", "--resize", "12x16")
    assert run(io, training(data, out, *VARIANTS["cps"], *limits)).code == 0
    ended = run(io, training(data, out, *VARIANTS["cps"]))
    assert_refused(ended, 4, "data.labelled: '2' in the run", "data.resize: [12, 16] in the run", "data.unlabelled: ")


def annotate_one(folder: Path) -> None:
    shutil.copy(folder / "masks/train/00.png", folder / "masks/train/bare0.png")


def correct_one(folder: Path) -> None:
    save_mask(folder / "masks/train/01.png", blocks((9, 9, 5)))


def replace_one(folder: Path) -> None:
    shutil.copy(folder / "images/train/bare1.jpg", folder / "images/train/bare0.jpg")


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (annotate_one, ("labelled: 5 in the run, 6 now",)),
        (correct_one, ()),
        (replace_one, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_data(state, change, fragments, own_data, tmp_path, io):
    out = tmp_path / "run"
    command = training(own_data, out, *VARIANTS["cps"])
    fault = "" if state == "finished" else "step.end:7"
    assert run(io, command, fault).code == (-signal.SIGKILL if fault else 0)
    change(own_data)
    before = content(out)
    ended = run(io, command)
    assert_refused(ended, 4, "the data have changed", f"--init {out}", *fragments)
    assert content(out) == before

    again = [str(tmp_path / "more") if word == str(out) else word for word in command]
    ended = run(io, [*again, "--init", str(out)])
    assert ended.code == 0 and f"f1: starts from f1 of {out}" in ended.stderr, ended.stderr


def test_foreign_files(data, tmp_path, io):
    out = tmp_path / "mine"
    out.mkdir()
    for name in ("thesis.tex", "data.yaml"):
        (out / name).write_text("precious")
        before = content(out)
        assert_refused(run(io, training(data, out)), 4, "nothing is written over", str(out))
        assert content(out) == before
        (out / name).unlink()
    (tmp_path / "file").write_text("precious")
    assert_refused(run(io, training(data, tmp_path / "file")), 4, "is a file")
    assert_refused(run(io, training(data, tmp_path / "file" / "run")), 74, "could not write", "file/run")
    assert (tmp_path / "file").read_text() == "precious"


def test_new_does_not_continue(finished, data, io):
    (finished / "metrics.json").unlink()
    assert_refused(run(io, training(data, finished, *VARIANTS["cps"], "--new")), 4, "--new", "another --out")


def test_in_use(data, tmp_path, io, monkeypatch):
    """Exactly one wins; when it is killed, its lock is taken over."""
    out, gate = tmp_path / "run", tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("SPY_WAIT", str(gate))
    command = training(data, out, "--method", "process.spy:Waiting")
    owner = start(tmp_path / "owner", command)
    while owner.process.is_alive() and not (gate / "reached").exists():
        time.sleep(0.005)
    before = {p: c for p, c in content(out).items() if "tensorboard" not in p.parts}
    assert_refused(run(io, command), 6, f"process {owner.pid} on ", "is writing to this run", str(out))
    assert {p: c for p, c in content(out).items() if "tensorboard" not in p.parts} == before
    owner.kill()
    assert owner.wait().code == -signal.SIGKILL
    (gate / "go").touch()
    ended = run(io, command)
    assert ended.code == 0, ended.stderr


# --- what disks do


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture
def interrupted(data, tmp_path, io) -> list[str]:
    """The command of a run that was killed in step 11, with checkpoints of steps 8 and 9 at least."""
    command = training(data, tmp_path / "run", *VARIANTS["cps"])
    assert run(io, command, "step.inside:11").code == -signal.SIGKILL
    return command


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink])
@pytest.mark.parametrize("name", ["networks.safetensors", "optimiser.safetensors", "state.json", "MANIFEST.json"])
def test_newest_checkpoint_damaged(name, damage, interrupted, unbroken, tmp_path, io):
    damage(tmp_path / "run/checkpoints/step-00000009" / name)
    ended = run(io, interrupted)
    assert ended.code == 0, ended.stderr
    assert "checkpoint step-00000009 is skipped" in ended.stderr and "continuing after step " in ended.stderr
    assert "continuing after step 9" not in ended.stderr
    assert_same(outcome(tmp_path / "run"), outcome(unbroken("cps")))


def test_every_checkpoint_damaged(interrupted, tmp_path, io):
    for file in (tmp_path / "run/checkpoints").glob("*/networks.safetensors"):
        flip_a_bit(file)
    before = content(tmp_path / "run")
    ended = run(io, interrupted)
    assert_refused(ended, 4, "checkpoints can be used", str(tmp_path / "run/checkpoints"))
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize(("name", "text"), [("config.yaml", "{"), ("config.yaml", "[1]"), ("data.yaml", "{")])
def test_records_of_a_run_damaged(name, text, interrupted, tmp_path, io):
    (tmp_path / "run" / name).write_text(text)
    assert_refused(run(io, interrupted), 4, name)


def test_metrics_damaged(finished, data, unbroken, io):
    (finished / "metrics.json").write_text("{")
    for command in (training(data, finished, *VARIANTS["cps"]), ["evaluate", str(finished)]):
        assert_refused(run(io, command), 4, "metrics.json", "damaged")
    (finished / "metrics.json").unlink()  # as the line says
    assert run(io, training(data, finished, *VARIANTS["cps"])).code == 0
    assert_same(outcome(finished), outcome(unbroken("cps")))


def test_a_full_disk_keeps_what_was_saved(data, unbroken, tmp_path, io):
    """The first save meets a full disk twice: exit 74; later the same command goes on."""
    command = training(data, tmp_path / "run", *VARIANTS["cps"])
    fault = "save.open:9:raise=ENOSPC,save.open:10:raise=ENOSPC"  # both tries of the third save
    ended = run(io, command, fault)
    assert ended.code == 74 and ended.error.startswith("error: could not write"), ended.stderr
    assert "trying once more" in ended.stderr
    assert not list((tmp_path / "run").rglob(".tmp-*"))
    ended = run(io, command)
    assert ended.code == 0 and "continuing after step " in ended.stderr, ended.stderr
    assert_same(outcome(tmp_path / "run"), outcome(unbroken("cps")))


def test_not_a_number(data, tmp_path, io):
    command = training(data, tmp_path / "run", "--method", "supervised", "optim.lr=1e30")
    ended = run(io, command)
    assert_refused(ended, 5, "NaN or infinite", "optim.lr", first=False)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


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
