"""The table of docs/reliability.md: each promise, the tests that show it, and how many of them passed in a run.

    OMP_NUM_THREADS=1 .venv/bin/pytest -n auto --dist worksteal --junitxml runs/tests.xml     # make test-full
    .venv/bin/python benchmarks/fault_table.py runs/tests.xml

A row whose tests were not run, or failed, says so, and the script leaves with 1.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from fewmask.config import load_yaml

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
ROWS = Path(__file__).with_name("faults.yaml")
START, END = "<!-- fault table -->", "<!-- end -->"


def main() -> None:
    cases: dict[str, str] = {}
    for case in ET.parse(sys.argv[1]).getroot().iter("testcase"):
        module = (case.get("classname") or "").split("tests.")[-1]
        name = f"{module.replace('.', '::')}::{case.get('name')}".split("::", 1)[-1]
        bad = case.find("failure") is not None or case.find("error") is not None
        cases[name] = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
    lines, sound = ["| | promise | tests passed | where |", "|---|---|---|---|"], True
    for row in load_yaml(ROWS.read_bytes()):
        mine = {name: state for name, state in cases.items() if re.match(row["tests"], name)}
        counts = {state: sum(s == state for s in mine.values()) for state in ("passed", "failed", "skipped")}
        sound &= counts["passed"] > 0 and not counts["failed"]
        files = sorted({name.split("::")[0] for name in mine})
        told = f"{counts['passed']}" + (f", {counts['failed']} FAILED" if counts["failed"] else "")
        told += f", {counts['skipped']} skipped" if counts["skipped"] else ""
        told = told if mine else "NOT RUN"
        lines.append(f"| {row['fault']} | {row['promise']} | {told} | {', '.join(f'`{f}`' for f in files)} |")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")
    print("\n".join(lines))
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
