"""The size that a network sees an image in: its own, one for all, or one long side for all with the aspect kept."""

from __future__ import annotations

from torch import Tensor

from fewmask.batch import MAX_CLASSES
from fewmask.data.images import item_size
from fewmask.data.index import Item, MaskCode
from fewmask.data.stream import ItemLoader
from fewmask.errors import ConfigError

Resize = tuple[int, int] | str | None
"""(height, width); or "long:1024", pixels of the longer side; None = an image's own size."""

LONG = "long:"


def parse_size(value: str | int) -> tuple[int, int]:
    """Return (height, width) of "192" or "160x192".

    Raises:
        ConfigError: anything else.
    """
    parts = str(value).lower().split("x")
    if not (1 <= len(parts) <= 2 and all(p.strip().isdigit() and int(p) > 0 for p in parts)):
        raise ConfigError(
            f"{value!r} is not a size",
            where="crop, resize",
            todo="write 192 for a square or 160x192 for height x width; of resize long:1024 for the longer side",
        )
    return int(parts[0]), int(parts[-1])


def parse_resize(value: str | int) -> tuple[int, int] | str:
    """Return what "160x192", 192 or "long:1024" means as the size of a network's input.

    Raises:
        ConfigError: it is none of them.
    """
    text = str(value).lower()
    if not text.startswith(LONG):
        return parse_size(value)
    side, _ = parse_size(text if "x" in text else text.removeprefix(LONG))  # two sides: refused as it stands
    return f"{LONG}{side}"


def input_size(resize: Resize, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that a network sees of an image of such a size.

    Args:
        resize: as a recipe or a model says it.
        size: (height, width) of the image.
    """
    if resize is None:
        return size
    if not isinstance(resize, str):
        return resize
    longest, most = int(resize.removeprefix(LONG)), max(size)
    height, width = (max(1, round(side * longest / most)) for side in size)
    return height, width


def item_loader(code: MaskCode, resize: Resize, cache_mb: float = 0, classes: int = MAX_CLASSES) -> ItemLoader:
    """Return what reads items at the network's input size; see ``ItemLoader``."""
    if isinstance(resize, str):
        return _LongSide(code, resize, cache_mb, classes)
    return ItemLoader(code, resize, cache_mb, classes)


class _LongSide(ItemLoader):
    """Reads every item at a size of its own."""

    def __init__(self, code: MaskCode, resize: str, cache_mb: float, classes: int) -> None:
        super().__init__(code, None, cache_mb, classes)
        self._long = resize

    def __call__(self, item: Item) -> tuple[Tensor, Tensor | None]:
        """Return the image and what is known of its pixels, as ``ItemLoader`` does."""
        if item in self._kept:
            return super().__call__(item)
        size = input_size(self._long, item_size(item))
        image, labels = ItemLoader(self.code, size, classes=self.classes)(item)
        self._keep(item, image, labels)
        return image, labels
