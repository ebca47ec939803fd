"""Generated scenes: the same every time, long-tailed, whole or absent on disk, and readable as any other folder."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from fewmask.data.check import check
from fewmask.data.images import read_image
from fewmask.data.index import MaskCode
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.data.scenes import CLASSES, SHARES, VERSION, scene, write_scenes
from fewmask.errors import ConfigError, WriteError

COUNTS = {"labelled": 3, "unlabelled": 4, "val": 2, "test": 2}
SIZE = (32, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "data", **COUNTS, size=SIZE, seed=7)


@pytest.fixture(scope="module")
def masks():
    return np.stack([scene(0, i, (48, 64))[1] for i in range(150)])


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("size", [(96, 128), (64, 40), (16, 16)])
def test_a_scene_is_an_image_and_its_mask(size):
    image, mask = scene(3, 5, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert mask.shape == size and mask.dtype == np.uint8
    assert mask.max() < len(CLASSES)


def test_a_scene_depends_on_its_arguments_alone():
    first = scene(1, 2, SIZE)
    scene(9, 9, SIZE)
    np.random.seed(1)
    for a, b in zip(first, scene(1, 2, SIZE), strict=True):
        assert np.array_equal(a, b)
    for other in (scene(2, 2, SIZE), scene(1, 3, SIZE)):
        assert not np.array_equal(first[0], other[0])


def test_the_generator_is_frozen():
    digest = hashlib.sha256()
    for index in range(3):
        for array in scene(0, index, (96, 128)):
            digest.update(array.tobytes())
    # who changes a pixel raises VERSION: older measurements are then no longer comparable
    assert (VERSION, digest.hexdigest()[:16]) == (1, "e6193f21557eb6a3")


def test_classes_are_long_tailed_and_all_occur(masks):
    assert sum(SHARES) == pytest.approx(1) and list(SHARES) == sorted(SHARES, reverse=True)
    pixels = np.bincount(masks.ravel(), minlength=len(CLASSES))
    assert 0.6 < pixels[0] / pixels.sum() < 0.85, "toys are neither rare nor everywhere"
    assert pixels[1] > 3 * pixels[6] > 0, "striped balls against rings"
    shown = [(masks == k).any(axis=(1, 2)).mean() for k in range(1, len(CLASSES))]
    assert min(shown) > 0.2 and max(shown) > 1.5 * min(shown)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demonstrations_masks_hold_every_class(seed):
    labelled = np.stack([scene(seed, i, (48, 64))[1] for i in range(24)])
    held = [(labelled == k).any(axis=(1, 2)).sum() for k in range(len(CLASSES))]
    assert min(held) >= 3


def test_colour_alone_does_not_tell_the_class():
    """A lookup from colour to the commonest class there, made on the scenes that it is scored on, stays poor."""
    pairs = [scene(0, i, (48, 64)) for i in range(60)]
    # 8 levels a channel: fine enough for a hue, coarse enough for many pixels a colour
    colour = np.stack([p[0] for p in pairs]).reshape(-1, 3).astype(int) // 32
    key = colour[:, 0] * 64 + colour[:, 1] * 8 + colour[:, 2]
    truth = np.stack([p[1] for p in pairs]).ravel()
    table = np.zeros((512, len(CLASSES)))
    np.add.at(table, (key, truth), 1)
    share = np.bincount(truth, minlength=len(CLASSES)) / truth.size
    guess = (table / share).argmax(1)[key]
    iou = [((guess == k) & (truth == k)).sum() / ((guess == k) | (truth == k)).sum() for k in range(1, len(CLASSES))]
    assert np.mean(iou) < 0.2


def test_the_folder_is_read_like_any_other(folder):
    index = read_folder(folder)
    assert index.layout == "folders" and index.classes == CLASSES
    assert sum(i.mask is not None for i in index.items["train"]) == COUNTS["labelled"]
    assert {role: len(items) for role, items in index.items.items()} == {"train": 7, "val": 2, "test": 2}
    for place, items in index.items.items():
        first = {"train": 0, "val": 1_000_000, "test": 2_000_000}[place]
        for n, item in enumerate(items):
            image, mask = scene(7, first + n, SIZE)
            assert np.array_equal(read_image(item.image), image)
            if item.mask is not None:
                assert np.array_equal(read_mask(item.mask, MaskCode()), mask)
                with Image.open(item.mask) as stored:
                    assert stored.mode == "P"


def test_check_has_no_objection(folder):
    assert not check(folder).problems


def test_the_same_folder_again_is_left_alone(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert write_scenes(folder, **COUNTS, size=SIZE, seed=7) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_the_same_arguments_give_the_same_bytes(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    again = write_scenes(tmp_path / "empty", **COUNTS, size=SIZE, seed=7)
    assert contents(again) == contents(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"], "nothing is left beside it"


def test_more_unlabelled_scenes_change_no_other(folder, tmp_path):
    larger = contents(write_scenes(tmp_path / "data", **COUNTS | {"unlabelled": 6}, size=SIZE, seed=7))
    assert all(larger[name] == data for name, data in contents(folder).items() if name.endswith(".png"))


@pytest.mark.parametrize("change", [{"seed": 8}, {"labelled": 2}, {"size": (32, 32)}])
def test_other_scenes_are_not_written_over(folder, change):
    before = contents(folder)
    with pytest.raises(ConfigError, match="nothing is written over"):
        write_scenes(folder, **{**COUNTS, "size": SIZE, "seed": 7} | change)
    assert contents(folder) == before


def test_a_strange_folder_or_file_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match="nothing is written over"):
            write_scenes(place, **COUNTS, size=SIZE)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_lost_file_is_said(tmp_path):
    folder = write_scenes(tmp_path / "data", **COUNTS, size=SIZE)
    (folder / "masks" / "val" / "0001.png").unlink()
    with pytest.raises(ConfigError, match=r"1 files .* 'masks/val/0001.png'"):
        write_scenes(folder, **COUNTS, size=SIZE)


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="could not write"):
        write_scenes(tmp_path / "file" / "data", **COUNTS, size=SIZE)


@pytest.mark.parametrize("wrong", [{"labelled": 0}, {"val": -1}, {"size": (8, 48)}, {"seed": -1}, {"seed": 2**64}])
def test_arguments_out_of_range(wrong, tmp_path):
    with pytest.raises(ConfigError):
        write_scenes(tmp_path / "data", **COUNTS | wrong)
    assert not list(tmp_path.iterdir())
