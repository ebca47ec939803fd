"""One run of ``fewmask check`` on a folder with one of every fault lists them all, each with its file, and no more."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewmask.data.findings import KINDS, TITLES
from fixtures_data import blocks, picture, raw_png, save_image, save_mask
from process.helpers import Ended, run

ODD = "train/odd name #1\n ü"
COLOURED = 23  # seed of the mask that is a picture
LEAST = ",".join(map(str, min(picture(seed=COLOURED).reshape(-1, 3).tolist())))


def a_mask(root: Path, name: str, ids=(0, 1, 2), **size: int) -> Path:
    return save_mask(root / f"masks/{name}.png", blocks(ids, **size))


def an_image(root: Path, name: str, seed: int, suffix: str = ".jpg", **more) -> Path:
    return save_image(root / f"images/{name}{suffix}", seed=seed, **more)


def a_pair(root: Path, name: str, seed: int, ids=(0, 1, 2), **more) -> tuple[Path, Path]:
    return an_image(root, name, seed, **more), a_mask(root, name, ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of 16x12 pixels, four classes, four sound pairs, and the faults."""
    root = tmp_path_factory.mktemp("faults") / "data"
    for seed, name in enumerate(("train/sound1", "train/sound2", "train/sound3", "val/sound4")):
        a_pair(root, name, seed, ids=(0, 1, 3) if name.startswith("val") else (0, 1, 2))
    (root / "classes.txt").write_text("sky\nsea\nsand\nrock\n")
    for spoil in (bad_images, bad_masks, pairs_that_do_not_fit, names_and_twins):
        spoil(root)
    return root


def bad_images(root: Path) -> None:
    cut, _ = a_pair(root, "train/truncated", 10)
    cut.write_bytes(cut.read_bytes()[:300])
    an_image(root, "train/nothing", 11).write_bytes(b"")
    an_image(root, "train/text", 12).write_bytes(b"not an image at all, and long enough to look like one")
    os.symlink("/nowhere/at/all.jpg", root / "images/train/gone.jpg")
    os.mkfifo(root / "images/train/pipe.jpg")
    raw_png(root / "images/train/bomb.png", [b"\0"] * 40_000, width=40_000, bits=8, colour_type=0)
    frames = [Image.fromarray(picture(seed=seed)) for seed in (13, 14)]
    frames[0].save(root / "images/train/moving.webp", save_all=True, append_images=frames[1:])
    deep = np.random.default_rng(15).integers(0, 65536, (12, 16), dtype=np.uint16)
    Image.fromarray(deep).save(root / "images/train/deep.png")
    Image.fromarray(picture(seed=16)).convert("CMYK").save(root / "images/train/printed.jpg")
    glass = np.dstack([picture(seed=17), np.full((12, 16), 90, np.uint8)])
    Image.fromarray(glass).save(root / "images/train/glass.png")


def bad_masks(root: Path) -> None:
    _, mask = a_pair(root, "train/zero", 20)
    mask.write_bytes(b"")
    _, mask = a_pair(root, "train/torn", 21)
    mask.write_bytes(mask.read_bytes()[:-30])
    an_image(root, "train/lossy", 22)
    Image.fromarray(blocks((0, 1))).save(root / "masks/train/lossy.jpg")
    an_image(root, "train/coloured", 24)
    Image.fromarray(picture(seed=COLOURED)).save(root / "masks/train/coloured.png")
    for seed, name in enumerate(("train/id37", ODD), start=25):
        _, mask = a_pair(root, name, seed)
        ids = blocks((0, 1, 2))
        ids[3:5, 2:9], ids[11, 15] = 37, 200
        save_mask(mask, ids)


def pairs_that_do_not_fit(root: Path) -> None:
    an_image(root, "train/size", 30)
    a_mask(root, "train/size", height=14, width=20)
    an_image(root, "train/turned", 31, exif=6)
    a_mask(root, "train/turned", height=16, width=12)
    a_pair(root, "train/tagged", 32, exif=3)


def names_and_twins(root: Path) -> None:
    a_mask(root, "train/orphan")
    an_image(root, "train/case", 40)
    a_mask(root, "train/CASE")
    for seed, name in enumerate(("train/Same", "train/same"), start=41):
        a_pair(root, name, seed)
    an_image(root, "val/bare", 43)
    Image.fromarray(picture(seed=44)).save(root / "images/train/still.jp2")
    a_pair(root, "train/seen", 45, suffix=".png")
    a_pair(root, "val/seen again", 45, suffix=".bmp")
    a_pair(root, "train/twice", 46, suffix=".png")
    an_image(root, "train/thrice", 46, suffix=".tif")


EXPECTED = {
    ("problem", "missing_file", "images/train/gone.jpg", None, None),
    ("problem", "empty_file", "images/train/nothing.jpg", None, None),
    ("problem", "empty_file", "masks/train/zero.png", None, None),
    ("problem", "unknown_format", "images/train/text.jpg", None, None),
    ("problem", "damaged_file", "images/train/truncated.jpg", None, None),
    ("problem", "damaged_file", "images/train/pipe.jpg", None, None),
    ("problem", "damaged_file", "masks/train/torn.png", None, None),
    ("problem", "too_large", "images/train/bomb.png", 1_600_000_000, None),
    ("problem", "several_pictures", "images/train/moving.webp", 2, None),
    ("problem", "pixel_format", "images/train/deep.png", "16-bit I;16", None),
    ("problem", "pixel_format", "images/train/printed.jpg", "CMYK", None),
    ("problem", "transparency", "images/train/glass.png", None, None),
    ("problem", "lossy_mask", "masks/train/lossy.jpg", "JPEG", None),
    ("problem", "undeclared_id", "masks/train/id37.png", 37, (2, 3)),
    ("problem", "undeclared_id", f"masks/{ODD}.png", 37, (2, 3)),
    ("problem", "undeclared_colour", "masks/train/coloured.png", LEAST, None),
    ("problem", "size_mismatch", "images/train/size.jpg", "16x12 20x14", None),
    ("problem", "size_mismatch", "images/train/turned.jpg", "16x12 12x16", None),
    ("problem", "orientation", "images/train/tagged.jpg", 3, None),
    ("problem", "same_picture", "images/val/seen again.bmp", "images/train/seen.png", None),
    ("doubt", "repeated_picture", "images/train/thrice.tif", "images/train/twice.png", None),
    ("doubt", "names_alike", "images/train/Same.jpg", "images/train/same.jpg", None),
    ("doubt", "absent_class", "", "rock", None),
    ("note", "mask_without_image", "masks/train/orphan.png", None, None),
    ("note", "mask_without_image", "masks/train/CASE.png", "train/case", None),
    ("note", "image_without_mask", "images/val/bare.jpg", None, None),
    ("note", "other_file", "images/train/still.jp2", ".jp2", None),
}


def listed(root: Path, ended: Ended) -> list[tuple]:
    """Return the findings of ``check --json`` with paths below the folder."""

    def below(text):
        return Path(text).relative_to(root).as_posix() if str(text).startswith(str(root)) else text

    found = json.loads(ended.stdout)["findings"]
    assert all(f["what"] and f["todo"] for f in found)
    return [
        (f["level"], f["kind"], below(f["where"]), below(f["value"]), f["position"] and tuple(f["position"]))
        for f in found
    ]  # fmt: skip


def quiet(ended: Ended) -> None:
    """The command ended with code 3 and one error line, and shows no inside."""
    assert ended.code == 3 and sum(line.startswith("error:") for line in ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stdout + ended.stderr and 'File "' not in ended.stdout + ended.stderr


def test_json_lists_each_with_its_file_value_and_place(folder, io):
    ended = run(io, ["check", str(folder), "--json"])
    quiet(ended)
    found = listed(folder, ended)
    assert len(found) == len(set(found)) and set(found) == EXPECTED
    order = [(("problem", "doubt", "note").index(level), KINDS.index(kind)) for level, kind, *_ in found]
    assert order == sorted(order), "problems first, and each level by kind"
    assert len(json.loads(ended.stdout)["problems"]) == sum(level == "problem" for level, *_ in EXPECTED)


def test_the_text_lists_each_with_its_file_under_its_kind(folder, io):
    ended = run(io, ["check", str(folder)])
    quiet(ended)
    lines = ended.stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    under = ""
    problems = []
    for line in lines:
        under = line if line.startswith("problems, ") else under
        if line.startswith("problem: "):
            problems.append((under.removeprefix("problems, ").rpartition(":")[0], line))
    expected = [e for e in EXPECTED if e[0] == "problem"]
    assert len(problems) == len(expected)
    for _, kind, where, _, position in expected:
        path = str(folder / where).replace("\n", "\\n")
        (line,) = [line for title, line in problems if title == TITLES[kind] and path in line.split("; ", 1)[1]]
        assert position is None or "x=2 y=3" in line
    for where in {where for _, _, where, _, _ in EXPECTED - set(expected) if where}:
        assert any(str(folder / where) in line for line in lines), where
    assert f"(and {len(expected) - 1} more, listed on stdout)" in ended.error


def test_colours_that_the_map_does_not_hold(tmp_path, io):
    """A folder with a colour map: RGB masks; all colours but one of a mask are declared, and one mask has an alpha."""
    (tmp_path / "data.yaml").write_text('classes: [sky, sea]\ncolours: {"0,0,0": sky, "9,8,7": sea}\n')
    colours = np.array([[0, 0, 0], [9, 8, 7], [70, 80, 90]], np.uint8)
    for seed, name in enumerate(("train/a", "train/b", "train/c", "train/d", "val/e")):
        an_image(tmp_path, name, seed)
        drawn = colours[blocks((0, 1))]
        if name == "train/b":
            drawn[5, 4] = drawn[6, 0] = colours[2]
        if name == "train/c":
            drawn = np.dstack([drawn, np.full((12, 16), 100, np.uint8)])
        path = tmp_path / f"masks/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path)
    ended = run(io, ["check", str(tmp_path), "--json"])
    quiet(ended)
    assert [found for found in listed(tmp_path, ended) if found[0] == "problem"] == [
        ("problem", "transparency", "masks/train/c.png", None, None),
        ("problem", "undeclared_colour", "masks/train/b.png", "70,80,90", (4, 5)),
    ]
    assert "(2 pixels, first at x=4 y=5)" in ended.stdout


def test_masks_of_zero_and_255(tmp_path, io):
    for seed, name in enumerate(("train/a", "train/b", "train/c", "val/d")):
        a_pair(tmp_path, name, seed, ids=(0, 255))
    ended = run(io, ["check", str(tmp_path), "--json"])
    quiet(ended)
    found = json.loads(ended.stdout)["findings"]
    assert [(f["kind"], f["value"], f["names"]) for f in found if f["level"] == "problem"] == [
        ("two_readings", 255, []),
    ]


def test_the_kinds_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = page.partition("| Level | `kind` |")[2].split("\n\n")[0]
    assert tuple(re.findall(r"`(\w+)`", rows)) == KINDS
