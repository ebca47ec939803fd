"""U2PL: Semi-supervised semantic segmentation using unreliable pseudo-labels (Wang et al., CVPR 2022, 2203.03884).

A teacher, the moving average of the student, labels the unlabelled images where its entropy is low. Where it is high,
the pixel still tells what it is *not*: its feature is a negative for the classes that the teacher ranks low.

| paper | code | shape | meaning |
|---|---|---|---|
| x^l, y^l, x^u | lab.weak, y, u.weak | B C H W | labelled images and ground truth, unlabelled images (mixed: x_u) |
| p | p_t | B K H W | softmax of the teacher |
| ŷ | label, reliable | B H W | teacher's argmax, and where it counts |
| z | z_s, z_t | B D h w | features of student and teacher |
| γ_t, α_t | gamma, alpha | | entropy threshold and the share of unreliable pixels |
| O(c) | order | B K h w | place of class c among the pixel's probabilities |
| Q_c | bank | K L D | memory bank of negatives |

    L = L_s + λ_u·L_u + λ_c·L_c                                                     Eq. 1
    L_s = mean CE(p_s(x^l), y^l);  L_u = mean over reliable pixels CE(p_s(x^u), ŷ)   Eq. 2, 3
    L_c = -1/(C·M) Σ_c Σ_i log( e^<z_ci, z_c+>/τ / (e^<z_ci, z_c+>/τ + Σ_j e^<z_ci, z_cij->/τ) )     Eq. 4
    H(p) = -Σ_c p(c) log p(c);  ŷ counts where H ≤ γ_t, the (1 - α_t) quantile       Eq. 5, 6
    α_t = α_0·(1 - epoch/epochs)                                                    Eq. 7
    λ_u = η·(unlabelled pixels) / (reliable pixels)                                 Eq. 8
    A_c = {z | y = c or reliable ŷ = c, p(c) > δ_p};  z_c+ = mean of A_c             Eq. 9-12
    n^l(c) = 1[y ≠ c]·1[O(c) < r_l];  n^u(c) = 1[H > γ_t]·1[r_l ≤ O(c) < r_h]        Eq. 13-16

Readings and departures
1. Ties of the entropy threshold count as reliable (Eq. 10's text; Eq. 6 has <). Padding takes no part anywhere: Eq. 8
   counts valid pixels.
2. Labels come from the teacher in evaluation mode on the unmixed view; entropies, orders and features from a second
   pass in training mode over the mixed batch, which keeps the teacher's own BatchNorm statistics (the code).
3. Contrast works on the decoder's grid; labels and probabilities are sampled there (nearest).
4. Eq. 4 runs over the whole batch; Algorithm 1 sums image by image. C counts the classes with anchors and negatives.
5. Anchors carry gradient (student), positives and negatives do not (teacher): Algorithm 1's note.
6. At most ``push`` random negatives a class, rank and step enter its bank; the paper pushes all of them. The step's own
   can be drawn at once, as in Algorithm 1, and those of all ranks are pushed on each.
7. With few classes r_l is at most K - 1 and r_h at most K, so that two classes leave both kinds of negatives.
8. CutMix: half of the images take a rectangle of half the area from their neighbour in the batch (the code, but all
   images of half of the batches, from the next one).
   ``augment = ael`` is the other augmentation of Table 3 (their branch with_AEL): every unlabelled image takes the box
   around an object of a class with low confidence σ from its neighbour, and labelled images get pixels of such classes
   pasted. σ_c is a moving average of the student's probability of c on labelled pixels of c (0 at first; theirs starts
   at random and falls where the batch lacks the class). Classes are drawn for each image among those that the neighbour
   shows; theirs once a step, and the image for the class. AEL's reweighted losses are not part of it, and labels are
   made as above (the branch labels in the unmixed pass and drops the pixels of *low* entropy).
9. ``negatives = authors_code`` is what their code does: the class-c label mask also restricts the candidates, so that
   labelled pixels never enter and unlabelled ones only where the two teacher passes disagree; anchors of unlabelled
   images are the α_t surest. 256 anchors with 50 negatives each are set by ``anchors`` and ``draws``. Not reproduced:
   that δ_p does not limit their positives, that C counts the classes present, and two bugs, the mismatch of class lists
   and banks, and one-hot labels that put the classes of all images of a batch into the first (docs/parity.md).
10. ``warmup`` is a share of the steps with L_s alone and empty banks, while the teacher follows the student. The code:
   an epoch on VOC, with a teacher that is a copy then and for one epoch more. ``warmup_unlabelled`` is ours: what
   BatchNorm takes from the unlabelled images then is as in all other steps.
11. Not in the paper: ``ramp`` lets λ_u rise over a share of the run, and ``strong`` shows the student unlabelled images
   that are strongly perturbed, mixed as the teacher's weak ones are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewmask.batch import Batch, Items, Stream
from fewmask.method import Build, Config, Method, Nets, Step, Terms
from fewmask.nets.bank import ClassBanks
from fewmask.nets.represent import Represented
from fewmask.nets.running import RunningMean
from fewmask.nets.segmenter import plain
from fewmask.ops import adaptive, contrast, ema, losses, mix, pseudo, ramp
from fewmask.ops.rng import Purpose
from fewmask.supervision import Supervision


class U2PL(Method):
    """Reliable pixels are labels, unreliable ones negatives."""

    title = "U2PL"
    paper = "Wang et al., Semi-supervised semantic segmentation using unreliable pseudo-labels, CVPR 2022"
    year = 2022
    partial = True
    joined = {"negatives": 1, "real": 1}

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss (the paper: CE; the code: OHEM on Cityscapes).
            eta: η of Eq. 8.
            lam_c: λ_c; 0 = no contrast (the code's configuration 1; with W processes it is divided by W).
            alpha: α_0, the share of unreliable pixels at the start (Table 7).
            dynamic: α falls to 0 (Eq. 7); else it stays (Table 6, DPA).
            anchors: M of Eq. 4.
            draws: N of Eq. 4.
            temperature: τ of Eq. 4.
            delta: δ_p, least probability of an anchor's class.
            r_low, r_high: bounds of the order, r_l and r_h (Table 5).
            ranked: the order limits the negatives (Table 6, PRT).
            negatives_from: pixels that become negatives of unlabelled images (Table 4).
            bank: length of a class's bank; 0 = none, the step's own negatives only (Table 6).
            push: most negatives a class, rank and step that enter it.
            dim: D, length of a feature.
            negatives: "paper" Eq. 13-16, or the "authors_code" reading.
            augment: "cutmix", or "ael": adaptive CutMix and copy-paste.
            cutmix: probability that an unlabelled image is mixed by "cutmix"; by "ael" all are.
            paste_chance: share of the labelled images that get something pasted by "ael".
            paste_classes: draws of a class for each of them (AEL: 3 on Cityscapes, 1 on VOC).
            momentum: of σ.
            ema_decay: of the teacher.
            warmup: share of the steps with L_s alone.
            warmup_unlabelled: unlabelled images go through the student then too, for the sake of BatchNorm.
            ramp: share of the run over which λ_u rises; 0 = none.
            strong: the student sees strongly perturbed unlabelled images.
        """

        sup: Supervision = Supervision()
        eta: float = Field(default=1.0, ge=0)
        lam_c: float = Field(default=1.0, ge=0)
        alpha: float = Field(default=0.2, ge=0, lt=1)
        dynamic: bool = True
        anchors: int = Field(default=50, ge=1)
        draws: int = Field(default=256, ge=1)
        temperature: float = Field(default=0.5, gt=0)
        delta: float = Field(default=0.3, ge=0, lt=1)
        r_low: int = Field(default=3, ge=0)
        r_high: int = Field(default=20, ge=1)
        ranked: bool = True
        negatives_from: Literal["unreliable", "reliable", "all"] = "unreliable"
        bank: int = Field(default=30000, ge=0)
        push: int = Field(default=256, ge=1)
        dim: int = Field(default=256, ge=1)
        negatives: Literal["paper", "authors_code"] = "paper"
        augment: Literal["cutmix", "ael"] = "cutmix"
        cutmix: float = Field(default=0.5, ge=0, le=1)
        paste_chance: float = Field(default=0.5, ge=0, le=1)
        paste_classes: int = Field(default=3, ge=1)
        momentum: float = Field(default=0.999, ge=0, lt=1)
        ema_decay: float = Field(default=0.99, ge=0, lt=1)
        warmup: float = Field(default=0.0, ge=0, lt=1)
        warmup_unlabelled: bool = False
        ramp: float = Field(default=0.0, ge=0, le=1)
        strong: bool = False

    teacher_bn = "train"
    predictors = ("teacher", "student")
    short = {"warmup": 0.1, "ramp": 1.0, "cutmix": 1.0, "lam_c": 0.1, "dynamic": False}

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of each image, for some a strong one beside it; neighbours are mixed."""
        together = 2 if self.config.augment == "ael" else 1
        return {
            "l": Stream("labelled", ("weak",), together=together),
            "u": Stream("unlabelled", ("weak", "strong") if self.config.strong else ("weak",), together=2),
        }

    @property
    def flow(self) -> dict[str, tuple[str, ...]]:
        """All terms train the student; without contrast there is no such term."""
        terms = ("sup", "unsup", "contrast") if self.config.lam_c else ("sup", "unsup")
        return dict.fromkeys(terms, ("student",))

    def adapted(self) -> dict[str, Any]:
        """r_l, see difference 7; that r_h is at most K drops no class."""
        r_low = min(self.config.r_low, self.task.classes - 1)
        return {} if r_low == self.config.r_low else {"r_low": r_low}

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """Student with a representation head, its moving average, the banks, the class confidence σ."""
        cfg, student = self.config, build("student")
        if cfg.lam_c:
            student = Represented(student, cfg.dim)
        nets: dict[str, nn.Module] = {"student": student, "teacher": ema.ema_copy(student)}
        if cfg.lam_c and cfg.bank:
            nets["bank"] = ClassBanks(self.task.classes, cfg.bank, cfg.dim)
        if cfg.augment == "ael":
            nets["confidence"] = RunningMean([0.0] * self.task.classes)
        return nets

    def network(self, nets: Nets, name: str) -> nn.Module:
        """The network without its representation head."""
        return plain(nets[name])

    def alpha_t(self, step: Step) -> float:
        """α_t, Eq. 7."""
        return self.config.alpha * (1 - step.epoch / step.epochs if self.config.dynamic else 1.0)

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Eq. 1."""
        cfg = self.config
        x_l, y = self._labelled(nets, batch["l"], step)
        if step.t < self._first(step):
            return self._warm_up(nets, x_l, batch["u"].weak, y, step, memo)
        x_w, x_s, label, valid = self._mixed(nets, batch["u"], step)
        out_s = nets["student"](torch.cat((x_l, x_s)))
        p_l, p_u = _logits(out_s).split((len(y), len(label)))
        out_t = pseudo.infer(nets["teacher"], torch.cat((x_l, x_w)), "train")
        p_t = _logits(out_t).softmax(1)

        alpha = self.alpha_t(step)
        high = contrast.entropy(p_t[len(y) :])  # Eq. 5
        gamma = contrast.quantile(high, valid, 1 - alpha)
        reliable = (high <= gamma) & valid  # Eq. 6
        self._observe(p_l, y, memo)
        count, pixels = step.average(reliable.sum()), step.average(valid.sum())
        rise = ramp.sigmoid_ramp(step.t, round(cfg.ramp * step.total))
        lam_u = rise * cfg.eta * pixels / torch.where(count > 0, count, 1)  # Eq. 8
        memo |= pseudo.told(label, reliable, valid, p_u)
        terms = {
            "sup": cfg.sup(p_l, y, self.task, step.average),  # Eq. 2
            "unsup": lam_u * losses.weighted_cross_entropy(p_u, label, reliable, count),  # Eq. 3
        }
        if cfg.lam_c:
            (_, z_s), (_, z_t) = out_s, out_t
            usable, candidate = self._unlabelled(high, valid, reliable, alpha)
            stride = teacher.stride if isinstance(teacher := nets["teacher"], Represented) else 1
            on_grid = _sampler(y.shape[-2:], stride, z_s.shape[-2:])
            anchors, negatives = self._cells(p_t, y, label, usable, candidate, on_grid)
            terms["contrast"] = cfg.lam_c * self._contrast(nets, z_s, z_t, anchors, negatives, step, memo)
        return terms

    def after_step(self, nets: Nets, step: Step, memo: dict[str, Tensor]) -> None:
        """Move the teacher; push this step's negatives into the banks."""
        warming, decay = step.t < self._first(step), ramp.ema_decay(step.t, self.config.ema_decay)
        # later the teacher's own pass in training mode keeps its statistics; in the warm-up there is none
        ema.ema_update(nets["teacher"], nets["student"], decay, buffers=warming)
        bank = nets.get("bank")
        if isinstance(bank, ClassBanks) and not warming:
            bank.push(memo["negatives"], memo["real"])
        if self.config.augment == "ael":
            sums, pixels = step.reduce(memo["sums"]), step.reduce(memo["pixels"])
            RunningMean.of(nets, "confidence").update(sums, pixels, self.config.momentum)

    def _first(self, step: Step) -> int:
        """Return the first step after the warm-up."""
        return round(self.config.warmup * step.total)

    def _warm_up(self, nets: Nets, x_l: Tensor, x_u: Tensor, y: Tensor, step: Step, memo: dict[str, Tensor]) -> Terms:
        """L_s alone: nothing else is computed, and the other terms are 0, with the gradient 0 for every parameter."""
        out = nets["student"](torch.cat((x_l, x_u)) if self.config.warmup_unlabelled else x_l)
        p_l = _logits(out)[: len(y)]
        self._observe(p_l, y, memo)
        terms = {"sup": self.config.sup(p_l, y, self.task, step.average), "unsup": 0.0 * p_l.mean().abs()}
        if self.config.lam_c:
            terms["contrast"] = 0.0 * out[1].float().mean().abs()
        return terms

    def _observe(self, p_l: Tensor, y: Tensor, memo: dict[str, Tensor]) -> None:
        """Leave what AEL's class confidence needs of the labelled images."""
        if self.config.augment == "ael":
            memo["sums"], memo["pixels"] = adaptive.true_class_sums([p_l], y)

    def _labelled(self, nets: Nets, lab: Items, step: Step) -> tuple[Tensor, Tensor]:
        """Return labelled images and their labels, with AEL pixels of uncertain classes pasted onto them."""
        cfg, x, y = self.config, lab.weak, lab.labels
        if cfg.augment != "ael":
            return x, y
        j = mix.partners(len(lab), y.device)
        weight = adaptive.paste_weight(RunningMean.of(nets, "confidence").mean)
        pasted = adaptive.paste_mask(y[j], weight, step.draws("l"), cfg.paste_chance, cfg.paste_classes)
        return mix.take(x, x[j], pasted), mix.take(y, y[j], pasted)

    def _mixed(self, nets: Nets, u: Items, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mixed unlabelled images for teacher and student, their labels, and which pixels are valid."""
        label = _logits(pseudo.infer(nets["teacher"], u.weak)).argmax(1)
        j, draws = mix.partners(len(u), label.device), step.draws("u")
        if self.config.augment == "ael":
            sigma = RunningMean.of(nets, "confidence").mean
            box = adaptive.component_box_mask(label[j], u.valid[j], sigma, draws)
        else:
            height, width = label.shape[1:]
            box = mix.half_area_mask(draws, height, width, self.config.cutmix)
        box = box.to(label.device, non_blocking=True)
        x_w, label, valid = (mix.take(m, m[j], box) for m in (u.weak, label, u.valid))
        return x_w, mix.take(u.strong[0], u.strong[0][j], box) if self.config.strong else x_w, label, valid

    def _unlabelled(self, high: Tensor, valid: Tensor, reliable: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Return which unlabelled pixels may be anchors, and which negatives: two bool [B, H, W]."""
        cfg = self.config
        pools = {"unreliable": valid & ~reliable, "all": valid}
        if cfg.negatives == "paper" and cfg.negatives_from in pools:  # the usual case sorts no second time
            return reliable, pools[cfg.negatives_from]
        surest = (high <= contrast.quantile(high, valid, alpha)) & valid
        return surest if cfg.negatives == "authors_code" else reliable, pools.get(cfg.negatives_from, surest)

    def _cells(
        self, p_t: Tensor, y: Tensor, label: Tensor, usable: Tensor, candidate: Tensor,
        on_grid: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return which cells of the feature grid are anchors and negatives of each class: two bool [K, N]."""
        cfg, classes = self.config, self.task.classes
        known, p = y < classes, on_grid(p_t)
        order = contrast.class_order(p)
        state = on_grid(torch.cat((torch.where(known, y, 0), label)).unsqueeze(1)).squeeze(1)
        one = F.one_hot(state, classes).movedim(-1, 1).bool()  # [B, K, h, w]
        usable, candidate = (on_grid(torch.cat((known, m)).unsqueeze(1)) for m in (usable, candidate))

        anchors = one & usable & (p > cfg.delta)  # Eq. 9-11
        r_low, r_high = min(cfg.r_low, classes - 1), min(cfg.r_high, classes)
        labelled = torch.arange(len(p), device=p.device).view(-1, 1, 1, 1) < len(y)
        placed = torch.where(labelled, order < r_low, (order >= r_low) & (order < r_high))
        placed = placed | (not cfg.ranked)
        negatives = candidate & placed & (~one | ~labelled)  # Eq. 13-15
        if cfg.negatives == "authors_code":
            negatives = negatives & one
        return anchors.transpose(0, 1).flatten(1), negatives.transpose(0, 1).flatten(1)

    def _contrast(
        self,
        nets: Nets,
        z_s: Tensor,
        z_t: Tensor,
        anchors: Tensor,
        negatives: Tensor,
        step: Step,
        memo: dict[str, Tensor],
    ) -> Tensor:
        """L_c, Eq. 4; leaves the step's negatives in the memo."""
        cfg, (classes, cells) = self.config, anchors.shape
        generator = step.generator(Purpose.BANK, z_s.device)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=z_s.device)

        student, teacher = (F.normalize(z, dim=1).movedim(1, -1).flatten(0, 2) for z in (z_s, z_t))  # [N, D]
        drawn = contrast.draw_with_replacement(anchors, uniform(classes, cfg.anchors))
        # not student[drawn]: several threads would add the gradients of a pixel that is drawn twice in no fixed order
        anchor = student.index_select(0, drawn.flatten()).unflatten(0, drawn.shape)  # [K, M, D]
        centre = F.normalize(anchors.to(z_t) @ z_t.movedim(1, -1).flatten(0, 2), dim=1)  # Eq. 12, as a direction
        positive = (anchor @ centre.unsqueeze(-1)).squeeze(-1)

        row, real = contrast.draw_without_replacement(negatives, min(cfg.push, cells), uniform(classes, cells))
        new, real = _of_all_ranks(step, teacher[row], real)
        bank, count = nets.get("bank"), real.sum(1)
        held = torch.zeros_like(count)
        if isinstance(bank, ClassBanks):  # what this step pushes makes the oldest leave
            held = torch.minimum(bank.held, (bank.length - count).clamp(min=0))
        age = (uniform(classes, cfg.anchors, cfg.draws).double() * (count + held).view(-1, 1, 1)).long()
        # the real ones of this step stand first; their similarities are few enough to know all
        place = (~real).long().argsort(dim=1, stable=True)[torch.arange(classes, device=age.device)[:, None, None],
                                                            age.clamp(max=real.shape[1] - 1)]  # fmt: skip
        negative = (anchor @ new.mT).gather(2, place)
        if isinstance(bank, ClassBanks):
            memo["negatives"], memo["real"] = new, real
            older = (age - count.view(-1, 1, 1)).clamp(min=0)
            negative = torch.where(age < count.view(-1, 1, 1), negative, bank.products(older, anchor))
        return contrast.info_nce(positive, negative, cfg.temperature, anchors.any(1) & (count + held > 0))


def _logits(out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return the logits of a network with or without a representation head."""
    return out if isinstance(out, Tensor) else out[0]


def _sampler(size: Sequence[int], stride: int, grid: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return a function that samples a map [B, C, H, W] on the feature grid (nearest), in its dtype.

    The network pads images to its stride at the right and the bottom, and so its features: the map is padded alike (0).
    """
    pad = (0, -size[1] % stride, 0, -size[0] % stride)

    def sample(m: Tensor) -> Tensor:
        numbers = m if m.is_floating_point() else m.float()
        return F.interpolate(F.pad(numbers, pad), list(grid), mode="nearest").to(m.dtype)

    return sample


def _of_all_ranks(step: Step, features_KPD: Tensor, real_KP: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of every rank, [K, ranks·P, D], the same on each."""
    return step.gather(features_KPD).movedim(0, 1).flatten(1, 2), step.gather(real_KP).movedim(0, 1).flatten(1, 2)
