"""Masks that an image editor has saved again: in colours, or with the palette in another order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fewmask.data.palette import palette
from fewmask.errors import DataError
from fewmask.run.label_import import import_labels
from fixtures_data import make_folder

CLASSES = ["soil", "crop", "weed"]
MASK = np.array([1, 2, 0], np.uint8).repeat(5).reshape(-1, 15).repeat(9, 0)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    make_folder(tmp_path / "photos", ["a"], ["b", "c"], classes="\n".join(CLASSES) + "\n")
    for path in (tmp_path / "photos/images").iterdir():
        Image.new("RGB", (15, 9)).save(path)
    Image.fromarray(MASK).save(tmp_path / "photos/masks/a.png")
    return tmp_path / "photos"


def coloured(mask=MASK):
    """As ``suggest`` writes it."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    return image


def shuffled(mask=MASK, order=(2, 0, 1)):
    """The same picture, with another order of the palette."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
    image.putpalette(palette()[list(order)].tobytes())
    return image


def came(tmp_path, named=True, **images):
    source = tmp_path / "back"
    (source / "masks").mkdir(parents=True)
    for name, image in images.items():
        image.save(source / f"masks/{name}.png")
    if named:
        (source / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return source


def taken(source, root):
    said = []
    import_labels(source, root, False, said.append, empty="labelled")
    masks = {p.stem: np.asarray(Image.open(p)) for p in (root / "masks").glob("*.png")}
    return masks, " ".join(said)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "saved",
    [
        shuffled,
        lambda: coloured().convert("RGB"),
        lambda: coloured().convert("RGBA"),
        lambda: coloured().convert("RGB").quantize(256),
    ],
)
def test_what_an_editor_saves(saved, named, root, tmp_path):
    masks, said = taken(came(tmp_path, named, b=saved(), c=coloured()), root)
    assert (masks["b"] == MASK).all() and (masks["c"] == MASK).all()
    assert "are read by the colours of their classes" in said


def test_a_mask_of_one_class_goes_with_the_others(root, tmp_path):
    """Its palette holds black alone, at another place; and three equal channels are colours, too."""
    one = Image.fromarray(np.ones_like(MASK))
    one.putpalette([128, 0, 0, 0, 0, 0])
    masks, _ = taken(came(tmp_path, b=shuffled(), c=one), root)
    assert (masks["b"] == MASK).all() and (masks["c"] == 0).all()


def test_masks_as_they_were_written_keep_their_ids(root, tmp_path):
    masks, said = taken(came(tmp_path, b=coloured(), c=Image.fromarray(MASK)), root)
    assert (masks["b"] == MASK).all() and (masks["c"] == MASK).all() and "colours" not in said


def test_the_palette_of_another_program_says_nothing(root, tmp_path):
    """It has one of our colours at another place, and others: ids count, as everywhere."""
    image = Image.fromarray(MASK)
    image.putpalette([0, 0, 0, 0, 128, 0, 10, 20, 30])
    masks, _ = taken(came(tmp_path, b=image), root)
    assert (masks["b"] == MASK).all()


def test_two_readings(root, tmp_path):
    """All used colours are ours, at other places, but the palette has others, too."""
    image = Image.fromarray(MASK)
    image.putpalette([0, 0, 0, 0, 128, 0, 128, 0, 0, 10, 20, 30])
    source = came(tmp_path, b=image)
    with pytest.raises(DataError, match="two readings.*beside the masks: colours: .*grey PNGs"):
        taken(source, root)
    (source / "data.yaml").write_text('colours: {"0,0,0": soil, "128,0,0": crop, "0,128,0": weed}\n')
    masks, _ = taken(source, root)
    assert (masks["b"] == np.array([0, 2, 1])[MASK]).all()


@pytest.mark.parametrize("smooth", [lambda: coloured().convert("RGB"), shuffled])
def test_other_colours_are_refused(smooth, root, tmp_path):
    image = smooth().convert("RGB")
    image.putpixel((3, 3), (64, 64, 7))
    image = image if smooth is not shuffled else image.quantize(256)
    with pytest.raises(DataError, match=r"the colour 64,64,7, which no class has; .*back.*b\.png; save it as an index"):
        taken(came(tmp_path, b=image, c=shuffled()), root)
    assert json.dumps(sorted(p.name for p in (root / "masks").iterdir())) == '["a.png"]'
