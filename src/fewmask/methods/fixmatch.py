"""FixMatch (Sohn et al., NeurIPS 2020, arXiv:2001.07685), for segmentation as in UniMatch (Yang et al., CVPR 2023).

The network labels the weak view of an unlabelled image; where it is confident, that label trains the strong view.
With ``teacher = ema`` the labels come from the moving average of the network, as in UniMatch V2's FixMatch.

| paper | code | shape | meaning |
|---|---|---|---|
| x, y | x, y | B C H W, B H W | labelled images and ground truth |
| α(u), A(u) | u_w, u_s | B C H W | weak and strong view of the same crop |
| q̂, max q | label, conf | B H W | argmax and maximum of the softmax on the weak view |
| τ | tau | | confidence threshold |

    L_s = mean_i H(y_i, p(x)_i)                                       FixMatch Eq. 3
    L_u = (1/|valid|) Σ_i 1[max q_i ≥ τ] H(q̂_i, p(A(u))_i)            FixMatch Eq. 4, per pixel
    L = L_s + λ·L_u

Implementation details and departures
1. CutMix: with probability ½ an image takes one box (area 2-40 %, aspect 0.3-3.3) of its partner's strong view, with
   the partner's label, confidence and validity (UniMatch). The partner is another image of the batch; UniMatch's code
   pairs an image with another crop of itself when run on several GPUs.
2. The denominator counts all valid pixels, also those below τ (UniMatch).
3. Labels are made in evaluation mode without gradient (``teacher_mode = train``: with the statistics of the weak
   views, which the labelling network then keeps as its own). UniMatch's code labels image u in train mode inside the
   training pass and its partner in evaluation mode: here both are labelled alike.
4. Labelled and strong views go through the network in one pass, as FixMatch and UniMatch V2 do; BatchNorm sees both.
   UniMatch's code passes labelled and weak views together in train mode, then the strong ones alone.
5. λ = 1 and no halving; ``average`` gives UniMatch's L = (L_s + L_u)/2. τ = 0.95 is the VOC constant, 0 the one for
   Cityscapes.
6. Without a teacher network the EMA form's detail "teacher" does not exist: one network, one predictor.
7. ``threshold = class_share`` replaces 1[max q ≥ τ] by: among the ceil(share·n) most confident of the n valid pixels of
   the weak views that are predicted as this class. Ours, after class-balanced self-training (Zou et al., ECCV 2018),
   whose thresholds are of the whole set; here of a process's batch, before CutMix. ``class_floor`` keeps a pixel that
   passes either test: τ for the classes the network is sure of, and no class below ``share``.
8. ``align`` > 0 multiplies the weak view's softmax by (labelled share / running mean of the softmax)^align, a class,
   before q̂ and max q are taken: ReMixMatch's distribution alignment (Berthelot et al., ICLR 2020, section 3.1), over
   pixels; the running mean is an exponential one (decay 0.99) and not of the last 128 batches.
9. ``ramp`` multiplies λ by exp(-5(1 - t/T)²), T = ramp·total; FixMatch has no ramp (0, the default).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewmask.batch import Batch, Stream
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.nets.running import RunningMean
from fewmask.ops import ema, losses, mix, pseudo, ramp
from fewmask.supervision import Supervision


class FixMatch(Method):
    """Confident labels of the weak view train the strong view."""

    title = "FixMatch"
    paper = "Sohn et al., FixMatch, NeurIPS 2020 (segmentation: UniMatch, CVPR 2023)"
    year = 2020
    partial = True

    streams = {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", ("weak", "strong"), together=2)}
    flow = {"sup": ("student",), "unsup": ("student",)}
    short = {"teacher": "ema", "threshold": "class_floor", "share": 0.5, "align": 0.5, "ramp": 1.0}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss.
            tau: confidence threshold τ.
            lam: weight λ of the unlabelled term.
            average: halve the sum of the two terms.
            threshold: "fixed" keeps max q ≥ τ; "class_share" the most confident ``share`` of every predicted class;
                "class_floor" both.
            share: see ``threshold``.
            align: strength of the distribution alignment; 0 = none, 1 = ReMixMatch's.
            ramp: share of the run over which λ rises; 0 = none.
            cutmix: probability that an image is mixed; 0 = never.
            teacher: who labels: the network itself, or its moving average.
            ema_decay: of the teacher.
            teacher_mode: normalisation of the network that labels: running statistics, or those of the weak views.
        """

        sup: Supervision = Supervision()
        tau: float = Field(default=0.95, ge=0, lt=1)
        lam: float = Field(default=1.0, ge=0)
        average: bool = False
        threshold: Literal["fixed", "class_share", "class_floor"] = "fixed"
        share: float = Field(default=0.8, gt=0, le=1)
        align: float = Field(default=0.0, ge=0, le=1)
        ramp: float = Field(default=0.0, ge=0, le=1)
        cutmix: float = Field(default=0.5, ge=0, le=1)
        teacher: Literal["self", "ema"] = "self"
        ema_decay: float = Field(default=0.996, ge=0, lt=1)
        teacher_mode: Literal["eval", "train"] = "eval"

    @property
    def teacher_bn(self) -> Literal["eval", "train"]:
        """As configured."""
        return self.config.teacher_mode

    @property
    def predictors(self) -> tuple[str, ...]:
        """The teacher first, where there is one."""
        return ("teacher", "student") if self.config.teacher == "ema" else ("student",)

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """One network, its moving average where that labels, the mean of the predictions where they are aligned."""
        student = build("student")
        nets = {"student": student} | ({"teacher": ema.ema_copy(student)} if self.config.teacher == "ema" else {})
        return nets | ({"predicted": RunningMean(self.labelled)} if self.config.align else {})

    @property
    def labelled(self) -> tuple[float, ...]:
        """Share of each class among the labelled pixels."""
        if self.task.frequency is None:
            raise ValueError("align needs the class frequencies of the labelled pixels")
        return self.task.frequency

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """FixMatch Eq. 3 and 4."""
        cfg, x, y, u = self.config, batch["l"].weak, batch["l"].labels, batch["u"]
        u_w, (u_s,) = u.weak, u.strong
        z_w = pseudo.infer(nets[self.predictors[0]], u_w, cfg.teacher_mode)
        if cfg.align:
            p_w = z_w.softmax(1).masked_fill(~u.valid.unsqueeze(1), 0.0)
            memo["predicted"] = p_w.sum((0, 2, 3))  # as many as there are valid pixels
            have_K = RunningMean.of(nets, "predicted").mean
            z_w = pseudo.align(z_w, have_K, z_w.new_tensor(self.labelled), cfg.align)
        conf, label = pseudo.confidence_and_label(z_w)
        keep = (conf >= cfg.tau) & u.valid  # 1[max q ≥ τ]
        if cfg.threshold != "fixed":
            most = pseudo.class_share(conf, label, u.valid, self.task.classes, cfg.share)
            keep = most if cfg.threshold == "class_share" else keep | most

        height, width = u_s.shape[-2:]
        box = mix.unimatch_mask(step.draws("u"), height, width, cfg.cutmix).to(u_s.device, non_blocking=True)
        j = mix.partners(len(u), u_s.device)
        u_s, keep, label, valid = (mix.take(m, m[j], box) for m in (u_s, keep, label, u.valid))

        p_x, p_s = nets["student"](torch.cat((x, u_s))).split((len(x), len(u_s)))
        count = valid.sum()
        memo |= pseudo.told(label, keep, valid, p_s)
        half = 0.5 if cfg.average else 1.0
        lam = cfg.lam * ramp.sigmoid_ramp(step.t, round(cfg.ramp * step.total))
        return {
            "sup": half * cfg.sup(p_x, y, self.task, step.average),  # Eq. 3
            "unsup": half * lam * losses.weighted_cross_entropy(p_s, label, keep, step.average(count)),  # Eq. 4
        }

    def after_step(self, nets: Nets, step: Step, memo: dict[str, Tensor]) -> None:
        """Move the teacher towards the student, and the mean of the predictions to this step's."""
        if self.config.teacher == "ema":
            decay = ramp.ema_decay(step.t, self.config.ema_decay)
            ema.ema_update(nets["teacher"], nets["student"], decay, buffers=self.config.teacher_mode == "eval")
        if self.config.align:
            sums = step.reduce(memo["predicted"])
            RunningMean.of(nets, "predicted").update(sums, sums.sum(), 0.99)
