"""Names that disks allow and programs stumble over, from training to the list of what to do next."""

from __future__ import annotations

import unicodedata

from process.helpers import good, run, tiny_data, training

ODD = {
    "train/00": "train/"
    + "/".join("a long folder with a name that takes sixty letters of its own" for _ in range(4))
    + "/x",
    "train/01": "train/two\nlines; rm -rf ~",
    "train/bare0": "train/# no comment",
    "train/bare1": "train/" + "y" * 240,
    "val/00": "val/" + "/".join("f" * 60 for _ in range(4)) + "/" + "z" * 200,
    "val/01": "val/" + unicodedata.normalize("NFD", "Zürich\nfewmask clean --yes"),
    "val/02": "val/[/b] [red]x",
}


def test_from_training_to_prediction(tmp_path, io):
    data = tiny_data(tmp_path / "data")
    for old, new in ODD.items():
        for part in ("images", "masks"):
            for file in (data / part).glob(f"{old}.*"):
                target = data / part / f"{new}{file.suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
    out = tmp_path / "run"
    told = good(run(io, training(data, out, "--method", "self_training", "--baseline"))).stderr
    assert "\x1b" not in told and "no report" not in told and "were not looked at" not in told
    assert len(list((out / "pictures").iterdir())) == 9
    steps = (out / "NEXT_STEPS.txt").read_text().splitlines()
    assert all(line.startswith(("#", "fewmask ")) or not line for line in steps)
    assert not [line for line in steps if line.startswith("fewmask clean")], "a name is no command"
    assert (out / "report.html").stat().st_size > 10_000
    good(run(io, ["predict", str(out), str(data / "images"), "-o", str(tmp_path / "predicted")]))
    good(run(io, ["suggest", str(out), "-n", "3", "-o", str(tmp_path / "next")]))
    good(run(io, ["evaluate", str(out)]))
