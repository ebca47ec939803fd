"""Folders that other tools wrote (``tests/formats/make.py``): every pixel of every mask is what they meant.

None has a data.yaml but Ultralytics' own. What has two readings, or none, stops, with the file and what to do.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from fewmask.data.check import check, empty_mask_doubt
from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.describe import describe
from fewmask.data.index import DataIndex
from fewmask.data.layouts import read_folder, with_classes
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.errors import DataError

FORMATS = Path(__file__).parent.parent / "formats"
STOPS = {
    "pairs_16_bit_ids": ("undeclared class id 300", "a1.png", "declare it in data.yaml under classes"),
    "pairs_anti_aliased": ("undeclared class id", "a1.png", "name it in classes, or write ignore"),
    "pairs_binary_255": ("only the values 0 and 255, which has two readings", "classes: {0: background", "ignore: 255"),
    "pairs_black_masks": ("340 of 400 masks hold class 0 only", "empty_masks: labelled", "empty_masks: unlabelled"),
    "pairs_jpeg_masks": ("masks may not be JPEG", "a1.jpg", "export the masks again as PNG"),
    "pairs_rgb_bare": ("RGB mask with 3 colours", "a1.png", 'colours: {"0,0,250": ...'),
}
BARE = {
    "beside": 1, "coco_polygons": 1, "coco_rle": 1, "coco_uncompressed": 1, "huggingface": 1, "label_studio": 1,
    "nnunet": 1, "pairs_names": 1, "pairs_roles": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def unpack(name: str, folder: Path) -> tuple[Path, tuple[str, ...], dict[str, np.ndarray]]:
    """Return the data folder, the names of the classes, and the true masks by the stem of the image."""
    with zipfile.ZipFile(FORMATS / f"{name}.zip") as archive:
        archive.extractall(folder)
    with np.load(folder / "truth.npz") as truth:
        masks = {normalize("NFC", key): truth[key] for key in truth.files if key != "classes"}
        return folder / "data", tuple(truth["classes"].tolist()), masks


def read(root: Path) -> DataIndex:
    """Read a folder as ``train`` does."""
    index = read_folder(root)
    counts = scan([i for items in index.items.values() for i in items], len(index.classes) or None, index.code)
    counts.raise_first()
    if doubt := empty_mask_doubt(counts, index):
        raise DataError(doubt.what, where=doubt.where, todo=doubt.todo)
    return with_classes(index, counts)


NAMES = sorted(path.stem for path in FORMATS.glob("*.zip"))


def test_as_many_as_are_promised() -> None:
    assert len(NAMES) >= 36 and len(NAMES) - len(STOPS) >= 28 and STOPS.keys() <= set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPS])
def test_every_pixel(name: str, tmp_path: Path) -> None:
    root, classes, truth = unpack(name, tmp_path)
    index = read(root)
    items = [item for found in index.items.values() for item in found]
    masks = {normalize("NFC", i.image.stem): read_mask(i.mask, index.code) for i in items if i.mask is not None}
    assert masks.keys() == truth.keys()
    for key, mask in masks.items():
        assert mask.shape == truth[key].shape and (mask == truth[key]).all(), key
    bare = [item for item in items if item.mask is None]
    assert len(bare) == BARE.get(name, 2 if name.startswith("pairs_") and "table" not in name else 0)
    assert all(item in index.items["train"] for item in bare)
    assert index.classes == (classes or tuple(f"class {i}" for i in range(len(index.classes))))


@pytest.mark.parametrize("name", STOPS)
def test_two_readings_or_none(name: str, tmp_path: Path) -> None:
    root, _, _ = unpack(name, tmp_path)
    with pytest.raises(DataError) as caught:
        read(root)
    assert [part for part in STOPS[name] if part not in str(caught.value)] == [], str(caught.value)


def test_what_is_named_is_read(tmp_path: Path) -> None:
    """The fixes that the errors name."""
    for name, text in {
        "pairs_16_bit_ids": "classes: {7: field, 300: road, 1200: canopy}",
        "pairs_binary_255": "classes: {0: background, 255: object}",
        "pairs_rgb_bare": 'colours: {"128,64,0": 0, "0,0,250": 1, "10,200,30": 2}',
    }.items():
        root, _, truth = unpack(name, tmp_path / name)
        (root / "data.yaml").write_text(text + "\n")
        index = read(root)
        for item in (i for found in index.items.values() for i in found if i.mask is not None):
            assert item.mask is not None and (read_mask(item.mask, index.code) == truth[item.name]).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPS])
def test_what_check_writes_says_how_it_was_read(name: str, tmp_path: Path) -> None:
    """``check --write``, and the folder again: the same classes, the same ids for each, the same pixels."""
    root, _, truth = unpack(name, tmp_path)
    before = read(root)
    text = describe(check(root, cache=False).index, load_data_yaml(root) or DataYaml())
    assert text.startswith("version: 1\n")
    if (root / "data.yaml").exists():
        assert name.startswith("ultralytics") or name.startswith("yolo"), "only theirs has one"
        return
    (root / "data.yaml").write_text(text, encoding="utf-8")
    after = read(root)
    assert (after.classes, after.code, after.layout) == (before.classes, before.code, before.layout)
    for item in (item for found in after.items.values() for item in found if item.mask is not None):
        assert (read_mask(item.mask, after.code) == truth[normalize("NFC", item.image.stem)]).all(), item.name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPS])
def test_exports_of_two_tasks_beside_each_other(name: str, tmp_path: Path) -> None:
    """Each as it is read alone, and what ``check --write`` says of both changes nothing."""
    root, _, truth = unpack(name, tmp_path / "alone")
    both = tmp_path / "both"
    for task in ("one", "two"):
        shutil.copytree(root, both / task)
    alone, index = read(root), read(both)
    assert (index.classes, index.layout) == (alone.classes, alone.layout)
    alone, together = read_folder(root, val_fraction=None), read_folder(both, val_fraction=None)
    for role, items in alone.items.items():
        assert {item.name for item in together.items[role]} == {f"{t}/{i.name}" for t in ("one", "two") for i in items}
    (both / "data.yaml").write_text(describe(check(both, cache=False).index, DataYaml()), encoding="utf-8")
    for again in (index, read(both)):
        items = [item for found in again.items.values() for item in found if item.mask is not None]
        assert len(items) == 2 * len(truth)
        for item in items:
            assert item.mask is not None
            assert (read_mask(item.mask, again.code) == truth[normalize("NFC", item.image.stem)]).all(), item.name
