"""Print finished runs as a Markdown table: ``.venv/bin/python benchmarks/table.py runs/camvid16-*``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from fewmask.run import load


def cell(score: dict | None) -> str:
    return "–" if score is None or score["miou"] is None else f"{score['miou']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    print("| method | seed | steps | split hash | val last | val best (step) | test last | best | precision | min |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in args.runs:
        run = load(path)
        m, best = run.metrics, run.metrics["best"]
        data = yaml.safe_load(run.folder.data.read_text())
        precision = run.folder.stored()["machine"]["precision"]
        print(
            f"| {m['method']} | {m['seed']} | {m['steps']} | {data['split_hash']} | {cell(m['val'])} "
            f"| {cell(best['val'])} ({best['step']}) | {cell(m['test'])} | {cell(best['test'])} | {precision} "
            f"| {m['seconds'] / 60:.0f} |"
        )
    classes = list(run.metrics["val"]["iou"])
    print("\n| test, best on val | " + " | ".join(classes) + " |")
    print("|---" * (len(classes) + 1) + "|")
    for path in args.runs:
        m = json.loads((path / "metrics.json").read_text())
        ious = [m["best"]["test"]["iou"][c] for c in classes]
        print(f"| {m['method']} | " + " | ".join("–" if v is None else f"{v:.1f}" for v in ious) + " |")


if __name__ == "__main__":
    main()
