"""UCC: Uncertainty-guided Cross-head Co-training (Fan et al., CVPR 2022).

Two decoders on one encoder teach each other: the label that a head gives the weak view trains the other head on the
strong view, weighted by the teaching head's confidence. Pixels of rare classes are pasted from labelled images onto
labelled and unlabelled ones. There is no public code: this is the paper, read as below.

| paper | code | shape | meaning |
|---|---|---|---|
| x, y | x, y | B C H W, B H W | labelled images and ground truth |
| W∘u, S∘u | u.weak, u.strong | B C H W | weak and strong view of the same unlabelled crop |
| p_m^W, p_m^S | conf and label, p[m] | B K H W | outputs of head m |
| q_m^W | q[m] | B H W | argmax of head m on the weak view |
| w_m, u_m | w[m], u[m] | B H W | largest probability of head m on the weak view; weight of its label |
| M | pasted | B H W | pixels of the pasted classes in a labelled image |
| σ̂_t | confidence.mean | K | moving average of the confidence in each class |

    q_m,ij = argmax_c p_m(y = c | p_m,ij^W)                                    Eq. 1
    L = L_s + λ·L_u                                                            Eq. 2
    L_s = mean over labelled pixels of ℓ_ce(y, p_1^W) + ℓ_ce(y, p_2^W)         unnumbered
    x_copy_paste = M ⊙ x_a + (1 - M) ⊙ x_b                                     Eq. 3
    σ̂_t,c = α·σ̂_t-1,c + (1 - α)·σ_t,c                                          Eq. 4
    w_m = max_c p_m^c                                                          Eq. 5
    u_m = w_m · 1[head m is the more confident one]                            Eq. 6-9
    L_u = 1/N_u Σ_i ( Σ_j u_1 ℓ_ce(q_1^W, p_2^S) / Σ_j u_1 + Σ_j u_2 ℓ_ce(q_2^W, p_1^S) / Σ_j u_2 )

Readings and departures
1. Eq. 7-8 as printed keep the label of the *less* confident head (u²_1 = 1 where w_2 > w_1); the text says the opposite
   and alone makes sense: it is the default, ``reweight = printed`` is the equation. Ties teach nobody.
2. Labels are made in evaluation mode without gradient; the paper does not say.
3. The paper writes one S but says that the heads' examples are differently augmented: ``own_views`` gives each its own.
4. Neither N nor the ranges of the nine operations are given: ours, see ``NineOps``.
5. α, the law of the class draw, how many classes and how often are not given; taken from AEL (Hu et al., NeurIPS 2021),
   which the paper follows: α = 0.999, p(c) ∝ exp((1 - σ̂_c)^½) among the classes that the donor shows, three draws,
   half of the images. A donor is the labelled neighbour in the batch; AEL rescales it, here the crop's scale serves.
6. σ_t,c is the mean probability of c, over both heads and the ground-truth pixels of c; a class that the batch lacks
   keeps its average. σ̂_0 = 0.
7. Pasted pixels carry the ground truth and weight 1 in both directions: at equal confidence they would be ties.
8. Labelled images and strong views go through the network in one pass; BatchNorm sees both.
9. An image whose weights are all 0 has the loss 0. Padding counts nowhere.
10. Head 1 is the reported predictor; the paper does not say which.
11. ``ramp`` multiplies λ by exp(-5(1 - t/T)²), T = ramp·total. The paper has none (0, the default) and starts from a
    supervised model instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewmask.batch import Batch, Stream
from fewmask.data.perturb import NineOps
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.nets.heads import SharedEncoder
from fewmask.nets.running import RunningMean
from fewmask.ops import adaptive, losses, mix, pseudo, ramp
from fewmask.supervision import Supervision


class UCC(Method):
    """Two heads teach each other, the more confident one each pixel."""

    title = "Uncertainty-guided Cross-head Co-training"
    paper = "Fan et al., UCC: Uncertainty guided cross-head co-training, CVPR 2022"
    year = 2022
    partial = True

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss (the paper: OHEM).
            lam: λ (Table 6).
            ramp: share of the run over which λ rises; 0 = none.
            heads: "shared" encoder with two decoders, or two "separate" networks (Table 7: CH, CM).
            views: "ws" labels from the weak view train the strong one; "w", "s" use one view for both (Table 4).
            own_views: each head has a strong view of its own.
            strong: the strong view.
            paste: "dcscp" rare classes onto labelled and unlabelled images; "cscp" any class; "dcp" and "cp" the same
                onto labelled images only; "none" (Table 5).
            paste_chance: share of the images that get something.
            paste_classes: draws of a class for each of them.
            alpha: α of Eq. 4.
            reweight: "text" the more confident head teaches, "printed" Eq. 7-8, "none" both with weight 1 (Table 3).
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=2.0, ge=0)
        ramp: float = Field(default=0.0, ge=0, le=1)
        heads: Literal["shared", "separate"] = "shared"
        views: Literal["ws", "w", "s"] = "ws"
        own_views: bool = False
        strong: NineOps = NineOps()
        paste: Literal["dcscp", "cscp", "dcp", "cp", "none"] = "dcscp"
        paste_chance: float = Field(default=0.5, ge=0, le=1)
        paste_classes: int = Field(default=3, ge=1)
        alpha: float = Field(default=0.999, ge=0, lt=1)
        reweight: Literal["text", "printed", "none"] = "text"

        def model_post_init(self, context: object) -> None:
            """Refuse a combination that means nothing."""
            if self.own_views and self.views != "ws":
                raise ValueError("own_views are strong views beside a weak one: it goes with views=ws")

    predictors = ("head1", "head2")
    short = {"lam": 1.0, "ramp": 1.0}

    @property
    def streams(self) -> dict[str, Stream]:
        """Labelled images, whose neighbours paste onto each other; unlabelled ones in the configured views."""
        strong = 2 if self.config.own_views else 1
        views = {"ws": ("weak",) + strong * ("strong",), "w": ("weak",), "s": ("strong",)}[self.config.views]
        together = 1 if self.config.paste == "none" else 2
        return {
            "l": Stream("labelled", ("weak",), together=together),
            "u": Stream("unlabelled", views, perturb=self.config.strong),
        }

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the trained networks."""
        return ("heads",) if self.config.heads == "shared" else ("head1", "head2")

    @property
    def flow(self) -> dict[str, tuple[str, ...]]:
        """Both terms train everything."""
        return {"sup": self.trained, "unsup": self.trained}

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """Two heads, initialised differently, on one encoder or on two; the class confidence σ̂."""
        one, two = build("student"), build("head2")
        nets: dict[str, nn.Module] = {"head1": one, "head2": two}
        if self.config.heads == "shared":
            nets = {"heads": SharedEncoder([one, two])}
        return nets | {"confidence": RunningMean([0.0] * self.task.classes)}

    def network(self, nets: Nets, name: str) -> nn.Module:
        """One head with its encoder."""
        shared = nets.get("heads")
        return shared.branch(self.predictors.index(name)) if isinstance(shared, SharedEncoder) else nets[name]

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Eq. 2."""
        cfg, lab, u = self.config, batch["l"], batch["u"]
        p_w = self._heads(nets, u.views[0])
        (w1, q1), (w2, q2) = (pseudo.confidence_and_label(p) for p in p_w)  # Eq. 5, Eq. 1
        u1, u2 = (v * u.valid for v in self._weights(w1, w2))  # Eq. 6-9

        donor = torch.arange(len(u), device=w1.device) * len(lab) // len(u)  # the same for any number of ranks
        onto_u = self._pasted(nets, lab.labels[donor], step, "u")
        strong = [mix.take(s, lab.weak[donor], onto_u) for s in u.strong or u.views[:1]]  # Eq. 3
        q1, q2 = (mix.take(q, lab.labels[donor], onto_u) for q in (q1, q2))
        u1, u2 = (mix.take(v, torch.ones_like(v), onto_u) for v in (u1, u2))
        j = mix.partners(len(lab), w1.device)
        onto_l = self._pasted(nets, lab.labels[j], step, "l")
        x, y = mix.take(lab.weak, lab.weak[j], onto_l), mix.take(lab.labels, lab.labels[j], onto_l)  # Eq. 3

        (p1_x, p1_s), (p2_x, p2_s) = self._forward(nets, x, strong)
        memo["sums"], memo["pixels"] = adaptive.true_class_sums((p1_x, p2_x), y)  # mean of the heads
        taught_by = torch.cat((u1 > 0, (u2 > 0) & ~onto_u))  # pasted pixels teach both heads: counted once
        valid = u.valid | onto_u
        memo |= pseudo.told(torch.cat((q1, q2)), taught_by, valid, torch.cat((p2_s, p1_s)))
        memo["kept"] = ((u1 > 0) | (u2 > 0)).sum() / valid.sum().clamp(min=1)  # by one head or both
        l_s = cfg.sup(p1_x, y, self.task, step.average) + cfg.sup(p2_x, y, self.task, step.average)
        taught = losses.image_weighted_cross_entropy
        l_u = taught(p2_s, q1, u1) + taught(p1_s, q2, u2)
        lam = cfg.lam * ramp.sigmoid_ramp(step.t, round(cfg.ramp * step.total))
        return {"sup": l_s, "unsup": lam * l_u}  # Eq. 2

    def after_step(self, nets: Nets, step: Step, memo: dict[str, Tensor]) -> None:
        """Eq. 4, over the pixels of all ranks."""
        sums, pixels = step.reduce(memo["sums"]), step.reduce(memo["pixels"])
        RunningMean.of(nets, "confidence").update(sums, pixels, self.config.alpha)

    def _heads(self, nets: Nets, x: Tensor) -> Sequence[Tensor]:
        """Logits of both heads, in evaluation mode without gradient."""
        if "heads" in nets:
            return list(pseudo.infer(nets["heads"], x))
        return [pseudo.infer(nets[name], x) for name in self.predictors]

    def _forward(self, nets: Nets, x: Tensor, strong: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """Logits on labelled images and on the head's strong view, for each head; training mode."""
        if "heads" in nets:
            parts = [p.split([len(x), *map(len, strong)]) for p in nets["heads"](torch.cat((x, *strong)))]
            return ((part[0], part[1 + m % len(strong)]) for m, part in enumerate(parts))
        views = (strong[m % len(strong)] for m in range(len(self.predictors)))  # a network of its own sees its own view
        each = zip(self.predictors, views, strict=True)
        return (nets[name](torch.cat((x, s))).split([len(x), len(s)]) for name, s in each)

    def _weights(self, w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of each head's label: Eq. 6-9 before normalisation."""
        match self.config.reweight:
            case "text":
                return w1 * (w1 > w2), w2 * (w2 > w1)
            case "printed":
                return w1 * (w2 > w1), w2 * (w1 > w2)
            case _:
                return torch.ones_like(w1), torch.ones_like(w2)

    def _pasted(self, nets: Nets, donor_BHW: Tensor, step: Step, stream: str) -> Tensor:
        """M of Eq. 3: the pixels of the classes that are drawn for each image, bool [B, H, W]."""
        cfg = self.config
        if cfg.paste == "none" or (stream == "u" and "cscp" not in cfg.paste):
            return torch.zeros_like(donor_BHW, dtype=torch.bool)
        sigma = RunningMean.of(nets, "confidence").mean
        weight = adaptive.paste_weight(sigma) if cfg.paste[0] == "d" else torch.ones_like(sigma)
        return adaptive.paste_mask(donor_BHW, weight, step.draws(stream), cfg.paste_chance, cfg.paste_classes)
