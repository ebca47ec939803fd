"""fewmask.engine.label: images that cannot be read get no labels, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewmask.data.index import Item
from fewmask.engine.label import read_manifest
from fewmask.engine.label_pass import label_file
from fewmask.errors import DataError, Interrupted
from fewmask.ops.select import Selection
from labelling import RELABEL, RULES, guess, in_ranks, label, pool, written


@pytest.fixture
def broken() -> set[str]:
    """Names of images that cannot be read; a test may mend them."""
    return {"video/2"}


def reading(broken: set[str]) -> Callable[..., Any]:
    def predict(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        if item.name in broken:
            raise DataError("file is empty", where=item.image)
        return guess(item, least_K)

    return predict


@pytest.mark.parametrize("how", [*RULES, RELABEL], ids=lambda h: f"{h.rule}-{h.drop}-{h.relabel}")
def test_an_image_that_cannot_be_read(how: Selection, broken: set[str], tmp_path: Path) -> None:
    """Without leave the pass stops; with it the others get labels, and all is as if its pixels were not there."""
    with pytest.raises(DataError, match=r"file is empty; 2\.png"):
        label(tmp_path / "stops", how, reading(broken))
    said: list[str] = []
    manifest = label(tmp_path / "skips", how, reading(broken), skip=True, say=said.append)
    assert manifest["unread"] == {"video/2": "file is empty; 2.png"} and manifest["images"] == 7
    assert "1 images cannot be read and get no labels, such as video/2" in said[0]
    others = [item for item in pool() if item.name != "video/2"]
    pixels = sum(guess(item)[0].size for item in others)
    assert sum(manifest["predicted"]) == pixels or how.relabel
    assert not label_file(tmp_path / "skips", pool()[2]).exists()
    found = np.concatenate([f.ravel() for f in written(tmp_path / "skips", others)])
    assert manifest["kept"] == np.bincount(found[found != 255], minlength=3).tolist()
    broken.clear()
    assert label(tmp_path / "skips", how, never, skip=True) == manifest, "decided once"


def never(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("predicted again")


def test_an_interrupted_pass_decides_once(broken: set[str], tmp_path: Path) -> None:
    asked = iter(["", "", "", "SIGTERM"])
    with pytest.raises(Interrupted):
        label(tmp_path, RULES[1], reading(broken), skip=True, stop=lambda: next(asked))
    broken.clear()  # mended meanwhile
    assert label(tmp_path, RULES[1], reading(broken), skip=True)["unread"].keys() == {"video/2"}


def test_too_many_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 7 unlabelled images cannot be read, more than 0\.1%.*video/5"):
        label(tmp_path, RULES[1], reading({"video/2", "video/5"}), skip=True)


@pytest.mark.parametrize("how", RULES[:2], ids=lambda h: h.rule)
def test_every_rank_leaves_it_out(how: Selection, broken: set[str], tmp_path: Path) -> None:
    """Whichever met it: the files are those of one process, and all know its name."""
    alone = label(tmp_path / "one", how, reading(broken), skip=True)
    job = lambda share: label(tmp_path / "two", how, reading(broken), skip=True, share=share)  # noqa: E731
    assert [list(found["unread"]) for found in in_ranks(2, job)] == [["video/2"], ["video/2"]]
    assert read_manifest(tmp_path / "two") == alone
    others = [item for item in pool() if item.name != "video/2"]
    for one, other in zip(written(tmp_path / "one", others), written(tmp_path / "two", others), strict=True):
        assert (one == other).all()
