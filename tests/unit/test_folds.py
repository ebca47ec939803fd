"""Folds of labelled images: whole groups, equal sizes, stable, and nothing of a fold in what it is scored by."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewmask.data.folds import assign, folds_for, hold_out, resampled_with, units_of
from fewmask.data.index import DataIndex, Item, Pools
from fewmask.errors import ConfigError
from fewmask.recipe import read_recipe

ROOT = Path("/data")


def labelled(n, group=lambda i: ""):
    return [Item(f"l{i:02}", ROOT / f"l{i:02}.jpg", ROOT / f"l{i:02}.png", group(i)) for i in range(n)]


def test_every_image_has_one_fold_and_the_sizes_differ_by_one():
    folds = assign(labelled(20), 3, seed=0)
    assert sorted(map(len, folds)) == [6, 7, 7]
    assert sorted(n for names in folds for n in names) == [f"l{i:02}" for i in range(20)]
    assert folds == assign(labelled(20)[::-1], 3, seed=0), "their order does not matter"
    assert folds != assign(labelled(20), 3, seed=1)


def test_groups_and_pictures_that_repeat_stay_whole():
    """Four videos of 6, 3, 2 and 1 frames in two folds: 6 | 3 + 2 + 1."""
    sizes = {0: "a", 6: "b", 9: "c", 11: "d"}

    def group(i):
        return sizes[max(start for start in sizes if start <= i)]

    items = labelled(12, group)
    for seed in range(5):
        assert sorted(len(names) for names in assign(items, 2, seed)) == [6, 6]
        assert {frozenset(n) for n in assign(items, 2, seed)} == {
            frozenset(i.name for i in items[:6]), frozenset(i.name for i in items[6:])
        }  # fmt: skip
    # l05 of video a shows what l06 of video b does, and an image that is not labelled
    assert units_of(items, [["l05", "x", "l06"]]) == [
        [f"l{i:02}" for i in range(9)], ["l09", "l10"], ["l11"]
    ]  # fmt: skip


def test_copies_are_resampled_together():
    """l00 and l03 show the same, and so do l04 (of group b) and l05 (of none)."""
    items = labelled(6, lambda i: {2: "a", 4: "b"}.get(i, ""))
    found = resampled_with(items, [["l00", "l03"], ["l05", "l04"], ["l01", "of another role"]])
    assert found == ("l00", "", "a", "l00", "b", "b")
    assert resampled_with(labelled(2)) == ("", "")


def test_an_image_stays_in_the_fold_that_an_earlier_run_scored_it_in():
    first = assign(labelled(7), 3, seed=0)
    before = {name: n for n, names in enumerate(first) for name in names}
    later = assign(labelled(15), 3, seed=4, before=before)
    assert all(set(old) <= set(new) for old, new in zip(first, later, strict=True))
    assert sorted(map(len, later)) == [5, 5, 5]
    with pytest.raises(ConfigError, match="fold 2 of the run before has no labelled image any more"):
        assign(labelled(3), 3, 0, before={"l00": 0, "l01": 0, "l02": 2})


def test_fewer_groups_than_folds():
    with pytest.raises(ConfigError, match="5 labelled images in 2 groups cannot make 3 folds") as caught:
        assign(labelled(5, lambda i: "ab"[i % 2]), 3, seed=0)
    assert caught.value.todo == "--folds 2"


@pytest.mark.parametrize(
    ("items", "folds"),
    [
        (labelled(2), 1),
        (labelled(3), 3),
        (labelled(147), 3),  # a fifth are 29 images
        (labelled(148), 1),  # and 30
        (labelled(20, lambda i: "ab"[i % 2]), 1),
    ],
)
def test_how_many_where_nobody_says(items, folds):
    assert folds_for(items, 0.2) == folds


def test_nothing_of_a_fold_is_left():
    """Video a is scored: its unlabelled frames go too, and a copy of l01; not a part of another video."""
    items = [*labelled(4, lambda i: "aabb"[i])]
    bare = [Item(name, ROOT / f"{name}.jpg", group=group) for name, group in (("u0", "a"), ("u1", "b"), ("u2", ""))]
    copy = Item("u3", ROOT / "u3.jpg")
    train = (*items, *bare, copy)
    test = (Item("t", ROOT / "t.jpg", ROOT / "t.png"),)
    index = DataIndex(ROOT, "folder", ("x", "y"), {"train": train, "val": (), "test": test})
    pools = Pools(tuple(items), (*bare, copy), partial=(items[1].as_partial(), items[2].as_partial()))
    inside, rest = hold_out(index, pools, ["l00", "l01"], [["l01", "u3"], ["l02", "u2"]])
    assert [i.name for i in inside.items["val"]] == ["l00", "l01"] and inside.items["test"] == test
    assert [i.name for i in inside.items["train"]] == ["l02", "l03", "u1", "u2"]
    assert [i.name for i in rest.labelled] == ["l02", "l03"] and [i.name for i in rest.partial] == ["l02"]
    assert [i.name for i in rest.unlabelled] == ["u1", "u2"]


@pytest.mark.parametrize("folds", [None, 1, 2])
def test_one_fold_of_those_there_are(folds):
    with pytest.raises(ConfigError, match=f"fold 3 of {folds} folds"):
        read_recipe(None, {"data.dir": "x", "folds": folds, "fold": 3})
    crossed = {(folds, fold): read_recipe(None, {"data.dir": "x", "folds": folds, "fold": fold}).cross_fitted
               for folds in (None, 1, 2) for fold in (None, *([0, 1] if folds == 2 else []))}  # fmt: skip
    assert [pair for pair, yes in crossed.items() if yes] == [(2, None)]
