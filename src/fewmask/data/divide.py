"""Which training images a run may learn from: drawn by a seed or read from lists, and written as lists."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import ceil
from pathlib import Path

from fewmask.data.index import DataIndex, Item, Pools
from fewmask.data.lists import match, parse_text, read_list
from fewmask.data.pool import SUFFIX, read_index
from fewmask.errors import ConfigError, DataError, WriteError
from fewmask.ops.rng import Permutation

# streams of the keyed permutation, far from those of training, since --split-seed and --seed may be equal
_LABELLED_STREAM = 0x5B117_0001
_UNLABELLED_STREAM = 0x5B117_0002


@dataclass(frozen=True)
class Amount:
    """How many images: a number, a share, or those of a list. Exactly one attribute is set.

    Attributes:
        count: a number of images.
        share: a share of the available images, exact.
        path: a list file.
        text: what the user wrote.
    """

    text: str
    count: int | None = None
    share: Fraction | None = None
    path: Path | None = None

    def of(self, available: int, flag: str) -> int:
        """Return the number of images meant; shares round up, as the published lists do.

        Raises:
            ConfigError: it is 0, or more than there are.
        """
        assert self.path is None, "a list has no number before it is read"
        wanted = self.count if self.count is not None else ceil((self.share or 0) * available)
        if not 1 <= wanted <= available:
            raise ConfigError(
                f"{flag} {self.text} asks for {wanted} of {available} available images",
                todo=f"use 1 to {available}" if available else "there is none to choose from",
            )
        return wanted


def parse_amount(text: str) -> Amount:
    """Read what ``--labelled`` accepts: ``16``, ``12.5%``, ``1/16``, or the path of a list file.

    What reads as a number is a number; a list file of that name is written ``./16``.

    Raises:
        ConfigError: none of these, or no such file.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        return Amount(text, count=int(text))
    if m := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?%", text):
        return Amount(text, share=Fraction(m[1]) / 100)
    if (m := re.fullmatch(r"([0-9]{1,18})/([0-9]{1,18})", text)) and int(m[2]):
        return Amount(text, share=Fraction(int(m[1]), int(m[2])))
    if not text or not Path(text).is_file():
        raise ConfigError(f"{text!r} is no amount and no list file", todo="write 16, 12.5%, 1/16 or a list's path")
    return Amount(text, path=Path(text))


@dataclass(frozen=True)
class Part:
    """Which unlabelled images.

    Attributes:
        count: how many of the pool; None = all.
        pool: a list or an index file, or "none"; None = every training image that is not labelled.
    """

    count: int | None = None
    pool: str | None = None


def parse_part(text: str | None) -> Part:
    """Read what ``--unlabelled`` accepts: ``100``, a list or index file, ``100:FILE`` (that many of it), ``none``.

    Raises:
        ConfigError: a share, which says nothing where the pool may grow.
    """
    if text is None:
        return Part()
    if m := re.fullmatch(r"([0-9]{1,18})(?::(.+))?", text.strip(), re.DOTALL):
        return Part(int(m[1]), m[2])
    if not text.endswith(SUFFIX) and text.strip() != "none" and parse_amount(text).share is not None:
        raise ConfigError(f"--unlabelled {text} is a share", todo="write a number, a list, or none")
    return Part(None, text)


def draw_labelled(
    index: DataIndex, labelled: str | None, unlabelled: str | None, split_seed: int, outside: bool = False
) -> Pools:
    """Decide which training images are labelled and which are unlabelled; both pools sorted by name.

    Draws are uniform over the sorted images and nested: with one seed, the images of a smaller draw are
    among those of a larger one. Labelled images of one non-empty group are drawn together. The items of
    the unlabelled pool have no path to a mask, so hidden labels cannot be opened.

    Args:
        index: the data set; only its training items are used.
        labelled: ``N``, ``N%``, ``1/16`` (of the training images with a mask) or a list; None: all of these.
        unlabelled: see ``parse_part``; None: every training image that is not labelled.
        outside: an index file may name images anywhere.
        split_seed: which images a draw holds.

    Raises:
        ConfigError: an amount that is none, 0, or more than there are; a seed outside 0 to 2**63 - 1.
        DataError: no image has a mask; a list names unknown images, labelled images without a mask, or an
            image of both pools; groups cannot make up the number that was asked for.
    """
    if not 0 <= split_seed < 2**63:
        raise ConfigError(f"--split-seed {split_seed} is out of range", todo="use 0 to 2**63 - 1")
    chosen = _labelled(index, labelled, split_seed)
    names = {item.name for item in chosen}
    part = parse_part(unlabelled)
    if part.pool is not None and part.pool.endswith(SUFFIX):
        known = [item.image for item in (*chosen, *index.items["val"], *index.items["test"])]
        pool = read_index(Path(part.pool), index.root, known, anywhere=outside, code=index.images)
        if part.count is None:
            return Pools(_by_name(chosen), pool, pool.digest)
        some = Permutation(len(pool), split_seed, _UNLABELLED_STREAM)
        others = [pool[some[i]] for i in range(enough(part.count, len(pool)))]
        return Pools(_by_name(chosen), _by_name(others))
    others = _unlabelled(index, names, part.pool)
    if part.count is not None:
        others = _draw(others, enough(part.count, len(others)), split_seed, _UNLABELLED_STREAM, grouped=False)
    return Pools(_by_name(chosen), tuple(item.without_mask() for item in _by_name(others)))


def enough(count: int, available: int) -> int:
    """Return a number of unlabelled images, if there are as many; see ``Amount.of``."""
    return Amount(str(count), count=count).of(available, "--unlabelled")


def _labelled(index: DataIndex, labelled: str | None, split_seed: int) -> Sequence[Item]:
    available = index.labelled
    if not available:
        raise DataError("no training image has a mask", where=index.root, todo="see fewmask check")
    if labelled is None:
        return available
    amount = parse_amount(labelled)
    if amount.path is None:
        return _draw(available, amount.of(len(available), "--labelled"), split_seed, _LABELLED_STREAM, grouped=True)
    listed = match(read_list(amount.path), index.items["train"])
    bare = [item.name for item in _by_name(listed) if item.mask is None]
    if bare:
        what = f"{len(bare)} listed image(s) without a mask, first {bare[0]!r}"
        raise DataError(what, where=amount.path, todo="remove them from the labelled list, or add their masks")
    return listed


def _unlabelled(index: DataIndex, labelled: set[str], pool: str | None) -> Sequence[Item]:
    """Return the training images of a list, or all that are not labelled."""
    if pool is None:
        return tuple(item for item in index.items["train"] if item.name not in labelled)
    if pool.strip() == "none":
        return ()
    path = parse_amount(f"./{pool}" if pool.isdigit() else pool).path
    assert path is not None, "parse_part has left names of files only"
    listed = match(read_list(path), index.items["train"])
    leaked = [item.name for item in _by_name(listed) if item.name in labelled]
    if leaked:
        what = f"{len(leaked)} image(s) both labelled and unlabelled, first {leaked[0]!r}"
        raise DataError(what, where=path, todo="remove them from one of the lists (fewmask split --check)")
    return listed


def _by_name(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items once each, sorted by name: equal pools train equally, whatever made them."""
    return tuple(item for _, item in sorted({item.name: item for item in items}.items()))


def _draw(items: Sequence[Item], count: int, split_seed: int, stream: int, *, grouped: bool) -> Sequence[Item]:
    """Return the first ``count`` items of the keyed order, whole groups at a time where ``grouped``."""
    units: dict[tuple[str, str], list[Item]] = {}
    for item in _by_name(items):
        group = item.group if grouped else ""
        units.setdefault((group, "" if group else item.name), []).append(item)
    keys = sorted(units)
    shuffled = Permutation(len(keys), split_seed, stream)
    ordered = [units[keys[shuffled[i]]] for i in range(len(keys))]
    totals = list(accumulate(len(unit) for unit in ordered))
    if count not in totals:
        # a prefix of whole groups, never a better-fitting choice of them: draws must stay nested
        above = next(total for total in totals if total > count)
        below = max((total for total in totals if total < count), default=None)
        near = f"{below} or {above}" if below else f"{above}"
        what = f"--labelled {count} of {len(items)} cannot be met by whole groups (split seed {split_seed})"
        raise DataError(what, todo=f"ask for {near}, or try another --split-seed")
    return [item for unit in ordered[: totals.index(count) + 1] for item in unit]


def write_lists(pools: Pools, out: Path) -> tuple[Path, Path]:
    """Write ``out/labelled.txt`` and ``out/unlabelled.txt``, one item name a line, and return their paths.

    Each file appears whole or not at all. Files that hold the same already are left as they are.

    Raises:
        ConfigError: a file of that name holds something else; nothing is written then.
        DataError: an item name cannot be written as one line that means this name.
        WriteError: the disk refuses.
    """
    out = Path(out)
    contents = {
        out / "labelled.txt": _lines(pools.labelled),
        out / "unlabelled.txt": _lines(pools.unlabelled),
    }
    try:
        todo = {path: data for path, data in contents.items() if not path.exists() or path.read_bytes() != data}
        for path in todo:
            if path.exists():
                raise ConfigError("the list exists and holds another split", where=path, todo="choose another -o")
        out.mkdir(parents=True, exist_ok=True)
        for path, data in todo.items():
            _write_whole(path, data)
    except OSError as error:
        raise WriteError(f"cannot write the lists: {error.strerror}", where=out, todo="choose another -o") from error
    labelled, unlabelled = contents
    return labelled, unlabelled


def _lines(items: Sequence[Item]) -> bytes:
    for item in items:
        try:
            back = [(entry.image, entry.mask) for entry in parse_text(f"{item.name}\n", "").entries]
        except DataError:
            back = []
        if back != [(item.name, None)]:
            raise DataError(f"the name {item.name!r} cannot stand in a list", where=item.image, todo="rename the file")
    return "".join(f"{item.name}\n" for item in items).encode("utf-8", "surrogateescape")


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
