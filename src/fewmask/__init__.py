"""fewmask: semi-supervised semantic segmentation.

``run = fewmask.train("photos/")``, then ``run.score``, ``run.predict("image.jpg")``; ``fewmask.load("runs/x-001")``.
Names are imported when they are first used, so that ``import fewmask`` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fewmask._version import __version__

if TYPE_CHECKING:
    from fewmask.batch import Batch, Items, Stream
    from fewmask.config import Config
    from fewmask.data.dataset import Dataset
    from fewmask.errors import FewmaskError
    from fewmask.method import Method, Phase, Round, Step, Task
    from fewmask.run.execute import train
    from fewmask.run.result import Run, load

_HOME = {
    "Batch": "batch", "Items": "batch", "Stream": "batch", "Config": "config", "Dataset": "data.dataset",
    "FewmaskError": "errors",
    "Method": "method", "Phase": "method", "Round": "method", "Step": "method", "Task": "method",
    "Run": "run.result", "load": "run.result", "train": "run.execute",
}  # fmt: skip

__all__ = [
    "Batch", "Config", "Dataset", "FewmaskError", "Items", "Method", "Phase", "Round", "Run", "Step", "Stream", "Task",
    "__version__", "load", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"fewmask.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fewmask' has no attribute {name!r}")
