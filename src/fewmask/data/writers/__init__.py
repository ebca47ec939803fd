"""Masks in the formats that labelling tools import: PNG folders, CVAT, COCO JSON, Label Studio.

Every writer gives files as (path below the output, bytes), the same bytes for the same masks. What does not count (255)
is the label "void", what nobody has labelled yet the label "unlabelled"; a class called "background" is what no shape
covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

from fewmask.data.writers.annotated import Annotated
from fewmask.data.writers.coco import coco
from fewmask.data.writers.cvat import cvat
from fewmask.data.writers.labelstudio import labelstudio
from fewmask.data.writers.png import png

__all__ = ["TOOLS", "WRITERS", "Annotated", "Tool", "Writer"]

Tool = Literal["png", "cvat", "coco", "labelstudio"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
Writer = Callable[[Iterable[Annotated], Sequence[str], bool], Iterator[tuple[str, bytes]]]
WRITERS: dict[Tool, Writer] = {"png": png, "cvat": cvat, "coco": coco, "labelstudio": labelstudio}
"""Each takes masks, class names, and whether they are guesses of a model."""
