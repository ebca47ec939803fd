"""What the choices of a run rest on: sizes, classes and their balance, counts, groups, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fewmask.data.bands import channels
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
        "channels": channels(index.images.bands),
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


def told(seen: Mapping[str, Any]) -> str:
    """Return a fingerprint as one sentence."""
    counts = ", ".join(f"{seen[kind]} {kind}" for kind in ("labelled", "unlabelled", "val", "test"))
    least, middle, most = ("x".join(map(str, seen["sizes"][name])) for name in ("min", "median", "max"))
    sizes = f"images of {middle}" if least == most else f"images of {least} to {most}, median {middle}"
    share = {name: value for name, value in seen["classes"].items() if value}
    rarest = min(share, key=lambda name: share[name], default=None)
    classes = f"{len(seen['classes'])} classes"
    classes += f", {rarest} the rarest with {100 * share[rarest]:.2g} % of the labelled pixels" if rarest else ""
    groups = f"{seen['groups']} groups" if seen["groups"] else "no groups"
    machine = seen["machine"]
    place = f"{machine['cuda']} GPUs" if machine["cuda"] else f"{machine['cores']} cores and no GPU"
    return f"data: {counts}; {sizes}, {seen['channels']} channels; {classes}; {groups}; {place}"
