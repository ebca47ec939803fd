"""Methods for the contract test: one that alternates phases and is right, and faults planted on purpose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fewmask.batch import IGNORE, Stream
from fewmask.method import Method, OptimiserOverride, Phase
from fewmask.ops import ema, losses

BOTH = {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", ("weak", "strong"))}


class Critic(nn.Module):
    """Maps probabilities to one logit a cell: real (ground truth) or predicted."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(classes, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1)
        )

    def forward(self, p: torch.Tensor) -> torch.Tensor:
        return self.body(p)


class Adversarial(Method):
    """Alternating phases: a segmenter, then a critic of its predictions (after Hung et al., BMVC 2018)."""

    title, paper, year = "Planted: alternating phases", "none", 2018
    streams = {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", ("weak",))}
    flow = {"sup": ("net",), "adv": ("net",), "critic": ("critic",)}
    predictors = ("net",)
    joined = {"p_u": 0}
    optimisers = {"critic": OptimiserOverride({"lr": 1e-4, "weight_decay": 0.0})}

    def networks(self, build):
        return {"net": build("net"), "critic": Critic(self.task.classes)}

    def segment(self, nets, batch, step, memo):
        p_l, p_u = nets["net"](batch["l"].weak), nets["net"](batch["u"].weak)
        p_u = p_u.softmax(1) * batch["u"].valid.unsqueeze(1)
        memo["p_u"] = p_u.detach()
        fooled = nets["critic"](p_u)
        return {
            "sup": losses.cross_entropy(p_l, batch["l"].labels, average=step.average),
            "adv": 0.01 * F.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled)),
        }

    def judge(self, nets, batch, step, memo):
        y = batch["l"].labels
        real = F.one_hot(y, IGNORE + 1)[..., : self.task.classes].movedim(-1, 1).float()  # nothing in padding and void
        r, f = nets["critic"](real), nets["critic"](memo["p_u"])
        return {
            "critic": F.binary_cross_entropy_with_logits(r, torch.ones_like(r))
            + F.binary_cross_entropy_with_logits(f, torch.zeros_like(f))
        }

    def phases(self):
        return [
            Phase({"sup": ("net",), "adv": ("net",)}, self.segment),
            Phase({"critic": ("critic",)}, self.judge),
        ]


class _Teacher(Method):
    """A right mean teacher that the faults below break in one place each."""

    title, paper, year = "Planted", "none", 2017
    streams = BOTH
    flow = {"sup": ("student",), "con": ("student",)}
    predictors = ("teacher",)

    def networks(self, build):
        student = build("student")
        return {"student": student, "teacher": ema.ema_copy(student)}

    def target(self, nets, batch):
        with torch.no_grad():
            return nets["teacher"](batch["u"].weak).softmax(1)

    def source(self, nets, batch):
        return nets["student"](batch["u"].strong[0]).softmax(1)

    def truth(self, batch):
        return batch["l"].labels

    def valid(self, batch):
        return batch["u"].valid

    def losses(self, nets, batch, step, memo):
        p = nets["student"](batch["l"].weak)
        con = losses.softmax_mse(self.source(nets, batch), self.target(nets, batch), self.valid(batch), step.average)
        return {"sup": losses.cross_entropy(p, self.truth(batch), average=step.average), "con": con}

    def after_step(self, nets, step, memo):
        ema.ema_update(nets["teacher"], nets["student"], 0.9)


class TeacherWithGradient(_Teacher):
    """Fault: the teacher is not detached."""

    def target(self, nets, batch):
        return nets["teacher"](batch["u"].weak).softmax(1)


class ComparedWithItself(_Teacher):
    """Fault: the consistency term compares a tensor with itself."""

    def target(self, nets, batch):
        self.same = None
        return self.once

    def source(self, nets, batch):
        self.once = nets["student"](batch["u"].strong[0] + 0 * batch["u"].weak).softmax(1)
        return self.once

    def losses(self, nets, batch, step, memo):
        terms = super().losses(nets, batch, step, memo)
        del self.once
        return terms


class UnusedView(_Teacher):
    """Fault: the strong view is declared and never looked at."""

    def source(self, nets, batch):
        return nets["student"](batch["u"].weak).softmax(1)


class LostBank(_Teacher):
    """Fault: a bank of class means lives on the method, so no checkpoint holds it."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.bank = torch.zeros(task.classes)

    def target(self, nets, batch):
        p = super().target(nets, batch)
        return (p + 0.1 * self.bank.view(1, -1, 1, 1)) / (1 + 0.1 * self.bank.sum())

    def losses(self, nets, batch, step, memo):
        terms = super().losses(nets, batch, step, memo)
        memo["mean"] = nets["teacher"](batch["u"].weak).detach().softmax(1).mean((0, 2, 3))
        return terms

    def after_step(self, nets, step, memo):
        super().after_step(nets, step, memo)
        self.bank = 0.5 * self.bank + 0.5 * memo["mean"]


class HiddenBuffer(LostBank):
    """Fault: the bank is a buffer of a module, and declared as one that state dicts leave out."""

    def __init__(self, config, task):
        Method.__init__(self, config, task)

    def networks(self, build):
        nets = super().networks(build)
        nets["bank"] = nn.Module()
        nets["bank"].register_buffer("values", torch.zeros(self.task.classes), persistent=False)
        return nets

    def losses(self, nets, batch, step, memo):
        self.bank = nets["bank"].values
        terms = super().losses(nets, batch, step, memo)
        del self.bank
        return terms

    def after_step(self, nets, step, memo):
        _Teacher.after_step(self, nets, step, memo)
        nets["bank"].values.mul_(0.5).add_(0.5 * memo["mean"])


class MovesTeacherInLosses(_Teacher):
    """Fault: the teacher is updated inside the loss function."""

    def losses(self, nets, batch, step, memo):
        with torch.no_grad():
            ema.ema_update(nets["teacher"], nets["student"], 0.5)
        return super().losses(nets, batch, step, memo)


class UndeclaredTerm(_Teacher):
    """Fault: a term that flow does not know."""

    def losses(self, nets, batch, step, memo):
        terms = super().losses(nets, batch, step, memo)
        return terms | {"extra": terms["sup"]}


class IdleParameters(_Teacher):
    """Fault: a trained network holds weights that no term reaches."""

    def networks(self, build):
        nets = super().networks(build)
        nets["student"].spare = nn.Linear(2, 2)
        return nets


class Twins(_Teacher):
    """Fault: two networks that should differ start equal."""

    flow = {"sup": ("student", "other"), "con": ("student",)}

    def networks(self, build):
        return super().networks(build) | {"other": build("student")}

    def losses(self, nets, batch, step, memo):
        terms = super().losses(nets, batch, step, memo)
        extra = losses.cross_entropy(nets["other"](batch["l"].weak), batch["l"].labels)
        return terms | {"sup": terms["sup"] + extra}


class KeepsItems(_Teacher):
    """Fault: the memo holds a map of each image, and does not say so."""

    def losses(self, nets, batch, step, memo):
        memo["sure"] = self.target(nets, batch).amax(1)
        return super().losses(nets, batch, step, memo)


class IgnoresLabels(_Teacher):
    """Fault: the supervised term compares with the network's own classes."""

    def losses(self, nets, batch, step, memo):
        p = nets["student"](batch["l"].weak)
        own = torch.where(batch["l"].valid, p.argmax(1), IGNORE)
        return super().losses(nets, batch, step, memo) | {"sup": losses.cross_entropy(p, own, average=step.average)}


class UnknownNetwork(_Teacher):
    """Fault: flow names a network that there is not."""

    flow = {"sup": ("student",), "con": ("studnet",)}


class LearnsPadding(_Teacher):
    """Fault: the mean of the consistency term runs over the padding too."""

    def valid(self, batch):
        return torch.ones_like(batch["u"].valid)


class LearnsKnown(_Teacher):
    """Fault: partly labelled images are unlabelled ones too, and pixels that have a label count there as well."""

    partial = True

    def valid(self, batch):
        return batch["u"].valid if batch["u"].inside is None else batch["u"].inside


class LearnsVoid(_Teacher):
    """Fault: void is learned as a class."""

    def truth(self, batch):
        known = batch["l"].labels.clamp(max=self.task.classes - 1)
        return torch.where(batch["l"].valid, known, IGNORE)


class Counts(_Teacher):
    """Fault: a ramp over a counter of the method's own, which a resumed run begins anew."""

    steps = 0

    def losses(self, nets, batch, step, memo):
        self.steps += 1
        terms = super().losses(nets, batch, step, memo)
        return terms | {"con": min(1.0, self.steps / 10) * terms["con"]}


class DrawsGlobally(_Teacher):
    """Fault: noise from the global generator, which differs on each process and in each part of a step."""

    def source(self, nets, batch):
        x = batch["u"].strong[0]
        return nets["student"](x + 0.1 * torch.randn_like(x)).softmax(1)


class LeavesMode(_Teacher):
    """Fault: the student stays in evaluation mode after it has labelled."""

    def target(self, nets, batch):
        nets["student"].eval()
        return super().target(nets, batch)


class ChangesBatch(_Teacher):
    """Fault: the unlabelled images are changed in place."""

    def target(self, nets, batch):
        batch["u"].weak.mul_(0.9)
        return super().target(nets, batch)


class LocalMean(_Teacher):
    """Fault: each process divides by the number of its own pixels."""

    def losses(self, nets, batch, step, memo):
        con = losses.softmax_mse(self.source(nets, batch), self.target(nets, batch), self.valid(batch))
        return super().losses(nets, batch, step, memo) | {"con": con}


class OneWaits(_Teacher):
    """Fault: only one process asks for the sum over both."""

    def losses(self, nets, batch, step, memo):
        if step.rank == 0:
            step.reduce(torch.ones(()))
        return super().losses(nets, batch, step, memo)


class UnknownPredictor(_Teacher):
    """Fault: a predictor that there is not."""

    predictors = ("averaged",)


class FewerClasses(_Teacher):
    """Fault: the last class is never predicted."""

    def predict(self, nets, name, images):
        return nets[name](images)[:, :-1]


class Probabilities(_Teacher):
    """Fault: a prediction is probabilities, where logits are expected."""

    def predict(self, nets, name, images):
        return nets[name](images).softmax(1)


class Undeliverable(_Teacher):
    """Fault: the network that is delivered has a part that the run's architecture has not."""

    def networks(self, build):
        nets = super().networks(build)
        nets["teacher"].spare = nn.Linear(2, 2)
        return nets


class Raises(_Teacher):
    """Fault: an image's third view is asked for, and there are two."""

    def source(self, nets, batch):
        return nets["student"](batch["u"].views[2]).softmax(1)
