"""CPS: Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision (Chen et al., CVPR 2021, arXiv:2106.01226).

Two networks of the same structure, initialised differently; the hard label map of each trains the other, on labelled
and unlabelled images.

| paper | code | shape | meaning |
|---|---|---|---|
| X | x, u | B C H W | labelled and unlabelled images, the same augmentation for both networks |
| P1, P2 | p[1], p[2] | B K H W | outputs (logits; the losses apply the softmax) |
| Y1, Y2 | label | B H W | argmax of P1, P2 |
| λ | lam | | trade-off weight |

    P1 = f(X; θ1),  P2 = f(X; θ2)                                                     Eq. 1, 2
    L_s   = mean_l (ℓ_ce(p1, y*) + ℓ_ce(p2, y*))                                      Eq. 4
    L_cps = L_cps^l + L_cps^u,  L_cps^u = mean_u (ℓ_ce(p1, y2) + ℓ_ce(p2, y1))        Eq. 5
    L = L_s + λ·L_cps                                                                 Eq. 6
    L_cpc = mean_{l∪u} (‖p1 - p2‖² + ‖p2 - p1‖²)                                      Eq. 7, variant = cpc
    one network: P's own label map trains it                                          Eq. 9, variant = sps

With CutMix: label maps of two unlabelled images, mixed by three toggling boxes, train the mixed image.

Implementation details and departures
1. λ = 1.5 is the paper's VOC constant, 6 the one for Cityscapes; the authors' code uses 1 and 5 with CutMix.
2. L_cps^l + L_cps^u is the sum of two means. The authors' code takes one mean over labelled and unlabelled pixels,
   which is half of it: set lam to half for that reading, exact with train_padding or without padding.
3. With CutMix the pseudo supervision uses unlabelled images only (the code; the paper does not say). ``on`` chooses
   the images without CutMix: Table 4's L^l, L^u, both.
4. Padded pixels do not train; ``train_padding`` counts them, as the authors' code does.
5. CutMix sources are labelled in train mode without gradient, so BatchNorm statistics see them (the code).
   Labels are mixed, not logits: equal, since the mask is 0 or 1.
6. The partner comes from a second pass over the unlabelled images with an order of its own. The published code's
   two loaders yield the same order, hence another crop of the same image.
7. The networks share nothing but encoder weights; network 1 is the reported predictor, as in the authors' code.
8. Separate forward passes for labelled and unlabelled images (the code): BatchNorm statistics are not mixed.
9. Eq. 7 says ℓ2 twice; both directions carry gradient to both networks.
10. ``ramp`` multiplies λ by exp(-5(1 - t/T)²), T = ramp·total: with a few masks, labels of the first steps are those of
    untrained heads. CPS has no ramp (0, the default).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewmask.batch import Batch, Stream
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.ops import losses, mix, pseudo, ramp
from fewmask.supervision import Supervision


class CPS(Method):
    """Two networks teach each other with hard labels."""

    title = "Cross Pseudo Supervision"
    paper = "Chen et al., Semi-supervised semantic segmentation with cross pseudo supervision, CVPR 2021"
    year = 2021
    partial = True
    short = {"lam": 0.5, "ramp": 1.0}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss (the paper: CE on VOC, OHEM on Cityscapes).
            lam: λ.
            ramp: share of the run over which λ rises; 0 = none.
            variant: "cps" Eq. 5; "cpc" cross probability consistency Eq. 7; "sps" single network Eq. 9.
            cutmix: mix pairs of unlabelled images (not with "cpc").
            on: images of the pseudo supervision without CutMix.
            train_padding: padded pixels count.
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=1.5, ge=0)
        ramp: float = Field(default=0.0, ge=0, le=1)
        variant: Literal["cps", "cpc", "sps"] = "cps"
        cutmix: bool = False
        on: Literal["both", "labelled", "unlabelled"] = "both"
        train_padding: bool = False

        def model_post_init(self, context: object) -> None:
            """Refuse combinations that the paper does not define."""
            if self.cutmix and (self.variant == "cpc" or self.on == "labelled"):
                raise ValueError(
                    "cutmix mixes unlabelled images: it goes with variant cps or sps and on both or unlabelled"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The trained networks; the peer of the last is the first, and a single network is its own peer."""
        return ("f1",) if self.config.variant == "sps" else ("f1", "f2")

    @property
    def streams(self) -> dict[str, Stream]:
        """One view for both networks; with CutMix a second pass over the unlabelled images."""
        out = {"l": Stream("labelled", ("weak",))}
        if self.config.on != "labelled":
            out["u"] = Stream("unlabelled", ("weak",))
        if self.config.cutmix:
            out["v"] = Stream("unlabelled", ("weak",), second_pass=True)
        return out

    @property
    def flow(self) -> dict[str, tuple[str, ...]]:
        """Both terms train every network."""
        return {"sup": self.names, "cps": self.names}

    @property
    def predictors(self) -> tuple[str, ...]:
        """Network 1 is reported."""
        return self.names

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """Independent initialisations."""
        return {name: build(name) for name in self.names}

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Eq. 4-6 (or 7, or 9)."""
        cfg = self.config
        p_l = [nets[f](batch["l"].weak) for f in self.names]  # Eq. 1, 2
        l_s = torch.stack([cfg.sup(p, batch["l"].labels, self.task, step.average) for p in p_l]).sum()  # Eq. 4
        if cfg.cutmix:
            parts: list[tuple[list[Tensor], list[Tensor] | None, Tensor]] = [self._mixed(nets, batch, step)]
        else:
            parts = [(p_l, None, batch["l"].valid)] if cfg.on != "unlabelled" else []
            if cfg.on != "labelled":
                parts.append(([nets[f](batch["u"].weak) for f in self.names], None, batch["u"].valid))
            if cfg.variant == "cpc":  # one mean over both sets
                p, _, valid = zip(*parts, strict=True)
                parts = [([torch.cat(q) for q in zip(*p, strict=True)], None, torch.cat(valid))]
        l_cps = torch.stack([self._cross(*part, step) for part in parts]).sum()  # L_cps^l + L_cps^u
        p, labels, valid = parts[-1]
        y1 = p[0].detach().argmax(1) if labels is None else labels[0]
        memo |= pseudo.told(y1, valid, valid, p[-1])  # no threshold: every pixel trains the peer
        lam = cfg.lam * ramp.sigmoid_ramp(step.t, round(cfg.ramp * step.total))
        return {"sup": l_s, "cps": lam * l_cps}  # Eq. 6

    def _cross(self, p: list[Tensor], labels: list[Tensor] | None, valid: Tensor, step: Step) -> Tensor:
        """Sum over the networks of the loss against the peer: Eq. 5, or Eq. 7."""
        keep = torch.ones_like(valid) if self.config.train_padding else valid
        if self.config.variant == "cpc":
            s1, s2 = p[0].softmax(1), p[1].softmax(1)
            return 2 * self.task.classes * losses.softmax_mse(s1, s2, keep, step.average)  # Eq. 7, twice
        labels = [q.detach().argmax(1) for q in p] if labels is None else labels
        peers = labels[1:] + labels[:1]
        count = step.average(keep.sum())
        each = [losses.weighted_cross_entropy(q, y, keep, count) for q, y in zip(p, peers, strict=True)]
        return torch.stack(each).sum()

    def _mixed(self, nets: Nets, batch: Batch, step: Step) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """CutMix: outputs on mixtures of two images, their mixed label maps, and the pixels that count."""
        u, v = batch["u"], batch["v"]
        box = mix.cps_mask(step.draws("u"), *u.weak.shape[-2:]).to(u.weak.device, non_blocking=True)
        y_u = [pseudo.infer(nets[f], u.weak, "train").argmax(1) for f in self.names]
        y_v = [pseudo.infer(nets[f], v.weak, "train").argmax(1) for f in self.names]
        labels = [mix.take(a, b, box) for a, b in zip(y_u, y_v, strict=True)]
        p = [nets[f](mix.take(u.weak, v.weak, box)) for f in self.names]
        return p, labels, mix.take(u.valid, v.valid, box)
