"""UniMatch's repository (Yang Lihe; MIT): its FixMatch, its OHEM, the law of its CutMix boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.parity.authors import Checkout, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import Setting, Table, labelled, unlabelled
from benchmarks.parity.torchsemiseg import MINED, Replay
from fewmask.batch import IGNORE
from fewmask.methods.fixmatch import FixMatch
from fewmask.ops import mix
from fewmask.supervision import Supervision

NAME = "LiheYoung/UniMatch"


def ohem_class(checkout: Checkout) -> Any:
    return checkout.source("util/ohem.py").define("ProbOhemCrossEntropy2d").ProbOhemCrossEntropy2d


class Comparison:
    """One batch, their losses on it, and ours for any constants."""

    def __init__(self, checkout: Checkout, dataset: str, setting: Setting, cutmix: float, modes_differ: bool) -> None:
        b, script = setting.batch, checkout.source("fixmatch.py")
        cfg = checkout.yaml(f"configs/{dataset}.yaml")
        self.setting, self.cutmix, self.tau = setting, cutmix, float(cfg["conf_thresh"])
        self.net = setting.network(3 * b, modes_differ).train()
        valid_l, valid_u = setting.valid(), setting.valid()
        labels = setting.labels(self.net.logits[:b], valid_l)
        x, weak, strong = (setting.codes(k * b) for k in range(3))
        self.batch = {"l": labelled(x, labels, valid_l), "u": unlabelled(valid_u, weak, strong)}
        self.step = setting.step(l=b, u=b)
        self.loss, self.sup = cfg["criterion"]["name"], Supervision()
        if self.loss == "OHEM":
            kept = int(MINED * labels.numel())  # their 200,000 would exceed these images
            cfg["criterion"]["kwargs"]["min_kept"] = kept
            self.sup = Supervision(loss="ohem", ohem_threshold=cfg["criterion"]["kwargs"]["thresh"], ohem_min_kept=kept)

        self.box = mix.unimatch_mask(self.step.draws("u"), setting.height, setting.width, cutmix)
        j = mix.partners(b)  # their partners come from a second loader: hand them ours
        ignore = torch.where(valid_u, 0, IGNORE)
        given: dict[str, Any] = {"cfg": cfg, "local_rank": 0, "ProbOhemCrossEntropy2d": ohem_class(checkout)}
        with one_cpu_process():
            given |= script.run(script.assigning("criterion_l", "criterion_u"), **given)
            self.theirs = script.run(
                script.step("enumerate(loader)"), **given, model=self.net,
                optimizer=SimpleNamespace(zero_grad=lambda: None), img_x=x, mask_x=labels,
                img_u_w=weak, img_u_s=strong.clone(), ignore_mask=ignore, cutmix_box=self.box.to(setting.dtype),
                img_u_w_mix=weak[j], img_u_s_mix=strong[j], ignore_mask_mix=ignore[j],
            )  # fmt: skip

    def ours(self, net: Table | None = None, **constants: Any) -> dict[str, Tensor]:
        config = FixMatch.Config(sup=self.sup, tau=self.tau, cutmix=self.cutmix, **constants)
        nets = {"student": self.net if net is None else net}
        return FixMatch(config, self.setting.task).losses(nets, self.batch, self.step, {})

    def kept(self) -> float:
        space = self.theirs
        valid = space["ignore_mask_cutmixed"] != 255
        return round(float(((space["conf_u_w_cutmixed"] >= self.tau) & valid).sum() / valid.sum().clamp(min=1)), 3)


def fixmatch(checkout: Checkout, dataset: str, setting: Setting) -> Iterator[Row]:
    """Their two terms and their sum, with every image mixed, with padding and void."""
    c = Comparison(checkout, dataset, setting, cutmix=1.0, modes_differ=False)
    terms, halves = c.ours(), c.ours(average=True)
    data = "VOC" if dataset == "pascal" else "Cityscapes"
    facts = {"config": dataset, "τ": c.tau, "kept": c.kept(), "mixed": round(float(c.box.float().mean()), 3)}

    def row(term: str, case: str, theirs: Tensor, ours: Tensor, switch: str, **more: Any) -> Row:
        return compare(
            checkout, f"FixMatch: {term}", case, setting, theirs, ours, [c.net.logits], switch, **facts, **more
        )

    loss, total = f"{c.loss.removesuffix('Loss')}, {data}", torch.stack([*halves.values()]).sum()
    yield row(f"supervised {loss}", "void, padding", c.theirs["loss_x"], terms["sup"], f"sup.loss={c.sup.loss}")
    yield row("unsupervised", "padding, boxes", c.theirs["loss_u_s"], terms["unsup"], "tau=τ")
    yield row("total", "void, padding, boxes", c.theirs["loss"], total, "tau=τ average=true")


def own_label_in_train_mode(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """A network whose outputs depend on its mode, without a box: their labels come from the training pass."""
    c = Comparison(checkout, "pascal", setting, cutmix=0.0, modes_differ=True)
    always = Table(c.net.logits.detach().clone())  # in evaluation mode what the training pass returns
    always.logits = c.net.logits
    yield compare(
        checkout, "FixMatch: unsupervised", "outputs that depend on the mode", setting,
        c.theirs["loss_u_s"], c.ours()["unsup"], [c.net.logits], "tau=τ", departure="label mode",
        explained=c.ours(always)["unsup"], kept=c.kept(),
    )  # fmt: skip


def nothing_valid(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """Unlabelled crops that are all padding."""
    here = replace(setting, padding=False)
    none = torch.zeros(here.batch, here.height, here.width, dtype=torch.bool)
    object.__setattr__(here, "valid", lambda: none)
    c = Comparison(checkout, "pascal", here, cutmix=1.0, modes_differ=False)
    yield compare(
        checkout, "FixMatch: unsupervised", "no valid pixel", here, c.theirs["loss_u_s"], c.ours()["unsup"],
        [c.net.logits], "tau=τ", departure="0/0",
    )  # fmt: skip


def boxes(checkout: Checkout, side: int, masks: int, seed: int) -> Iterator[Row]:
    """Their box and ours, fed with the same uniform numbers."""
    numbers = np.random.default_rng(seed).uniform(size=(masks, 4000))
    here: list[Replay] = []

    def uniform(low: float, high: float) -> float:
        return here[0].uniform(low, high)

    fake = SimpleNamespace(
        sqrt=np.sqrt, random=SimpleNamespace(uniform=uniform, randint=lambda low, high: here[0].integer(low, high))
    )
    space = checkout.source("dataset/transform.py").define(
        "obtain_cutmix_box", np=fake, random=SimpleNamespace(random=lambda: here[0].uniform())
    )
    theirs = []
    for row in numbers:
        here[:] = [Replay(row)]
        theirs.append(space.obtain_cutmix_box(side, p=0.5))
    ours = torch.cat([mix.unimatch_mask([Replay(row)], side, side, 0.5) for row in numbers])
    differing = int((torch.stack(theirs).bool() != ours).flatten(1).any(1).sum())
    yield compare(
        checkout, "FixMatch: CutMix boxes", f"{masks} masks {side}×{side}, same uniforms", None, torch.stack(theirs),
        ours.float(), switch="cutmix=0.5", seed=seed, masks=masks, masks_that_differ=differing,
    )  # fmt: skip
