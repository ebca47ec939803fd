"""Every command in the README and the documents runs: at small size, in the order of its page, in a folder of its own.

A command line is taken as it stands; training is made small by what is put behind it. What cannot run here is in
``ELSEWHERE`` with the reason; a command that is neither run nor there fails the test. What is not run, there and in
running text, is still looked at: commands, options, recipes and scripts that it names are there.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.main import get_command

from fewmask.cli import app
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
    r"make (install|demo)$": "builds this environment; test_demo.py",
    r"(source|export|for|if|done|head|RECIPE|RECIPES)\b": "the shell's, around a command that is looked at by itself",
    r"(pip install|git clone|hf auth) ": "needs a network",
    r"python -m benchmarks\.experiments (run|same|status|tables)\b": "hours of training; test_experiment_runner.py",
    r"(\.venv/bin/)?python -m benchmarks\.(parity|interval_coverage|label_budget|suggest_rules)\b": "minutes to hours",
    r"(\.venv/bin/)?python benchmarks/\w+\.py\b": "measures a machine, minutes to hours",
    r"python model_example\.py ": "which `fewmask export` has written: test_export.py",
    r"fewmask demo$": "test_demo.py",
    r"fewmask push ": "test_push.py, against a stand-in of the Hub",
    r"torchrun .*-m fewmask (train|pseudolabel) ": "test_ranks.py",
    r"srun (--ntasks=1 )?fewmask train ": "test_ranks.py, with SLURM's variables",
    r"fewmask train (CAMVID|VOC) ": "needs real data; the recipes are tested at small size in test_recipe_steps.py",
    r"fewmask recipes expand \"\$RECIPE\"": "of a job array; test_recipes.py",
    r"fewmask (report|compare) RUN": "how it is called, not a command",
    r"fewmask (compare|evaluate|predict) runs/camvid16": "of a run on real data",
    r"fewmask methods check package": "stands for a method of the reader's: test_new_method.py",
    r"fewmask train DIR ": "large networks, which are built below",
}
"""Beginnings of lines that are not run, and why."""
WITHOUT_VAL = {"docs/cross-fitting.md"}
WITH_BASELINE = {"README.md", "docs/baseline.md", *WITHOUT_VAL}
NETWORK_KEYS = ("model.output_stride=", "model.atrous_rates=")
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
    words = [word for word in words if not word.startswith(NETWORK_KEYS)]  # which the small network does not take
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


def asides(page: str) -> list[str]:
    """Return what looks like a command of ours or of the repository's: lines that are not run, and code in the text."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [line for line in commands(page) if elsewhere(line)] + spans


def unknown(line: str) -> list[str]:
    """Return the commands, options, recipes and scripts that a line names and that there are not."""
    wrong = [path for path in re.findall(r"(?:recipes/\S+\.yaml|(?:benchmarks|docs|tests)/\w[\w/]*\.py)", line)
             if not list(ROOT.glob(path))]  # fmt: skip
    for module in re.findall(r"python -m (benchmarks[\w.]*)", line):
        place = ROOT / module.replace(".", "/")
        wrong += [] if place.is_dir() or place.with_suffix(".py").is_file() else [module]
    found = re.search(r"(?:^|[ (])fewmask ([a-z].*)", line)
    if found is None:
        return wrong
    words, command = re.sub(r"[\[\]]| [>|] .*", "", found[1]).split(), get_command(app)
    while words and (below := getattr(command, "commands", {})):
        name = words.pop(0)
        if name not in below:
            return [*wrong, f"fewmask {name}"]
        command = below[name]
    known = {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
    return wrong + [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_names_what_there_is(page):
    assert {line: wrong for line in asides(page) if (wrong := unknown(line))} == {}


def test_what_there_is_not_is_found():
    line = "fewmask train VOC --recipe recipes/none.yaml --sed 1"
    assert unknown(line) == ["recipes/none.yaml", "--sed"]
    assert unknown("fewmask trian photos/") == ["fewmask trian"]
    assert unknown("fewmask labels diff DIR --too") == ["--too"]
    assert unknown("python -m benchmarks.experiment run") == ["benchmarks.experiment"]
    assert unknown("python benchmarks/none.py") == ["benchmarks/none.py"]
    assert not elsewhere("python -m something") and not elsewhere("fewmask train photos/")


NETWORKS = sorted(
    {line for page in PAGES for line in commands(page) if "--encoder tu-" in line and "CAMVID" not in line}
)


@pytest.mark.parametrize("line", NETWORKS)
def test_the_networks_of_the_commands_are_built(line):
    words = shlex.split(line)
    given = {a.removeprefix("--"): b for a, b in zip(words, words[1:], strict=False) if a in ("--arch", "--encoder")}
    keys = {word.split("=")[0].removeprefix("model."): yaml.safe_load(word.split("=")[1]) for word in words
            if word.startswith(NETWORK_KEYS)}  # fmt: skip
    assert build(given["arch"], given["encoder"], 2, weights="none", **keys).stride
