"""ST++ (Yang et al., ST++: Make self-training work better for semi-supervised semantic segmentation, CVPR 2022).

Self-training whose students see strongly augmented images, in two steps: first with the images whose prediction was
stable while the teacher learned, then with all. Without ``prioritise`` it is the paper's ST.

| paper | code | shape | meaning |
|---|---|---|---|
| M^l, M^u | labelled | | labelled images; the same with the pseudo-labels of an unlabelled image |
| T, S | rounds | | teacher and students |
| A^s | view, cutout | | strong augmentations on unlabelled images |
| s_i | Labeller._ranking | | stability of image i |

    s_i = Σ_k meanIoU(M_ik, M_iK), k = 1 .. K-1: the predictions of K checkpoints of the teacher
    stage 1: T on the labelled images
    stage 2: S on them and the more stable half, labelled by T
    stage 3: S anew on all; the other half is labelled by the student of stage 2

Implementation details and departures
1. Labels are the argmax of the mean probability over five sizes (0.5 to 2) and the mirror image, as in the code: the
   paper tells of test-time augmentation only there.
2. The batch has as many labelled as unlabelled images, as the code's repeated list has in expectation, and one mean
   over all of its labelled pixels.
3. Every student starts from the encoder's pretrained weights (``init = scratch``); ``continue`` resumes from its
   teacher, as DARS does. Teachers are the networks of their last step: the code
   takes the best on val, which labels the unlabelled images with masks of the val set.
4. K = 3 checkpoints, after 1/3, 2/3 and all of the steps; s_i is divided by K-1, which ranks alike. Classes that
   neither map has do not count.
5. Cutout fills with the mean colour; the code with noise. Nothing is learnt inside in either.
6. Equal shares of the steps by default. The paper trains as many epochs a stage: in steps the later stages are 10 to
   100 times as long as the first (its recipes here have them so).
7. The stable part is rounded up: 4 of 7 images. Images and probabilities are resized with torch's bilinear, antialiased
   below 1, corners not aligned.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fewmask.batch import ViewKind
from fewmask.method import Config, Labelling, Method, Part, Round
from fewmask.offline import OnLabels, OnUnion, shares_of
from fewmask.supervision import Supervision

KEEP = (1 / 3, 2 / 3)
"""Shares of the teacher's steps after which it is kept; its last network is the third."""


class STPlusPlus(Method):
    """Strong students, stable images first."""

    title = "ST++"
    paper = "Yang et al., ST++, CVPR 2022"
    year = 2022

    class Config(Config):
        """Constants.

        Attributes:
            sup: the loss.
            view: of the pseudo-labelled images; "weak" is its ablation without strong augmentation.
            cutout: probability of a Cutout box.
            scales: sizes whose mean prediction labels, and
            flip: their mirror images.
            prioritise: stage 2 takes the stable images only (ST++); else there is one student (ST).
            reliable: share of the images that count as stable.
            shares: of the steps, one a stage; none = equal.
            first_batch: labelled images a step of stage 1; none = the recipe's, as in the later stages.
            init: how the students begin.
        """

        sup: Supervision = Supervision()
        view: ViewKind = "strong"
        cutout: float = Field(default=0.5, ge=0, le=1)
        scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
        flip: bool = True
        prioritise: bool = True
        reliable: float = Field(default=0.5, gt=0, lt=1)
        shares: tuple[float, ...] | None = None
        first_batch: int | None = Field(default=None, ge=1)
        init: Literal["scratch", "continue"] = "scratch"

        @model_validator(mode="after")
        def _sensible(self) -> STPlusPlus.Config:
            shares_of(self.shares, 3 if self.prioritise else 2)
            if not self.scales or min(self.scales) <= 0:
                raise ValueError("scales takes one or more positive numbers")
            return self

    def rounds(self) -> list[Round]:
        """Algorithm 2; Algorithm 1 without ``prioritise``."""
        cfg = self.config
        teach = OnLabels(OnLabels.Config(sup=cfg.sup), self.task)
        learn = OnUnion(OnUnion.Config(sup=cfg.sup, view=cfg.view, cutout=cfg.cutout), self.task)
        shares = shares_of(cfg.shares, 3 if cfg.prioritise else 2)

        def student(name: str, share: float, labels: tuple[Labelling, ...]) -> Round:
            return Round(name, learn, share, labels[-1].by if cfg.init == "continue" else None, labels=labels)

        teacher = Round("teacher", teach, shares[0], keep=KEEP if cfg.prioritise else (), batch=cfg.first_batch)
        if not cfg.prioritise:
            return [teacher, student("all", shares[1], (self._by("teacher"),))]
        stable = self._by("teacher", Part("teacher", 0.0, cfg.reliable))
        others = self._by("stable", Part("teacher", cfg.reliable, 1.0))
        return [
            teacher,
            student("stable", shares[1], (stable,)),
            student("all", shares[2], (stable, others)),
        ]

    def _by(self, name: str, part: Part | None = None) -> Labelling:
        return Labelling(name, part=part, scales=self.config.scales, flip=self.config.flip)
