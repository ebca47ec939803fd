"""DARS: Re-distributing Biased Pseudo Labels for Semi-supervised Semantic Segmentation (He et al., ICCV 2021).

Self-training whose pseudo-labels have the class distribution of the labelled pixels: a threshold a class keeps as many
pixels as that distribution wants, and where many pixels share a confidence, random ones of them go. From round to round
more pixels are labelled and images are scaled more.

| paper | code | shape | meaning |
|---|---|---|---|
| x^l, y^l | lab.weak, lab.labels | B C H W | labelled images and ground truth |
| ỹ^u | u.pseudo_labels | B H W | pseudo-labels; 255 where a pixel was left out |
| r_j^l | task.frequency | K | share of class j among the labelled pixels |
| n_j^u, t_j | wanted_K, least_K | K | how many pixels of class j are wanted, and its threshold |
| ñ_j^u, s_j | reached_K | K | how many reach it; s_j = n_j^u/ñ_j^u of them stay |
| α_k, β_min, β_max | alpha, beta | | labelling ratio of round k, growth of the range of scales |

    round 0: L = (1/N_l) Σ L(y^l, F(x^l))                                                   Eq. 1
    round k: L = (1/N_l) Σ L(y^l, F(x^l)) + (1/N_u) Σ L(ỹ^u, F(x^u))                        Eq. 2
    min_T KL(R(y^l), R(ỹ^u)) with ỹ^u = G(T, p^u) and P(ỹ^u) = α                            Eq. 3
    n_j^u = α·N_u·H·W·r_j^l                                                                 Eq. 4
    Algorithm 1: t_j = the n_j^u-th largest confidence of class j; then 1 - s_j of its pixels are ignored at random
    scales from round 2 on: [(1 - β_min)·s_min, (1 + β_max)·s_max]                           section 3.3

Implementation details and departures
1. Confidences are compared as fp16 numbers (the code), so that "many pixels share one" as in Figure 3.
2. ``drop = dataset`` is Algorithm 1: exactly min(n_j, ñ_j) pixels stay, each with the same chance. ``image`` is the
   code: every image drops floor(m·(1 - s_j)) of its m pixels.
3. ``select``: "dars", "da" (no random drop), "cbst" (the same share of every predicted class), "st" (one threshold);
   ``temperature`` is T of the rows + TS in Table 4, a constant.
4. Pixels are counted on the grid that is trained on; the code counts a constant 500x375 for VOC.
5. The student resumes from the teacher's weights with a new optimiser and schedule (the paper's rate in each round).
   The code keeps optimiser and epoch counter, so that its rate starts lower in each round: as ``rates`` of 1, 0.536 and
   0.372 do, which are 1, (1/2)^0.9 and (1/3)^0.9.
6. The labels come from the last step's network, on whole images under the run's protocol. No score on val chooses it.
   ``flip`` averages its probabilities with those of the mirror image; the code averages logits over mirror image and
   windows, and T divides that mean; here it divides the logarithm of the mean probability.
7. Round 0 trains on the labelled images alone; the rounds divide the steps as ``shares`` says (the paper: 200 epochs of
   the unlabelled images each; the code counts those of the labelled ones in round 0).
8. Labelled and unlabelled images take one forward pass each, so that BatchNorm sees them apart (the code);
   ``together`` = one pass. ``one_loss``: Eq. 2 writes one L for both; a difference only where ``sup`` is no plain
   cross-entropy.
9. The rotation of section 4.1 is a recipe key (data.augment.rotate); its blur of weak views is not here. ``aux`` is the
   auxiliary classifier of the authors' PSPNet; the code trains it with pseudo-labels too, which the paper does not
   mention.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fewmask.batch import ViewKind
from fewmask.method import Config, Labelling, Method, Round
from fewmask.offline import OnLabels, OnPseudoLabels, rates_of, shares_of
from fewmask.ops.select import Selection
from fewmask.supervision import Supervision


class DARS(Method):
    """Self-training on pseudo-labels that are distributed as the labels are."""

    title = "DARS"
    paper = "He et al., Re-distributing biased pseudo labels for semi-supervised semantic segmentation, ICCV 2021"
    year = 2021

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss.
            lam: weight of the pseudo-labelled images (Eq. 2: 1).
            alpha: α_k, one for each round after the first (IT in Table 4: two rounds).
            beta: β_min and β_max; (0, 0) leaves the scales as they are.
            beta_from: the first round with the larger scales (Table 6: 2; 1 is its second row).
            shares: of the steps, for round 0 and each later one.
            rates: factors on the learning rate of each round; none = 1.
            first_batch: labelled images a step of round 0; none = the recipe's, as in the later rounds.
            select: which pixels keep their label (Table 4).
            drop: see above.
            temperature: T.
            flip: the labels are those of the mean probability over an image and its mirror image.
            view: of the pseudo-labelled images; "strong" adds photometry.
            together: one pass for labelled and unlabelled images.
            one_loss: ``sup`` compares with pseudo-labels too, its class weights included.
            aux: weight of an auxiliary classifier on the encoder's last map but one; the code: 0.4.
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=1.0, ge=0)
        alpha: tuple[float, ...] = (0.2, 0.5)
        beta: tuple[float, float] = (0.2, 0.5)
        beta_from: int = Field(default=2, ge=1)
        shares: tuple[float, ...] | None = None
        rates: tuple[float, ...] | None = None
        first_batch: int | None = Field(default=None, ge=1)
        select: Literal["dars", "da", "cbst", "st"] = "dars"
        drop: Literal["dataset", "image"] = "dataset"
        temperature: float = Field(default=1.0, gt=0)
        flip: bool = False
        view: ViewKind = "weak"
        together: bool = False
        one_loss: bool = False
        aux: float = Field(default=0.0, ge=0)

        @model_validator(mode="after")
        def _sensible(self) -> DARS.Config:
            if not self.alpha or not all(0 < a <= 1 for a in self.alpha):
                raise ValueError("alpha takes one ratio 0 < α <= 1 for each round after the first")
            if not (0 <= self.beta[0] < 1 and self.beta[1] >= 0):
                raise ValueError("beta takes 0 <= β_min < 1 and β_max >= 0")
            shares_of(self.shares, 1 + len(self.alpha))
            rates_of(self.rates, 1 + len(self.alpha))
            return self

    short = {"alpha": [0.5], "beta": [0.0, 0.0], "view": "strong", "flip": True}

    def rounds(self) -> list[Round]:
        """Labelled images; then with pseudo-labels, as often as there are ratios."""
        cfg = self.config
        told = cfg.model_dump(include={"lam", "view", "together", "one_loss", "aux"})
        later = OnPseudoLabels(OnPseudoLabels.Config(sup=cfg.sup, **told), self.task)
        shares, rates = shares_of(cfg.shares, 1 + len(cfg.alpha)), rates_of(cfg.rates, 1 + len(cfg.alpha))
        first = OnLabels(OnLabels.Config(sup=cfg.sup, aux=cfg.aux), self.task)
        out = [Round("labelled", first, shares[0], rate=rates[0], batch=cfg.first_batch)]
        for k, alpha in enumerate(cfg.alpha, start=1):
            before = out[-1].name
            select = Selection(cfg.select, alpha, cfg.drop, cfg.temperature)
            out.append(
                Round(
                    f"dars-{k}",
                    later,
                    shares[k],
                    init=before,
                    labels=(Labelling(before, select=select, flip=cfg.flip),),
                    rate=rates[k],
                    scale=(1 - cfg.beta[0], 1 + cfg.beta[1]) if k >= cfg.beta_from else (1.0, 1.0),
                )  # fmt: skip
            )
        return out
