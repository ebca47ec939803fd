"""PixelSSL (Ke Zhanghan; Apache-2.0): its Mean Teacher."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import Setting, Table, labelled, unlabelled
from fewmask.batch import IGNORE
from fewmask.methods.mean_teacher import MeanTeacher

NAME = "ZHKKKe/PixelSSL"
MT = "pixelssl/ssl_algorithm/ssl_mt.py"
SCRIPT = "task/sseg/script/pspnet_pascalvoc_1-8_sslmt.py"
STEPS_PER_EPOCH, EPOCH, INDEX = 10, 2, 3


class Template(nn.Module):
    """Stands for their base classes, which hold the arguments."""

    def __init__(self, args: Any) -> None:
        super().__init__()
        self.args = args


def algorithm(checkout: Checkout, nets: dict[str, Table], batch: int) -> Any:
    """Return their algorithm object around our tables, with the constants of their PSPNet script."""
    quiet = SimpleNamespace(update=lambda *_: None)
    func = checkout.source("pixelssl/nn/func.py").define("sigmoid_rampup", "split_tensor_tuple")
    tool = checkout.source("pixelssl/utils/tool.py").define("dict_value")
    base = SimpleNamespace(_SSLBase=object)
    given = {"ssl_base": base, "func": func, "tool": tool, "REGRESSION": "", "CLASSIFICATION": ""}
    cls = checkout.source(MT).define("SSLMT", **given).SSLMT
    template = SimpleNamespace(criterion_template=SimpleNamespace(TaskCriterion=Template))
    criterion = checkout.source("task/sseg/criterion.py").define("CommonSSEGCriterion", pixelssl=template)
    noise = checkout.source("pixelssl/nn/module/gaussian_noise.py").define("GaussianNoiseLayer")

    def network(table: Table) -> SimpleNamespace:
        def forward(images: tuple[Tensor]) -> tuple[dict[str, tuple[Tensor]], dict[str, Any]]:
            out = table(images[0])
            return {"pred": (out,), "activated_pred": (out.softmax(1),)}, {}

        return SimpleNamespace(forward=forward, parameters=table.parameters)

    args = SimpleNamespace(**checkout.source(SCRIPT).constants(), ignore_index=IGNORE, labeled_batch_size=batch)
    out = object.__new__(cls)
    out.__dict__.update(
        args=args, meters=quiet, cons_criterion=nn.MSELoss(), s_criterion=criterion.CommonSSEGCriterion(args),
        s_optimizer=SimpleNamespace(zero_grad=lambda: None), gaussian_noiser=noise.GaussianNoiseLayer(None),
        s_model=network(nets["student"]), t_model=network(nets["teacher"]), space=given,
    )  # fmt: skip
    return out


def mean_teacher(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """Their supervised and their consistency term, in the middle of the ramp."""
    b = setting.batch
    nets = {name: setting.network(2 * b, modes_differ=True).train() for name in ("student", "teacher")}
    valid_l, valid_u = setting.valid(), setting.valid()
    labels = setting.labels(nets["student"].logits[:b], valid_l)
    x, u = setting.codes(0), setting.codes(b)
    both, truth = torch.cat((x, u)), torch.cat((labels, torch.full_like(labels, IGNORE))).unsqueeze(1)
    source, them = checkout.source(MT), algorithm(checkout, nets, b)
    with one_cpu_process():
        theirs = source.run(
            source.step("enumerate(data_loader)"), **them.space, self=them, lbs=b, epoch=EPOCH, idx=INDEX,
            data_loader=range(STEPS_PER_EPOCH), inp=(both,), gt=(truth,),
        )  # fmt: skip

    method = MeanTeacher(MeanTeacher.Config(authors_code="pixelssl"), setting.task)
    step = setting.step(EPOCH * STEPS_PER_EPOCH + INDEX, them.args.epochs * STEPS_PER_EPOCH, l=b, u=b)

    def ours(whole: bool) -> dict[str, Tensor]:
        valid = [torch.ones_like(v) if whole else v for v in (valid_l, valid_u)]
        batch = {"l": labelled(x, labels, valid[0]), "u": unlabelled(valid[1], u)}
        return method.losses(nets, batch, step, {})

    leaves, terms = [net.logits for net in nets.values()], ours(whole=False)
    counted = (labels != IGNORE).double().mean()
    for term, key, case, why, explained in (
        ("supervised CE", "s_task_loss", "void, padding", "void", terms["sup"] * counted),
        ("consistency", "cons_loss", "padding", "padding", ours(whole=True)["con"]),
    ):
        differs: dict[str, Any] = {"departure": why, "explained": explained} if setting.padding else {}
        case = case if setting.padding else "no void, no padding"
        value = terms["sup" if key == "s_task_loss" else "con"]
        yield compare(
            checkout, f"Mean Teacher: {term}", case, setting, theirs[key], value, leaves, "authors_code=pixelssl",
            step=step.t, total=step.total, **differs,
        )  # fmt: skip


def moving_average(checkout: Checkout, steps: int = 120) -> Iterator[Row]:
    """Their update of the teacher after each step, past the end of the decay's ramp."""
    setting = Setting(1, 3, torch.float64, 2, 2)
    theta = [setting.network(1).logits.detach() for _ in range(steps)]
    method = MeanTeacher(MeanTeacher.Config(authors_code="pixelssl"), setting.task)
    start = setting.network(1)
    nets = method.networks(lambda _: start)
    theirs = {"student": nets["student"], "teacher": Table(nets["teacher"].logits.detach().clone())}
    them = algorithm(checkout, theirs, 1)
    a, b = [], []
    for t, value in enumerate(theta):
        nets["student"].logits.data.copy_(value)
        them._update_ema_variables(them.s_model, them.t_model, them.args.ema_decay, t)
        method.after_step(nets, setting.step(t, steps), {})
        a.append(theirs["teacher"].logits.detach().clone())
        b.append(nets["teacher"].logits.detach().clone())
    yield compare(
        checkout, "Mean Teacher: moving average", f"teacher after each of {steps} steps", None, torch.stack(a),
        torch.stack(b), switch="authors_code=pixelssl", seed=setting.seed, steps=steps, decay=them.args.ema_decay,
    )  # fmt: skip
