"""Pictures that are nearly the same, under whatever name, size or file format.

Two steps: a 64-bit difference hash of each image (the sign of neighbouring differences of a 9x8 grey
thumbnail) finds candidates within a small Hamming distance; the correlation of 32x32 grey thumbnails then
confirms them, since pictures of one scheme (a cell on a plain ground) often share a hash without being the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from PIL import Image, ImageOps

from fewmask.data.bands import shown
from fewmask.data.decode import MAX_PIXELS, opened
from fewmask.data.images import read_image
from fewmask.data.index import Item
from fewmask.data.patience import patient

_BLOCK = 128  # rows compared at once: 128 x 20,000 distances are 20 MB
_FLAT = 2.0  # grey levels: thumbnails of a smaller standard deviation show nothing to compare
_SAME = 0.98  # correlation of thumbnails that confirms a candidate


@dataclass(frozen=True)
class NearDuplicate:
    """Two images of different roles that show the same picture.

    Attributes:
        roles: the two roles.
        names: the two item names, in the order of ``roles``.
        distance: differing bits of the hashes, 0-64.
    """

    roles: tuple[str, str]
    names: tuple[str, str]
    distance: int


@dataclass(frozen=True)
class NearDuplicates:
    """The pairs that were found, and what was not compared."""

    pairs: tuple[NearDuplicate, ...]
    notes: tuple[str, ...]


def near_duplicates(
    items: Mapping[str, Sequence[Item]], hashes: Mapping[str, int] | None = None, *, distance: int = 2,
    limit: int = 20_000,
) -> NearDuplicates:  # fmt: skip
    """Find pictures that stand in two roles.

    Args:
        items: the images of each role, as in ``DataIndex.items``.
        hashes: name to ``difference_hash`` where they are known: then only candidates are opened.
        distance: most differing bits of the 64.
        limit: with more images than this nothing is compared, and a note says so.

    Raises:
        DataError: an image cannot be read.
    """
    total = sum(len(group) for group in items.values())
    if total > limit:
        note = f"near-duplicates were not looked for: {total} images are more than {limit}"
        return NearDuplicates((), (note,))
    if hashes is not None:
        items = _candidates(items, hashes, distance)
    seen = {role: _thumbnails(group) for role, group in items.items()}
    pairs = []
    for a, b in combinations(items, 2):
        for i, j, bits in _close(seen[a].hashes, seen[b].hashes, distance):
            if float(seen[a].thumbs[i] @ seen[b].thumbs[j]) >= _SAME:
                pairs.append(NearDuplicate((a, b), (seen[a].names[i], seen[b].names[j]), bits))
    flat = sum(map(len, items.values())) - sum(len(group.names) for group in seen.values())
    notes = (f"{flat} images of nearly one colour were not compared",) if flat else ()
    return NearDuplicates(tuple(pairs), notes)


def alike(
    items: Sequence[Item], hashes: Mapping[str, int], *, distance: int = 2, limit: int = 20_000
) -> list[set[str]]:
    """Return the names of images of one role that are nearly the same, in sets: pictures saved again, or still scenes.

    Args:
        items: the images.
        hashes: name to ``difference_hash``: only candidates are opened.
        distance: as in ``near_duplicates``.
        limit: with more images than this nothing is compared.

    Raises:
        DataError: an image cannot be read.
    """
    if len(items) > limit:
        return []
    words = np.array([hashes[item.name] for item in items], np.uint64)
    places = sorted({i for i, j, _ in _close(words, words, distance) if i != j})
    seen = _thumbnails([items[place] for place in places])
    sets: dict[str, set[str]] = {}
    for i, j, _ in _close(seen.hashes, seen.hashes, distance):
        if i < j and float(seen.thumbs[i] @ seen.thumbs[j]) >= _SAME:
            a, b = (sets.get(seen.names[k], {seen.names[k]}) for k in (i, j))
            sets |= dict.fromkeys(a | b, a | b)
    return [one for name, one in sets.items() if name == min(one)]


def difference_hash(grey: Image.Image) -> np.uint64:
    """Return 64 bits: whether each cell of a 9x8 thumbnail is darker than its right neighbour."""
    tiny = np.asarray(grey.convert("F").resize((9, 8), Image.Resampling.BOX))
    return np.packbits(tiny[:, 1:] > tiny[:, :-1]).view(np.uint64)[0]


def _candidates(items: Mapping[str, Sequence[Item]], hashes: Mapping[str, int], distance: int) -> dict[str, list[Item]]:
    """Return the images of each role that have a near hash in another one."""
    bits = {role: np.array([hashes[i.name] for i in group], np.uint64) for role, group in items.items()}
    near: dict[str, set[int]] = {role: set() for role in items}
    for a, b in combinations(items, 2):
        for i, j, _ in _close(bits[a], bits[b], distance):
            near[a].add(i)
            near[b].add(j)
    return {role: [items[role][i] for i in sorted(places)] for role, places in near.items()}


@dataclass(frozen=True)
class _Thumbnails:
    """Images that show something: names [N], hashes uint64 [N], thumbs float32 [N, 1024] of unit norm."""

    names: list[str]
    hashes: np.ndarray
    thumbs: np.ndarray


def thumbnail(grey: Image.Image) -> tuple[np.uint64, np.ndarray] | None:
    """Return hash and 32x32 thumbnail of unit norm, float32 [1024], of a grey picture; None if it shows nothing."""
    small = np.asarray(grey.convert("F").resize((32, 32), Image.Resampling.BOX)).ravel()
    small = small - small.mean()
    return (difference_hash(grey), small / np.linalg.norm(small)) if small.std() >= _FLAT else None


def kin(thumbnails: Sequence[tuple[np.uint64, np.ndarray] | None], distance: int = 2) -> list[list[int]]:
    """Return for each picture the places of those that are nearly the same, itself not among them.

    Args:
        thumbnails: as ``thumbnail`` returns them.
        distance: most differing bits of the hashes.
    """
    out: list[list[int]] = [[] for _ in thumbnails]
    known = [(i, *one) for i, one in enumerate(thumbnails) if one is not None]
    hashes = np.array([bits for _, bits, _ in known], np.uint64)
    for a, b, _ in _close(hashes, hashes, distance):
        if a != b and float(known[a][2] @ known[b][2]) >= _SAME:
            out[known[a][0]].append(known[b][0])
    return out


def _thumbnails(items: Sequence[Item]) -> _Thumbnails:
    names, hashes, thumbs = [], [], []
    for item in items:
        if (found := thumbnail(_grey(item))) is not None:
            names.append(item.name)
            hashes.append(found[0])
            thumbs.append(found[1])
    return _Thumbnails(names, np.array(hashes, np.uint64), np.array(thumbs, np.float32).reshape(-1, 1024))


@patient
def _grey(item: Item) -> Image.Image:
    """Return the picture as people see it, mode F (float32), 0-255."""
    if item.code.bands:
        pixels = read_image(item.image, replace(item.code, upright=True))
        return Image.fromarray(shown(pixels, item.code.bands)).convert("L").convert("F")
    with opened(item.image, MAX_PIXELS) as (file, _):
        image = ImageOps.exif_transpose(file)
        if not image.mode.startswith(("I", "F")):
            return image.convert("L").convert("F")
        values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray((values - low) * (255.0 / max(high - low, 1e-12)))


def _close(a: np.ndarray, b: np.ndarray, distance: int) -> list[tuple[int, int, int]]:
    """Return (i, j, bits) for every a[i], b[j] that differ in at most ``distance`` bits."""
    out = []
    for start in range(0, len(a), _BLOCK):
        bits = _popcount(a[start : start + _BLOCK, None] ^ b[None])
        for i, j in np.argwhere(bits <= distance).tolist():
            out.append((start + i, j, int(bits[i, j])))
    return out


def _popcount(words: np.ndarray) -> np.ndarray:
    """Return the number of set bits of each uint64 (numpy has bitwise_count only from 2.0 on)."""
    m1, m2, m4 = (np.uint64(m) for m in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    words = words - ((words >> np.uint64(1)) & m1)
    words = (words & m2) + ((words >> np.uint64(2)) & m2)
    words = (words + (words >> np.uint64(4))) & m4
    return (words * np.uint64(0x0101010101010101)) >> np.uint64(56)
