"""A Three-Stage Self-Training Framework for Semi-Supervised Semantic Segmentation (Ke et al., 2020, arXiv:2012.00827).

A network that saw the labelled images alone makes rough pseudo-masks of all images. The next stage learns them as a
second task, in a branch that shares the first blocks, while the segmentation itself is kept consistent under strong
augmentation. Its better masks do the same once more in a branch that shares more.

| paper | code | shape | meaning |
|---|---|---|---|
| x_i, y_i | lab.weak, lab.labels | B C H W | labelled images and ground truth |
| A x_i | x_a | B C H W | RandAugment and Cutout of an image of L ∪ U |
| B | warped, source | B H W | moves a label map as A moves the pixels |
| f_θ, f_θ' | f, teacher | B K H W | segmentation network, and its moving average |
| ĝ, g̃ | g | B K H W | second branch from block N-2 (stage 2), N-1 (stage 3) |
| ŷ_i, ỹ_i | pseudo_labels | B H W | argmax of f_θ of stage 1, of stage 2 |
| λ_1, λ_2 | lam_con, lam_pl | | weights |

    L_con = Σ_{L ∪ U} d_c(f_θ(A x_i), B f_θ'(x_i))                                    Eq. 1
    stage 1: L_seg = Σ_L d_s(f_θ(x_i), y_i);  ŷ_i = argmax f_θ(x_i)                   Eq. 2
    L_pl  = Σ_{L ∪ U} d_c(ĝ(A x_i), B ŷ_i)                                            Eq. 3
    stage 2: L_seg + λ_1·L_con + λ_2·L_pl;  ỹ_i = argmax f_θ(x_i)                     Eq. 4
    stage 3: L_seg + λ_1·L_con + λ_2·L_pl with g̃ and ỹ_i                              Eq. 5

Implementation details and departures
1. d_c is the cross-entropy with the teacher's hard label (section IV-B and the code), d_s the run's supervised loss.
2. L_con and L_pl are means over the labelled sub-batch, where A and B are the identity, and over the one from L ∪ U,
   which alone is strongly augmented (section IV-B). Which of the two is the large one: ``data.batch`` is the labelled
   one, ``data.unlabelled_batch`` the other. The paper's sentence says 4 and 1, the code 1 and 4.
3. Pixels that A brings in from outside have no label. Those below a Cutout square keep theirs (the code). Strengths are
   RandAugment's; the code posterizes more, changes colours less and shears about a corner (docs/methods).
4. ``output = student`` is Algorithm 1: f_θ makes the masks and is reported. The code uses the moving average of the
   network in both places: ``teacher``.
5. The teacher labels in evaluation mode with averaged statistics. The code freezes BatchNorm everywhere; here the
   student's statistics move, and labelled and augmented images go through it in one pass.
6. The decay of the average follows the code: 0.99, 0.995, 0.9975, 0.999 from 0, 1/3, 2/3 and 5/6 of a stage. That is
   for 60,000 steps, of which it averages the last thousand; of 240 it would be the last 165, with a quarter of the
   first. ``ema_share`` bounds the decay, and so its mean age, by a share of the stage. ``ema = false`` is Table VI: the
   network labels itself.
7. Branches: Table VII, on any encoder with stages; see ``BranchedStage``. The code gives them a class more, never used.
8. Every stage starts from the pretrained encoder anew (``init = scratch``); ``continue`` starts f and its average from
   the f that made the masks, with a fresh branch: where a stage is too short to learn from scratch what the one before
   it knew. The masks are of the last step's network, not of the best one.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fewmask.batch import IGNORE, Batch, Stream, ViewKind
from fewmask.data.randaugment import RandAugmentCutout
from fewmask.method import Build, Config, Labelling, Method, Nets, Round, Step, Terms
from fewmask.nets.branch import BranchedStage
from fewmask.nets.heads import SharedEncoder
from fewmask.nets.segmenter import outputs, plain
from fewmask.offline import OnLabels, rates_of, shares_of
from fewmask.ops import ema, losses, mix, pseudo
from fewmask.supervision import Supervision

DECAYS = ((0.0, 0.99), (1 / 3, 0.995), (2 / 3, 0.9975), (5 / 6, 0.999))
"""(share of a stage, decay of the moving average from there on)."""


class _Config(Config):
    """Constants.

    Attributes:
        sup: d_s.
        lam_con: λ_1; 0 = no consistency (CR in Table V).
        lam_pl: λ_2; 0 = no second task (T2).
        stages: how many; 1 is supervised training, 4 repeats the third.
        shares: of the steps, one a stage; none = the paper's 60,000 each: equal.
        rates: factors on the learning rate of each stage; none = 1.
        first_batch: labelled images a step of stage 1; none = the recipe's, as in the later stages.
        init: how the later stages begin.
        branch: of the stages from the third on: "n-1" g̃, or "n-2" ĝ as in stage 2 (N2).
        strong: the images of L ∪ U are strongly augmented (SA).
        augment: how.
        ema: the teacher is a moving average (Table VI).
        ema_share: most mean age of that average, as a share of the stage's steps; none = no bound.
        output: which network makes the masks and is reported.
    """

    sup: Supervision = Supervision()
    lam_con: float = Field(default=0.5, ge=0)
    lam_pl: float = Field(default=0.5, ge=0)
    stages: int = Field(default=3, ge=1, le=4)
    shares: tuple[float, ...] | None = None
    rates: tuple[float, ...] | None = None
    first_batch: int | None = Field(default=None, ge=1)
    init: Literal["scratch", "continue"] = "scratch"
    branch: Literal["n-1", "n-2"] = "n-1"
    strong: bool = True
    augment: RandAugmentCutout = RandAugmentCutout()
    ema: bool = True
    ema_share: float | None = Field(default=None, gt=0, le=1)
    output: Literal["student", "teacher"] = "student"

    @model_validator(mode="after")
    def _sensible(self) -> _Config:
        if self.output == "teacher" and not self.ema:
            raise ValueError("output=teacher needs the moving average: ema=true")
        shares_of(self.shares, self.stages)
        rates_of(self.rates, self.stages)
        return self


class ThreeStage(Method):
    """Pseudo-masks as a second task, renewed from stage to stage."""

    title = "Three-stage self-training"
    paper = "Ke et al., A three-stage self-training framework for semi-supervised semantic segmentation, 2020"
    year = 2020
    Config = _Config
    short = {"init": "continue", "ema_share": 0.1}

    def rounds(self) -> list[Round]:
        """Algorithm 1."""
        cfg = self.config
        shares, rates = shares_of(cfg.shares, cfg.stages), rates_of(cfg.rates, cfg.stages)
        first = OnLabels(OnLabels.Config(sup=cfg.sup), self.task)
        out = [Round("stage-1", first, shares[0], rate=rates[0], batch=cfg.first_batch)]
        for number in range(2, cfg.stages + 1):
            one = MultiTask(cfg.model_copy(update={"branch": "n-2" if number == 2 else cfg.branch}), self.task)
            before = out[-1].name
            masks = (Labelling(before, "labelled+unlabelled"),) if cfg.lam_pl else ()  # nobody would look at them
            init = before if cfg.init == "continue" else None
            share, rate = shares[number - 1], rates[number - 1]
            out.append(Round(f"stage-{number}", one, share, init, masks, rate=rate, fresh_heads=True))
        return out


class MultiTask(Method):
    """Stages 2 and 3: Eq. 4 and Eq. 5."""

    title = "Three-stage self-training, stage 2 and 3"
    paper = ThreeStage.paper
    year = ThreeStage.year
    Config = _Config

    @property
    def predictors(self) -> tuple[str, ...]:
        """The network that is reported first."""
        if not self.config.ema:
            return ("student",)
        return ("teacher", "student") if self.config.output == "teacher" else ("student", "teacher")

    @property
    def streams(self) -> dict[str, Stream]:
        """Labelled images; and any image, as it is (which the teacher labels) and strongly augmented."""
        cfg = self.config
        views: list[ViewKind] = []
        if cfg.lam_con or not cfg.strong:
            views.append("weak")
        if cfg.strong:
            views.append("geo")
        return {
            "l": Stream("labelled", ("weak",)),
            "a": Stream("labelled+unlabelled", tuple(views), warp=cfg.augment),
        }

    @property
    def flow(self) -> dict[str, tuple[str, ...]]:
        """What is switched off is no term."""
        terms = ["seg", *["con"] * bool(self.config.lam_con), *["pl"] * bool(self.config.lam_pl)]
        return dict.fromkeys(terms, ("student",))

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """The network f with its branch, and the moving average of both."""
        cfg, student = self.config, build("student")
        if cfg.lam_pl:
            other = build("branch")
            student = BranchedStage(student, other) if cfg.branch == "n-2" else SharedEncoder([student, other])
        nets = {"student": student}
        return nets | {"teacher": ema.ema_copy(student)} if cfg.ema else nets

    def network(self, nets: Nets, name: str) -> nn.Module:
        """f, without the branch."""
        return plain(nets[name])

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Eq. 4; Eq. 5."""
        cfg, lab, a = self.config, batch["l"], batch["a"]
        x_a, source = a.geo[0] if cfg.strong else (a.weak, None)
        f, *branch = outputs(nets["student"](torch.cat((lab.weak, x_a))))
        terms = {"seg": cfg.sup(f[: len(lab)], lab.labels, self.task, step.average)}  # Eq. 2
        if cfg.lam_con:
            teacher = nets["teacher" if cfg.ema else "student"]
            label = outputs(pseudo.infer(teacher, torch.cat((lab.weak, a.weak))))[0].argmax(1)
            label = torch.where(torch.cat((lab.valid, a.valid)), label, IGNORE)
            label = self._moved(label, len(lab), source)
            terms["con"] = cfg.lam_con * losses.cross_entropy(f, label, average=step.average)  # Eq. 1
        if cfg.lam_pl:
            (g,) = branch
            masks = torch.cat((lab.pseudo_labels, a.pseudo_labels))
            target = self._moved(masks, len(lab), source)
            terms["pl"] = cfg.lam_pl * losses.cross_entropy(g, target, average=step.average)  # Eq. 3
            memo |= pseudo.told(target, target < self.task.classes, torch.cat((lab.valid, a.valid)), g)
        return terms

    def after_step(self, nets: Nets, step: Step, memo: dict[str, Tensor]) -> None:
        """θ' ← d·θ' + (1 - d)·θ, statistics too."""
        if self.config.ema:
            decay = max(d for share, d in DECAYS if step.t >= share * step.total)
            if self.config.ema_share is not None:  # steps of age 1, 2, … weigh d, d², …: 1 / (1 - d) on average
                decay = min(decay, max(0.0, 1 - 1 / (self.config.ema_share * step.total)))
            ema.ema_update(nets["teacher"], nets["student"], decay)

    def _moved(self, labels_BHW: Tensor, count: int, source_BHW: Tensor | None) -> Tensor:
        """B: the labels of the strongly augmented images, those after the first ``count``, move as their pixels do."""
        if source_BHW is None:
            return labels_BHW
        still, moving = labels_BHW.split([count, len(labels_BHW) - count])
        return torch.cat((still, mix.warp(moving, source_BHW, IGNORE)))
