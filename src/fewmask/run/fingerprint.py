"""What the choices of a run rest on: sizes, classes and their balance, counts, groups, the machine."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

from fewmask.data.index import DataIndex, Pools
from fewmask.data.scan import Scan

_RARE = 0.01  # share of the labelled pixels


def fingerprint(index: DataIndex, pools: Pools, counts: Scan) -> dict[str, Any]:
    """Return it as JSON; sizes are [height, width] of labelled images, classes have their share of labelled pixels."""
    rows = counts.rows(pools.labelled)
    sizes = counts.sizes[rows]
    areas = sizes.prod(axis=1)
    pixels = counts.counts[rows][:, : len(index.classes)].sum(axis=0)
    share = pixels / max(1, pixels.sum())
    order = np.argsort(areas)
    groups = {item.group for items in index.items.values() for item in items if item.group}
    cuda = torch.cuda.is_available()
    return {
        "labelled": len(pools.labelled), "unlabelled": len(pools.unlabelled),
        "val": len(index.items["val"]), "test": len(index.items["test"]), "groups": len(groups),
        "sizes": {name: sizes[order[place]].tolist() for name, place in (("min", 0), ("median", len(order) // 2),
                                                                        ("max", -1))},
        "classes": {name: round(float(s), 5) for name, s in zip(index.classes, share, strict=True)},
        "rare": [name for name, s in zip(index.classes, share, strict=True) if 0 < s < _RARE],
        "absent": [name for name, s in zip(index.classes, share, strict=True) if s == 0],
        "machine": {
            "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
            "cores": os.cpu_count(), "cuda": torch.cuda.device_count() if cuda else 0,
        },
    }  # fmt: skip
