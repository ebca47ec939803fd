"""The supervised loss that every method applies to labelled images: CE, OHEM, focal, Dice, class weights."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fewmask.config import Config
from fewmask.method import Task
from fewmask.ops import losses


class Supervision(Config):
    """Which loss compares a prediction with the ground truth.

    Attributes:
        loss: "ce" (mean over labelled pixels), "ohem", "focal", "dice", or "ce+dice" (their sum).
        ohem_threshold: OHEM keeps the pixels whose true class has at most this probability.
        ohem_min_kept: and never fewer than this: a share of all pixels of the rank's batch if below 1 (published
            constants are 8-16 % of the batch), else a number of pixels.
        focal_gamma: exponent of the focal loss.
        class_weights: one weight a class for "ce"; "balanced" is median-frequency balancing over the labelled
            pixels; none = all 1.
    """

    loss: Literal["ce", "ohem", "focal", "dice", "ce+dice"] = "ce"
    ohem_threshold: float = Field(default=0.7, gt=0, le=1)
    ohem_min_kept: float = Field(default=0.1, gt=0)
    focal_gamma: float = Field(default=2.0, ge=0)
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None

    @model_validator(mode="after")
    def _weights_are_used(self) -> Supervision:
        if self.class_weights is not None and self.loss not in ("ce", "ce+dice"):
            raise ValueError(f"class_weights go with the loss ce or ce+dice, not {self.loss}")
        return self

    def weights(self, task: Task) -> Tensor | None:
        """Return the class weights, float32 [K], or None.

        Raises:
            ValueError: the number of weights is not K, or "balanced" without counted frequencies.
        """
        if self.class_weights is None:
            return None
        if self.class_weights == "balanced":
            if task.frequency is None:
                raise ValueError("class_weights=balanced needs the class frequencies of the labelled pixels")
            return losses.median_frequency_weights(torch.tensor(task.frequency))
        if len(self.class_weights) != task.classes:
            raise ValueError(f"class_weights has {len(self.class_weights)} values for {task.classes} classes")
        return torch.tensor(self.class_weights)

    def __call__(
        self, logits_BKHW: Tensor, labels_BHW: Tensor, task: Task, average: losses.Average = losses.alone
    ) -> Tensor:
        """Return the scalar loss; exactly 0, with zero gradient, where no pixel is labelled.

        Args:
            logits_BKHW: a prediction.
            labels_BHW: the ground truth, int64 with IGNORE.
            task: what is known of the classes.
            average: ``Step.average``: the mean is then over the labelled pixels of all processes (Dice: of this one).
        """
        weight = self.weights(task)
        if weight is not None:
            weight = weight.to(logits_BKHW)
        match self.loss:
            case "ce":
                return losses.cross_entropy(logits_BKHW, labels_BHW, weight, average)
            case "ohem":
                share = self.ohem_min_kept
                kept = round(share * labels_BHW.numel()) if share < 1 else int(share)
                return losses.ohem_cross_entropy(logits_BKHW, labels_BHW, self.ohem_threshold, kept, average)
            case "focal":
                return losses.focal(logits_BKHW, labels_BHW, self.focal_gamma, average)
            case "dice":
                return losses.dice(logits_BKHW, labels_BHW)
            case "ce+dice":
                ce = losses.cross_entropy(logits_BKHW, labels_BHW, weight, average)
                return ce + losses.dice(logits_BKHW, labels_BHW)
