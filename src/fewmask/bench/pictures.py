"""Images of noise, as evaluation and labelling read them: in memory, so that no disk is timed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from fewmask.bench.setting import Setting
from fewmask.data.index import Item
from fewmask.engine.evaluate import Pictures


def noise(setting: Setting, count: int) -> tuple[list[Item], Pictures]:
    """Return items, and what reads each as noise of the setting's crop with random truth."""
    g = torch.Generator().manual_seed(0)
    crop, classes = setting.prepared.recipe.data.crop, setting.prepared.task.classes
    assert crop is not None  # prepare() has chosen it
    mean, std = (torch.tensor(values, device=setting.fabric.device) for values in setting.prepared.statistics)
    items = [Item(str(n), Path(f"{n}.png")) for n in range(count)]
    image = {i.name: torch.randint(0, 256, (len(mean), *crop), generator=g).to(torch.uint8) for i in items}
    truth = {i.name: torch.randint(0, classes, crop, generator=g).to(torch.uint8) for i in items}
    device = setting.fabric.device
    return items, Pictures(lambda i: image[i.name], lambda i: truth[i.name], mean, std, device, nullcontext)
