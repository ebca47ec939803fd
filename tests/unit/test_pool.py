"""An index file as a pool: what it holds, what it refuses, and that nothing of it is kept."""

from __future__ import annotations

import json
import pickle
import sys
import tracemalloc
from io import BytesIO

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from fewmask.data import patience
from fewmask.data.files import is_below, place_below
from fewmask.data.index import Item, MaskCode
from fewmask.data.pool import IndexPool, Joined, _entry, read_index
from fewmask.data.stream import ItemLoader
from fewmask.errors import ConfigError, DataError


def write(path, *entries):
    path.write_text("".join(f"{e if isinstance(e, str) else json.dumps(e)}\n" for e in entries))
    return path


def test_items(tmp_path):
    index = write(
        tmp_path / "pool.jsonl", {"image": "a/1.jpg"}, {"image": "b/ü 2.png", "name": "two"}, {"image": "./a/../3.tif"},
        {"image": str(tmp_path / "4.png")},
    )  # fmt: skip
    pool = read_index(index, tmp_path, [])
    assert [(i.name, i.image.relative_to(tmp_path).as_posix()) for i in pool] == [
        ("a/1", "a/1.jpg"), ("two", "b/ü 2.png"), ("3", "3.tif"), ("4", "4.png"),
    ]  # fmt: skip
    assert len(pool) == 4 and pool[-1] == pool[3] and pool[1:3] == (pool[1], pool[2])
    assert all(item.mask is None and not item.group for item in pool)
    with pytest.raises(IndexError):
        pool[4]


def test_names_of_images_that_lie_elsewhere(tmp_path):
    """What is written for an image is named so: pseudo-labels, masks to correct."""
    lists = tmp_path / "lists"
    lists.mkdir()
    places = [
        "../a/1.jpg",
        str(tmp_path / "b" / "2.jpg"),
        "../a/./1.png",
        "s3://bucket/c/3.jpg",
        "s3://bucket/../3.jpg",
    ]
    pool = read_index(write(lists / "pool.jsonl", *({"image": p} for p in places[:3])), tmp_path, [])
    names = [item.name for item in pool]
    names += [_entry(json.dumps({"image": p}).encode(), "/lists/")[0] for p in places[3:]]
    assert len(set(names)) == 5 and all(is_below(name) for name in names)
    assert names[:3] == [item.name for item in pool] and names[3] == "s3://bucket/c/3"


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("a", True), ("a/b.png", True), ("a..b", True), ("s3://a/b", True), ("", False), ("/a", False), ("a/", False),
        ("..", False), ("../a", False), ("a/../b", False), ("a\0b", False),
    ],
)  # fmt: skip
def test_below(name, below, tmp_path):
    assert is_below(name) == below
    if below:
        assert place_below(tmp_path, name).resolve().is_relative_to(tmp_path.resolve())
    else:
        with pytest.raises(DataError, match="leads out"):
            place_below(tmp_path, name)


def test_in_another_process(tmp_path):
    pool = read_index(write(tmp_path / "pool.jsonl", *({"image": f"{i}.jpg"} for i in range(50))), tmp_path, [])
    first = pool[7]
    twin = pickle.loads(pickle.dumps(pool))
    assert isinstance(twin, IndexPool) and twin[7] == first and twin.digest == pool.digest


def test_joined_pools_show_no_masks(tmp_path):
    pool = read_index(write(tmp_path / "pool.jsonl", {"image": "u.jpg"}), tmp_path, [])
    both = Joined((Item("l", tmp_path / "l.jpg", tmp_path / "l.png"),), pool)
    assert len(both) == 2 and both[0].mask is None and both[1].name == "u" and both[-2].name == "l"
    assert [i.name for i in both] == ["l", "u"] == [i.name for i in both[:]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "Expecting value"),
        ("[1]", "cannot be used"),
        ("{}", "'image'"),
        ('{"image": 3}', "cannot be used"),
        ('{"image": ""}', "no text"),
        ('{"image": "a\\u0000b"}', "no text"),
        ('{"image": "a.jpg", "name": 5}', "no text"),
        ('{"image": "a.jpg", "name": "../../b"}', "no path below"),
        ('{"image": "a.jpg", "name": "/etc/b"}', "no path below"),
        ('{"image": "a.jpg", "name": "b/"}', "no path below"),
        ('{"image": "../x.jpg"}', "lies outside"),
        ('{"image": "a/../../x.jpg"}', "lies outside"),
        ('{"image": "/etc/passwd"}', "lies outside"),
        ('{"image": "val/0.jpg"}', "is labelled, or is scored on"),
        ('{"image": "./val//0.jpg"}', "is labelled, or is scored on"),
        ('{"image": "' + "x" * 20_000 + '"}', "a line of 200"),
        ("[" * 5000, "cannot be used"),
        ("", "Expecting value"),
    ],
)
def test_refused_lines(line, message, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    index = write(folder / "pool.jsonl", {"image": "a.jpg"}, line)
    with pytest.raises(DataError, match=message) as error:
        read_index(index, folder, [folder / "val" / "0.jpg"])
    assert error.value.where == f"{index} line 2" and error.value.exit_code == 3


def test_elsewhere_only_where_it_is_allowed(tmp_path):
    (tmp_path / "in").mkdir()
    index = write(tmp_path / "in" / "pool.jsonl", {"image": "../x.jpg"})
    assert read_index(index, tmp_path, [])[0].image == tmp_path / "x.jpg", "below the data folder"
    assert read_index(index, tmp_path / "in", [], anywhere=True)[0].image == tmp_path / "x.jpg"


def test_no_file_and_no_lines(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_index(tmp_path / "none.jsonl", tmp_path, [])
    with pytest.raises(DataError, match="names no image"):
        read_index(write(tmp_path / "empty.jsonl"), tmp_path, [])


def test_a_file_that_changes_is_noticed(tmp_path):
    index = write(tmp_path / "pool.jsonl", {"image": "aaaa.jpg"}, {"image": "b.jpg"})
    pool = read_index(index, tmp_path, [])
    write(index, {"image": "a.jpg"}, {"image": "b.jpg"})
    with pytest.raises(DataError, match="was changed while it is used"):
        pool[1]


def test_little_is_kept_in_memory(tmp_path):
    """Eight bytes a line, whatever a line holds."""
    count = 20_000
    index = write(tmp_path / "pool.jsonl", *({"image": f"{'x' * 200}/{i}.jpg"} for i in range(count)))
    tracemalloc.start()
    pool = read_index(index, tmp_path, [])
    before = tracemalloc.get_traced_memory()[0]
    for i in range(0, count, 40):
        assert pool[i].image.name == f"{i}.jpg"
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert before < 12 * count and after - before < 20_000


class TestRemote:
    """URIs, read through fsspec; here its file system in memory."""

    @pytest.fixture
    def index(self, tmp_path):
        fs = fsspec.filesystem("memory")
        for n in range(3):
            with fs.open(f"/pool/{n}.png", "wb") as file:
                Image.new("RGB", (4, 3), (n, 20, 30)).save(file, "PNG")
        yield write(
            tmp_path / "pool.jsonl", *({"image": f"memory://pool/{n}.png"} for n in range(3)), {"image": "a.png"}
        )
        fs.rm("/pool", recursive=True)

    def test_read(self, index, tmp_path):
        pool = read_index(index, tmp_path, [], anywhere=True)
        loader = ItemLoader(MaskCode(), None)
        assert [loader(item)[0][0, 0, 0].item() for item in pool[:3]] == [0, 1, 2]
        assert pool[0].name == "memory://pool/0" and pool[3].image == tmp_path / "a.png"
        assert pool[1] == pool[1] and len({pool[1], pool[1], pool[2]}) == 2, "kept in memory by what they are"
        assert pickle.loads(pickle.dumps(pool[1])) == pool[1]

    def test_only_where_it_is_allowed(self, index, tmp_path):
        with pytest.raises(DataError, match="lies outside, which only data.outside=true allows"):
            read_index(index, tmp_path, [])

    @pytest.mark.parametrize("image", ["file:///etc/passwd", "zip://a.png::s3://b/c.zip", "simplecache::s3://b/a.png"])
    def test_kinds_that_are_not_read(self, image, tmp_path):
        if image.startswith("simplecache"):  # no URI to us: a file of that name
            assert read_index(write(tmp_path / "a.jsonl", {"image": image}), tmp_path, [])[0].image.parent.is_absolute()
            return
        with pytest.raises(DataError, match="is no URI that is read"):
            read_index(write(tmp_path / "a.jsonl", {"image": image}), tmp_path, [], anywhere=True)

    def test_one_that_is_gone_and_one_that_is_late(self, index, tmp_path, monkeypatch):
        pool = read_index(index, tmp_path, [], anywhere=True)
        fsspec.filesystem("memory").rm("/pool/2.png")
        with pytest.raises(DataError, match="file does not exist; memory://pool/2.png"):
            ItemLoader(MaskCode(), None)(pool[2])
        waits, fail = [], [TimeoutError("slow"), ConnectionError("reset")]
        monkeypatch.setattr(patience.time, "sleep", waits.append)
        real = MemoryFileSystem.cat_file

        def flaky(self, *args, **more):
            if fail:
                raise fail.pop()
            return real(self, *args, **more)

        monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
        monkeypatch.setattr(MemoryFileSystem, "open", lambda self, path, *a, **k: BytesIO(self.cat_file(path)))
        assert ItemLoader(MaskCode(), None)(pool[1])[0][0, 0, 0] == 1 and waits == [0.1, 1.0]

    def test_without_the_extra(self, index, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "upath", None)
        with pytest.raises(ConfigError, match=r"pip install 'fewmask\[remote\]'"):
            read_index(index, tmp_path, [], anywhere=True)
