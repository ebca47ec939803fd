"""Hostile and broken input: one line, an exit code, and nothing else happens.

Each attack runs in a process of its own. Asserted of all: no traceback, no payload ran, nothing outside was touched,
and memory stays within bounds.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks import files
from attacks.files import write
from process.helpers import VARIANTS, content, run, training

MEMORY = 1200 * 2**20
"""Bytes that a process may take at most: the libraries alone take a half of it."""


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A folder beside the data that nothing may touch, and the file that a payload would make."""
    folder = tmp_path / "victim"
    write(folder / "secret.png", files.png(8, 8))
    write(folder / "secret.txt", "secret")
    monkeypatch.setenv(files.MARK, str(folder / "payload-ran"))
    return folder


def refused(ended, io: Path, victim: Path, code: int | tuple[int, ...], *fragments: str) -> None:
    lines = ended.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    codes = code if isinstance(code, tuple) else (code,)
    assert ended.code in codes and len(errors) == 1, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr and 'File "' not in ended.stderr and "inside fewmask" not in ended.stderr
    assert [f for f in fragments if f not in errors[0]] == [], errors[0]
    assert not (victim / "payload-ran").exists() and sorted(p.name for p in victim.iterdir()) == [
        "secret.png",
        "secret.txt",
    ]
    assert int((io / "memory").read_text()) < MEMORY
    assert len(ended.stderr) < 20_000, "an error is not the attacker's text"


# --- data.yaml

YAML: dict[str, tuple[str | bytes, str]] = {
    "call": ("classes: !!python/object/apply:os.system ['touch $FEWMASK_ATTACK_MARK']", "no valid YAML"),
    "new": ("classes: !!python/object/new:subprocess.Popen [[touch, x]]", "no valid YAML"),
    "name": ("classes: !!python/name:os.system", "no valid YAML"),
    "module": ("classes: !!python/module:antigravity", "no valid YAML"),
    "laughs": (files.laughs(), "aliases"),
    "itself": ("a: &a [*a]", "aliases"),
    "merged": ("base: &b {classes: [a]}\n<<: *b", "aliases"),
    "twice": ("classes: [a]\nclasses: [b]", "stands there twice"),
    "deep": ("[" * 20_000, "no valid YAML"),
    "deep maps": ("{a: " * 5000, "no valid YAML"),
    "base of 60": (b"version: " + b"1:" * 400_000 + b"1", "version"),
    "large": (b"# " + b"x" * 20_000_000, "larger than"),
    "binary": (bytes(range(256)) * 10, "no valid YAML"),
    "number": ("ignore: " + "9" * 5000, "data.yaml"),
    "unicode": (b"classes: [\xff\xfe]", "no valid YAML"),
    "outside": ("images: ../victim\nmasks: masks", "leads out of the data folder"),
    "root": ("images: /\nmasks: masks", "leads out of the data folder"),
    "glob outside": ("images: images/../../victim/*.png\nmasks: masks/*.png", "leads out of the data folder"),
    "list outside": ("roles: {train: ../victim/secret.txt, val: val/*}", "in the data folder"),
    "groups outside": ("groups: ../victim/secret.txt", "leads out of the data folder"),
    "control": ('classes: ["a\\u001b[31m"]', "must be one line of text"),
    "regex": ("groups: '(((('", "groups"),
}


@pytest.mark.parametrize("name", YAML)
def test_data_yaml(name, own_data, victim, io):
    text, fragment = YAML[name]
    write(own_data / "data.yaml", text)
    before = content(own_data)
    for command in (["check", str(own_data)], training(own_data, own_data.parent / "run")):
        refused(run(io, command), io, victim, (2, 3), fragment)
    assert content(own_data) == before and not (own_data.parent / "run").exists()


# --- recipes and run folders

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "call": ("method: !!python/object/apply:os.system ['touch $FEWMASK_ATTACK_MARK']", "no plain YAML"),
    "laughs": (files.laughs(), "aliases"),
    "twice": ("train: {steps: 3, steps: 4}", "stands there twice"),
    "deep": ("[" * 20_000, "no plain YAML"),
    "binary": (bytes(range(256)), "no plain YAML"),
    "no method": ("method: {name: 'os:system'}", "is not a fewmask.Method"),
    "no class": ("method: {name: 'os.path:join'}", "is not a fewmask.Method"),
    "hub": ("model: {arch: unet, encoder: 'tu-hf-hub:evil/model'}", "is no name of a network"),
    "folder": ("model: {arch: unet, encoder: 'tu-local-dir:/etc'}", "is no name of a network"),
    "url": ("model: {weights: 'https://localhost/weights.safetensors'}", "weights"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, data, victim, tmp_path, io):
    text, fragment = RECIPES[name]
    file = write(tmp_path / "recipe.yaml", text)
    command = ["train", str(data), "--recipe", str(file), "--out", str(tmp_path / "run"), "--devices", "cpu"]
    refused(run(io, command), io, victim, 2, fragment)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def foreign(unbroken, tmp_path):
    """A finished run that somebody else has made."""
    return shutil.copytree(unbroken("cps"), tmp_path / "foreign")


def change(file: Path, **values) -> None:
    tree = json.loads(file.read_text())
    file.write_text(json.dumps(tree | values))


def a_method(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("name: cps", "name: evil:Method"))


RUNS: dict[str, tuple[Callable[[Path], object], int | tuple[int, ...], str]] = {
    "method of its own": (a_method, 2, "--trust-code"),
    "config laughs": (lambda f: write(f / "config.yaml", files.laughs()), 4, "config.yaml"),
    "config tag": (lambda f: write(f / "config.yaml", YAML["call"][0]), 4, "config.yaml"),
    "data laughs": (lambda f: write(f / "data.yaml", files.laughs()), 4, "data.yaml"),
    "metrics list": (lambda f: write(f / "metrics.json", "[]"), 4, "metrics.json"),
    "metrics deep": (lambda f: write(f / "metrics.json", "[" * 100_000), 4, "metrics.json"),
    "metrics empty": (lambda f: write(f / "metrics.json", "{}"), 4, "metrics.json"),
    "metrics step": (lambda f: change(f / "metrics.json", steps="../../../victim"), 4, "metrics.json"),
    "round outside": (
        lambda f: change(f / "metrics.json", rounds=[{"name": "../../victim", "steps": 12}]), 4, "metrics.json",
    ),
    "model pickle": (lambda f: write(f / "model/model.safetensors", files.bomb()), (2, 4), "safetensors"),
    "model zip": (lambda f: write(f / "model/model.safetensors", files.torch_bomb()), (2, 4), "safetensors"),
    "model other": (lambda f: write(f / "model/model.safetensors", files.tensors({})), (2, 4), "model"),
    "card list": (lambda f: write(f / "model/config.json", "[]"), 4, "config.json"),
    "card classes": (lambda f: change(f / "model/config.json", classes=["x"] * 100_000), 4, "classes"),
    "card size": (lambda f: change(f / "model/config.json", resize=[10**6, 10**6]), 4, "resize"),
    "card ids": (lambda f: change(f / "model/config.json", ids=[-1, 0, 1]), 4, "ids"),
    "card mean": (lambda f: change(f / "model/config.json", mean=[float("nan")] * 3), 4, "mean"),
    "card hub": (lambda f: change(f / "model/config.json", arch="unet", encoder="tu-hf-hub:evil/model"), 2, "no name"),
    "card arch": (lambda f: change(f / "model/config.json", arch="../../victim"), 2, "unknown architecture"),
    "card protocol": (lambda f: change(f / "model/config.json", protocol="../x"), 4, "protocol"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_run_folder(name, foreign, data, victim, tmp_path, io):
    damage, code, fragment = RUNS[name]
    write(tmp_path / "evil.py", f"import os; os.system('touch \"${files.MARK}\"')")
    damage(foreign)
    before = content(foreign)
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        refused(run(io, ["evaluate", str(foreign), str(data), "--which", "last"]), io, victim, code, fragment)
        if name.startswith(("model", "card")):
            images = str(data / "images" / "val")
            refused(run(io, ["predict", str(foreign), images, "-o", str(tmp_path / "out")]), io, victim, code, fragment)
    finally:
        os.chdir(here)
    assert content(foreign) == before and not (tmp_path / "out").exists()


# --- weights

F32 = {"dtype": "F32", "shape": [2, 2]}
WEIGHTS: dict[str, bytes] = {
    "pickle": files.bomb(),
    "torch": files.torch_bomb(),
    "empty": b"",
    "short": b"\x08\0\0",
    "endless header": files.safetensors(b"{}", length=2**63),
    "long header": files.safetensors(b"{}", length=10**9),
    "no json": files.safetensors(b"\xff\xfe{{{{"),
    "deep json": files.safetensors(b"[" * 100_000),
    "a list": files.safetensors(b"[1, 2]"),
    "negative": files.tensors({"a": F32 | {"data_offsets": [-16, 0]}}),
    "beyond the end": files.tensors({"a": F32 | {"data_offsets": [0, 2**40]}}),
    "too small": files.tensors({"a": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 16]}}),
    "overflow": files.tensors({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}),
    "overlap": files.tensors({"a": F32 | {"data_offsets": [0, 16]}, "b": F32 | {"data_offsets": [8, 24]}}, b"\0" * 24),
    "hole": files.tensors({"a": F32 | {"data_offsets": [16, 32]}}, b"\0" * 32),
    "dtype": files.tensors({"a": {"dtype": "PICKLE", "shape": [2, 2], "data_offsets": [0, 16]}}),
    "twice": files.safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b"\0" * 16,
    ),
    "other tensors": files.tensors({"../../victim": F32 | {"data_offsets": [0, 16]}}),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("flag", ["--weights", "--init"])
def test_weights(name, flag, data, victim, tmp_path, io):
    file = write(tmp_path / "w.safetensors", WEIGHTS[name])
    command = training(data, tmp_path / "run", "--method", "supervised", "--arch", "unet", "--encoder", "resnet18")
    refused(run(io, [*command, "--crop", "32", flag, str(file)]), io, victim, (2, 4), "w.safetensors")
    assert not (tmp_path / "run" / "metrics.json").exists()


# --- images and masks

BOMB = b"Comment\0\0" + zlib.compress(b"\0" * 80_000_000)
IMAGES: dict[str, tuple[bytes, str]] = {
    "png bomb": (files.png(60_000, 60_000), "pixels, more than the limit"),
    "png larger than integers": (files.png(2**31 - 1, 2**31 - 1), "png"),
    "png text": (files.png(16, 12, (b"zTXt", BOMB)), "cannot be read"),
    "png profile": (files.png(16, 12, (b"iCCP", BOMB)), "cannot be read"),
    "png of nothing": (files.png(0, 0), "png"),
    "png without pixels": (files.png(4000, 4000, colour_type=2), "cannot be read"),
    "jpeg bomb": (files.jpeg(65_500, 65_500), "pixels, more than the limit"),
    "tiff bomb": (files.tiff(2**31, 2**31), "pixels, more than the limit"),
    "tiff without pixels": (files.tiff(4000, 4000), "cannot be read"),
    "bmp bomb": (files.bmp(200_000, -200_000), "pixels, more than the limit"),
    "bmp backwards": (files.bmp(-16, 12), "png"),
    "gif": (files.frames("GIF"), "file holds 3 frames or pages"),
    "animation": (files.frames("WEBP"), "frames"),
    "pages": (files.frames("TIFF"), "frames"),
    "pickle": (files.bomb(), "is no JPEG"),
    "zip": (files.torch_bomb(), "is no JPEG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch x) system\n", "is no JPEG"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "is no JPEG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "is no JPEG"),
    "html": (b"<!doctype html><script>alert(1)</script>", "is no JPEG"),
    "empty": (b"", "file is empty"),
    "both": (b"\x89PNG\r\n\x1a\n" + files.torch_bomb(), "cannot be read"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image(name, own_data, victim, io):
    raw, fragment = IMAGES[name]
    for place in ("images/train/evil.png", "masks/train/evil.png"):
        write(own_data / place, raw)
        if place.startswith("masks"):
            shutil.copy(own_data / "images/train/00.jpg", own_data / "images/train/evil.jpg")
        for command in (["check", str(own_data)], training(own_data, own_data.parent / "run")):
            refused(run(io, command), io, victim, 3, fragment, "evil")
        (own_data / place).unlink()
    assert not (own_data.parent / "run").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "itself", "secret"])
def test_no_file_at_all(kind, own_data, victim, io):
    """A pipe would be waited for, and a device never ends. A link to a text file is a file that is no image."""
    place = own_data / "images" / "train" / "evil.png"
    make = {
        "pipe": lambda: os.mkfifo(place), "device": lambda: place.symlink_to("/dev/zero"),
        "loop": lambda: place.symlink_to(place.parent), "itself": lambda: place.symlink_to(place),
        "secret": lambda: place.symlink_to(victim / "secret.txt"),
    }  # fmt: skip
    make[kind]()
    ended = run(io, ["check", str(own_data)])
    if kind == "loop":  # a folder that was seen already
        assert ended.code == 0, ended.stderr
    else:
        refused(ended, io, victim, 3, "evil.png")


@pytest.mark.parametrize("name", ["classes.txt", "annotations.json", "_classes.csv", "labelmap.txt"])
def test_no_text_file_at_all(name, own_data, victim, io):
    """Whatever a layout may be recognised by: a pipe would be waited for."""
    (own_data / "data.yaml").unlink()
    os.mkfifo(own_data / name)
    ended = run(io, ["check", str(own_data)])
    assert ended.code in (0, 3) and "Traceback" not in ended.stderr, ended.stderr


# --- lists

LISTS: dict[str, tuple[bytes, str]] = {
    "outside": (b"train/../../victim/secret\n", "is none of the"),
    "absolute": (b"/etc/passwd\n", "is none of the"),
    "dots": (b"../..\n", "names no image"),
    "binary": (b"train/00\0train/01\n", "not a text file"),
    "escape": (b"\x1b]0;owned\x07train/00\n", "not a text file"),
    "a long line": (b"x" * 100_000, "a line of 100000 characters"),
    "markup": (b"<script>alert(1)</script>\n", "is none of the"),
    "val": (b"val/00\n", "is none of the"),
    "tabs": (b"a\tb\tc\n", "fields between tabs"),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("flag", ["--labelled", "--unlabelled"])
def test_list(name, flag, data, victim, tmp_path, io):
    raw, fragment = LISTS[name]
    file = write(tmp_path / "list.txt", raw)
    refused(run(io, training(data, tmp_path / "run", *VARIANTS["cps"], flag, str(file))), io, victim, (2, 3), fragment)
    assert not (tmp_path / "run").exists()
