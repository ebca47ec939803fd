"""An index file as a pool: what it holds, what it refuses, and that nothing of it is kept."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import pytest

from fewmask.data.index import Item
from fewmask.data.pool import IndexPool, Joined, read_index
from fewmask.errors import DataError


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
        ("a/1", "a/1.jpg"), ("two", "b/ü 2.png"), ("./a/../3", "3.tif"), (str(tmp_path / "4"), "4.png"),
    ]  # fmt: skip
    assert len(pool) == 4 and pool[-1] == pool[3] and pool[1:3] == (pool[1], pool[2])
    assert all(item.mask is None and not item.group for item in pool)
    with pytest.raises(IndexError):
        pool[4]


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
