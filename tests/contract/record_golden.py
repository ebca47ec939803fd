"""Record tests/golden/*.json. Run it only when a change of the numbers is meant, and say so in the commit."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from test_contract import CASES, GOLDEN

from fewmask.contract import golden

if __name__ == "__main__":
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for case in CASES:
        found.setdefault(case.name.split(":")[-1], {})[str(case)] = golden(case)
    for name, cases in found.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(cases, indent=1) + "\n")
