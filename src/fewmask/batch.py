"""What a training step receives, and the legend of shape letters for the whole package.

| letter | meaning |
|---|---|
| B | images of a batch (on this rank) |
| C | channels of an image or feature map |
| K | classes |
| H, W | pixels |
| h, w | cells of a feature map |
| D | dimension of an embedding |
| N | items of a set |

A tensor whose shape is not obvious carries it in its name: ``p1_BKHW``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fewmask.ops.rng import Draws

if TYPE_CHECKING:  # the data are read without torch, which takes seconds to import
    from torch import Tensor

IGNORE = 255
"""Label of pixels that count neither in a loss nor in a score: void, and padding."""

MAX_CLASSES = 255
"""Masks are uint8 and 255 is IGNORE, so ids 0..254 remain."""

OPEN = 254
"""Class index of pixels that nobody has labelled yet, where one asks for them; there are fewer classes then."""

Pool = Literal["labelled", "unlabelled", "labelled+unlabelled"]
ViewKind = Literal["weak", "strong", "geo"]


@dataclass(frozen=True)
class Stream:
    """What a method asks of one kind of image.

    Attributes:
        pool: which images. Items of the pools with "unlabelled" carry no mask, and no path to one.
        views: one entry a view. The geometry (scale, flip, crop) is drawn once an item and shared by its views;
            "strong" adds photometry, "geo" moves pixels too, both drawn separately for each view.
        second_pass: an order of its own over the same pool: partners for mixing.
        perturb: makes a strong view of a uint8 crop [C, H, W] from draws of its own; None = the recipe's photometry
            (``data.augment``). Worker processes hold a copy: a frozen dataclass, not a closure.
        warp: makes a geo view of a uint8 crop from draws of its own, and says where each pixel came from: int64 [H, W],
            row·W + column in the crop, -1 = from outside it. Like ``perturb`` a frozen dataclass.
        together: slots ``k*together .. (k+1)*together-1`` stay on one rank, so that pairs inside a batch do not
            depend on the number of ranks.
    """

    pool: Pool
    views: tuple[ViewKind, ...]
    second_pass: bool = False
    together: int = 1
    perturb: Callable[[Tensor, Draws], Tensor] | None = None
    warp: Callable[[Tensor, Draws], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Slots:
    """The share of a stream's global batch that one rank holds; iterates over its global slots.

    Attributes:
        first: its first global slot.
        count: how many slots.
        key: number of the stream among the draws.
        size: G, the global batch.
        items: N, the size of the pool.
    """

    first: int
    count: int
    key: int
    size: int
    items: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.count))

    def part(self, number: int, of: int) -> Slots:
        """Return one of so many equal shares of this one."""
        count = self.count // of
        return replace(self, first=self.first + number * count, count=count)

    def view(self, number: int) -> int:
        """Return the view number under which draws of this stream are keyed; at most 64 views a stream."""
        return self.key * 64 + number


@dataclass(frozen=True)
class Items:
    """A batch of one stream.

    Attributes:
        views: one float32 [B, C, H, W] tensor a view, normalised; exactly 0 in the padding.
        kinds: the kind of each view, as declared in the Stream.
        valid: bool [B, H, W], False in the padding, and of unlabelled streams where a partly labelled image has its
            label: pixels that count. Apart from IGNORE, which marks void labels too.
        index: int64 [B], position of each item in its pool.
        mask: int64 [B, H, W] with IGNORE in void and padding; None unless the pool is "labelled".
        pseudo: pseudo-labels that an earlier round made, int64 [B, H, W] with IGNORE where there are none and in the
            padding; None in a round without them. Never ground truth.
        source: for each geo view int64 [B, H, W], the pixel of the weak geometry that stands there, row·W + column;
            -1 where there is none, or padding.
        inside: bool [B, H, W], False in the padding alone, where that differs from ``valid``; None: it does not.
    """

    views: tuple[Tensor, ...]
    kinds: tuple[ViewKind, ...]
    valid: Tensor
    index: Tensor
    mask: Tensor | None = None
    pseudo: Tensor | None = None
    source: tuple[Tensor, ...] = ()
    inside: Tensor | None = None

    @property
    def weak(self) -> Tensor:
        """The first weak view, [B, C, H, W]."""
        return self.views[self.kinds.index("weak")]

    @property
    def strong(self) -> tuple[Tensor, ...]:
        """All strong views, each [B, C, H, W]."""
        return tuple(v for v, kind in zip(self.views, self.kinds, strict=True) if kind == "strong")

    @property
    def geo(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """All geo views with their ``source``: pairs of [B, C, H, W] and [B, H, W]."""
        views = (v for v, kind in zip(self.views, self.kinds, strict=True) if kind == "geo")
        return tuple(zip(views, self.source, strict=True))

    @property
    def labels(self) -> Tensor:
        """The mask, [B, H, W], of a labelled stream.

        Raises:
            ValueError: the stream is unlabelled; there is nothing to look at.
        """
        if self.mask is None:
            raise ValueError("this stream is unlabelled: it has no mask")
        return self.mask

    @property
    def pseudo_labels(self) -> Tensor:
        """The pseudo-labels, [B, H, W], of a round that has some.

        Raises:
            ValueError: this round declares no labeller.
        """
        if self.pseudo is None:
            raise ValueError("no earlier round has labelled these images")
        return self.pseudo

    def __len__(self) -> int:
        return len(self.index)

    def part(self, number: int, of: int) -> Items:
        """Return one of so many equal shares of the items."""
        count = len(self) // of
        return self.map(lambda x: x[number * count : (number + 1) * count])

    def map(self, fn: Callable[[Tensor], Tensor]) -> Items:
        """Apply ``fn`` to every tensor."""
        return replace(
            self,
            views=tuple(fn(v) for v in self.views),
            valid=fn(self.valid),
            index=fn(self.index),
            mask=None if self.mask is None else fn(self.mask),
            pseudo=None if self.pseudo is None else fn(self.pseudo),
            source=tuple(fn(s) for s in self.source),
            inside=None if self.inside is None else fn(self.inside),
        )


Batch = Mapping[str, Items]
"""Stream name, as declared by the method, to its items."""
