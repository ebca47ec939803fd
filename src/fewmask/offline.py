"""The trainings that self-training schemes are made of: labelled images alone, and with an earlier round's labels.

They are Methods, so that a ``Round`` can hold them; a paper says which rounds there are and what is labelled how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from fewmask.batch import IGNORE, Batch, Stream, ViewKind
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.nets.auxiliary import Auxiliary
from fewmask.nets.segmenter import outputs, plain
from fewmask.ops import losses, mix, pseudo
from fewmask.supervision import Supervision


class _OneNetwork(Method):
    """One network, with an auxiliary classifier where ``aux`` weighs one."""

    predictors = ("net",)

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """One network, that starts as the supervised baseline's does."""
        net = build("student")
        return {"net": Auxiliary(net, self.task.classes) if self.config.aux else net}

    def network(self, nets: Nets, name: str) -> nn.Module:
        """The network without its auxiliary classifier."""
        return plain(nets[name])

    def _loss(self, p: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ℓ(p) + aux·ℓ(q) for the logits p of the network and q of its auxiliary classifier."""
        total = loss(p[0])
        return total + self.config.aux * loss(p[1]) if self.config.aux else total


def shares_of(given: Sequence[float] | None, rounds: int) -> tuple[float, ...]:
    """Return the share of the steps of each round; equal ones where none are given.

    Raises:
        ValueError: not one positive number a round, or their sum is not 1.
    """
    if given is None:
        return (1 / rounds,) * rounds
    if len(given) != rounds or min(given) <= 0 or abs(sum(given) - 1) > 1e-6:
        raise ValueError(f"shares takes {rounds} positive numbers that sum to 1")
    return tuple(given)


def rates_of(given: Sequence[float] | None, rounds: int) -> tuple[float, ...]:
    """Return the factor on the learning rate of each round; 1 where none are given.

    Raises:
        ValueError: not one positive number a round.
    """
    if given is None:
        return (1.0,) * rounds
    if len(given) != rounds or min(given) <= 0:
        raise ValueError(f"rates takes {rounds} positive numbers, factors on the learning rate of each round")
    return tuple(given)


class OnLabels(_OneNetwork):
    """The labelled images alone: how every scheme begins. The loss is CPS Eq. 4, for one network."""

    title = "labelled images"
    paper = ""
    year = 0

    streams = {"l": Stream("labelled", ("weak",))}
    flow = {"sup": ("net",)}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the loss.
            aux: weight of an auxiliary classifier; 0 = none.
        """

        sup: Supervision = Supervision()
        aux: float = Field(default=0.0, ge=0)

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Mean over the labelled pixels."""
        p, y = outputs(nets["net"](batch["l"].weak)), batch["l"].labels
        return {"sup": self._loss(p, lambda q: self.config.sup(q, y, self.task, step.average))}


class _OnBoth(_OneNetwork):
    """Labelled images, and unlabelled ones with the labels of an earlier round."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of each image."""
        return {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", (self.config.view,))}


class OnPseudoLabels(_OnBoth):
    """Labelled images, and unlabelled ones with the labels of an earlier round; DARS Eq. 2.

    L = ℓ(p(x^l), y^l) + λ·(1/n) Σ ℓ_ce(p(x^u), ỹ^u) over the n pixels that have a pseudo-label.
    """

    title = "pseudo-labelled images"
    paper = ""
    year = 0

    flow = {"sup": ("net",), "unsup": ("net",)}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the loss on labelled images.
            lam: λ.
            view: of the unlabelled images: "weak", or "strong", which adds photometry.
            together: labelled and unlabelled images go through the network in one pass, and share the statistics of
                BatchNorm; else in one pass each.
            one_loss: ``sup`` compares with pseudo-labels too, its class weights included; else a plain cross-entropy.
            aux: weight of an auxiliary classifier; 0 = none.
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=1.0, ge=0)
        view: ViewKind = "weak"
        together: bool = False
        one_loss: bool = False
        aux: float = Field(default=0.0, ge=0)

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """DARS Eq. 2."""
        lab, u = batch["l"], batch["u"]
        x_u, label = u.views[0], u.pseudo_labels
        if self.config.together:
            both = [p.split((len(lab), len(u))) for p in outputs(nets["net"](torch.cat((lab.weak, x_u))))]
            p_l, p_u = ([p[n] for p in both] for n in (0, 1))
        else:
            p_l, p_u = (outputs(nets["net"](x)) for x in (lab.weak, x_u))
        memo |= pseudo.told(label, label < self.task.classes, u.valid, p_u[0])

        def sup(p: Tensor, y: Tensor) -> Tensor:
            return self.config.sup(p, y, self.task, step.average)

        def unsup(p: Tensor) -> Tensor:
            return sup(p, label) if self.config.one_loss else losses.cross_entropy(p, label, average=step.average)

        return {"sup": self._loss(p_l, lambda p: sup(p, lab.labels)), "unsup": self.config.lam * self._loss(p_u, unsup)}


class OnUnion(_OnBoth):
    """Labelled and pseudo-labelled images as one set with one loss, as ST++ and CPS's self-training train.

    L = (1/n) Σ ℓ over the n labelled pixels of the batch, of either kind; a batch has as many images of each.
    """

    title = "labelled and pseudo-labelled images"
    paper = ""
    year = 0

    flow = {"sup": ("net",)}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the loss.
            view: of the pseudo-labelled images: "weak", or "strong", which adds photometry.
            cutout: probability that a pseudo-labelled image loses one box (area 2-40 %, aspect 0.3-3.3): the mean
                colour and no label there.
            aux: weight of an auxiliary classifier; 0 = none.
        """

        sup: Supervision = Supervision()
        view: ViewKind = "weak"
        cutout: float = Field(default=0.0, ge=0, le=1)
        aux: float = Field(default=0.0, ge=0)

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """One mean over all labelled pixels."""
        lab, u = batch["l"], batch["u"]
        x_u, label = u.views[0], u.pseudo_labels
        height, width = x_u.shape[-2:]
        box = mix.unimatch_mask(step.draws("u"), height, width, self.config.cutout).to(x_u.device, non_blocking=True)
        x_u = mix.take(x_u, torch.zeros_like(x_u), box)
        label = mix.take(label, torch.full_like(label, IGNORE), box)
        p, y = outputs(nets["net"](torch.cat((lab.weak, x_u)))), torch.cat((lab.labels, label))
        memo |= pseudo.told(label, label < self.task.classes, u.valid, p[0][len(lab) :])
        return {"sup": self._loss(p, lambda q: self.config.sup(q, y, self.task, step.average))}
