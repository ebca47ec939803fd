"""Every command in the README and the documents runs: at small size, in the order of its page, in a folder of its own.

A command line is taken as it stands; training is made small by what is put behind it. What cannot run here is in
``ELSEWHERE`` with the reason; a command that is neither run nor there fails the test.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from fewmask.nets import build
from fixtures_data import save_mask
from process.helpers import FIXMATCH, good, run, tiny_data, training

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md") if p.name != "log.md")
]  # fmt: skip
SMALL = [
    "--arch", "tiny", "--encoder", "tiny", "--weights", "none", "--crop", "12", "--batch", "2", "--unlabelled-batch",
    "2", "--precision", "fp32", "--devices", "cpu", "--workers", "0", "train.eval_every=0",
]  # fmt: skip
ELSEWHERE = {
    r"make |source |export |pip |git |head |hf |for |done$|if \[|RECIPE|(\.venv/bin/)?python ": "not a command of ours",
    r"fewmask demo": "test_demo.py",
    r"fewmask push": "test_push.py, against a stand-in of the Hub",
    r"torchrun |srun ": "test_ranks.py",
    r"fewmask .*(\$|CAMVID|VOC )": "needs real data; the recipes are tested at small size in test_recipe_steps.py",
    r"fewmask (report|compare) RUN": "how it is called, not a command",
    r"fewmask \w+ runs/camvid16": "of a run on real data",
    r"fewmask methods check package": "stands for a method of the reader's: test_new_method.py",
    r"fewmask train DIR": "large networks; test_nets.py builds them",
}
WITHOUT_VAL = {"docs/cross-fitting.md"}
WITH_BASELINE = {"README.md", "docs/baseline.md", *WITHOUT_VAL}
STEPS = "20"  # cbst has seven rounds


def commands(page: str) -> list[str]:
    """Return the command lines of a page's shell blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def elsewhere(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in ELSEWHERE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Finished runs that pages speak of without having trained them."""
    root = tmp_path_factory.mktemp("store")
    data = tiny_data(root / "photos")
    for name, method in (("fixmatch", FIXMATCH), ("supervised", ["--method", "supervised"])):
        good(run(root / "io", training(data, root / name, *method, "--baseline")))
    return root


@pytest.fixture
def place(store, tmp_path):
    """Return a function that makes the folder in which a page's commands are typed."""

    def make(page: str) -> Path:
        shutil.copytree(store / "photos", tmp_path / "photos")
        (tmp_path / "recipes").symlink_to(ROOT / "recipes")
        shutil.copytree(store / "photos/images/train", tmp_path / "new-photos")
        for name, part in (("scans", "images"), ("drawings", "masks")):
            shutil.copytree(store / "photos" / part / "train", tmp_path / name)
        for path in (tmp_path / "drawings").iterdir():  # which no data.yaml names: ids without gaps
            ids = np.array(Image.open(path))
            save_mask(path, np.where(ids == 5, 1, np.where(ids == 9, 2, ids)))
        images = sorted((tmp_path / "photos/images/train").glob("bare*"))
        rows = "".join(json.dumps({"image": f"photos/images/train/{p.name}"}) + "\n" for p in images)
        (tmp_path / "pool.jsonl").write_text(rows)
        if "--unlabelled-by" in " ".join(commands(page)):
            encoder = build("deeplabv3plus", "mobilenet_v2", 2, weights="none").encoder
            save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists/val.txt").write_text("val/00\nval/01\nval/02\n")
        for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
            if "class EntropyMinimisation" in code:
                (tmp_path / "entropy.py").write_text(code)
        if page in WITHOUT_VAL:
            for part in ("images", "masks"):
                shutil.rmtree(tmp_path / "photos" / part / "val")
        return tmp_path

    return make


def provide(words: list[str], root: Path, store: Path, io: Path, page: str) -> None:
    """Put there what a command reads and no command before it has made."""
    for flag, word in zip(["", *words], words, strict=False):
        missing = not (root / word).exists()
        if word == "runs/mine" and missing:  # a baseline must match
            good(run(io, shrink(["train", "photos/", "--method", "supervised", "--out", word], root, page), cwd=root))
        elif re.fullmatch(r"runs/[\w-]+", word) and flag != "--out" and missing:
            shutil.copytree(store / ("supervised" if "supervised" in word else "fixmatch"), root / word)
        elif word.endswith(".zip") and missing:
            good(run(io, ["labels", "export", "photos", "--to", "cvat", "-o", f"{word}.d"], cwd=root))
            shutil.copy(root / f"{word}.d/cvat.zip", root / word)


def shrink(words: list[str], root: Path, page: str) -> list[str]:
    """Return the command with less to do; what is given twice counts as it is given last."""
    words = [word.replace("5000:", "3:") for word in words]
    less = {"suggest": ["-n", "2"]}.get(words[0], [])
    if words[0] == "bench":
        less = ["--methods", "fixmatch", "--rounds", "1", "model.arch=tiny", "model.encoder=tiny", "data.crop=12"]
        less += ["--seeds", "1", "model.weights=none", f"train.steps={STEPS}", "data.batch=2"]
    if words[0] == "train":
        less = [*SMALL, *(["--plan"] if "--time" in words else ["--steps", STEPS])]
        less += ["--labelled", "4"] if "--recipe" in words else []
        less += [] if page in WITH_BASELINE else ["--no-baseline"]
    if "--unlabelled-by" in words:  # which looks at the images with an encoder that has learnt something
        less += ["--arch", "deeplabv3plus", "--crop", "32"] if words[0] == "train" else []
        less += ["--encoder", "mobilenet_v2", "--weights", str(root / "encoder.safetensors")]
    return [*words, *less]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs(page, store, place, io):
    lines = commands(page)
    ours = [line for line in lines if not elsewhere(line)]
    assert all(line.startswith("fewmask ") for line in ours), [x for x in ours if not x.startswith("fewmask ")]
    if not ours:
        return
    root, done = place(page), set[str]()
    for line in ours:
        if line in done:
            continue
        done.add(line)
        words = shlex.split(line)[1:]
        if any("*" in word for word in words):
            words = [m for word in words for m in (expand(root, word, store) if "*" in word else [word])]
        provide(words, root, store, io, page)
        ended = run(io, shrink(words, root, page), cwd=root)
        assert ended.code == 0, f"{page}: {line}\n{ended.stderr[-2000:]}"


def expand(root: Path, pattern: str, store: Path) -> list[str]:
    """Return what a shell makes of a pattern; a run where there is none yet."""
    if not list(root.glob(pattern)):
        shutil.copytree(store / "fixmatch", root / pattern.replace("*", "fixmatch-001"))
    return sorted(str(p.relative_to(root)) for p in root.glob(pattern))


def test_every_reason_is_needed():
    lines = [line for page in PAGES for line in commands(page)]
    assert len(lines) > 100
    assert [p for p in ELSEWHERE if not any(re.match(p, line) for line in lines)] == []
