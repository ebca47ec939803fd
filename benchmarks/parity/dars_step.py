"""DARS's training step, with and without an auxiliary classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.dars_code import parsed, quiet, settings_of
from benchmarks.parity.inputs import SEED, Setting, Table, labelled
from fewmask.batch import Items
from fewmask.offline import OnLabels, OnPseudoLabels

LOOP = "enumerate(train_labelled_loader)"
PSPNET, DEEPLAB = "train_psp50_voc_split1464_crop321_round1", "train_deeplabv2_cityscapes_split8_crop361_round1"


class WithAux(nn.Module):
    """Two tables as our network with its auxiliary classifier."""

    def __init__(self, main: Table, aux: Table) -> None:
        super().__init__()
        self.main, self.aux = main, aux

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.main(x), self.aux(x)]


class Step:
    """One batch, their training step on it, and ours."""

    def __init__(self, checkout: Checkout, setting: Setting, config: str, only_labels: bool, none: bool) -> None:
        b, self.setting = setting.batch, setting
        data = "voc2012" if "voc" in config else "cityscapes"
        self.args = SimpleNamespace(**settings_of(checkout, f"{data}/{config}"))
        self.args.only_label, self.args.classes = only_labels, setting.classes
        self.args.multiprocessing_distributed = False
        self.main, self.aux = setting.network(2 * b), replace(setting, seed=SEED + 1).network(2 * b)
        valid_l, valid_u = setting.valid(), setting.valid()
        labels = setting.labels(self.main.logits[:b], valid_l)
        left = replace(setting, void=1.0 if none else 0.6).labels(self.main.logits[b:], valid_u)
        x, u = setting.codes(0), setting.codes(b)
        kinds: Any = ("weak",)
        self.batch = {
            "l": labelled(x, labels, valid_l),
            "u": Items((u,), kinds, valid_u, torch.arange(b), None, None if only_labels else left),
        }
        with one_cpu_process():
            train, main = parsed(checkout, "tool/train_func.py"), parsed(checkout, "tool/train.py")
            self.net = self.network(checkout, main.run(main.assigning("criterion"), args=self.args)["criterion"])
            util = parsed(checkout, "util/util.py").define("intersectionAndUnionGPU", "AverageMeter")
            meter = util.AverageMeter
            self.theirs = train.run(
                train.step(LOOP), args=self.args, model=self.net, input=x, target=labels.clone(), i=0, epoch=0,
                reader=SimpleNamespace(read_data=lambda: (u, left.clone())), data_time=meter(), end=0.0,
                train_labelled_loader=[0], optimizer=SimpleNamespace(zero_grad=quiet),
                intersectionAndUnionGPU=util.intersectionAndUnionGPU, pse_intersection_meter=meter(),
                pse_union_meter=meter(),
            )  # fmt: skip

    def network(self, checkout: Checkout, criterion: nn.Module) -> nn.Module:
        """Return their network, its layers replaced by our tables; what it does with their logits is its own."""
        psp = self.args.arch == "psp"
        if psp:
            cls: Any = parsed(checkout, "model/pspnet.py").define("PSPNet").PSPNet
            layers = ("layer0", "layer1", "layer2", "layer3", "layer4")
        else:
            cls = parsed(checkout, "model/deeplabv2.py").define("ResNetDeepLab").ResNetDeepLab
            layers = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        net = object.__new__(cls)
        nn.Module.__init__(net)
        for name in layers:
            setattr(net, name, nn.Identity())
        net.criterion = criterion
        if psp:
            net.zoom_factor, net.use_ppm, net.cls, net.aux = self.args.zoom_factor, False, self.main, self.aux
        else:
            net.layer5 = self.main
        return net.train()

    def ours(self) -> dict[str, Tensor]:
        """Return our terms with their weights."""
        args, s = self.args, self.setting
        nets = {"net": WithAux(self.main, self.aux) if args.aux_weight else self.main}
        if args.only_label:
            return OnLabels(OnLabels.Config(aux=args.aux_weight), s.task).losses(nets, self.batch, s.step(), {})
        config = OnPseudoLabels.Config(lam=args.consistency_lambda, aux=args.aux_weight)
        return OnPseudoLabels(config, s.task).losses(nets, self.batch, s.step(), {})


def training(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """Their losses in a later round and in the first, with and without an auxiliary classifier."""

    def row(s: Step, term: str, case: str, key: str, ours: Tensor, **more: Any) -> Row:
        leaves = [s.main.logits, s.aux.logits] if s.args.aux_weight else [s.main.logits]
        switch = f"aux={s.args.aux_weight}"
        return compare(checkout, f"DARS: {term}", case, setting, s.theirs[key], ours, leaves, switch, **more)

    s = Step(checkout, setting, PSPNET, only_labels=False, none=False)
    terms, case = s.ours(), "void, padding"
    yield row(s, "labelled, PSPNet", case, "supervised_loss", terms["sup"])
    yield row(s, "pseudo-labelled, PSPNet", case, "pseudo_loss", terms["unsup"])
    yield row(s, "total, PSPNet", case, "loss", torch.stack([*terms.values()]).sum())
    s = Step(checkout, setting, DEEPLAB, only_labels=False, none=False)
    yield row(s, "total, DeepLabV2", case, "loss", torch.stack([*s.ours().values()]).sum())
    s = Step(checkout, setting, PSPNET, only_labels=True, none=False)
    yield row(s, "total of round 0, PSPNet", case, "loss", s.ours()["sup"])
    s = Step(checkout, setting, PSPNET, only_labels=False, none=True)
    yield row(s, "pseudo-labelled, PSPNet", "no pseudo-label", "pseudo_loss", s.ours()["unsup"], departure="0/0")
