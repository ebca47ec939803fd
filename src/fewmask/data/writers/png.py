"""Plain index PNGs: ``masks/NAME.png`` and ``classes.txt``, which fewmask and most training code read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from fewmask.data.palette import palette
from fewmask.data.writers.annotated import Annotated, png_bytes


def png(ones: Iterable[Annotated], classes: Sequence[str], guessed: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the files; see ``writers``."""
    yield "classes.txt", "".join(f"{name}\n" for name in classes).encode()
    for one in ones:
        image = Image.fromarray(one.mask)
        image.putpalette(palette().tobytes())
        yield f"masks/{one.name}.png", png_bytes(image)
