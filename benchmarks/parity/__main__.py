"""Compare our losses and gradients with the authors' published code on the same tensors.

    .venv/bin/python -m benchmarks.parity --repo CHECKOUT [--repo CHECKOUT ...] [--json FILE] [--skip-ranks]

A checkout is a clone of an authors' repository, bare or not, that holds the commit named in ``authors.py``; its code is
read from there and executed, never copied. Prints a table and writes the figures; those of repositories that are not
given stay as they are in the file. Exit code 1 if a comparison neither agrees within 1e-5 nor is fully explained by the
departure that is named for it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import fewmask
from benchmarks.experiments.source import source_hash
from benchmarks.parity import dars, pixelssl, ranks, three_stage, torchsemiseg, u2pl, unimatch
from benchmarks.parity.authors import PINNED, Checkout, checkouts
from benchmarks.parity.compare import DEPARTURES, TOLERANCE, Row
from benchmarks.parity.inputs import SEED, Setting

OUT = Path(__file__).parent / "results.json"
SIZES = ((2, 5), (4, 21))  # batch, classes
OHEM_CASES = ["threshold", "kth", "fewer", "exactly", "saturated"]
METHODS = {
    torchsemiseg.NAME: ("supervised", "cps", "mean_teacher"),
    unimatch.NAME: ("supervised", "fixmatch"),
    pixelssl.NAME: ("supervised", "mean_teacher"),
    u2pl.NAME: ("supervised", "u2pl"),
    dars.NAME: ("dars",),
    three_stage.NAME: ("three_stage",),
}
"""Repository to the methods of ours that are compared with it."""


def settings(**constants: Any) -> Iterator[Setting]:
    for dtype in (torch.float64, torch.float32):
        for batch, classes in SIZES:
            yield Setting(batch, classes, dtype, **constants)


def rows(found: dict[str, Checkout], with_ranks: bool) -> Iterator[Row]:
    small = Setting(2, 5, torch.float64)
    if checkout := found.get(torchsemiseg.NAME):
        folders = [f"exp.{data}8.res50v3+.CPS{mixed}" for data in ("voc/voc", "city/city") for mixed in ("", "+CutMix")]
        for folder in folders:
            for padding in (True, False):
                for setting in settings(padding=padding):
                    yield from torchsemiseg.cps(checkout, folder, setting)
        yield from torchsemiseg.boxes(checkout, 33, 47, masks=2000, seed=SEED)
        yield from torchsemiseg.boxes(checkout, 512, 512, masks=100, seed=SEED)
        for setting in settings():
            yield from torchsemiseg.ohem(
                checkout, torchsemiseg.ohem_class(checkout), "ignore_label", setting, OHEM_CASES
            )
        for padding in (True, False):
            for setting in settings(padding=padding):
                yield from torchsemiseg.mean_teacher(checkout, setting)
        yield from torchsemiseg.moving_average(checkout)
        yield from torchsemiseg.without_labels(checkout, small)
        if with_ranks:
            yield from ranks.all_reduced_loss(checkout, small)
    if checkout := found.get(unimatch.NAME):
        for dataset in ("pascal", "cityscapes"):
            for setting in settings(scale=6.0):
                yield from unimatch.fixmatch(checkout, dataset, setting)
        for setting in settings(scale=6.0):
            yield from unimatch.own_label_in_train_mode(checkout, setting)
        yield from unimatch.boxes(checkout, 321, masks=200, seed=SEED)
        yield from unimatch.boxes(checkout, 33, masks=2000, seed=SEED)
        for setting in settings():
            yield from torchsemiseg.ohem(checkout, unimatch.ohem_class(checkout), "ignore_index", setting, OHEM_CASES)
        yield from torchsemiseg.ohem(checkout, unimatch.ohem_class(checkout), "ignore_index", small, ["none"])
        yield from unimatch.nothing_valid(checkout, small)
    if checkout := found.get(pixelssl.NAME):
        for setting in settings():
            yield from pixelssl.mean_teacher(checkout, setting)
        for setting in settings(padding=False, void=0.0):
            yield from pixelssl.mean_teacher(checkout, setting)
        yield from pixelssl.moving_average(checkout)
    if checkout := found.get(u2pl.NAME):
        yield from u2pl.rows(checkout)
        if with_ranks:
            yield from ranks.all_reduced_contrast(checkout, Setting(1, 5, torch.float64, padding=False))
    if checkout := found.get(dars.NAME):
        yield from dars.rows(checkout, settings)
    if checkout := found.get(three_stage.NAME):
        yield from three_stage.rows(checkout, settings)


def table(all_rows: list[Row]) -> list[str]:
    """Return a Markdown table a repository: a line is the worst over sizes, by dtype."""

    def worst(group: list[Row], dtype: str) -> str:
        here = [r for r in group if r.inputs.get("dtype", "float64") == dtype]
        if not here:
            return "–"
        figures = [(r.value_difference, r.value_relative, r.gradient_relative) for r in here]
        return ", ".join(_figure(max(f[i] for f in figures)) if figures[0][i] is not None else "–" for i in (1, 2))

    groups: dict[tuple[str, ...], list[Row]] = {}
    for r in all_rows:
        groups.setdefault((r.repository, r.term, r.case, r.ours, r.departure), []).append(r)
    out, last = [], ""
    for (repository, term, case, ours, _), group in groups.items():
        if repository != last:
            out += ["", f"{repository}, commit {PINNED[repository]}", ""]
            out += ["| Term | Inputs | Ours | float64 | float32 | Verdict |", "|---|---|---|---|---|---|"]
            last = repository
        verdict = group[0].verdict if len({r.verdict for r in group}) == 1 else "MIXED"
        verdict += f": {group[0].departure}" if group[0].departure else ""
        switch = f"`{ours}`" if ours else "–"
        out.append(
            f"| {term} | {case} | {switch} | {worst(group, 'float64')} | {worst(group, 'float32')} | {verdict} |"
        )
    return out


def _figure(x: float) -> str:
    return "0" if x == 0 else f"{x:.0e}" if x < TOLERANCE else f"{x:.2g}"


def described(checkout: Checkout) -> dict[str, Any]:
    """Return what a repository's rows were made with, of theirs and of ours."""
    return {
        "commit": checkout.commit,
        "blobs": dict(sorted(checkout.blobs.items())),
        "fewmask": fewmask.__version__,
        "source": {name: source_hash(name) for name in METHODS[checkout.name]},
        "torch": torch.__version__,
    }


def document(repositories: dict[str, dict[str, Any]], all_rows: list[Row]) -> dict[str, Any]:
    def plain(x: Any) -> Any:
        return "nan" if isinstance(x, float) and math.isnan(x) else x

    return {
        "seed": SEED,
        "tolerance": TOLERANCE,
        "departures": DEPARTURES,
        "repositories": repositories,
        "rows": [{k: plain(v) for k, v in asdict(row).items() if v not in (None, "")} for row in all_rows],
    }


def one_line_a_row(content: dict[str, Any]) -> str:
    head = json.dumps(content | {"rows": []}, indent=1, ensure_ascii=False)
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in content["rows"])
    return head.replace('"rows": []', f'"rows": [\n  {lines}\n ]') + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, action="append", required=True, help="a clone of an authors' repository")
    parser.add_argument("--json", type=Path, default=OUT, help=f"where the figures go (default {OUT})")
    parser.add_argument("--skip-ranks", action="store_true", help="without the comparison in two processes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = checkouts(args.repo)
    before = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
    kept = {name: what for name, what in before.get("repositories", {}).items() if name not in found}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This overload of add_ is deprecated")  # in their code
        all_rows = list(rows(found, with_ranks=not args.skip_ranks))
    all_rows += [Row.read(row) for row in before.get("rows", []) if row["repository"] in kept]
    all_rows.sort(key=lambda row: list(PINNED).index(row.repository))
    repositories = kept | {name: described(checkout) for name, checkout in found.items()}
    repositories = {name: repositories[name] for name in PINNED if name in repositories}
    print("\n".join(table(all_rows)))
    faults = [r for r in all_rows if r.verdict == "UNEXPLAINED"]
    departures = sum(r.verdict == "departure" for r in all_rows)
    print(f"\n{len(all_rows)} comparisons: {len(all_rows) - departures - len(faults)} equal within {TOLERANCE:g}, "
          f"{departures} departures, {len(faults)} unexplained")  # fmt: skip
    for r in faults:
        print(f"UNEXPLAINED {r}", file=sys.stderr)
    args.json.write_text(one_line_a_row(document(repositories, all_rows)), encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
