"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780), for segmentation as CPS (Eq. 8) has it.

A student is trained to agree, on a strongly augmented view, with a teacher that sees the weak view and whose weights
are the moving average of the student's.

| paper | code | shape | meaning |
|---|---|---|---|
| X1, X2 | x_s, x_w | B C H W | two augmentations of the same unlabelled crop |
| θ, θ̄ | student, teacher | | network and its moving average |
| P1, P2 | p1, p2 | B K H W | softmax of the student on X1, of the teacher on X2 |

    X → X1 → f(θ) → P1 ;  X → X2 → f(θ̄) ↛ P2                          CPS Eq. 8
    L = L_s + w(t)·mean_{b,k,i} (P1 - P2)²
    w(t) = weight·exp(-5(1 - t/T)²),  T = ramp·total                  Tarvainen and Valpola, section 3
    θ̄ ← d·θ̄ + (1-d)·θ,  d = min(1 - 1/(t+1), ema_decay)

Implementation details and departures
1. X1 is the strong view, X2 the weak one; ``same_input`` feeds the weak view to both, as TorchSemiSeg does.
2. The consistency term uses unlabelled images only; ``on_labelled`` adds the labelled ones (TorchSemiSeg).
3. Squared error of the softmaxes, mean over classes and valid pixels; ``distance = logits`` is PixelSSL's.
4. The teacher predicts in evaluation mode with averaged BatchNorm statistics; ``teacher_mode = train`` gives it its own
   batch statistics (both code bases).
5. ``authors_code = torchsemiseg`` sets weight 100, same_input, on_labelled, teacher_mode train, a pass each, no ramp of
   the weight nor of the decay, and reports the student. Its code moves the teacher between the labelled and the
   unlabelled images of a step, we after the optimiser's step: unlabelled images get the same teacher, but for the first
   copy (theirs is the student θ0 before step 0, ours θ1 after it; at step t d^t·(θ0 - θ1) is left), labelled ones one
   an update older. ``pixelssl`` sets weight 1, logits, teacher_mode train, same_input and a ramp of 5 of 45 epochs (its
   PSPNet script; DeepLabV2: 3 of 20); it evaluates both networks, we report the student. Its supervised mean divides by
   all pixels, void and padding too.
6. Labelled and strong views go through the student in one pass, as in the first authors' code and PixelSSL's. In a pass
   each (``together = false``, TorchSemiSeg) neither kind of image is trained with the averaged statistics of both that
   evaluation uses: on white blood cells the labels then drifted (docs/log.md).
7. Padding counts nowhere. Both code bases count it in the consistency; no preset reproduces that.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fewmask.batch import Batch, Stream
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.ops import ema, losses, pseudo, ramp
from fewmask.supervision import Supervision

AUTHORS_CODE: dict[str, dict[str, Any]] = {
    "torchsemiseg": {
        "weight": 100.0, "ramp": 0.0, "ema_ramp": False, "same_input": True, "on_labelled": True,
        "teacher_mode": "train", "together": False, "report": "student",
    },
    "pixelssl": {
        "weight": 1.0, "ramp": 5 / 45, "same_input": True, "distance": "logits", "teacher_mode": "train",
        "report": "student",
    },
}  # fmt: skip


class MeanTeacher(Method):
    """Student and EMA teacher, squared error of their probabilities."""

    title = "Mean Teacher"
    paper = "Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (CPS Eq. 8)"
    year = 2017
    partial = True
    short = {"weight": 2.0, "ramp": 1.0}

    flow = {"sup": ("student",), "con": ("student",)}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss.
            weight: w after the ramp. For about ten classes 10 is a squared distance with weight 1; 100 (TorchSemiSeg)
                with the strong view drowned the labels on CamVid (docs/log.md).
            ramp: share of the run over which w rises; 0 = none.
            ema_decay: d once its own ramp has passed it.
            ema_ramp: d rises as 1 - 1/(t+1) first; False copies at step 0 and then uses ``ema_decay``.
            distance: squared error of "softmax" or of "logits".
            same_input: student and teacher see the same view.
            on_labelled: consistency on labelled images too.
            teacher_mode: normalisation of the teacher.
            together: labelled and unlabelled images go through the student in one pass, and share BatchNorm's
                statistics; else in one pass each.
            report: which network is the reported predictor.
            authors_code: take the constants of a published code base; any that is set beside it wins.
        """

        sup: Supervision = Supervision()
        weight: float = Field(default=10.0, ge=0)
        ramp: float = Field(default=0.1, ge=0, le=1)
        ema_decay: float = Field(default=0.99, ge=0, lt=1)
        ema_ramp: bool = True
        distance: Literal["softmax", "logits"] = "softmax"
        same_input: bool = False
        on_labelled: bool = False
        teacher_mode: Literal["eval", "train"] = "eval"
        together: bool = True
        report: Literal["teacher", "student"] = "teacher"
        authors_code: Literal["torchsemiseg", "pixelssl"] | None = None

        @model_validator(mode="before")
        @classmethod
        def _published(cls, values: dict[str, Any]) -> dict[str, Any]:
            return AUTHORS_CODE.get(values.get("authors_code") or "", {}) | values

    @property
    def streams(self) -> dict[str, Stream]:
        """Labelled images; unlabelled ones in a weak and, unless ``same_input``, a strong view."""
        views = ("weak",) if self.config.same_input else ("weak", "strong")
        return {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", views)}

    @property
    def teacher_bn(self) -> Literal["eval", "train"]:
        """As configured."""
        return self.config.teacher_mode

    @property
    def predictors(self) -> tuple[str, ...]:
        """Both networks, the reported one first."""
        return ("teacher", "student") if self.config.report == "teacher" else ("student", "teacher")

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """The teacher starts as a copy of the student."""
        student = build("student")
        return {"student": student, "teacher": ema.ema_copy(student)}

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """CPS Eq. 8 beside the supervised loss."""
        cfg, lab, unl = self.config, batch["l"], batch["u"]
        x_w, x_s = unl.weak, unl.views[-1]  # X2, X1
        student = nets["student"]
        z_l, z1 = (  # before softmax
            student(torch.cat((lab.weak, x_s))).split((len(lab), len(unl))) if cfg.together
            else (student(lab.weak), student(x_s))
        )  # fmt: skip
        z2 = pseudo.infer(nets["teacher"], x_w, cfg.teacher_mode)
        valid = unl.valid
        if cfg.on_labelled:
            z1 = torch.cat((z1, z_l))
            z2 = torch.cat((z2, pseudo.infer(nets["teacher"], lab.weak, cfg.teacher_mode)))
            valid = torch.cat((valid, lab.valid))
        p1, p2 = (z1.softmax(1), z2.softmax(1)) if cfg.distance == "softmax" else (z1, z2)
        w = cfg.weight * ramp.sigmoid_ramp(step.t, round(cfg.ramp * step.total))
        memo |= pseudo.told(z2.argmax(1), valid, valid, z1)  # every valid pixel trains
        return {
            "sup": cfg.sup(z_l, lab.labels, self.task, step.average),  # L_s
            "con": w * losses.softmax_mse(p1, p2, valid, step.average),  # w(t)·mean (P1 - P2)²
        }

    def after_step(self, nets: Nets, step: Step, memo: dict[str, Tensor]) -> None:
        """Moving average of the weights; of the BatchNorm statistics too where the teacher has none of its own."""
        cfg = self.config
        d = ramp.ema_decay(step.t, cfg.ema_decay) if cfg.ema_ramp or step.t == 0 else cfg.ema_decay
        ema.ema_update(nets["teacher"], nets["student"], d, buffers=cfg.teacher_mode == "eval")
