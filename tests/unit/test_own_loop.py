"""The loop in docs/own-loop.md gives the engine's first ten losses, for every method."""

import json
import re
from pathlib import Path

import pytest

import fewmask
from fewmask.methods import resolve
from fixtures_data import blocks, save_image, save_mask

PAGE = Path(__file__).parents[2] / "docs" / "own-loop.md"
CASES = [
    ("supervised", {}),
    ("mean_teacher", {}),
    ("fixmatch", {"align": 0.0}),  # alignment needs the frequencies of the labelled classes
    ("cps", {"cutmix": True}),
    ("ucc", {}),
    ("u2pl", {}),
]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for i in range(10):
        save_image(tmp_path / "photos" / "images" / f"{i}.png", height=40, width=56, seed=i)
        if i < 6:
            save_mask(tmp_path / "photos" / "masks" / f"{i}.png", blocks([0, 1, i % 3], 40, 56))
    (tmp_path / "photos" / "classes.txt").write_text("a\nb\nc\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("method", "constants"), CASES, ids=lambda x: str(x))
def test_first_ten_losses(photos, method, constants, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert 'resolve("cps")' in code and "cls.Config(cutmix=True, **cls.short)" in code
    given = f"**{ {**resolve(method).short, **constants}!r}"
    code = code.replace('resolve("cps")', f"resolve({method!r})")
    code = code.replace("cls.Config(cutmix=True, **cls.short)", f"cls.Config({given})")
    exec(compile(code, str(PAGE), "exec"), {})
    mine = [eval(line.split(" ", 1)[1]) for line in capsys.readouterr().out.splitlines()]
    run = fewmask.train(
        "photos", "engine", say=lambda text: None, method=method, **{f"method__{k}": v for k, v in constants.items()},
        model__arch="tiny", model__weights="none", data__crop="96", train__steps=10, train__log_every=1,
        machine__devices="cpu", machine__precision="fp32", optim__lr=1e-3, folds=1,
    )  # fmt: skip
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    engine = [{name: record[name] for name in mine[0]} for record in logged if "loss" in record]
    assert len(mine) == 10
    assert mine == engine
