"""TorchSemiSeg (Chen Xiaokang; MIT): CPS with and without CutMix, Mean Teacher, OHEM, the law of the CutMix boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.parity.authors import Checkout, Source, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import Setting, Table, labelled, unlabelled
from fewmask.batch import IGNORE
from fewmask.methods.cps import CPS
from fewmask.methods.mean_teacher import MeanTeacher
from fewmask.ops import mix
from fewmask.supervision import Supervision

NAME = "charlesCXK/TorchSemiSeg"
LOSSES = "furnace/seg_opr/loss_opr.py"
THRESHOLD = 0.7
MINED = 0.3  # share of the pixels for OHEM's min_kept: their 50,000 an image would exceed these images


def constants(train: Source, checkout: Checkout, folder: str, kept: int) -> dict[str, Any]:
    """Return their criteria and configuration, and stand-ins for what has no part in a loss."""
    config = checkout.source(f"{folder}/config.py").constants()
    space = train.run(
        train.assigning("criterion", "criterion_csst", "criterion_cps", "pixel_num"),
        config=SimpleNamespace(**{"niters_per_epoch": 1} | config),
        engine=SimpleNamespace(world_size=1, update_iteration=lambda *_: None),
        ProbOhemCrossEntropy2d=ohem_class(checkout),
    )
    if hasattr(space["criterion"], "min_kept"):
        space["criterion"].min_kept = kept
    idle = SimpleNamespace(zero_grad=lambda: None, param_groups=[{}, {}])
    policy = SimpleNamespace(get_lr=lambda _: 0.0)
    return space | {"optimizer_l": idle, "optimizer_r": idle, "lr_policy": policy, "epoch": 0, "idx": 0}


def ohem_class(checkout: Checkout) -> Any:
    source = checkout.source(LOSSES)
    silent = SimpleNamespace(info=lambda *_: None)
    return source.define("ProbOhemCrossEntropy2d", logger=silent).ProbOhemCrossEntropy2d


def loader(**batch: Tensor) -> SimpleNamespace:
    return SimpleNamespace(next=lambda: batch)


def cps(checkout: Checkout, folder: str, setting: Setting) -> Iterator[Row]:
    """Their loss without and with CutMix (by the folder), on VOC with CE, on Cityscapes with OHEM."""
    cutmix, city, b = "CutMix" in folder, folder.startswith("exp.city"), setting.batch
    train = checkout.source(f"{folder}/train.py")
    nets = {name: setting.network(3 * b, modes_differ=True).train() for name in ("f1", "f2")}
    leaves = [net.logits for net in nets.values()]
    valid_l, valid_u, valid_v = setting.valid(), setting.valid(), setting.valid()
    labels = setting.labels(nets["f1"].logits[:b], valid_l)
    x, u, v = setting.codes(0), setting.codes(b), setting.codes(2 * b)
    kept = int(MINED * labels.numel())

    given = constants(train, checkout, folder, kept)
    step = setting.step(l=b, u=b, v=b)
    box = mix.cps_mask(step.draws("u"), setting.height, setting.width)
    given |= {
        "model": lambda images, step: (None, nets[f"f{step}"](images)),
        "dataloader": loader(data=x, label=labels),
        "unsupervised_dataloader": loader(data=u),
        "unsupervised_dataloader_0": loader(data=u, mask_params=box.unsqueeze(1).float()),
        "unsupervised_dataloader_1": loader(data=v),
    }
    with one_cpu_process():
        theirs = train.run(train.step("pbar"), **given)

    weight = float(given["config"].cps_weight)
    sup = Supervision(loss="ohem", ohem_min_kept=kept) if city else Supervision()
    batch = {"l": labelled(x, labels, valid_l), "u": unlabelled(valid_u, u), "v": unlabelled(valid_v, v)}

    def ours(**constants: Any) -> dict[str, Tensor]:
        return CPS(CPS.Config(sup=sup, cutmix=cutmix, **constants), setting.task).losses(nets, batch, step, {})

    loss = "OHEM, Cityscapes" if city else "CE, VOC"
    mixed, name = ("cutmix=true ", "CPS with CutMix") if cutmix else ("", "CPS")
    half = "λ" if cutmix else "λ/2"
    scaled = weight if cutmix else weight / 2
    exact = ours(lam=scaled, train_padding=setting.padding)

    def row(term: str, case: str, key: str, terms: Tensor, switch: str, **more: Any) -> Row:
        a = theirs["loss_sup"] + theirs["loss_sup_r"] if key == "sup" else theirs[key]
        more |= {"experiment": folder, "λ": weight}
        return compare(checkout, f"{name}: {term}", case, setting, a, terms, leaves, switch, **more)

    if setting.padding:
        switch = f"{mixed}lam={half} train_padding=true"
        share = {"mixed": round(float(box.float().mean()), 3)} if cutmix else {}
        yield row(f"supervised {loss}", "void, padding", "sup", exact["sup"], f"sup.loss={sup.loss}")
        yield row("pseudo supervision", "padding", "cps_loss", exact["cps"], switch, **share)
        yield row("total", "void, padding", "loss", torch.stack([*exact.values()]).sum(), switch)
        yield row(
            "pseudo supervision", "padding", "cps_loss", ours(lam=scaled)["cps"], f"{mixed}lam={half}",
            departure="padding", explained=exact["cps"],
        )  # fmt: skip
    else:
        yield row("pseudo supervision", "no padding", "cps_loss", exact["cps"], f"{mixed}lam={half}")
        if not cutmix:
            paper = ours(lam=weight)["cps"]
            yield row(
                "pseudo supervision", "no padding", "cps_loss", paper, "lam=λ",
                departure="one mean", explained=paper / 2,
            )  # fmt: skip


def without_labels(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """Supervised losses on a batch without a labelled pixel."""
    net = setting.network(setting.batch).train()
    labels = setting.labels(net.logits, torch.zeros_like(setting.valid()))
    out = net(setting.codes(0))
    train = checkout.source("exp.voc/voc8.res50v3+.CPS/train.py")
    ce = train.run(train.assigning("criterion"))["criterion"]
    ours = Supervision()(out, labels, setting.task)
    yield compare(
        checkout, "CPS: supervised CE, VOC", "no labelled pixel", setting, ce(out, labels), ours, [net.logits],
        departure="0/0",
    )  # fmt: skip
    yield from ohem(checkout, ohem_class(checkout), "ignore_label", setting, ["none"])


def ohem(checkout: Checkout, cls: Any, ignore: str, setting: Setting, cases: list[str]) -> Iterator[Row]:
    """Their OHEM criterion, by which of its rules decides; for the class of either repository."""
    names = {
        "threshold": "the threshold decides", "kth": "the k-th pixel decides", "fewer": "fewer labelled than k",
        "exactly": "as many labelled as k", "saturated": "saturated softmax", "none": "no labelled pixel",
    }  # fmt: skip
    for case in cases:
        here = replace(setting, scale=30.0) if case == "saturated" else replace(setting)
        net = here.network(here.batch).train()
        valid = here.valid() & (case != "none")
        labels, out = here.labels(net.logits, valid), net(here.codes(0))
        true = out.detach().softmax(1).gather(1, labels.clamp(max=here.classes - 1).unsqueeze(1)).squeeze(1)
        true = true[labels != IGNORE].sort().values
        n, below = len(true), int((true <= THRESHOLD).sum())
        k = {"threshold": below // 2, "fewer": n + 1, "exactly": n, "none": 10}.get(case, (below + n) // 2)
        theirs = cls(**{ignore: IGNORE}, thresh=THRESHOLD, min_kept=k)(out, labels)
        sup = Supervision(loss="ohem", ohem_threshold=THRESHOLD, ohem_min_kept=k)
        facts: dict[str, Any] = {"k": k, "labelled": n, "below_threshold": below}
        facts |= {"departure": "0/0"} if case == "none" else {"kth": float(true[min(k, n) - 1])}
        yield compare(
            checkout, "OHEM", names[case], here, theirs, sup(out, labels, here.task), [net.logits],
            "sup.loss=ohem sup.ohem_min_kept=k", **facts,
        )  # fmt: skip


def mean_teacher(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """Their consistency term on the same outputs of both networks."""
    folder, b = "exp.voc/voc8.res50v3+.MeanTeacher", setting.batch
    train = checkout.source(f"{folder}/train.py")
    nets = {name: setting.network(2 * b, modes_differ=True).train() for name in ("student", "teacher")}
    valid_l, valid_u = setting.valid(), setting.valid()
    labels = setting.labels(nets["student"].logits[:b], valid_l)
    x, u = setting.codes(0), setting.codes(b)
    given = constants(train, checkout, folder, 0) | {
        "model": lambda images, step, cur_iter: (nets["student"](images), nets["teacher"](images)),
        "dataloader": loader(data=x, label=labels),
        "unsupervised_dataloader": loader(data=u),
    }
    with one_cpu_process():
        theirs = train.run(train.step("pbar"), **given)

    def ours(whole: bool) -> dict[str, Tensor]:
        valid = [torch.ones_like(v) if whole else v for v in (valid_l, valid_u)]
        batch = {"l": labelled(x, labels, valid[0]), "u": unlabelled(valid[1], u)}
        config = MeanTeacher.Config(authors_code="torchsemiseg")
        return MeanTeacher(config, setting.task).losses(nets, batch, setting.step(l=b, u=b), {})

    leaves, name = [net.logits for net in nets.values()], "Mean Teacher"
    switch, terms = "authors_code=torchsemiseg", ours(whole=False)
    margin = {"departure": "padding", "explained": ours(whole=True)["con"]} if setting.padding else {}
    case = "padding" if setting.padding else "no padding"
    yield compare(
        checkout, f"{name}: supervised CE", f"void, {case}", setting, theirs["loss_sup"], terms["sup"], leaves, switch
    )
    yield compare(
        checkout, f"{name}: consistency", case, setting, theirs["csst_loss"], terms["con"], leaves, switch, **margin
    )


def moving_average(checkout: Checkout, steps: int = 6) -> Iterator[Row]:
    """Which teacher labels at each step: their network's forward pass against ours between the steps."""
    folder = "exp.voc/voc8.res50v3+.MeanTeacher"
    decay = checkout.source(f"{folder}/config.py").constants()["ema_decay"]
    setting = Setting(1, 3, torch.float64, 2, 2)
    theta = [setting.network(1).logits.detach() for _ in range(steps + 1)]  # the student before step t

    def branch(*_: Any) -> torch.nn.Module:
        table = Table(theta[0].clone())
        table.forward = lambda x: (None, table.logits.detach().clone())  # type: ignore[method-assign]
        return table

    network = checkout.source(f"{folder}/network.py").define(
        "Network", SingleNetwork=branch, config=SimpleNamespace(ema_decay=decay)
    )
    model = network.Network(3, None, None).train()
    seen: dict[str, list[Tensor]] = {"labelled": [], "unlabelled": []}
    for t in range(steps):
        model.branch1.logits.data.copy_(theta[t])
        for number, images in enumerate(seen, start=1):
            seen[images].append(model(None, step=number, cur_iter=t)[1])

    method = MeanTeacher(MeanTeacher.Config(authors_code="torchsemiseg"), setting.task)
    nets = method.networks(lambda _: Table(theta[0].clone()))
    ours = []
    for t in range(steps):
        ours.append(nets["teacher"].logits.detach().clone())
        nets["student"].logits.data.copy_(theta[t + 1])  # the optimiser's step
        method.after_step(nets, setting.step(t, 100), {})
    fade = torch.tensor([decay**t for t in range(steps)], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    once = torch.stack(ours) + fade * (theta[0] - theta[1]) * (torch.arange(steps) > 0).view(-1, 1, 1, 1, 1)
    lagging = torch.cat((once[:1], once[:-1]))
    for images, explained, why in (("unlabelled", once, "first copy"), ("labelled", lagging, "older teacher")):
        yield compare(
            checkout, "Mean Teacher: moving average", f"teacher of the {images} images, {steps} steps", None,
            torch.stack(seen[images]), torch.stack(ours), switch="authors_code=torchsemiseg",
            departure=why, explained=explained, seed=setting.seed, steps=steps, decay=decay,
        )  # fmt: skip


def boxes(checkout: Checkout, height: int, width: int, masks: int, seed: int) -> Iterator[Row]:
    """Their mask generator and ours, fed with the same uniform numbers."""
    folder = "exp.voc/voc8.res50v3+.CPS+CutMix"
    train, config = checkout.source(f"{folder}/train.py"), checkout.source(f"{folder}/config.py").constants()
    space = train.run(
        train.assigning("mask_generator"), config=SimpleNamespace(**config),
        mask_gen=checkout.source(f"{folder}/mask_gen.py").define("MaskGenerator", "BoxMaskGenerator"),
    )  # fmt: skip
    count = config["cutmix_boxmask_n_boxes"]
    u = np.random.default_rng(seed).uniform(size=(masks, count, 4))
    parts = iter((u[..., 0], u[..., 1], u[..., 2:]))
    stream = SimpleNamespace(uniform=lambda low, high, size: low + (high - low) * next(parts))
    theirs = space["mask_generator"].generate_params(masks, (height, width), rng=stream)
    ours = torch.stack([mix.cps_mask([Replay(row.ravel())], height, width, count)[0] for row in u])
    differing = int((torch.from_numpy(theirs[:, 0]).bool() != ours).flatten(1).any(1).sum())
    yield compare(
        checkout, "CPS: CutMix boxes", f"{masks} masks {height}×{width}, same uniforms", None,
        torch.from_numpy(theirs[:, 0]), ours.double(), switch="cutmix=true",
        seed=seed, masks=masks, masks_that_differ=differing,
    )  # fmt: skip


class Replay:
    """Stands for ``Draws``: hands out given uniform numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = iter(numbers.tolist())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * next(self.numbers)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        return min(low + int((high - low) * self.uniform()), high - 1)
