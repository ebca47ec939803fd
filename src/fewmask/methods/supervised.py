"""Supervised training: the baseline that every other method is measured against.

The labelled images alone. The loss is one of ``Supervision``: cross-entropy, OHEM, focal, Dice, with class weights.

| paper | code | shape | meaning |
|---|---|---|---|
| X | x | B C H W | labelled images |
| Y* | y | B H W | ground truth |
| P | p | B K H W | logits of the network |

    L_s = (1/|D^l|) Σ_X (1/WH) Σ_i ℓ(p_i, y*_i)                       CPS Eq. 4, one network

Implementation details
1. The mean runs over the labelled pixels of the batch, not over images: void and padded pixels count nowhere.
2. The view is the weak one, as in the papers' supervised baselines; the recipe's ``data.augment.labelled = strong``
   adds photometry to the labelled images of any method.
"""

from __future__ import annotations

from torch import Tensor, nn

from fewmask.batch import Batch, Stream
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.supervision import Supervision


class Supervised(Method):
    """One network, labelled images only."""

    title = "Supervised baseline"
    paper = "Long et al., Fully convolutional networks for semantic segmentation, CVPR 2015"
    year = 2015

    streams = {"l": Stream("labelled", ("weak",))}
    flow = {"sup": ("net",)}
    predictors = ("net",)

    class Config(Config):
        """Constants.

        Attributes:
            sup: the loss.
        """

        sup: Supervision = Supervision()

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """One network, that starts as the students of other methods do: runs of one seed are pairs."""
        return {"net": build("student")}

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """CPS Eq. 4 for one network."""
        x, y = batch["l"].weak, batch["l"].labels
        p = nets["net"](x)
        return {"sup": self.config.sup(p, y, self.task, step.average)}
