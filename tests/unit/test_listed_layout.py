"""``images: index.jsonl`` in data.yaml."""

from __future__ import annotations

import json

import pytest

from fewmask.data.layouts import read_folder
from fewmask.errors import ConfigError, DataError
from fixtures_data import blocks, save_image, save_mask
from fixtures_layouts import names, refuse


@pytest.fixture
def root(tmp_path):
    for name in "abcd":
        save_image(tmp_path / "photos" / f"{name}.jpg")
    for name in "abc":
        save_mask(tmp_path / "drawn" / f"{name}.png", blocks((0, 1)))
    (tmp_path / "data.yaml").write_text("images: photos/index.jsonl\nclasses: [soil, crop]\n")
    return tmp_path


def write(root, *entries):
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (root / "photos" / "index.jsonl").write_text("\n".join(lines) + "\n")


def test_roles_groups_and_names(root):
    write(
        root, {"image": "a.jpg", "mask": "../drawn/a.png", "group": "field 1"}, "",
        {"image": "b.jpg", "mask": "../drawn/b.png", "role": "val"}, {"image": "d.jpg", "name": "D", "mask": None},
        {"image": "c.jpg", "mask": "../drawn/c.png", "role": "test"},
    )  # fmt: skip
    index = read_folder(root)
    assert index.layout == "index file" and index.classes == ("soil", "crop")
    assert names(index, "train") == ["D", "a"] and names(index, "val") == ["b"] and names(index, "test") == ["c"]
    assert index.items["train"][1].group == "field 1" and index.items["train"][0].mask is None
    assert index.items["train"][1].mask == root / "drawn" / "a.png"


def test_without_roles_val_is_drawn(root):
    write(root, *({"image": f"{n}.jpg", "mask": f"../drawn/{n}.png"} for n in "abc"), {"image": "d.jpg"})
    index = read_folder(root)
    assert len(index.items["val"]) == 1 and len(index.items["train"]) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x", "no JSON"), ("[1]", "no object of texts"), ({"image": 3}, "no object of texts"),
        ({"mask": "a"}, "no image"),
        ({"image": "a.jpg", "roles": "val"}, "unknown key 'roles'"), ({"image": "a.jpg", "role": "dev"}, "role 'dev'"),
        ({"image": "../../x.jpg"}, "leads out"), ({"image": "/etc/passwd"}, "leads out"),
        ({"image": "a.jpg", "mask": "../../../etc/passwd"}, "leads out"), ({"image": "b.jpg", "name": "a"}, "twice"),
        ({"image": "b.jpg", "name": "../../b"}, "no path below"), ({"image": "b.jpg", "name": "/b"}, "no path below"),
    ],
)  # fmt: skip
def test_lines_that_are_refused(root, line, message):
    write(root, {"image": "a.jpg", "mask": "../drawn/a.png"}, line)
    error = refuse(root, DataError, message)
    assert "index.jsonl line 2" in str(error)


def test_files_that_are_none(root):
    refuse(root, DataError, "cannot read the index")
    write(root, "")
    refuse(root, DataError, "names no image")
    (root / "data.yaml").write_text("images: photos/index.jsonl\nmasks: drawn\n")
    refuse(root, ConfigError, "which names the masks too")
    (root / "data.yaml").write_text("images: list.csv\n")
    refuse(root, ConfigError, "an index file is JSONL")
