"""fewmask.data.writers: what is written is read back, pixel by pixel, by fewmask and by the tools' own readers."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.data.writers import TOOLS, WRITERS, Annotated
from fewmask.data.writers.annotated import objects
from fewmask.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = {"objects": ("background", "crop", "tall weed"), "stuff": ("sky", "sea", "sand")}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def annotated(holes: bool = True) -> list[Annotated]:
    """Return three images; the last one, in a folder, holds every class, and pixels that do not count."""
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (4, 5)).astype(np.uint8).repeat(3, 0).repeat(3, 1) for _ in range(3)]
    masks[1][:] = 1
    if holes:
        masks[2][:2, 3:9] = 255
    return [Annotated(n, f"{n}.png", m) for n, m in zip(("a", "b", "field 2/ä"), masks, strict=True)]


def unpack(root: Path, tool, ones, classes) -> Path:
    """Write the files and the images beside them, as a person would put them together."""
    for name, content in WRITERS[tool](ones, classes, False):
        if name.endswith(".zip"):
            zipfile.ZipFile(BytesIO(content)).extractall(root)
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for one in ones:
        path = root / "images" / one.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", one.mask.shape[::-1]).save(path)
    return root


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("tool", TOOLS)
def test_there_and_back(tool, kind, tmp_path):
    classes, ones = CLASSES[kind], annotated()
    index = read_folder(unpack(tmp_path / "data", tool, ones, classes), val_fraction=0)
    names = [*index.classes, *["?"] * 255][:255] + ["void"]
    found = {item.name.removeprefix("images/"): item for item in index.labelled}
    assert found.keys() == {one.name for one in ones}
    for one in ones:
        mask = read_mask(found[one.name].mask, index.code)
        want = np.array([*classes, *[""] * (255 - len(classes)), "void"])[one.mask]
        assert (np.array(names)[mask] == want).all(), one.name


@pytest.mark.parametrize("tool", TOOLS)
def test_the_same_bytes(tool):
    ones = annotated()
    first, again = (list(WRITERS[tool](ones, CLASSES["stuff"], True)) for _ in range(2))
    assert first == again


def test_coco_by_its_own_reader(tmp_path, capsys):
    """pycocotools loads the file; its annotations are connected, do not overlap, and cover what is no background."""
    ones, classes = annotated(holes=False), CLASSES["objects"]
    (content,) = [c for _, c in WRITERS["coco"](ones, classes, True)]
    (tmp_path / "a.json").write_bytes(content)
    data = COCO(str(tmp_path / "a.json"))
    capsys.readouterr()
    for image, one in zip(data.loadImgs(data.getImgIds()), ones, strict=True):
        assert image["file_name"] == one.file and (image["height"], image["width"]) == one.mask.shape
        seen = np.zeros(one.mask.shape, np.uint8)
        for a in data.loadAnns(data.getAnnIds(imgIds=[image["id"]])):
            area = data.annToMask(a).astype(bool)
            label = data.loadCats([a["category_id"]])[0]["name"]
            assert not seen[area].any() and (one.mask[area] == classes.index(label)).all()
            assert a["area"] == area.sum() and len(list(objects(area))) == 1
            assert a["bbox"] == rle.toBbox(a["segmentation"]).tolist()
            seen[area] = classes.index(label)
        assert (seen == one.mask).all()


def test_guesses_are_predictions_in_label_studio():
    for guessed, holds in ((True, "predictions"), (False, "annotations")):
        files = dict(WRITERS["labelstudio"](annotated(), CLASSES["stuff"], guessed))
        tasks = json.loads(files["tasks.json"])
        other = ({"predictions", "annotations"} - {holds}).pop()
        assert all(task[holds] and not task[other] for task in tasks)
        assert tasks[2]["data"]["image"] == "/data/local-files/?d=images/field%202/%C3%A4.png"
    for name in (*CLASSES["stuff"], "void"):
        assert f'<Label value="{name}"/>' in files["interface.xml"].decode()


def test_names_that_are_markup():
    files = dict(WRITERS["labelstudio"](annotated(), ("a", 'b"/><x', "c&d"), True))
    assert "<x" not in files["interface.xml"].decode().replace("&lt;x", "")


def test_objects():
    """Two squares that touch at a corner are one object, a third one is another; in reading order."""
    area = np.zeros((6, 9), bool)
    area[:2, :2] = area[2:4, 2:4] = area[4:, 7:] = True
    first, second = objects(area)
    assert first.sum() == 8 and second.sum() == 4 and (first | second == area).all()


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (("cell", "Void"), "'Void' means that its pixels do not count"),
        (("cell", "ignored"), "'ignored' means"),
        (("cell", "unlabelled"), "'unlabelled' means"),
        (("cell", "_background_"), "means background"),
        (("Background", "background"), "differ in case alone"),
        (tuple(f"c{i}" for i in range(255)), "255 labels and background are 256 classes"),
    ],
)
def test_classes_that_would_not_come_back(tool, classes, says):
    """PNGs hold ids; where labels are words, some of them mean another thing to whoever reads them."""
    if tool == "png":
        assert dict(WRITERS[tool]([], classes, False))["classes.txt"].decode().split() == [*classes]
        return
    with pytest.raises(DataError, match=f"{says}.*{tool}; .*use png"):
        list(WRITERS[tool]([], classes, False))


@pytest.mark.parametrize("name", ["light: red", "#1", " cell"])
def test_names_that_labelmap_cannot_hold(name):
    with pytest.raises(DataError, match="cannot stand in labelmap.txt.*rename"):
        list(WRITERS["cvat"]([], ("sky", name), False))


@pytest.mark.parametrize("tool", TOOLS)
def test_as_many_classes_as_there_may_be(tool, tmp_path):
    """254 and background: every one of them comes back."""
    classes = ("background", *(f"c{i}" for i in range(1, 255)))
    mask = np.arange(255, dtype=np.uint8).reshape(15, 17)
    index = read_folder(unpack(tmp_path / "data", tool, [Annotated("a", "a.png", mask)], classes), val_fraction=0)
    (item,) = index.labelled
    found = read_mask(item.mask, index.code)
    assert (np.array(index.classes)[found] == np.array(classes)[mask]).all()
