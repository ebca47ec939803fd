"""The table of docs/reliability.md: each promise, the tests that show it, and how many of them passed in a run.

    make test-full                                   # writes build/tests.xml
    .venv/bin/python benchmarks/fault_table.py build/tests.xml

A row whose tests were not run, or failed, says so, and the script leaves with 1. The last rows are those of the soak,
``benchmarks/soak.py``, as its results tell.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from fewmask.config import load_yaml

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
ROWS = Path(__file__).with_name("faults.yaml")
RESULTS = Path(__file__).with_name("results")
SKIPPED = "skipped: "
START, END = "<!-- fault table -->", "<!-- end -->"


def main() -> None:
    states = read_cases(Path(sys.argv[1]))
    lines, sound = ["| | promise | how tested | cases that passed |", "|---|---|---|---|"], True
    for row in load_yaml(ROWS.read_bytes()):
        line, good = table_row(row, states)
        lines.append(line)
        sound &= good
    for file in sorted(RESULTS.glob("soak-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        sound &= found["equal"] and found["kills"] >= found["asked"]
        lines.append(
            f"| F1 | one run of {found['method']}, killed at random moments: the unbroken run's bytes "
            f"| `benchmarks/soak.py --method {found['method']} --kills {found['asked']}` "
            f"| {found['kills']} kills, {'equal' if found['equal'] else 'DIFFERS'} |"
        )
    text = PAGE.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    assert start and end, f"{PAGE} has no place for the table"
    lines = [*lines, "", summary(Path(sys.argv[1]), states)]
    PAGE.write_text(f"{before}{START}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")
    print("\n".join(lines))
    sys.exit(0 if sound else 1)


def read_cases(file: Path) -> dict[str, str]:
    """Return ``module::test`` to "passed", "failed" or "skipped: why", of a JUnit file of pytest."""
    cases: dict[str, str] = {}
    for case in ET.parse(file).getroot().iter("testcase"):
        module = (case.get("classname") or "").split("tests.")[-1]
        name = f"{module.replace('.', '::')}::{case.get('name')}".split("::", 1)[-1]
        bad = case.find("failure") is not None or case.find("error") is not None
        left = case.find("skipped")
        cases[name] = "failed" if bad else f"{SKIPPED}{left.get('message')}" if left is not None else "passed"
    return cases


def summary(file: Path, states: dict[str, str]) -> str:
    """Return one sentence on the whole test run, which was made on this machine."""
    suite = next(ET.parse(file).getroot().iter("testsuite"))
    day, minutes = suite.get("timestamp", "")[:10], float(suite.get("time", "nan")) / 60
    found = Counter(state.partition(":")[0] for state in states.values())
    counts = [f"{found[state]} {state}" for state in ("passed", "failed", "skipped")]
    machine = f"{os.cpu_count()} cores ({platform.machine()})"
    return f"All tests of {day}: {', '.join(counts)}, in {minutes:.0f} minutes on {machine}."


def table_row(row: dict[str, str], states: dict[str, str]) -> tuple[str, bool]:
    """Return a line of the table, and whether some of its tests passed and none failed."""
    mine = {name: state for name, state in states.items() if re.match(row["tests"], name)}
    counts = Counter(mine.values())
    told = f"{counts['passed']} ({row['case']})" if mine else "NOT RUN"
    told += f", {counts['failed']} FAILED" if counts["failed"] else ""
    for state, count in sorted(counts.items()):
        told += f", {count} skipped ({state.removeprefix(SKIPPED)})" if state.startswith(SKIPPED) else ""
    files = ", ".join(f"`{file}`" for file in sorted({name.split("::")[0] for name in mine}))
    sound = counts["passed"] > 0 and not counts["failed"]
    return f"| {row['fault']} | {row['promise']} | {files} | {told} |", sound


if __name__ == "__main__":
    main()
