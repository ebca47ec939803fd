"""One pass over a set of images that a network labels: predict, choose which pixels stay, write.

Each rank does its part; what they count is summed. An image that was finished is not predicted again.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import typing
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fewmask.batch import IGNORE
from fewmask.data.files import place_below
from fewmask.data.index import Item
from fewmask.data.masks import nothing_id, spelling
from fewmask.engine.faults import site
from fewmask.engine.files import clean_leftovers, write_atomic
from fewmask.errors import DataError, Interrupted, NonFiniteError
from fewmask.ops import select
from fewmask.ops.select import Selection


class Predict(typing.Protocol):
    """A network that labels."""

    def __call__(self, item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted class uint8 [H, W] and its probability float32 [H, W], on the grid that is labelled.

        Args:
            item: the image.
            least_K: divides the probabilities first, float32: the class is that of the largest ratio p_c/least_c, which
                is returned in place of its probability. A class of infinity is never predicted.
        """
        ...


RAW = ".raw"
"""Folder of what an unfinished pass keeps."""

Sum = Callable[[np.ndarray], np.ndarray]
"""Integers of this rank to their sum over all ranks."""

Work = Callable[[int, Item, np.ndarray], None]
"""Does something with an image, given its place in the set and itself; adds what it counts to the int64 [K, ...]."""


@dataclass(frozen=True)
class Share:
    """This process's part of a labelling pass.

    Attributes:
        rank: its number.
        world: how many there are.
        sum: over all of them.
    """

    rank: int = 0
    world: int = 1
    sum: Sum = lambda counts: counts

    @classmethod
    def of(cls, fabric: Any) -> Share:
        """Return the part of a launched process."""

        def total(counts: np.ndarray) -> np.ndarray:
            here = torch.from_numpy(np.ascontiguousarray(counts)).to(fabric.device)
            return fabric.all_reduce(here, reduce_op="sum").cpu().numpy()

        return cls(fabric.global_rank, fabric.world_size, total)


ALONE = Share()
"""Of the only process."""


def stop_together(who: str, share: Share, doing: str, kept: str = "what is predicted is kept") -> None:
    """Stop on all ranks where somebody wants this one to.

    Args:
        who: wants it; "" = nobody.
        share: this process's part.
        doing: what is left unfinished.
        kept: what of it is not lost.

    Raises:
        Interrupted: somebody wanted to stop, on any rank.
    """
    if share.sum(np.array([bool(who)], dtype=np.int64))[0]:
        raise Interrupted(
            f"stopped by {who or 'another process'} {doing}", where=kept,
            todo="run the same command again to continue",
        )  # fmt: skip


def label_file(folder: Path, item: Item) -> Path:
    """Return where the pseudo-labels of an item lie.

    Raises:
        DataError: its name leads out of the folder.
    """
    return place_below(folder, f"{item.name}.png")


@dataclass(frozen=True)
class Order:
    """What is labelled, and how; the same on every rank.

    Attributes:
        items: all images of the set.
        folder: made; holds the labels afterwards.
        how: which pixels become pseudo-labels.
        classes: names.
        seed: of the random drop.
        turn: which labelling of the run this is; each draws anew.
        source: what names the labelling network.
        ids: the id that the files use for each class; None = the class index.
        skip: pass over images that cannot be read.
    """

    items: Sequence[Item]
    folder: Path
    how: Selection
    classes: Sequence[str]
    seed: int = 0
    turn: int = 0
    source: dict[str, Any] | None = None
    ids: Sequence[int] | None = None
    skip: bool = False

    @property
    def made(self) -> dict[str, Any]:
        """What the labels depend on, beside the images: what the manifest begins with."""
        return {
            "source": self.source or {}, "select": asdict(self.how), "seed": self.seed, "turn": self.turn,
            "classes": list(self.classes),
        }  # fmt: skip


class Pass:
    """One labelling pass; see ``write_labels``.

    Args:
        predict: the labelling network.
        order: what it labels.
        share: this process's part.
        stop: asked after every image for the name of who wants to stop; "" = nobody.

    Attributes:
        nothing: what is written where there is no label.
        unread: places of the images that could not be read and were passed over, of all ranks, once it has run.
    """

    def __init__(self, predict: Predict, order: Order, share: Share, stop: Callable[[], str]) -> None:
        self.predict, self.order, self.share, self.stop = predict, order, share, stop
        self.folder, self.how, self.classes = order.folder, order.how, len(order.classes)
        ids = range(self.classes) if order.ids is None else order.ids
        self.nothing = nothing_id(ids)
        self.spelt = spelling(ids, self.nothing)
        self.raw, self.items = order.folder / RAW, order.items
        self.mine = list(enumerate(order.items))[share.rank :: share.world]
        self.unread: list[int] = []

    def begin(self) -> None:
        """Remove what a pass of another network has left; the first rank alone."""
        note, text = self.raw / "made.json", json.dumps(self.order.made)
        if self.share.rank == 0:
            for folder in {label_file(self.folder, item).parent for item in self.items} | {self.folder, self.raw}:
                clean_leftovers(folder)
        if self.share.rank == 0 and not (note.is_file() and note.read_text(encoding="utf-8") == text):
            shutil.rmtree(self.raw, ignore_errors=True)
            for item in self.items:
                label_file(self.folder, item).unlink(missing_ok=True)
            self.raw.mkdir(parents=True)
            write_atomic(note, text)
        self.share.sum(np.zeros(1, dtype=np.int64))  # nobody writes before that

    def run(self, frequency_K: np.ndarray | None) -> dict[str, Any]:
        """Predict, choose, write; return what the manifest tells of it."""
        if self.how.rule == "none":
            every_K = self._total(self._readable(self._write_every))
            self._agree()
            return {"predicted": every_K.tolist(), "kept": every_K.tolist()}
        counts_KV = self._total(self._readable(self._count), select.BINS)
        self._agree()
        cut = select.cut(counts_KV, self.how.rule, self.how.ratio, frequency_K)
        if self.how.relabel:
            kept_K = self._total(partial(self._write_relabelled, cut))
        else:
            kept_K = self._total(partial(self._write_kept, cut, self._key_cut(cut)))
        least = [None if np.isinf(t) else float(t) for t in cut.least_confidence_K]
        found: dict[str, Any] = {"predicted": counts_KV.sum(1).tolist(), "least": least}
        found |= {"reached": cut.reached_K.tolist(), "wanted": cut.wanted_K.tolist(), "kept": kept_K.tolist()}
        if frequency_K is not None:
            divergence, missing = select.divergence(frequency_K, kept_K)
            found |= {"divergence": divergence, "never": missing}
        return found

    def _total(self, work: Work, *more: int) -> np.ndarray:
        """Do something with every image, and return what was counted in those of all ranks, int64 [K, ...]."""
        total, who = np.zeros((self.classes, *more), dtype=np.int64), ""
        for number, item in self.mine:
            work(number, item, total)
            if who := self.stop():
                break
        stop_together(who, self.share, "while labelling")
        return self.share.sum(total)

    def _readable(self, work: Work) -> Work:
        """Return the same work for images of which some may not be readable, where such are passed over."""

        def tried(number: int, item: Item, total: np.ndarray) -> None:
            note = self.raw / f"{number}.unread"
            if not note.is_file():
                try:
                    return work(number, item, total)
                except DataError as error:
                    write_atomic(note, str(error).encode())  # an interrupted pass decides once, even if it is mended
            self.unread.append(number)
            return None

        return tried if self.order.skip else work

    def _agree(self) -> None:
        """Leave out on every rank what one could not read."""
        if not self.order.skip:
            return
        flags = np.zeros(len(self.items), dtype=np.int64)
        flags[self.unread] = 1
        self.unread = np.flatnonzero(self.share.sum(flags)).tolist()
        out = set(self.unread)
        self.mine = [(number, item) for number, item in self.mine if number not in out]

    def reason(self, number: int) -> str:
        """Return why an image could not be read; the first rank knows, which removes the notes when it is done."""
        return (self.raw / f"{number}.unread").read_text() if self.share.rank == 0 else ""

    def _count(self, number: int, item: Item, counts_KV: np.ndarray) -> None:
        """Predict an image, unless that was done, and count its confidences."""
        file = self.raw / f"{number}.bin"
        if file.is_file():
            label, bits = self._read(number)
        else:
            site("select.inside")
            label, confidence = self.predict(item)
            bits = select.to_bits(confidence)
            if bits.size and not 0 <= bits.min() <= bits.max() < select.BINS:  # it would count as another class
                raise NonFiniteError(
                    "a confidence is no number", where=item.image, todo="train with --precision fp32, or a lower rate"
                )
            write_atomic(file, _packed(label, bits))
        select.add_counts(counts_KV, label.ravel(), bits.ravel())

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted classes uint8 [H, W] and the fp16 patterns of their probabilities int16 [H, W]."""
        return _unpacked((self.raw / f"{number}.bin").read_bytes())

    def _key_cut(self, cut: select.Cut) -> select.KeyCut | None:
        """Find the largest key of each class that stays; None where nothing is dropped, or in every image by itself."""
        if self.how.drop == "image" or (cut.stays_K == cut.reached_K).all():
            return None
        last = select.KeyCut(cut.stays_K)
        for _ in range(select.LEVELS):
            last.descend(self._total(partial(self._count_keys, cut, last), select.BUCKETS))
        return last

    def _count_keys(
        self, cut: select.Cut, last: select.KeyCut, number: int, item: Item, counts_KB: np.ndarray
    ) -> None:  # fmt: skip
        label, bits = self._read(number)
        if (contested := self._contested(cut, label, bits)).any():
            last.count(counts_KB, label[contested], self._keys(number, label)[contested])

    @staticmethod
    def _contested(cut: select.Cut, label: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Return the candidates of classes of which some are dropped, bool: no other pixel needs a key."""
        return cut.candidates(label, bits) & (cut.stays_K < cut.reached_K)[label]

    def _keys(self, number: int, label: np.ndarray) -> np.ndarray:
        return select.keys(self.order.seed, number, label.size, self.order.turn).reshape(label.shape)

    def _write_kept(
        self, cut: select.Cut, drop: select.KeyCut | None, number: int, item: Item, kept_K: np.ndarray
    ) -> None:  # fmt: skip
        label, bits = self._read(number)
        keep = cut.candidates(label, bits)
        if self._contested(cut, label, bits).any():  # else all of them stay
            keys = self._keys(number, label)
            keep = select.keep_of_image(label, keep, keys, cut) if drop is None else keep & drop.stays(label, keys)
        _save(label_file(self.folder, item), self.spelt[np.where(keep, label, np.uint8(IGNORE))])
        kept_K += np.bincount(label[keep], minlength=self.classes)

    def _write_every(self, number: int, item: Item, kept_K: np.ndarray) -> None:
        """Write an image's prediction, unless that was done, and count its classes."""
        kept_K += self._write_once(item, lambda: self.predict(item)[0])

    def _write_relabelled(self, cut: select.Cut, number: int, item: Item, kept_K: np.ndarray) -> None:
        """Predict an image again, every probability relative to the least one of its class that stays."""

        def labels() -> np.ndarray:
            label, ratio = self.predict(item, cut.least_confidence_K)
            return np.where(ratio >= 1, label, np.uint8(IGNORE))

        kept_K += self._write_once(item, labels)

    def _write_once(self, item: Item, labels: Callable[[], np.ndarray]) -> np.ndarray:
        """Write an image's labels, unless that was done, and count its classes."""
        file = label_file(self.folder, item)
        if not file.is_file():
            site("select.inside")
            _save(file, self.spelt[labels()])
        written = np.asarray(Image.open(file, formats=("PNG",)))
        counts = np.bincount(written.ravel(), minlength=int(self.spelt.max()) + 1)
        return counts[self.spelt[: self.classes]]


def _packed(label_HW: np.ndarray, bits_HW: np.ndarray) -> bytes:
    """Return a prediction as bytes: 2 a pixel for the probabilities; classes lie in areas and are compressed."""
    return struct.pack("<II", *label_HW.shape) + bits_HW.tobytes() + zlib.compress(label_HW.tobytes(), 1)


def _unpacked(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    height, width = struct.unpack_from("<II", data)
    bits = np.frombuffer(data, np.int16, height * width, 8)
    label = np.frombuffer(zlib.decompress(data[8 + bits.nbytes :]), np.uint8)
    return label.reshape(height, width), bits.reshape(height, width)


def _save(file: Path, label_HW: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(label_HW).save(buffer, format="PNG", compress_level=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, buffer.getvalue())
