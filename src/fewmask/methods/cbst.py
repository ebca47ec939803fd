"""CBST (Zou et al., Unsupervised domain adaptation ... via class-balanced self-training, ECCV 2018).

Rounds of self-training that label a growing share of every class: a threshold for all classes would label the easy ones
first, and the rare ones never. Here the source is the labelled set and the target the unlabelled one.

| paper | code | shape | meaning |
|---|---|---|---|
| w | net | | the network, trained on from round to round |
| p | start, add, most | | share of the pixels predicted as a class that are labelled; grows by a step a round |
| exp(-k_c) | Cut.least_confidence_K | K | the confidence that this share of class c reaches |
| ŷ_n | u.pseudo_labels | B H W | label, or none |

    -k_c = log of the (p·N_c)-th largest confidence among the N_c pixels predicted as class c, over all images
    ŷ_n = argmax_c p_n(c)/exp(-k_c) where that ratio is 1 or more; else no label
    L = ℓ(p(x^l), y^l) + λ·ℓ_ce(p(x^u), ŷ^u)

Implementation details and departures
1. The paper's ratio is above 1; here a pixel at the threshold itself stays: of a class that is saturated at
   confidence 1 nothing would be left. Thresholds are exact k-th largest values, of confidences in fp16; the code
   takes a quarter of the pixels.
2. The label is of the largest *ratio*: a pixel can take a rarer class than its most likely one. ``relabel = false``
   keeps the most likely class or none, which is what DARS calls CBST.
3. Labelled and unlabelled images share a batch, one mean each and λ = 1; the code shuffles both into one list, in which
   the share of target images grows.
4. A round starts from the network of the one before, with a new optimiser and schedule. The paper trains 2 epochs a
   round; here the rounds after the first share the run's steps equally.
5. Neither the spatial priors of CBST-SP (they transfer from synthetic streets to real ones) nor the mining of patches
   with rare classes are here.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from fewmask.batch import ViewKind
from fewmask.method import Config, Labelling, Method, Round
from fewmask.offline import OnLabels, OnPseudoLabels
from fewmask.ops.select import Selection
from fewmask.supervision import Supervision


class CBST(Method):
    """A growing share of every class."""

    title = "CBST"
    paper = "Zou et al., Class-balanced self-training, ECCV 2018"
    year = 2018

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss.
            lam: λ.
            start: p of the first labelling.
            add: what a round adds to p.
            most: the largest p.
            turns: rounds after the first; the paper's code makes six.
            first: share of the steps of the first round.
            relabel: the largest ratio decides the class.
            view: of the pseudo-labelled images.
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=1.0, ge=0)
        start: float = Field(default=0.2, gt=0, le=1)
        add: float = Field(default=0.05, ge=0, le=1)
        most: float = Field(default=0.5, gt=0, le=1)
        turns: int = Field(default=6, ge=1)
        first: float = Field(default=0.4, gt=0, lt=1)
        relabel: bool = True
        view: ViewKind = "weak"

        @model_validator(mode="after")
        def _sensible(self) -> CBST.Config:
            if self.start > self.most:
                raise ValueError("start is the first p and most the largest: start <= most")
            return self

    def rounds(self) -> list[Round]:
        """Labelled images; then with labels for more and more pixels."""
        cfg = self.config
        later = OnPseudoLabels(OnPseudoLabels.Config(sup=cfg.sup, lam=cfg.lam, view=cfg.view), self.task)
        out = [Round("labelled", OnLabels(OnLabels.Config(sup=cfg.sup), self.task), cfg.first)]
        for n in range(cfg.turns):
            before, p = out[-1].name, min(cfg.start + n * cfg.add, cfg.most)
            labels = Labelling(before, select=Selection("cbst", p, relabel=cfg.relabel))
            out.append(Round(f"cbst-{n + 1}", later, (1 - cfg.first) / cfg.turns, before, (labels,)))
        return out
