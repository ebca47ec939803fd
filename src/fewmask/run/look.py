"""Images as vectors: the average of an encoder's last map over the whole image at 224×224, of 128 numbers at most."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.data.bands import Bands, are_coloured, channels
from fewmask.data.index import Item, MaskCode
from fewmask.data.stream import ItemLoader
from fewmask.engine.infer import normalise
from fewmask.errors import DataError
from fewmask.nets import statistics
from fewmask.nets.segmenter import Segmenter

SIDE = 224
NUMBERS = 128
_BATCH = 32


class Look:
    """Turns images into vectors.

    Args:
        net: its encoder is used.
        device: where.
        bands: the channels of the images.
    """

    def __init__(self, net: Segmenter, device: torch.device, bands: Bands = ()) -> None:
        self._net, self._device = net.to(device).eval(), device
        values = statistics(channels(bands), are_coloured(bands))
        self._mean, self._std = (torch.tensor(v, device=device) for v in values)
        self._read = ItemLoader(MaskCode(), (SIDE, SIDE))
        self._onto: Tensor | None = None

    def __call__(
        self, items: Sequence[Item], skip: bool, tick: Callable[[int, int], None] = lambda done, of: None
    ) -> tuple[Tensor, list[int]]:
        """Return vectors of length 1, float32 [N, D] on the CPU, and the places of the N images that could be read."""
        parts, places = [torch.empty(0, NUMBERS)], list[int]()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(items), _BATCH):
                read = threads.map(lambda item: self._image(item, skip), items[start : start + _BATCH])
                found = {start + n: image for n, image in enumerate(read) if image is not None}
                if found:
                    parts.append(self.vectors(list(found.values())))
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
    def vectors(self, images: Sequence[Tensor]) -> Tensor:
        """Return vectors of length 1, float32 [N, D] on the CPU, of images uint8 [C, SIDE, SIDE]."""
        batch = torch.cat([normalise(image, self._mean, self._std, self._device) for image in images])
        z = _deepest(self._net.encode(batch)).float().mean((2, 3))
        if z.shape[1] > NUMBERS:  # distances survive a random projection (Johnson and Lindenstrauss 1984)
            if self._onto is None:
                self._onto = torch.randn(z.shape[1], NUMBERS, generator=torch.Generator().manual_seed(0)).to(z)
            z = z @ self._onto
        return F.normalize(z, dim=1).cpu()


def _deepest(features: Any) -> Tensor:
    """Return the last map that an encoder gives, whatever else it gives."""
    if isinstance(features, Tensor):
        return features
    maps = [f for f in features if not isinstance(f, Tensor) or f.dim() == 4]
    return _deepest(maps[0] if isinstance(features, tuple) else maps[-1])
