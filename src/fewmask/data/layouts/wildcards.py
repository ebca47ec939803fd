"""Names of images and of masks that begin or end differently, and the globs under which they meet."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

_MOST = 0.5  # of the masks must meet an image


def meeting(images: Collection[str], masks: Collection[str]) -> tuple[str, str] | None:
    """Return ``A*B`` and ``C*D`` under which the files of both meet, in folders of the same names; None = they do not.

    Args:
        images: names with their folders, without extension.
        masks: the same.
    """
    before, after = _cut([_last(name) for name in images])
    front, back = _cut([_last(name) for name in masks])
    mine = {_within(name, before, after) for name in images}
    its = {_within(name, front, back) for name in masks}
    plain = (before, after) == (front, back)  # and they did not meet as they are
    if plain or any(name[1] == "" for name in mine | its) or len(mine & its) < max(2, _MOST * len(its)):
        return None
    return f"{before}*{after}", f"{front}*{back}"


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _within(name: str, before: str, after: str) -> tuple[str, str]:
    folder, _, last = name.rpartition("/")
    return folder, last[len(before) : len(last) - len(after)]


def _cut(names: Collection[str]) -> tuple[str, str]:
    """Return what all names begin and end with, no number and no word being cut in two."""
    if len(names) < 2:
        return "", ""
    before = os.path.commonprefix(list(names))
    if any(name[len(before) :][:1].isalpha() for name in names):
        before = re.sub(r"[A-Za-z]+$", "", before)
    before = re.sub(r"[0-9]+$", "", before)
    rest = [name[len(before) :] for name in names]
    after = os.path.commonprefix([r[::-1] for r in rest])[::-1]
    if any(r.removesuffix(after)[-1:].isalpha() for r in rest):
        after = re.sub(r"^[A-Za-z]+", "", after)
    return before, re.sub(r"^[0-9]+", "", after)
