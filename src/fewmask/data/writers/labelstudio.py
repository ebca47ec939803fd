"""Label Studio: tasks with brush labels, and the labelling interface that knows the classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from fewmask.data.layouts.brush import encode_brush
from fewmask.data.writers.annotated import UNLABELLED, VOID, Annotated, labels_of, parts

_VERSION = "fewmask"


def labelstudio(ones: Iterable[Annotated], classes: Sequence[str], guessed: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the files; see ``writers``. A model's guesses are predictions there, others are annotations.

    Raises:
        DataError: see ``labels_of``.
    """
    labels = [*labels_of(classes, "labelstudio"), VOID]
    tasks, held = list[dict[str, object]](), False
    for number, one in enumerate(ones, start=1):
        found = list(parts(one.mask, classes))
        held = held or any(label == UNLABELLED for label, _ in found)
        tasks.append(_task(number, one, found, guessed))
    rows = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in [*labels, *([UNLABELLED] if held else [])])
    view = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="tag" toName="image">\n'
        f"{rows}\n  </BrushLabels>\n</View>\n"
    )
    yield "interface.xml", view.encode()
    yield "tasks.json", json.dumps(tasks).encode()


def _task(
    number: int, one: Annotated, found: Sequence[tuple[str, np.ndarray]], guessed: bool
) -> dict[str, object]:  # fmt: skip
    height, width = one.mask.shape
    result = [
        {
            "id": f"{number}-{n}", "type": "brushlabels", "from_name": "tag", "to_name": "image",
            "original_width": width, "original_height": height, "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(area), "brushlabels": [label]},
        }
        for n, (label, area) in enumerate(found)
    ]  # fmt: skip
    filled = {"predictions": [{"model_version": _VERSION, "result": result}], "annotations": []}
    drawn = {"predictions": [], "annotations": [{"result": result}]}
    return {
        "id": number,
        "data": {"image": f"/data/local-files/?d={quote(f'images/{one.file}')}"},
        **(filled if guessed else drawn),
    }
