"""What the server of ``helpers.start`` does once, so that no process forked from it does it again."""

import gc
from importlib import import_module

from fewmask.report.pages import environment

for _name in (
    "fewmask.cli", "fewmask.run.curve", "fewmask.run.execute", "fewmask.run.predict", "fewmask.run.rescore",
    "fewmask.run.suggest", "scipy.optimize", "scipy.stats", "torch.utils.tensorboard",
):  # fmt: skip
    import_module(_name)
for _name in environment().list_templates():
    environment().get_template(_name)
gc.freeze()  # a collection in a child would look through all of this, and copy its pages
