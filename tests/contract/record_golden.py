"""Record tests/golden/*.json: of new cases; with --all of every one, where the commit says that numbers change."""

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
    every = "--all" in sys.argv
    for name in {case.name for case in CASES}:
        file = GOLDEN / f"{name.split(':')[-1]}.json"
        kept = json.loads(file.read_text()) if file.is_file() and not every else {}
        now = {str(case): kept.get(str(case)) or golden(case) for case in CASES if case.name == name}
        file.write_text(json.dumps(now, indent=1) + "\n")
