"""U2PL's repository (Wang Haochen; Apache-2.0): its three losses, banks, thresholds, schedules, boxes and OHEM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.parity import torchsemiseg
from benchmarks.parity.authors import Checkout
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import SEED, Setting
from benchmarks.parity.torchsemiseg import Replay
from benchmarks.parity.u2pl_scene import CITY, NAME, VOC, Scene, contents, parsed, their_contents
from fewmask.batch import IGNORE
from fewmask.methods.u2pl import U2PL
from fewmask.ops import mix, ramp

__all__ = ["NAME", "ohem_class", "rows"]

AUGMENT = "u2pl/dataset/augmentation.py"
ONE, FEW, MANY = ((1, 5), (1, 21)), ((2, 5), (2, 21)), ((4, 21),)
OHEM_CASES = ["threshold", "kth", "fewer", "exactly", "saturated"]
CODE = "negatives=authors_code"
TERMS = {
    "sup": ("supervised CE, VOC", "sup_loss"), "unsup": ("unsupervised", "unsup_loss"),
    "contrast": ("contrast", "contra_loss"), "total": ("total", "loss"),
}  # fmt: skip
TOGETHER = ("padding", "next image", "ties", "centres", "class lists", "present", "first image")


def ohem_class(checkout: Checkout) -> Any:
    source = parsed(checkout, "u2pl/utils/loss_helper.py")
    return source.define("OhemCrossEntropy2dTensor").OhemCrossEntropy2dTensor


def settings(sizes: Iterable[tuple[int, int]], **constants: Any) -> Iterator[Setting]:
    for dtype in (torch.float64, torch.float32):
        for batch, classes in sizes:
            yield Setting(batch, classes, dtype, **constants)


def case(
    checkout: Checkout, setting: Setting, name: str, switch: str, terms: Iterable[str], departure: str = "",
    undo: Iterable[str] = (), ours: dict[str, Any] | None = None, exact: dict[str, Any] | None = None, **scene: Any,
) -> Iterator[Row]:  # fmt: skip
    """Compare terms of the last step.

    Args:
        checkout: theirs.
        setting: of the tensors.
        name: of the case.
        switch: our settings, in words.
        terms: keys of TERMS.
        departure: by which the terms differ.
        undo: departures that are taken back on both sides of that difference.
        ours: our constants where they differ.
        exact: and where that departure is taken back.
        scene: arguments of Scene.
    """
    s = Scene(checkout, setting, **scene)
    back = TOGETHER if departure == "together" else (*undo, departure) if departure else undo
    method, bank, memory = s.method(back, **exact or {}), s.banks(), s.memory()
    other, own_bank = s.method(undo, **ours or {}), s.banks()
    for t in range(len(s.batches)):
        explained = s.ours(method, t, bank)
        theirs = s.theirs(method, t, memory)
        plain = s.ours(other, t, own_bank) if departure else explained
    seen = method.seen
    facts = {
        "epoch": s.epoch, "α_t": round(method.alpha_t(s.step()), 4), "mixed": s.mixed, "steps": len(s.batches),
        "δ_p": method.config.delta, "kept": round(float(seen["kept"]), 3), "in_bank": int(bank.held.sum()),
        "classes_present": int(seen["present"].sum()), "classes_used": int(seen["use"].sum()),
    }  # fmt: skip
    for key in terms:
        term, their_key = TERMS[key]
        yield compare(
            checkout, f"U2PL: {term}", name, setting, theirs[their_key], plain[key], s.leaves, switch, departure,
            explained[key] if departure else None, **facts,
        )  # fmt: skip


def losses(checkout: Checkout) -> Iterator[Row]:
    """Their terms, where they agree and by one departure after the other."""

    def at(
        sizes: Iterable[tuple[int, int]], *args: Any, inputs: dict[str, Any] | None = None, **kw: Any
    ) -> Iterator[Row]:
        for setting in settings(sizes, **{"padding": False} | (inputs or {})):
            yield from case(checkout, setting, *args, **kw)

    loose = f"{CODE} delta=0"
    yield from at(FEW, "void, padding", "sup.loss=ce", ["sup"], inputs={"padding": True})
    yield from at(FEW, "boxes", "", ["unsup"], mixed=True)
    yield from at(FEW, "saturated softmax", "", ["unsup"], inputs={"scale": 12.0})
    yield from at(FEW, "padding, boxes", "", ["unsup"], "padding", inputs={"padding": True}, mixed=True)
    yield from at(MANY, "four images, boxes", "", ["unsup"], "next image", mixed=True)
    yield from at(ONE, "the threshold is an entropy", "", ["unsup"], "ties", epoch=40)
    yield from at(ONE, "one image", loose, ["contrast"], delta=0.0)
    yield from at(ONE, "one image, bank of 3 steps", loose, ["contrast"], delta=0.0, steps=3, length=40)
    yield from at(ONE, "one image, every entropy", f"{loose} negatives_from=all", ["contrast"], delta=0.0, length=2000,
                  negative_high_entropy=False)  # fmt: skip
    yield from at(ONE, "one image, ranks 1 to 9", f"{loose} r_low=1 r_high=10", ["contrast"], delta=0.0, low_rank=1,
                  high_rank=10)  # fmt: skip
    yield from at(ONE, "one image, saturated softmax", loose, ["contrast"], delta=0.0, inputs={"scale": 12.0})
    yield from at([(1, 21)], "the threshold is an entropy", loose, ["contrast"], "ties", delta=0.0, epoch=40)
    yield from at(FEW, "padding", loose, ["contrast"], "padding", ["first image"], delta=0.0, inputs={"padding": True})
    yield from at(ONE, "one image", CODE, ["contrast"], "centres")
    yield from at(ONE, "a class is absent", loose, ["contrast"], "class lists", ["present"], delta=0.0, absent=[1])
    yield from at(ONE, "a class without negatives", loose, ["contrast"], "present", delta=0.0, likely=1)
    yield from at([(1, 5)], "one class alone", loose, ["contrast"], "present", delta=0.0, absent=[1, 2, 3, 4])
    yield from at((*FEW, *MANY), "several images", loose, ["contrast"], "first image", delta=0.0)
    yield from at(ONE, "features at a quarter", loose, ["contrast"], "grid", ["present"], delta=0.0, every=4,
                  inputs={"width": 49})  # fmt: skip
    yield from at(ONE, "few may enter the bank", f"{loose} push=4", ["contrast"], "push", delta=0.0, ours={"push": 4})
    yield from at([(1, 3)], "three classes", loose, ["contrast"], "few classes", delta=0.0,
                  exact={"r_low": 2, "r_high": 2})  # fmt: skip
    yield from at((*FEW, *MANY), "void, padding, boxes, 2 steps", CODE, ["total"], "together", mixed=True, steps=2,
                  inputs={"padding": True})  # fmt: skip
    yield from at(
        [(2, 5)], "warm-up", "warmup=1/epochs", ["total"], epoch=0, exact={"warmup": 0.5}, inputs={"padding": True}
    )


def supervised(checkout: Checkout) -> Iterator[Row]:
    """Their OHEM with and without their auxiliary head."""
    for setting in settings(FEW):
        s = Scene(checkout, setting, CITY)
        labels, criterion = s.batches[0]["l"].labels, s.method().config.sup
        main, aux = (criterion(net(s.batches[0]["l"].weak), labels, setting.task) for net in (s.student.logits, s.aux))
        both = main + s.cfg["net"]["aux_loss"]["loss_weight"] * aux
        name, leaves = "U2PL: supervised OHEM, Cityscapes", [s.student.logits.logits, s.aux.logits]
        theirs = s.theirs(s.method(), 0, s.memory())["sup_loss"]
        yield compare(checkout, name, "void, padding, both heads", setting, theirs, main, leaves, "sup.loss=ohem",
                      "auxiliary head", both)  # fmt: skip
        del s.cfg["net"]["aux_loss"]
        theirs = s.theirs(s.method(), 0, s.memory())["sup_loss"]
        yield compare(checkout, name, "void, padding, one head", setting, theirs, main, leaves, "sup.loss=ohem")


def reliable(checkout: Checkout) -> Iterator[Row]:
    """What decides on the pixels: thresholds, masks and the weight of the unsupervised term."""
    for setting in settings(FEW, padding=False):
        s = Scene(checkout, setting, mixed=True)
        method = s.method(["first image"])
        s.ours(method, 0, s.banks())
        theirs, seen = s.theirs(method, 0, s.memory()), method.seen
        target, logits, drop = theirs["label_u_aug"].clone(), theirs["pred_u_large"], theirs["drop_percent"]
        loss = theirs["compute_unsupervised_loss"](logits, target, drop, theirs["pred_u_large_teacher"])
        weight = loss / F.cross_entropy(logits, target, ignore_index=IGNORE)
        for term, a, b in (
            ("thresholds of the entropy", torch.tensor([theirs["low_thresh"], theirs["high_thresh"]]),
             torch.stack([seen["low"], seen["gamma"]])),
            ("pixels that train", target != IGNORE, seen["reliable"]),
            ("pixels for anchors", theirs["low_entropy_mask"], seen["usable"]),
            ("pixels for negatives", theirs["high_entropy_mask"], seen["candidate"]),
            ("λ_u", weight.detach(), 1 / seen["kept"]),
        ):  # fmt: skip
            yield compare(checkout, f"U2PL: {term}", "boxes", setting, a.double(), b.double(), switch=CODE)


def banks(checkout: Checkout) -> Iterator[Row]:
    """What the banks hold after 5 steps that overfill them: those of most classes, and that of class 0."""
    for setting in settings([(1, 5)], padding=False):
        s = Scene(checkout, setting, delta=0.0, steps=5, length=60)
        memory, method, others = s.memory(one_length=False), s.method(), range(1, setting.classes)
        longer = memory["queue_size"][0]
        usual, large = s.banks(), s.banks(longer)
        for t in range(len(s.batches)):
            s.ours(method, t, large)
            s.ours(method, t, usual)
            s.theirs(method, t, memory)
        theirs, ours = their_contents(memory, 60, others), contents(usual, others)
        yield compare(checkout, "U2PL: banks", "5 steps", setting, theirs, ours, switch=CODE, length=60)
        theirs, ours = their_contents(memory, longer, [0]), F.pad(contents(usual, [0]), (0, 0, 0, longer - 60))
        yield compare(checkout, "U2PL: bank of class 0", "5 steps", setting, theirs, ours, switch=CODE,
                      departure="class 0", explained=contents(large, [0]), length=60, their_length=longer)  # fmt: skip


def pushed(checkout: Checkout) -> Iterator[Row]:
    """How many negatives of each class a step pushes where both passes of the teacher say the same."""
    for setting in settings((*ONE, *MANY), padding=False):
        s = Scene(checkout, setting)
        s.teacher.logits.in_eval = None
        plain, undone = s.method(), s.method(["first image"])
        for method in (plain, undone):
            s.ours(method, 0, s.banks())
        theirs = torch.tensor(s.theirs(undone, 0, s.memory())["new_keys"]).double()
        more: dict[str, Any] = {"departure": "first image", "explained": undone.seen["count"].double()}
        number = "one image" if setting.batch == 1 else "four images"
        yield compare(checkout, "U2PL: negatives of a step", f"passes that agree, {number}", setting, theirs,
                      plain.seen["count"].double(), switch=CODE, pushed=int(theirs.sum()),
                      **more if setting.batch > 1 else {})  # fmt: skip


def schedules(checkout: Checkout) -> Iterator[Row]:
    """Both shares of pixels in every epoch after their warm-up, by either configuration."""
    for data, config in (("VOC", VOC), ("Cityscapes", CITY)):
        cfg, found = checkout.yaml(config)["trainer"], []
        for epoch in range(cfg.get("sup_only_epoch", 1), cfg["epochs"]):
            s = Scene(checkout, Setting(1, 5, torch.float64, 4, 4, padding=False), config, epoch)
            theirs = s.theirs(s.method(), 0, s.memory())
            found.append([1 - theirs["drop_percent"] / 100, theirs["alpha_t"] / 100, s.method().alpha_t(s.step())])
        a, b, c = torch.tensor(found, dtype=torch.float64).T
        yield compare(checkout, f"U2PL: α_t, {data}", f"{len(found)} epochs of {cfg['epochs']}", None,
                      torch.stack([a, b]), torch.stack([c, c]), switch="alpha=0.2", seed=SEED)  # fmt: skip


class Averages:
    """The teacher after each step that has one, for weights of the student that are given."""

    def __init__(self, checkout: Checkout, config: str, per_epoch: int, epochs: int) -> None:
        self.train, self.cfg = parsed(checkout, "train_semi.py"), checkout.yaml(config)
        self.warm, self.decay = self.cfg["trainer"].get("sup_only_epoch", 1), self.cfg["net"]["ema_decay"]
        self.per_epoch, self.epochs, self.steps = per_epoch, epochs, per_epoch * epochs
        draw = torch.Generator().manual_seed(SEED)
        self.theta = torch.randn(self.steps + 1, 1, 3, generator=draw, dtype=torch.float64)
        self.first = self.warm * per_epoch

    def theirs(self) -> Tensor:
        model, teacher, out = self.weights(0), self.weights(1).requires_grad_(False), []
        given = {"cfg": self.cfg, "model": model, "model_teacher": teacher, "loader_l": range(self.per_epoch)}
        for t in range(self.steps):
            now = {"epoch": t // self.per_epoch, "i_iter": t, "ema_decay_origin": self.decay}
            self.train.run(self.train.when("epoch =="), **given, **now)
            model.weight.data.copy_(self.theta[t + 1])  # the optimiser's step
            self.train.run(self.train.when("epoch >="), **given, **now)
            out.append(teacher.weight.detach().clone())
        return torch.stack(out[self.first :])

    def ours(self, late: bool = False) -> Tensor:
        """Return ours; or with a decay that starts at the end of the warm-up, after an epoch more of copies."""
        setting, real, out = Setting(1, 3, torch.float64), ramp.ema_decay, []
        copies = self.first + self.per_epoch

        def decay(t: int, most: float) -> float:
            return real(t, most) if not late else 0.0 if t < copies else real(t - self.first, most)

        config = U2PL.Config(warmup=self.warm / self.epochs, lam_c=0, ema_decay=self.decay)
        method, nets = U2PL(config, setting.task), {"student": self.weights(0), "teacher": self.weights(1)}
        with patch.object(ramp, "ema_decay", decay):
            for t in range(self.steps):
                nets["student"].weight.data.copy_(self.theta[t + 1])
                method.after_step(nets, setting.step(t, self.steps), {})
                out.append(nets["teacher"].weight.detach().clone())
        return torch.stack(out[self.first :])

    def weights(self, t: int) -> nn.Linear:
        out = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        out.weight.data.copy_(self.theta[t])
        return out


def moving_average(checkout: Checkout, per_epoch: int = 10, epochs: int = 15) -> Iterator[Row]:
    """Their copy and their update around the optimiser's step, against ours, past the end of the decay's ramp."""
    for data, config in (("VOC", VOC), ("Cityscapes", CITY)):
        both = Averages(checkout, config, per_epoch, epochs)
        theirs = both.theirs()
        yield compare(checkout, f"U2PL: moving average, {data}", f"{len(theirs)} steps after the warm-up", None, theirs,
                      both.ours(), switch=f"warmup={both.warm}/epochs", departure="first epoch",
                      explained=both.ours(late=True), seed=SEED, decay=both.decay, per_epoch=per_epoch)  # fmt: skip


def boxes(checkout: Checkout, height: int, width: int, masks: int) -> Iterator[Row]:
    """Their rectangle and ours, from the same uniform numbers."""
    u = np.random.default_rng(SEED).uniform(size=(masks, 4))
    here: list[Replay] = []
    random = SimpleNamespace(randint=lambda low, high: here[0].integer(int(low), int(high)))
    source = parsed(checkout, AUGMENT)
    draw = source.define("generate_cutout_mask", np=SimpleNamespace(round=np.round, random=random)).generate_cutout_mask
    theirs = []
    for row in u:
        here[:] = [Replay(row[[1, 3, 2]])]
        theirs.append(draw([height, width]) == 0)
    ours = torch.cat([mix.half_area_mask([Replay(row)], height, width, 1.0) for row in u])
    differing = int((torch.stack(theirs) != ours).flatten(1).any(1).sum())
    yield compare(checkout, "U2PL: CutMix boxes", f"{masks} masks {height}×{width}, same uniforms", None,
                  torch.stack(theirs).double(), ours.double(), switch="cutmix=1", seed=SEED, masks=masks,
                  masks_that_differ=differing)  # fmt: skip


def coins(checkout: Checkout, batches: int = 500, images: int = 4) -> Iterator[Row]:
    """Which images are mixed: one coin a batch against one an image, from the same uniform numbers."""
    u = np.random.default_rng(SEED).uniform(size=(batches, images, 4))
    train, theirs, cfg = parsed(checkout, "train_semi.py"), [], checkout.yaml(VOC)
    for row in u[:, 0, 0]:
        hit = train.run(
            train.when("np.random"), np=SimpleNamespace(random=SimpleNamespace(uniform=lambda *_, x=row: x)), cfg=cfg,
            image_u=0, label_u_aug=torch.zeros(1), logits_u_aug=torch.zeros(1),
            generate_unsup_data=lambda *_, mode: (1, None, None),
        )["image_u_aug"]  # fmt: skip
        theirs.append([hit] * images)
    shared = u.copy()
    shared[..., 0] = u[:, :1, 0]
    ours, explained = (
        torch.stack([mix.half_area_mask([Replay(r) for r in rows], 8, 8).flatten(1).any(1) for rows in numbers])
        for numbers in (u, shared)
    )
    yield compare(checkout, "U2PL: images that are mixed", f"{batches} batches of {images}", None,
                  torch.tensor(theirs).double(), ours.double(), switch="cutmix=0.5", departure="coin",
                  explained=explained.double(), seed=SEED)  # fmt: skip


def rows(checkout: Checkout) -> Iterator[Row]:
    yield from losses(checkout)
    yield from supervised(checkout)
    for setting in settings([(2, 5), (4, 21)]):
        yield from torchsemiseg.ohem(checkout, ohem_class(checkout), "ignore_index", setting, OHEM_CASES)
    yield from torchsemiseg.ohem(checkout, ohem_class(checkout), "ignore_index", Setting(2, 5, torch.float64), ["none"])
    yield from reliable(checkout)
    yield from banks(checkout)
    yield from pushed(checkout)
    yield from schedules(checkout)
    yield from moving_average(checkout)
    yield from boxes(checkout, 33, 47, masks=2000)
    yield from boxes(checkout, 513, 513, masks=100)
    yield from coins(checkout)
