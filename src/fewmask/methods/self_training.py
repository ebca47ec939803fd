"""Self-training: a network labels the unlabelled images once, and one is trained on all of them as if they were true.

The plain form of CPS's Table 7 (Chen et al., CVPR 2021, arXiv:2106.01226); thresholds as in the "ST" of DARS (He et
al., ICCV 2021). Hard labels, from a network that saw the labelled images alone.

| paper | code | shape | meaning |
|---|---|---|---|
| x^l, y^l | lab.weak, lab.labels | B C H W | labelled images and ground truth |
| ỹ^u | u.pseudo_labels | B H W | argmax of round 1's network on the whole image |
| λ | lam | | weight of the pseudo-labelled images |

    round 1: L = ℓ(p(x^l), y^l)                                        DARS Eq. 1
    round 2: L = ℓ(p(x^l), y^l) + λ·ℓ_ce(p(x^u), ỹ^u)                  DARS Eq. 2

Implementation details and departures
1. CPS retrains on the union of both sets as under full supervision; here a batch has as many labelled as unlabelled
   images and two terms, so that few labelled images keep their weight. ``together`` and ``one_loss`` come nearer to it:
   one pass, and one loss.
2. Round 2 starts from scratch (``init = scratch``) as in CPS; ``continue`` resumes from round 1, as DARS does.
3. The labels are those of the last step, of whole images under the run's protocol; no validation score chooses them.
4. ``rule = st`` keeps the most confident ``ratio`` of all pixels, with one threshold for all classes (DARS's "ST");
   "cbst" those of every predicted class. "none", the default, keeps all: CPS's form.
5. ``more`` further rounds label with the round before and train again.
6. ``teacher`` names the method of round 1, with ``teacher_constants``: with ``cps`` this is "Ours + Self-Training" of
   CPS's Table 7. Its reported network labels. Another method's networks have other names, so nothing continues them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fewmask.batch import ViewKind
from fewmask.errors import ConfigError
from fewmask.method import Config, Labelling, Method, Round
from fewmask.methods import resolve
from fewmask.offline import OnLabels, OnPseudoLabels
from fewmask.ops.select import Selection
from fewmask.supervision import Supervision


class SelfTraining(Method):
    """Label once, train on everything."""

    title = "Self-training"
    paper = "Lee, Pseudo-label, ICML workshop 2013 (segmentation: Chen et al., CPS, CVPR 2021, Table 7)"
    year = 2013

    class Config(Config):
        """Constants.

        Attributes:
            sup: the supervised loss.
            lam: λ.
            rule: which pixels keep their label; see ``fewmask.ops.select.cut``.
            ratio: share of the pixels that do, for "st" and "cbst".
            flip: the labels are those of the mean probability over an image and its mirror image.
            view: of the pseudo-labelled images.
            together: one pass for labelled and unlabelled images, which then share BatchNorm's statistics.
            one_loss: ``sup`` compares with pseudo-labels too, its class weights included.
            init: how the later rounds begin.
            first: share of the steps of the first round.
            more: further rounds after the second.
            teacher: method of the first round; "" = supervised training.
            teacher_constants: its constants; ``sup`` is this method's where it has one and none is given.
        """

        sup: Supervision = Supervision()
        lam: float = Field(default=1.0, ge=0)
        rule: Literal["none", "st", "cbst"] = "none"
        ratio: float = Field(default=0.5, gt=0, le=1)
        flip: bool = False
        view: ViewKind = "weak"
        together: bool = False
        one_loss: bool = False
        init: Literal["scratch", "continue"] = "scratch"
        first: float = Field(default=0.4, gt=0, lt=1)
        more: int = Field(default=0, ge=0)
        teacher: str = ""
        teacher_constants: dict[str, Any] = {}

        @model_validator(mode="before")
        @classmethod
        def _spelt_out(cls, values: dict[str, Any]) -> dict[str, Any]:
            """Complete the teacher's constants, so that the run's config.yaml says all of them."""
            if not (name := values.get("teacher")):
                return values
            own, sup = resolve(name).Config, values.get("sup", {})
            sup = sup.model_dump(mode="json") if isinstance(sup, Supervision) else sup
            given = ({"sup": sup} if "sup" in own.model_fields else {}) | (values.get("teacher_constants") or {})
            try:
                return values | {"teacher_constants": own.model_validate(given).model_dump(mode="json")}
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(
                    f"teacher_constants.{'.'.join(map(str, first['loc']))} of {name}: {first['msg']}"
                ) from error  # fmt: skip

        @model_validator(mode="after")
        def _sensible(self) -> SelfTraining.Config:
            if self.teacher and self.init == "continue":
                raise ValueError("init=continue needs the teacher to be supervised training")
            if not self.teacher and self.teacher_constants:
                raise ValueError("teacher_constants without a teacher")
            return self

    def rounds(self) -> list[Round]:
        """Labelled images; then all of them, once or more often."""
        cfg = self.config
        told = cfg.model_dump(include={"lam", "view", "together", "one_loss"})
        later = OnPseudoLabels(OnPseudoLabels.Config(sup=cfg.sup, **told), self.task)
        out = [Round(cfg.teacher.rpartition(":")[2] or "labelled", self._teacher(), cfg.first)]
        for n in range(1 + cfg.more):
            before, share = out[-1].name, (1 - cfg.first) / (1 + cfg.more)
            init = before if cfg.init == "continue" else None
            labels = Labelling(before, select=Selection(cfg.rule, cfg.ratio), flip=cfg.flip)
            out.append(Round(f"all-{n + 1}", later, share, init, (labels,)))
        return out

    def _teacher(self) -> Method:
        """Return what labels first.

        Raises:
            ConfigError: it has several rounds itself.
        """
        cfg = self.config
        if not cfg.teacher:
            return OnLabels(OnLabels.Config(sup=cfg.sup), self.task)
        cls = resolve(cfg.teacher)
        teacher = cls(cls.Config.model_validate(cfg.teacher_constants), self.task)
        if teacher.rounds():
            raise ConfigError(
                f"the teacher {cfg.teacher!r} has several rounds itself", where="method.teacher",
                todo="take a method of one round",
            )  # fmt: skip
        return teacher
