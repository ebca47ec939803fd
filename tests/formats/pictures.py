"""Pictures and masks of the fixtures, and the plainest folder of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

VOID = 255
CLASSES = ["field", "road", "tree canopy"]
COLOURS = [(128, 64, 0), (0, 0, 250), (10, 200, 30)]


@dataclass
class Fixture:
    """What was written: the names of its classes, and the true mask of every image that has one, by stem."""

    classes: list[str]
    truth: dict[str, np.ndarray] = field(default_factory=dict)


def picture(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return small.repeat(4, 0).repeat(4, 1)[:height, :width] // 2 + rng.integers(0, 120, (height, width, 3), np.uint8)


def mask(seed: int, height: int = 24, width: int = 32, kinds: int = 3) -> np.ndarray:
    """Return blocks of every class, uint8 [H, W]."""
    rng = np.random.default_rng(1000 + seed)
    blocks = rng.integers(0, kinds, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
    blocks[0, :kinds] = range(kinds)
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def rgb(of: np.ndarray, colours: list[tuple[int, int, int]] = COLOURS) -> np.ndarray:
    return np.array(colours, np.uint8)[of]


def folders(
    root: Path, store: Callable[[Path, np.ndarray], None] | None = None, kinds: int = 3, suffix: str = ".png",
    names: tuple[str, ...] = ("a1", "a2", "a3", "b1"), bare: tuple[str, ...] = ("c1", "c2"),
    sizes: tuple[tuple[int, int], ...] = ((24, 32),),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write images/ and masks/ with the same stems, some images without a mask."""
    truth = {}
    for n, name in enumerate((*names, *bare)):
        size = sizes[n % len(sizes)]
        save(root / "images" / f"{name}{suffix}", picture(n, *size))
        if name in names:
            truth[name] = mask(n, *size, kinds)
            (root / "masks").mkdir(exist_ok=True)
            (store or save)(root / "masks" / f"{name}.png", truth[name])
    return truth


def classes_txt(root: Path, classes: list[str] = CLASSES) -> list[str]:
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return classes
