"""The network's input: one size for all, or one long side for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewmask.data.index import Item, MaskCode
from fewmask.data.sizes import input_size, item_loader
from fewmask.errors import ConfigError
from fewmask.recipe import read_recipe
from fixtures_data import blocks, save_image, save_mask


@pytest.mark.parametrize(
    ("resize", "size", "seen"),
    [
        (None, (30, 40), (30, 40)),
        ((20, 20), (30, 40), (20, 20)),
        ("long:20", (30, 40), (15, 20)),
        ("long:20", (40, 30), (20, 15)),
        ("long:80", (30, 40), (60, 80)),
        ("long:20", (7, 7), (20, 20)),
        ("long:10", (1, 4000), (1, 10)),
    ],
)
def test_input_size(resize, size, seen):
    assert input_size(resize, size) == seen


@pytest.mark.parametrize(
    ("given", "kept"),
    [("long:1024", "long:1024"), ("LONG:64", "long:64"), ("96", (96, 96)), (96, (96, 96)), ("80x96", (80, 96))],
)
def test_recipe(given, kept):
    recipe = read_recipe(None, {"data.dir": "photos", "data.resize": given})
    assert recipe.data.resize == kept
    assert read_recipe(None, {"data.dir": "photos", "data.resize": recipe.complete()["data"]["resize"]}) == recipe


@pytest.mark.parametrize("wrong", ["long:", "long:0", "long:-3", "long:12x12", "longer:12", "short:12", "long:x"])
def test_what_is_no_size(wrong):
    with pytest.raises(ConfigError, match="is not a size.*long:1024"):
        read_recipe(None, {"data.dir": "photos", "data.resize": wrong})
    with pytest.raises(ConfigError, match="is not a size"):
        read_recipe(None, {"data.dir": "photos", "data.crop": "long:12"})


class TestLoader:
    @pytest.fixture
    def items(self, tmp_path):
        """One image that lies, and one that stands, with three classes and pixels that do not count."""
        out = []
        for name, (height, width) in {"lies": (30, 40), "stands": (40, 30)}.items():
            image = save_image(tmp_path / f"{name}.png", height=height, width=width)
            mask = save_mask(tmp_path / f"{name}_mask.png", blocks((0, 7, 2, 255), height, width))
            out.append(Item(name, image, mask))
        return out

    @pytest.mark.parametrize("side", [20, 64])
    def test_the_aspect_stays_and_masks_hold_their_ids_alone(self, items, side):
        loader = item_loader(MaskCode(mapping=((0, 0), (7, 1), (2, 2))), f"long:{side}", cache_mb=1)
        for item, (height, width) in zip(items, [(side * 3 / 4, side), (side, side * 3 / 4)], strict=True):
            for _ in range(2):  # the second time from memory
                image, labels = loader(item)
                assert image.dtype == torch.uint8 and image.shape == (3, height, width)
                assert labels is not None and labels.shape == (1, height, width)
                assert labels.unique().tolist() == [0, 1, 2, 255], "nearest: no id between two"
                shares = [(labels == i).float().mean().item() for i in (0, 1, 2, 255)]
                assert shares == pytest.approx([0.25] * 4, abs=0.06)
        assert loader(items[0])[0] is loader(items[0])[0]

    def test_it_is_what_a_fixed_size_gives(self, items):
        image, labels = item_loader(MaskCode(mapping=((0, 0), (7, 1), (2, 2))), "long:20")(items[0])
        fixed, same = item_loader(MaskCode(mapping=((0, 0), (7, 1), (2, 2))), (15, 20))(items[0])
        assert torch.equal(image, fixed) and np.array_equal(labels, same)

    def test_pseudo_labels_lie_on_the_grid_that_is_trained_on(self, items, tmp_path):
        pseudo = save_mask(tmp_path / "pseudo.png", blocks((0, 1), 15, 20))
        _, labels = item_loader(MaskCode(), "long:20")(Item("lies", items[0].image, pseudo=pseudo))
        assert labels is not None and labels[0].tolist() == blocks((0, 1), 15, 20).tolist()
