"""class_dict.csv beside folders of images and masks: what the masks show, or what their ids count."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask

TABLE = "name,r,g,b\nwater,0,0,255\nvoid,9,9,9\nroad,0,255,255\n"
COLOURS = [(0, 0, 255), (9, 9, 9), (0, 255, 255)]
LINES = [2, 0, 1, 0]  # of the table, from left to right


def picture(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (16, 12)).save(path)


def mask(spelled):
    """Return the mask that holds ``LINES``, as a program may write it."""
    order = [2, 1, 0] if spelled == "another palette" else [0, 1, 2]
    places = np.array([[order.index(line) for line in LINES for _ in range(4)]] * 12, np.uint8)
    if spelled == "colours":
        return Image.fromarray(np.array(COLOURS, np.uint8)[places])
    made = Image.fromarray(places)
    if spelled != "grey":
        made.putpalette([value for line in order for value in COLOURS[line]])
    return made


@pytest.mark.parametrize("spelled", ["colours", "grey", "palette", "another palette"])
def test_a_table_beside_folders(spelled, tmp_path):
    """Colours are those of the table; ids count its lines, whatever else a palette holds."""
    (tmp_path / "class_dict.csv").write_text(TABLE)
    picture(tmp_path / "photos" / "a.jpg")
    (tmp_path / "labels").mkdir()
    mask(spelled).save(tmp_path / "labels" / "a.png")
    index = read_folder(tmp_path, val_fraction=0)
    assert index.layout == "folders" and index.classes == ("water", "road")
    read = read_mask(index.items["train"][0].mask, index.code)
    assert read[0, ::4].tolist() == [1, 0, 255, 0]
    how = "ids count its lines from 0" if spelled in ("grey", "palette") else "masks show their colours"
    assert f"classes are those of class_dict.csv; {how}" in index.notes


@pytest.mark.parametrize("own", ["classes.txt", "data.yaml"])
def test_own_names_come_before_a_table(own, tmp_path):
    (tmp_path / "class_dict.csv").write_text(TABLE)
    (tmp_path / own).write_text("a\nb\n" if own == "classes.txt" else "classes: [a, b]\n")
    picture(tmp_path / "images" / "a.jpg")
    picture(tmp_path / "masks" / "a.png", "L")
    assert read_folder(tmp_path, val_fraction=0).classes == ("a", "b")
