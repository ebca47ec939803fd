"""Whether another source computes the same: a few steps of each arm on both, and every tensor equal bit for bit.

    python -m benchmarks.experiments same STUDY... --older TREE [--lacks KEY...] [--precision fp32]

Code that is only moved, or that gains an option, changes its hash but no figure. What is proved here is kept in
``same.json``: (arm, older hash, newer hash). A result counts as the current source's if such steps lead there. On a
machine that only emulates bf16 the steps of both may be taken in fp32, and the entry says so: a change of the code that
shows in neither the batches nor the losses nor the updates of fp32 shows in none of bf16.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.source import ROOT, source_hash
from benchmarks.experiments.study import HERE, SHARED, WEIGHTS, Experiment, data_folder

FILE = HERE / "same.json"
STEPS = 12
_SCORED = 8  # images of val, and of test


def arm_key(keys: dict[str, Any], data: str) -> str:
    """Return a hash of what an arm runs, whatever its seed, its draw and its length."""
    own = {k: v for k, v in keys.items() if k not in ("train.seed", "train.steps", "data.split_seed")}
    return hashlib.sha256(json.dumps([own, data], sort_keys=True).encode()).hexdigest()[:12]


def proved() -> list[dict[str, Any]]:
    """Return what was found equal so far."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []


def is_current(keys: dict[str, Any], data: str, hash: str) -> bool:
    """Return whether results of a source count as the current one's for an arm."""
    arm, now, known = arm_key(keys, data), source_hash(keys["method.name"]), {hash}
    edges = [(p["older"], p["newer"]) for p in proved() if p["arm"] == arm]
    while more := {newer for older, newer in edges if older in known} - known:
        known |= more
    return now in known


def compare(
    experiments: Sequence[Experiment],
    older: Path,
    scratch: Path,
    lacks: Sequence[str] = (),
    precision: str | None = None,
) -> bool:
    """Compare every arm on this source and on that of another tree, and note those that are equal; all of them?

    Args:
        experiments: the arms.
        older: the other checkout.
        scratch: where data folders are.
        lacks: keys that the other source does not know: it is to do without what it is told by them here.
        precision: of both sources' steps; None = the arms' own.
    """
    found, equal = proved(), True
    for arm, experiment in {arm_key(e.keys, e.data): e for e in experiments}.items():
        data_folder(experiment.data, scratch)
        hashes = [_hash_in(tree, experiment.method) for tree in (older, ROOT.parents[1])]
        if hashes[0] == hashes[1] or any((p["arm"], p["older"], p["newer"]) == (arm, *hashes) for p in found):
            print(f"{experiment.data} {experiment.arm}: known", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            tensors = [
                _train(experiment, tree, Path(folder) / str(n), scratch, without, precision)
                for n, (tree, without) in enumerate(((older, lacks), (ROOT.parents[1], ())))
            ]
        same = tensors[0] == tensors[1]
        equal &= same
        print(f"{experiment.data} {experiment.arm}: {'equal' if same else 'DIFFERS'} after {STEPS} steps", flush=True)
        if same:
            entry = {"arm": arm, "older": hashes[0], "newer": hashes[1], "steps": STEPS, "told": experiment.arm}
            own = experiment.keys.get("machine.precision")
            found.append(entry | ({"precision": precision} if precision not in (None, own) else {}))
            FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return equal


def _few_scored(folder: Path) -> Path:
    """Return a folder of the same images with few of the val and test roles: scores take longer than the steps."""
    declared = folder / "data.yaml"
    if not declared.is_file():
        return folder
    tree, few = yaml.safe_load(declared.read_text(encoding="utf-8")), folder.with_name(f"{folder.name}-few")
    images = folder / "images"
    names = sorted(path.relative_to(images).with_suffix("").as_posix() for path in images.rglob("*.*"))
    for role in tree["roles"].keys() & {"val", "test"}:
        mine = [name for name in names if fnmatch(name, tree["roles"][role])]
        tree["roles"][role] = mine[:: max(1, len(mine) // _SCORED)][:_SCORED]
    few.mkdir(exist_ok=True)
    for file in folder.iterdir():
        link = few / file.name
        if file != declared and not link.is_symlink():
            link.symlink_to(file.resolve())
    (few / "data.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return few


def _environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}", "OMP_NUM_THREADS": "1"}


def _hash_in(tree: Path, method: str) -> str:
    return _said_in(tree, f"from benchmarks.experiments.source import source_hash; print(source_hash({method!r}))")


def _recipe_in(tree: Path, experiment: Experiment, keys: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the complete recipe of an arm as that source completes it: flags would take constants of short runs."""
    code = f"""
import json
from benchmarks.experiments.study import Experiment
one = Experiment({experiment.study!r}, {experiment.arm!r}, {experiment.data!r}, json.loads({json.dumps(keys)!r}))
print(json.dumps(one.recipe({str(folder)!r})))
"""
    return json.loads(_said_in(tree, code))


def _said_in(tree: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=_environment(tree), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _train(
    experiment: Experiment, tree: Path, out: Path, scratch: Path, without: Sequence[str], precision: str | None
) -> str:  # fmt: skip
    """Return the hash of all networks and optimisers after a few steps, and of their scores on a few images."""
    keys = experiment.keys | {"train.steps": STEPS, "train.eval_every": 0, "train.save_every": STEPS}
    keys = {key: value for key, value in keys.items() if key not in without}
    keys |= {"machine.precision": precision} if precision is not None else {}
    folder = _few_scored(scratch / "data" / experiment.data)
    recipe = _recipe_in(tree, experiment, keys, folder)
    if recipe["model"]["weights"] == WEIGHTS:
        recipe["model"]["weights"] = str(SHARED / "weights" / f"{WEIGHTS}.safetensors")
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "fewmask", "train", str(folder), "--recipe", str(file), "--out", str(out)]
    subprocess.run(command, cwd=tree, env=_environment(tree), check=True, capture_output=True)
    files = sorted(out.rglob("checkpoints/step-*/*.safetensors"))
    assert files, out
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    scores = json.dumps({key: metrics[key] for key in ("val", "test", "predictors")}, sort_keys=True)
    return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), scores.encode()])).hexdigest()
