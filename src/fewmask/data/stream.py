"""The step-indexed stream: step t's batch is a function of (seed, t) and nothing else.

Position p = t·G + slot of an endless, reshuffled order names the sample; keyed draws name its augmentation. The
number of workers, the number of ranks and interruptions cannot change either (P2 in ``docs/reliability.md``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from fewmask.batch import IGNORE, MAX_CLASSES, OPEN, Batch, Items, Pool, Slots, Stream
from fewmask.data.bands import Bands, channels
from fewmask.data.images import read_item
from fewmask.data.index import Item, MaskCode, Pools
from fewmask.data.masks import read_known
from fewmask.data.pool import Joined
from fewmask.data.quarantine import Quarantine, Skip
from fewmask.data.views import (
    Augment,
    apply_geometry,
    around_a_class,
    as_pictures,
    draw_geometry,
    from_pictures,
    photometry,
)
from fewmask.errors import ConfigError, DataError
from fewmask.ops.rng import Draws, Purpose, order

_POOLS = ("labelled", "unlabelled", "labelled+unlabelled")


class ItemLoader:
    """Reads an item as tensors, at the network's input size, and keeps the most recent ones in memory.

    Args:
        code: how masks spell ids.
        resize: (height, width) of the network's input, or None for native sizes.
        cache_mb: bound on the memory of kept items, per process; 0 keeps none.
        classes: K: a mask or pseudo-label of another class is an error.
    """

    def __init__(
        self, code: MaskCode, resize: tuple[int, int] | None, cache_mb: float = 0, classes: int = MAX_CLASSES
    ) -> None:  # fmt: skip
        self.code, self.resize, self.classes = code, resize, classes
        self._room = int(cache_mb * 2**20)
        self._kept: OrderedDict[Item, tuple[Tensor, Tensor | None]] = OrderedDict()

    def __call__(self, item: Item) -> tuple[Tensor, Tensor | None]:
        """Return the image uint8 [3, H, W], and what is known of its pixels, uint8 [1 to 3, H, W]; None without.

        These are its mask, its pseudo-labels, and OPEN where nobody has labelled it yet: those that the item names.

        Raises:
            DataError: a file cannot be read, or a mask does not fit its image or the classes.
        """
        if item in self._kept:
            self._kept.move_to_end(item)
            return self._kept[item]
        image = torch.from_numpy(np.ascontiguousarray(read_item(item).transpose(2, 0, 1)))
        size = (image.shape[1], image.shape[2])
        files = (
            (item.mask, self.code, size, IGNORE),
            (item.pseudo, MaskCode(), self.resize or size, IGNORE),  # on the grid that is trained on
            (item.open, self.code, size, OPEN),
        )  # fmt: skip
        planes = [
            torch.from_numpy(read_known(file, code, self.classes, grid, unlabelled=open_as))
            for file, code, grid, open_as in files if file is not None
        ]  # fmt: skip
        if self.resize is not None:
            image = F.resize(image, list(self.resize), antialias=True)
            planes = [F.resize(tv_tensors.Mask(p), list(self.resize)).as_subclass(Tensor) for p in planes]
        labels = torch.stack(planes) if planes else None
        self._keep(item, image, labels)
        return image, labels

    def _keep(self, item: Item, image: Tensor, labels: Tensor | None) -> None:
        size = image.numel() + (0 if labels is None else labels.numel())
        if size > self._room:
            return
        self._room -= size
        self._kept[item] = (image, labels)
        while self._room < 0:
            _, (old, old_labels) = self._kept.popitem(last=False)
            self._room += old.numel() + (0 if old_labels is None else old_labels.numel())


def plan_slots(
    streams: Mapping[str, Stream], pools: Pools, batch: int, unlabelled_batch: int, rank: int = 0, world: int = 1,
    parts: int = 1,
) -> dict[str, Slots]:  # fmt: skip
    """Divide the global batch of every stream among the ranks, each of which may compute its share in parts.

    Raises:
        ConfigError: a batch does not divide by the number of ranks and parts, or splits items that belong together.
        DataError: a stream's pool is empty.
    """
    sizes = {
        "labelled": len(pools.labelled), "unlabelled": len(pools.unlabelled) + len(pools.partial),
        "labelled+unlabelled": len(pools.labelled) + len(pools.unlabelled),
    }  # fmt: skip
    out: dict[str, Slots] = {}
    for name, stream in streams.items():
        size = batch if stream.pool == "labelled" else unlabelled_batch
        key = "data.batch" if stream.pool == "labelled" else "data.unlabelled_batch"
        pieces, each = world * parts, "process" if parts == 1 else "part"
        if size % pieces:
            of = f" of {parts} parts each (train.accumulate)" if parts > 1 else ""
            raise ConfigError(
                f"a global batch of {size} does not divide by {world} processes{of}", where=key,
                todo=f"use a multiple of {pieces}",
            )  # fmt: skip
        count = size // pieces
        if count % stream.together and (pieces > 1 or count < stream.together):
            raise ConfigError(
                f"{count} a {each} cannot be grouped by {stream.together}: this method mixes images of a batch",
                where=key, todo=f"use a multiple of {stream.together * pieces}",
            )  # fmt: skip
        count = size // world
        if not sizes[stream.pool]:
            raise DataError(
                f"the method trains on {stream.pool} images and there are none", where=f"stream {name!r}",
                todo="add images without masks, or use --method supervised" if stream.pool != "labelled"
                else "add masks",
            )  # fmt: skip
        number = _POOLS.index(stream.pool) + len(_POOLS) * stream.second_pass
        out[name] = Slots(rank * count, count, number, size, sizes[stream.pool])
    return out


class StepDataset(Dataset[dict[str, Items]]):
    """Step number to this rank's batch, as uint8 views.

    Args:
        pools: the images.
        streams: what the method declares.
        slots: this rank's share.
        loader: reads items.
        crop: (height, width) of every view.
        augment: constants.
        seed: the run's seed.
        quarantine: passes over unlabelled images that cannot be read; None: they are errors.
        bands: the channels of the images; empty = red, green and blue.

    Attributes:
        reading: is told the step, the number of the stream and the position in its pool of an item before it is read.
    """

    reading: Callable[[int, int, int], None] | None = None

    def __init__(
        self, pools: Pools, streams: Mapping[str, Stream], slots: Mapping[str, Slots], loader: ItemLoader,
        crop: tuple[int, int], augment: Augment, seed: int, quarantine: Quarantine | None = None, bands: Bands = (),
    ) -> None:  # fmt: skip
        self.bands = bands
        self.streams, self.slots, self.loader, self.quarantine = dict(streams), dict(slots), loader, quarantine
        self._labelled, self._partial = frozenset(item.name for item in pools.labelled), bool(pools.partial)
        self.crop, self.augment, self.seed = crop, augment, seed
        self._pools: dict[Pool, Sequence[Item]] = {
            "labelled": pools.labelled,
            "unlabelled": Joined(pools.unlabelled, pools.partial) if pools.partial else pools.unlabelled,
            "labelled+unlabelled": Joined(pools.labelled, pools.unlabelled),
        }  # fmt: skip

    def sample(self, name: str, t: int, slot: int) -> int:
        """Return which item of its pool stands at a global slot of step ``t``, if it can be read."""
        return self._at(name, t, slot)

    def _at(self, name: str, t: int, slot: int, ahead: int = 0) -> int:
        slots = self.slots[name]
        return order(slots.items, t * slots.size + slot + ahead, self.seed, stream=slots.key)

    def _read(self, name: str, t: int, slot: int) -> tuple[int, Tensor, Tensor | None]:
        """Return the item of a slot and what is stored of it; the next readable one where it is passed over."""
        for ahead in range(self.slots[name].items):
            i = self._at(name, t, slot, ahead)
            item = self.item(name, i)
            if self.reading is not None:
                self.reading(t, list(self.streams).index(name), i)
            skips = self.quarantine
            if skips is not None and (t + 1, slot, name, item.name) in skips.known:
                continue
            try:
                return i, *self.loader(item)
            except DataError as error:
                if skips is None or item.name in self._labelled:
                    raise
                skips.found.append(Skip(t + 1, slot, name, item.name, str(error)))
        raise DataError(
            "no image of the pool can be read", where=f"stream {name!r}", todo="see whether its disk is there"
        )

    def item(self, stream: str, i: int) -> Item:
        """Return item ``i`` of a stream's pool."""
        return self._pools[self.streams[stream].pool][i]

    def batch_size(self) -> tuple[int, int]:
        """Return the bytes and the number of tensors of one step's batch."""
        height, width = self.crop
        size = number = 0
        for name, stream in self.streams.items():
            moved = stream.views.count("geo")
            # views, int64 sources, valid, inside and two kinds of labels
            planes = channels(self.bands) * len(stream.views) + 8 * moved + 4
            size += self.slots[name].count * (height * width * planes + 8)
            number += len(stream.views) + moved + 5
        return size, number

    def __getitem__(self, t: int) -> dict[str, Items]:
        """Return the batch of step ``t``: views uint8 [B, C, h, w]."""
        return {name: self._items(name, t) for name in self.streams}

    def _photometry(self, image: Tensor, draws: Draws) -> Tensor:
        return photometry(image, draws, self.augment)

    def _half(self, image: Tensor, draws: Draws) -> Tensor:
        return self._photometry(image, draws) if draws.chance(0.5) else image

    def _items(self, name: str, t: int) -> Items:
        stream, slots = self.streams[name], self.slots[name]
        pool = self._pools[stream.pool]
        strong = stream.perturb or self._photometry
        plain = {"weak": _unchanged, "half": self._half, "strong": self._photometry}
        weak = plain[self.augment.labelled if stream.pool == "labelled" else "weak"]
        views: list[list[Tensor]] = [[] for _ in stream.views]
        sources: list[list[Tensor]] = [[] for kind in stream.views if kind == "geo"]
        insides, valids, index = [], [], []
        known: dict[str, list[Tensor]] = {"mask": [], "pseudo": []}
        for slot in slots:
            i, image, labels = self._read(name, t, slot)
            draws = Draws(self.seed, Purpose.GEOMETRY, t, slot, slots.view(0))
            geometry = draw_geometry(draws, image.shape[-2], image.shape[-1], self.crop, self.augment)
            if stream.pool == "labelled" and labels is not None and draws.chance(self.augment.class_crops):
                geometry = around_a_class(geometry, labels[0], draws, self.crop)
            image, labels, valid = apply_geometry(image, labels, geometry, self.crop)
            geo = iter(sources)
            for v, kind in enumerate(stream.views):
                drawn = partial(Draws, self.seed, Purpose.PHOTOMETRY, t, slot, slots.view(v))
                if kind == "geo":
                    assert stream.warp is not None, f"stream {name!r} declares a geo view and no warp"
                    moved = [stream.warp(part, drawn()) for part in as_pictures(image, self.bands)]
                    view, source = from_pictures([part for part, _ in moved], self.bands), moved[0][1]
                    next(geo).append(torch.where(valid.flatten()[source.clamp(min=0)], source, -1))
                else:
                    change = weak if kind == "weak" else strong
                    parts = [change(part, drawn()) for part in as_pictures(image, self.bands)]
                    view = from_pictures(parts, self.bands)
                views[v].append(view)
            index.append(i)
            kinds = [kind for kind in (*known, "open") if getattr(pool[i], kind) is not None]
            planes = dict(zip(kinds, () if labels is None else labels, strict=True))
            insides.append(valid)
            valids.append(valid & (planes.pop("open") == OPEN) if "open" in planes else valid)
            for kind, plane in planes.items():
                known[kind].append(plane)
        in_part = self._partial and stream.pool == "unlabelled"
        return Items(
            views=tuple(torch.stack(v) for v in views), kinds=stream.views, valid=torch.stack(valids),
            index=torch.tensor(index), source=tuple(torch.stack(s) for s in sources),
            inside=torch.stack(insides) if in_part else None,
            **{kind: torch.stack(planes) for kind, planes in known.items() if planes},
        )  # fmt: skip


def _unchanged(image: Tensor, draws: Draws) -> Tensor:
    return image


def to_device(
    batch: Mapping[str, Items], device: torch.device, mean_C: Tensor, std_C: Tensor, channels_last: bool
) -> Batch:
    """Return the batch with float views, normalised and 0 in the padding, and int64 masks, on ``device``.

    Args:
        batch: uint8 views.
        device: where the networks are.
        mean_C: channel means in 0..1, on ``device``.
        std_C: channel deviations in 0..1, on ``device``.
        channels_last: memory format of the views.
    """
    shift, factor = (mean_C * 255).view(1, -1, 1, 1), (1 / (std_C * 255)).view(1, -1, 1, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = {}
    for name, items in batch.items():
        moved = items.map(lambda x: x.to(device, non_blocking=True))
        source = iter(moved.source)
        whole = moved.valid if moved.inside is None else moved.inside
        inside = [(whole if kind != "geo" else next(source) >= 0).unsqueeze(1) for kind in moved.kinds]
        views = tuple(
            ((v - shift) * factor * i).contiguous(memory_format=layout)
            for v, i in zip(moved.views, inside, strict=True)
        )
        mask, pseudo = (None if m is None else m.long() for m in (moved.mask, moved.pseudo))
        out[name] = Items(views, moved.kinds, moved.valid, moved.index, mask, pseudo, moved.source)
    return out
