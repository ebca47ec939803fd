"""Which part of a large pool of unlabelled images to train on, by what they show: ``--unlabelled-by``.

Each image becomes one vector: the average of the pretrained encoder's last map over the whole image at 224×224,
projected to 128 numbers at most, of length 1. A vector a pool image is all that is held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.data.divide import enough
from fewmask.data.index import Item, MaskCode, Pools
from fewmask.data.stream import ItemLoader
from fewmask.engine.infer import normalise
from fewmask.engine.progress import Ticker
from fewmask.errors import ConfigError, DataError
from fewmask.nets import DEFAULT_ARCH, IMAGENET_MEAN, IMAGENET_STD, build, default_encoder
from fewmask.nets.segmenter import Segmenter
from fewmask.ops.coreset import k_centre, nearest
from fewmask.recipe import Recipe

Say = Callable[[str], None]

RULES = {"near-labelled": nearest, "diverse": k_centre}
"""Rules beside "random"."""

_SIDE = 224
_BATCH = 32
_NUMBERS = 128


def choose(pools: Pools, number: int, asked: Recipe, say: Say) -> Pools:
    """Return the pools with a part of the unlabelled images, sorted by name.

    Args:
        pools: the labelled images, and all unlabelled ones there are to choose from.
        number: how many.
        asked: the recipe: the rule, and the network whose encoder looks at the images.
        say: receives sentences.

    Raises:
        ConfigError: the encoder has no pretrained weights; more images are asked for than there are.
        DataError: an image cannot be read, unless ``data.on_bad_unlabelled`` is "skip".
    """
    by, model, skip = asked.data.unlabelled_by, asked.model, asked.data.on_bad_unlabelled == "skip"
    if model.weights == "none":
        raise ConfigError(
            f"choosing images {by} looks at them with a pretrained encoder, and weights are none",
            where="data.unlabelled_by", todo="give --weights imagenet or a file, or --unlabelled-by random",
        )  # fmt: skip
    cuda = torch.cuda.is_available() and not asked.machine.devices.startswith("cpu")
    arch = model.arch or DEFAULT_ARCH
    encoder = model.encoder or default_encoder(arch, cuda)
    look = _Look(build(arch, encoder, 2, weights=model.weights), torch.device("cuda" if cuda else "cpu"))
    with Ticker("looking at the unlabelled images", say) as tick:
        labelled, _ = look(pools.labelled, skip=False)
        points, places = look(pools.unlabelled, skip, tick)
    lost = len(pools.unlabelled) - len(places)
    if lost:
        say(f"WARNING: {lost} unlabelled images cannot be read and are not chosen from")
    some = RULES[by](points, labelled, enough(number, len(places)))
    chosen = [pools.unlabelled[places[i]] for i in some.tolist()]
    say(f"{number} of {len(places)} unlabelled images, {by}, by the features of {encoder}")
    items = sorted((item.without_mask() for item in chosen), key=lambda item: item.name)
    return replace(pools, unlabelled=tuple(items), digest="")


class _Look:
    """Turns images into vectors."""

    def __init__(self, net: Segmenter, device: torch.device) -> None:
        self._net, self._device = net.to(device).eval(), device
        self._mean, self._std = (torch.tensor(v, device=device) for v in (IMAGENET_MEAN, IMAGENET_STD))
        self._read = ItemLoader(MaskCode(), (_SIDE, _SIDE))
        self._onto: Tensor | None = None

    def __call__(
        self, items: Sequence[Item], skip: bool, tick: Callable[[int, int], None] = lambda done, of: None
    ) -> tuple[Tensor, list[int]]:
        """Return vectors of length 1, float32 [N, D] on the CPU, and the places of the N images that could be read."""
        parts, places = [torch.empty(0, _NUMBERS)], list[int]()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(items), _BATCH):
                read = threads.map(lambda item: self._image(item, skip), items[start : start + _BATCH])
                found = {start + n: image for n, image in enumerate(read) if image is not None}
                if found:
                    parts.append(self._vectors(list(found.values())))
                    places.extend(found)
                tick(start + 1, len(items))
        return torch.cat([part for part in parts if len(part)] or parts), places

    def _image(self, item: Item, skip: bool) -> Tensor | None:
        try:
            return self._read(item.without_labels())[0]
        except DataError:
            if skip:
                return None
            raise

    @torch.inference_mode()
    def _vectors(self, images: list[Tensor]) -> Tensor:
        batch = torch.cat([normalise(image, self._mean, self._std, self._device) for image in images])
        z = _deepest(self._net.encode(batch)).float().mean((2, 3))
        if z.shape[1] > _NUMBERS:  # distances survive a random projection (Johnson and Lindenstrauss 1984)
            if self._onto is None:
                self._onto = torch.randn(z.shape[1], _NUMBERS, generator=torch.Generator().manual_seed(0)).to(z)
            z = z @ self._onto
        return F.normalize(z, dim=1).cpu()


def _deepest(features: Any) -> Tensor:
    """Return the last map that an encoder gives, whatever else it gives."""
    if isinstance(features, Tensor):
        return features
    maps = [f for f in features if not isinstance(f, Tensor) or f.dim() == 4]
    return _deepest(maps[0] if isinstance(features, tuple) else maps[-1])
