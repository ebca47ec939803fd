"""Groups from the times in photos' EXIF."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewmask.data.check import check
from fewmask.data.decode import taken
from fewmask.data.groups import by_time
from fewmask.data.layouts import read_folder
from fewmask.errors import ConfigError
from fixtures_data import make_folder

DAY = "2024:05:03 "


def photo(path: Path, original: str = "", changed: str = "", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    tags = Image.Exif()
    if changed:
        tags[306] = changed
    if original:
        tags.get_ifd(0x8769)[36867] = original
    Image.fromarray(pixels).save(path, exif=tags)
    return path


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_when_a_photo_was_taken(tmp_path, ending):
    file = photo(tmp_path / f"a.{ending}", f"{DAY}14:02:11", f"{DAY}20:00:00")
    assert taken(file) == datetime(2024, 5, 3, 14, 2, 11)


def test_the_second_best_time_and_none(tmp_path):
    assert taken(photo(tmp_path / "a.jpg", changed=f"{DAY}20:00:00")) == datetime(2024, 5, 3, 20)
    assert taken(photo(tmp_path / "b.jpg")) is None
    assert taken(photo(tmp_path / "c.png")) is None
    assert taken(photo(tmp_path / "d.jpg", "0000:00:00 00:00:00")) is None
    assert taken(photo(tmp_path / "e.jpg", "yesterday")) is None
    (tmp_path / "f.jpg").write_bytes(b"\xff\xd8\xffnothing")
    assert taken(tmp_path / "f.jpg") is None and taken(tmp_path / "g.jpg") is None


def test_pauses_part_groups(tmp_path):
    times = {"a": "14:00:00", "b": "14:09:59", "c": "14:19:59", "d": "14:29:59", "e": "09:00:00", "f": ""}
    images = {n: photo(tmp_path / f"{n}.jpg", DAY + t if t else "") for n, t in times.items()}
    first, second, early = "2024-05-03 14:00:00", "2024-05-03 14:19:59", "2024-05-03 09:00:00"
    # b is 9:59 after a; c is ten minutes after b, d ten after c
    assert by_time(images, 10) == {"e": early, "a": first, "b": first, "c": second, "d": "2024-05-03 14:29:59"}
    assert by_time(images, 10.1) == {"e": early, **dict.fromkeys("abcd", first)}


@pytest.fixture
def visits(tmp_path):
    """Nine photos of three visits, whose names say nothing; a mask of each."""
    names = [
        "train/quartz",
        "train/oak",
        "train/fern",
        "train/moss",
        "train/reed",
        "val/ash",
        "val/elm",
        "val/fir",
        "val/yew",
    ]
    make_folder(tmp_path, names)
    hours = dict(zip(names, (9, 9, 9, 12, 12, 12, 15, 15, 15), strict=True))
    for n, (name, hour) in enumerate(hours.items()):
        photo(tmp_path / "images" / f"{name}.jpg", f"{DAY}{hour:02}:0{n % 3}:00", seed=n)
    return tmp_path


def test_check_proposes_them(visits):
    report = check(visits, cache=False)
    assert report.groups_from == "time"
    assert report.groups == {
        "2024-05-03 09:00:00": {"train": 3},
        "2024-05-03 12:00:00": {"train": 2, "val": 1},
        "2024-05-03 15:00:00": {"val": 3},
    }
    assert any("group 2024-05-03 12:00:00 stands in train" in doubt for doubt in report.doubts)
    assert any("--group-by time keeps them whole" in doubt for doubt in report.doubts)
    assert any("proposed from the times of the photos" in line for line in report.lines())


def test_cameras_are_no_groups(visits):
    """Two cameras on each visit; times say more than the beginnings of names, folders more than times."""
    for part in ("images", "masks"):
        for n, file in enumerate(sorted((visits / part).rglob("*.*"))):
            file.rename(file.with_name(f"{('IMG', 'DSC')[n % 2]}_{n:04}{file.suffix}"))
    assert check(visits, cache=False).groups_from == "time"
    for part in ("images", "masks"):
        for role, field in (("train", "north"), ("val", "south")):
            (visits / part / role).rename(visits / part / field)
            (visits / part / role).mkdir()
            (visits / part / field).rename(visits / part / role / field)
    report = check(visits, cache=False)
    assert report.groups_from == "names" and report.groups == {"north": {"train": 5}, "south": {"val": 4}}


def test_they_can_be_asked_for(visits):
    index = read_folder(visits, groups="time")
    assert {item.group for item in index.labelled} == {"2024-05-03 09:00:00", "2024-05-03 12:00:00"}
    assert check(visits, groups="time", cache=False).groups_from == "declared"
    assert len({item.group for item in read_folder(visits, groups="time:600").labelled}) == 1


def test_photos_without_times(tmp_path):
    make_folder(tmp_path, ["train/x", "val/y"])
    with pytest.raises(ConfigError, match="no image into a group; their EXIF says no time"):
        read_folder(tmp_path, groups="time")
    assert check(tmp_path, cache=False).groups_from is None
