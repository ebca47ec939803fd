"""The two trainings that self-training schemes are made of: labelled images alone, and with an earlier round's labels.

They are Methods, so that a ``Round`` can hold them; a paper says which rounds there are and what is labelled how.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from fewmask.batch import Batch, Stream, ViewKind
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.ops import losses, pseudo
from fewmask.supervision import Supervision


class OnLabels(Method):
    """The labelled images alone: how every scheme begins. The loss is CPS Eq. 4, for one network."""

    title = "labelled images"
    paper = ""
    year = 0

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
        """One network, that starts as the supervised baseline's does."""
        return {"net": build("student")}

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Mean over the labelled pixels."""
        return {"sup": self.config.sup(nets["net"](batch["l"].weak), batch["l"].labels, self.task)}


class OnPseudoLabels(Method):
    """Labelled images, and unlabelled ones with the labels of an earlier round; DARS Eq. 2.

    L = ℓ(p(x^l), y^l) + λ·(1/n) Σ ℓ_ce(p(x^u), ỹ^u) over the n pixels that have a pseudo-label.
    """

    title = "pseudo-labelled images"
    paper = ""
    year = 0

    flow = {"sup": ("net",), "unsup": ("net",)}
    predictors = ("net",)

    class Config(Config):
        """Constants.

        Attributes:
            sup: the loss on labelled images.
            lam: λ.
            view: of the unlabelled images: "weak", or "strong", which adds photometry.
            together: labelled and unlabelled images go through the network in one pass, and share the statistics of
                BatchNorm; else in one pass each.
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=1.0, ge=0)
        view: ViewKind = "weak"
        together: bool = False

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of each image."""
        return {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", (self.config.view,))}

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """One network, that starts as the supervised baseline's does."""
        return {"net": build("student")}

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """DARS Eq. 2."""
        lab, u = batch["l"], batch["u"]
        x_u, label = u.views[0], u.pseudo_labels
        if self.config.together:
            p_l, p_u = nets["net"](torch.cat((lab.weak, x_u))).split((len(lab), len(u)))
        else:
            p_l, p_u = nets["net"](lab.weak), nets["net"](x_u)
        known = label < self.task.classes
        memo["kept"] = known.sum() / u.valid.sum().clamp(min=1)
        memo["pseudo"] = pseudo.histogram(torch.where(known, label, 0), known, self.task.classes)
        return {
            "sup": self.config.sup(p_l, lab.labels, self.task),
            "unsup": self.config.lam * losses.cross_entropy(p_u, label),
        }
