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
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
    return _leads(arm_key(keys, data), hash, source_hash(keys["method.name"]), proved())


def _leads(arm: str, start: str, end: str, found: Sequence[Mapping[str, Any]]) -> bool:
    known, edges = {start}, [(p["older"], p["newer"]) for p in found if p["arm"] == arm]
    while more := {newer for older, newer in edges if older in known} - known:
        known |= more
    return end in known


def compare(
    experiments: Sequence[Experiment],
    older: Path,
    scratch: Path,
    lacks: Sequence[str] = (),
    precision: str | None = None,
) -> bool:
    """Compare arms on this source and on that of another tree, and note those that are equal; all of them?

    Left out are arms without a result that counts as the other source's, and those that are known.

    Args:
        experiments: the arms.
        older: the other checkout.
        scratch: where data folders are.
        lacks: keys that the other source does not know: it is to do without what it is told by them here.
        precision: of both sources' steps; None = the arms' own.
    """
    trees, found, equal = (older, ROOT.parents[1]), proved(), True
    methods = sorted({e.method for e in experiments})
    hashes = [dict(zip(methods, _source_hashes(tree, methods), strict=True)) for tree in trees]
    todo: dict[str, Experiment] = {}
    sources = _sources({e.study for e in experiments})
    for e in experiments:
        arm, (then, now) = arm_key(e.keys, e.data), (known[e.method] for known in hashes)
        results = sources[arm] | {
            path.stem.rpartition("-")[2] for path in e.result().parent.glob(f"{e.config_key()}-*")
        }
        if any(_leads(arm, hash, then, found) for hash in results) and not _leads(arm, then, now, found):
            todo.setdefault(arm, e)
    print(f"{len(todo)} arms", flush=True)
    for data in {e.data for e in todo.values()}:
        data_folder(data, scratch)
    with tempfile.TemporaryDirectory() as folder:
        recipes = [
            _recipes(tree, list(todo.values()), scratch, lacks if tree == older else (), precision) for tree in trees
        ]
        workers = [_few_steps(tree, Path(folder) / str(n), recipes[n]) for n, tree in enumerate(trees)]
        for (arm, e), *lines in zip(todo.items(), *(worker.stdout or () for worker in workers), strict=True):
            same = lines[0] == lines[1]
            equal &= same
            print(f"{e.data} {e.arm}: {'equal' if same else 'DIFFERS'} after {STEPS} steps", flush=True)
            if same:
                then, now = (known[e.method] for known in hashes)
                entry = {"arm": arm, "older": then, "newer": now, "steps": STEPS, "told": e.arm}
                own = e.keys.get("machine.precision")
                found.append(entry | ({"precision": precision} if precision not in (None, own) else {}))
                FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return equal


def _sources(studies: Iterable[str]) -> defaultdict[str, set[str]]:
    """Return the hashes of the sources that arms' results are of; older results lack keys, and have another name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for study in studies:
        for path in (HERE / "results" / study).glob("*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            found[arm_key(record["keys"], record["data"])].add(record["source_hash"])
    return found


def _few_scored(folder: Path) -> Path:
    """Return a folder of the same images with few of the val and test roles: scores take longer than the steps."""
    declared = folder / "data.yaml"
    if not declared.is_file():
        return folder
    tree, few = yaml.safe_load(declared.read_text(encoding="utf-8")), folder.with_name(f"{folder.name}-few")
    images = folder / "images"
    names = sorted(path.relative_to(images).with_suffix("").as_posix() for path in images.rglob("*.*"))
    for role in tree["roles"].keys() & {"val", "test"}:
        said = tree["roles"][role]
        patterns = [said] if isinstance(said, str) else said
        mine = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
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


def _source_hashes(tree: Path, methods: Sequence[str]) -> list[str]:
    code = "from benchmarks.experiments.source import source_hash as h; print(json.dumps([h(m) for m in told]))"
    return _said_in(tree, code, methods)


def _recipes(
    tree: Path, experiments: Sequence[Experiment], scratch: Path, lacks: Sequence[str], precision: str | None
) -> list[dict[str, Any]]:
    """Return the complete recipes of arms as that source completes them: flags would take constants of short runs."""
    told = []
    for e in experiments:
        keys = {key: value for key, value in e.keys.items() if key not in lacks}
        keys |= {"machine.precision": precision} if precision is not None else {}
        few = _few_scored(scratch / "data" / e.data)
        told.append([e.study, e.arm, e.data, keys | {"train.steps": STEPS}, str(few)])
    code = """
from benchmarks.experiments.study import Experiment
print(json.dumps([Experiment(study, arm, data, keys).recipe(folder) for study, arm, data, keys, folder in told]))
"""
    found = _said_in(tree, code, told)
    for recipe in found:
        if recipe["model"]["weights"] == WEIGHTS:
            recipe["model"]["weights"] = str(SHARED / "weights" / f"{WEIGHTS}.safetensors")
    return found


def _said_in(tree: Path, code: str, told: Any) -> Any:
    """Return the JSON that code prints in a process on the source of a tree; ``told`` is what it is about."""
    command = [sys.executable, "-c", f"import json, sys; told = json.load(sys.stdin)\n{code}"]
    done = subprocess.run(
        command, cwd=tree, env=_environment(tree), input=json.dumps(told), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _few_steps(tree: Path, folder: Path, recipes: Sequence[dict[str, Any]]) -> subprocess.Popen[str]:
    """Start a process on the source of a tree that prints a hash for each recipe."""
    folder.mkdir()
    (folder / "recipes.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in recipes), encoding="utf-8")
    with (folder / "recipes.jsonl").open(encoding="utf-8") as lines:
        command = [sys.executable, str(HERE / "few_steps.py"), str(STEPS), str(folder)]
        return subprocess.Popen(
            command, cwd=tree, env=_environment(tree), stdin=lines, stdout=subprocess.PIPE, text=True
        )
