"""Errors of a disk that may pass: whoever reads images and masks tries again, and nobody waits twice for one error."""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewmask.data import decode, patience
from fewmask.data.index import Item, MaskCode
from fewmask.data.scan import scan
from fewmask.errors import DataError
from fewmask.run.training import pictures_of
from fixtures_data import blocks, save_image, save_mask


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", seconds.append)
    monkeypatch.setattr(patience, "_lost", 0)
    return seconds


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, waited: list[float]) -> Counter[Path]:
    """Path to how many more times opening it fails with EIO."""
    left: Counter[Path] = Counter()
    whole = decode._bytes

    def opened(path: Path) -> Any:
        if left[path] > 0:
            left[path] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return whole(path)

    monkeypatch.setattr(decode, "_bytes", opened)
    return left


@pytest.fixture
def item(tmp_path: Path) -> Item:
    mask = save_mask(tmp_path / "a-mask.png", blocks((0, 1)), palette=False)
    return Item("a", save_image(tmp_path / "a.png"), mask)


@pytest.mark.parametrize("which", ["image", "mask"])
def test_the_scan_before_step_0(which, item, failing, waited):
    file = getattr(item, which)
    failing[file] = 3
    assert scan([item], 2, MaskCode(), cache=False).problems == ()
    assert waited == [0.1, 1.0, 5.0] and failing[file] == 0
    failing[file] = 4
    (problem,) = scan([item], 2, MaskCode(), cache=False).problems
    assert problem.where == str(file) and "Input/output error" in problem.what
    assert len(waited) == 6, "and no more"


@pytest.mark.parametrize("times", [3, 4])
def test_masks_and_images_of_val(times, item, failing, waited):
    recipe = SimpleNamespace(data=SimpleNamespace(resize=None), machine=SimpleNamespace(cache_mb=0))
    index = SimpleNamespace(code=MaskCode(), classes=["a", "b"])
    prepared: Any = SimpleNamespace(recipe=recipe, index=index, statistics=((0.5,) * 3, (0.5,) * 3))
    learner: Any = SimpleNamespace(fabric=SimpleNamespace(device=torch.device("cpu")), autocast=nullcontext)
    pictures = pictures_of(prepared, learner)
    for read, file in ((pictures.mask, item.mask), (pictures.image, item.image)):
        failing[file] = times
        with nullcontext() if times == 3 else pytest.raises(DataError, match="Input/output error") as failed:
            assert read(item).shape[-2:] == (12, 16)
        if failed is not None:
            lasting: Any = failed.value.__cause__
            assert isinstance(lasting.__cause__, OSError), "--debug shows it"
    assert waited == 2 * [0.1, 1.0, 5.0], "a reader within a reader does not wait again"


def test_other_errors_do_not_pass(item, waited):
    item.image.write_bytes(item.image.read_bytes()[:100])
    item.mask.unlink()
    assert [p.kind for p in scan([item], 2, MaskCode(), cache=False).problems] == ["damaged_file", "missing_file"]
    assert waited == []


def test_a_disk_that_is_gone_is_not_waited_for_at_every_file(tmp_path, failing, waited):
    items = [Item(f"{n}", save_image(tmp_path / f"{n}.png")) for n in range(patience._MOST + 10)]
    failing.update({item.image: 99 for item in items})
    assert len(scan(items, 2, MaskCode(), cache=False, threads=1).problems) == len(items)
    assert len(waited) == 3 * patience._MOST
    failing.clear()
    assert scan(items, 2, MaskCode(), cache=False).problems == ()
    failing[items[0].image] = 1
    assert scan(items[:1], 2, MaskCode(), cache=False).problems == (), "the disk is back, and so is patience"
    assert waited[3 * patience._MOST :] == [0.1]
