"""The contract that every method keeps, as functions: the test suite runs them, and ``fewmask methods check NAME``.

Each point takes a ``Case`` and raises ``AssertionError`` with a sentence on what is wrong, or whatever the method's own
code raises. Tiny networks, toy images, a second or so a point; the longer ones have files of their own. Point 8, golden
losses, needs recorded numbers and lives in the test suite.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewmask.batch import IGNORE, Items
from fewmask.contract.pixels import check_pixels
from fewmask.contract.prediction import check_prediction
from fewmask.contract.processes import check_processes
from fewmask.contract.repeats import check_repeats
from fewmask.contract.toys import (
    CLASSES,
    STEPS,
    Case,
    ToyBuild,
    advance,
    all_terms,
    case_batch,
    make_learner,
    moved,
    toy_batch,
    toy_networks,
    toy_slots,
    toy_step,
    trained_by,
    turned,
)
from fewmask.engine.checkpoint import Store
from fewmask.engine.flatten import networks_to_flat
from fewmask.errors import ConfigError, FewmaskError, traced
from fewmask.method import make_networks
from fewmask.methods import METHODS

__all__ = ["POINTS", "STEPS", "Case", "ToyBuild", "check_method", "golden", "run_two_ranks", "toy_batch", "toy_slots"]


def check_terms(case: Case) -> None:
    """Point 1: every term in ``flow`` is returned, finite, scalar, attached to the graph, and no other."""
    method = case.make()
    nets = toy_networks(method)
    unknown = sorted(trained_by(method) - nets.keys())
    assert not unknown, f"flow names {unknown[0]!r}, networks() makes {sorted(nets)}"
    terms = all_terms(method, nets, case_batch(method, 5), 5)
    declared = {name for phase in method.phases() for name in phase.flow}
    assert terms.keys() == declared, f"losses return {sorted(terms)}, flow declares {sorted(declared)}"
    for name, term in terms.items():
        assert term.ndim == 0, f"term {name!r} has shape {tuple(term.shape)}, not a scalar"
        assert torch.isfinite(term), f"term {name!r} is {term.item()}"
        assert term.requires_grad, f"term {name!r} is not attached to the graph"


def check_gradient_map(case: Case) -> None:
    """Point 2: the networks that each term's gradient reaches are the declared ones."""
    method = case.make()
    nets, batch = toy_networks(method), case_batch(method, 5)
    owners = [(name, p) for name, net in nets.items() for p in net.parameters()]
    memo: dict[str, Tensor] = {}
    for phase in method.phases():
        frozen = trained_by(method) - set(phase.trained)  # as the engine freezes the networks of other phases
        for name, net in nets.items():  # a teacher that is not detached shows only if it could take a gradient
            net.requires_grad_(name not in frozen)
        terms = phase.losses(nets, batch, toy_step(method, 5), memo)
        able = [(name, p) for name, p in owners if p.requires_grad]
        for name, term in terms.items():
            grads = torch.autograd.grad(term, [p for _, p in able], retain_graph=True, allow_unused=True)
            reached = {owner for (owner, _), g in zip(able, grads, strict=True) if g is not None and g.any()}
            assert reached == set(phase.flow.get(name, ())), (
                f"term {name!r} trains {sorted(reached) or 'nothing'}, flow declares {sorted(phase.flow.get(name, ()))}"
            )


def check_views_matter(case: Case) -> None:
    """Point 3: replacing a declared view by noise, or the labels by others, changes some term.

    So do labels that an earlier round made, and where none did, nothing looks for them.
    """
    method = case.make()
    batch = case_batch(method, 5)
    nets = toy_networks(method)

    def terms(**other: Items) -> dict[str, Tensor]:
        # all of it anew: a method that keeps something, or changes its batch, fails at point 12, and not here
        mine = {name: items.map(torch.clone) for name, items in {**batch, **other}.items()}
        return all_terms(case.make(), copy.deepcopy(nets), mine, 5)

    plain = terms()
    for name, items in batch.items():
        for v, kind in enumerate(items.kinds):
            noise = torch.randn(items.views[v].shape, generator=torch.Generator().manual_seed(2))
            views = (*items.views[:v], noise * items.valid.unsqueeze(1), *items.views[v + 1 :])
            found = moved(plain, terms(**{name: replace(items, views=views)}))
            assert found, f"view {v} ({kind}) of stream {name!r} is declared and changes no term"
        if items.mask is not None:
            assert moved(plain, terms(**{name: turned(items)})), f"the labels of stream {name!r} change no term"
    read: list[str] = []
    for name, items in batch.items():
        pseudo = torch.where(items.pseudo_labels < CLASSES, 0, IGNORE)
        read += moved(plain, terms(**{name: replace(items, pseudo=pseudo)}))
    assert bool(read) == case.labelled_before, (
        "an earlier round labels images, and their labels change no term" if not read
        else f"{read[0]!r} reads pseudo-labels, which no earlier round of this method makes"
    )  # fmt: skip


def check_all_trained(case: Case) -> None:
    """Point 4: every parameter of a trained network gets a gradient from some term."""
    method = case.make()
    nets = toy_networks(method)
    torch.stack(list(all_terms(method, nets, case_batch(method, 5), 5).values())).sum().backward()
    for name in sorted(trained_by(method)):
        idle = [key for key, p in nets[name].named_parameters() if p.requires_grad and p.grad is None]
        assert not idle, f"parameters of {name!r} get no gradient: {idle[:3]}"


def check_untrained(case: Case) -> None:
    """Point 5: networks without gradient change only in ``after_step``; statistics only where declared."""
    learner = make_learner(case)
    method: Any = learner.method
    method.after_step = lambda nets, step, memo: None
    before = {k: v.clone() for k, v in networks_to_flat(learner.nets).items()}
    advance(learner, 0, 2)
    after = networks_to_flat(learner.nets)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for key, old in before.items():
        name = key.split(".")[0]
        may = name in learner.trained or (method.teacher_bn == "train" and key.endswith(statistics))
        assert may or torch.equal(old, after[key]), f"{key} changes outside after_step"


def _stray(owner: str, value: Any, seen: set[int], depth: int = 0) -> Iterator[str]:
    """Yield the path of every tensor that is reachable from plain attributes, not from a state dict."""
    if id(value) in seen or depth > 6:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield owner
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield from _stray(f"{owner}[{k!r}]", v, seen, depth + 1)
    elif isinstance(value, list | tuple | set):
        for i, v in enumerate(value):
            yield from _stray(f"{owner}[{i}]", v, seen, depth + 1)
    elif isinstance(value, nn.Module):
        kept = {id(t) for t in value.state_dict(keep_vars=True).values()}
        for module_name, module in value.named_modules():
            place = f"{owner}.{module_name}" if module_name else owner
            for k, t in module.named_buffers(recurse=False):
                if id(t) not in kept:
                    yield f"{place}.{k}"
            plain = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")}
            seen.update(kept)
            yield from _stray(place, plain, seen, depth + 1)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        for k, v in vars(value).items():
            yield from _stray(f"{owner}.{k}", v, seen, depth + 1)


def check_resume(case: Case) -> None:
    """Point 6: 12 steps = 5 + resume + 7, bit for bit, and every tensor that a method keeps is in the checkpoint."""
    whole = make_learner(case)
    advance(whole, 0, STEPS)
    first = make_learner(case)
    advance(first, 0, 5)
    kept = {id(p) for net in first.nets.values() for p in (*net.parameters(), *net.buffers())}
    stray = [*_stray("method", first.method, set(kept)), *_stray("class", dict(vars(type(first.method))), set(kept))]
    for name, net in first.nets.items():
        stray += _stray(name, net, set())
    assert not stray, f"not in the checkpoint: {', '.join(sorted(set(stray))[:3])}"
    with tempfile.TemporaryDirectory() as folder:
        Store(folder).save(first.snapshot(5, {}))
        snapshot = Store(folder).latest()
    assert snapshot is not None
    second = make_learner(case)
    second.restore(snapshot)
    advance(second, 5, STEPS)
    for kind in ("networks", "optimisers"):
        a, b = getattr(whole.snapshot(STEPS, {}), kind), getattr(second.snapshot(STEPS, {}), kind)
        assert a.keys() == b.keys(), f"{kind} of a resumed run have other names"
        wrong = [k for k in a if not torch.equal(a[k], b[k])]
        assert not wrong, f"after a resume {wrong[0]} differs (and {len(wrong) - 1} more of {kind})"


def check_two_ranks(case: Case) -> None:
    """Point 7: two processes that train together stay equal."""
    found = run_two_ranks([case])[str(case)]
    assert not found, f"two ranks differ in {found}"


def check_initial(case: Case) -> None:
    """Point 9: ``networks()`` twice with one seed is equal; trained networks of one structure differ."""
    method = case.make()
    first, second = (make_networks(method, ToyBuild(), seed=0) for _ in range(2))
    a, b = networks_to_flat(first), networks_to_flat(second)
    wrong = [k for k in a if not torch.equal(a[k], b[k])]
    assert not wrong, f"the same seed gives another {wrong[0]}"
    for one, other in combinations(sorted(trained_by(method)), 2):
        x, y = first[one].state_dict(), first[other].state_dict()
        alike = x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
        assert not alike, f"networks {one!r} and {other!r} start equal"


def check_parts(case: Case) -> None:
    """Point 10: a step in two parts leaves in the memo what an undivided one leaves there; trained networks move."""
    plain, divided = make_learner(case), make_learner(case, parts=2)
    before = {k: v.clone() for k, v in networks_to_flat(divided.nets).items()}
    memos = [learner.update(case_batch(learner.method, 5), 5)[1] for learner in (plain, divided)]
    assert memos[0].keys() == memos[1].keys(), f"in parts the memo holds {sorted(memos[1])}, else {sorted(memos[0])}"
    joined = plain.method.joined
    for name, (one, other) in ((name, (memos[0][name], memos[1][name])) for name in memos[0]):
        sizes = [[n for axis, n in enumerate(x.shape) if axis != joined.get(name)] for x in (one, other)]
        assert sizes[0] == sizes[1], (
            f"memo {name!r} has shape {tuple(one.shape)}, in two parts {tuple(other.shape)}: it is no sum over the "
            "batch; name in `joined` the dimension of its items"
        )
    assert divided.sound(everything=True), "in parts something is not finite"
    after = networks_to_flat(divided.nets)
    still = [name for name in divided.trained if all(torch.equal(v, after[k]) for k, v in before.items()
                                                     if k.split(".")[0] == name)]  # fmt: skip
    assert not still, f"in parts {still[0]!r} is not trained"


def golden(case: Case, steps: int = 3) -> list[dict[str, float]]:
    """Return the terms of the first steps on toy images: what point 8 compares with recorded numbers."""
    learner = make_learner(case)
    out = []
    for t in range(steps):
        terms, _ = learner.update(toy_batch(learner.method.streams, learner.slots, t), t)
        out.append({name: float(value) for name, value in terms.items()})
    return out


POINTS: dict[str, Callable[[Case], None]] = {
    "1 terms": check_terms,
    "2 gradient map": check_gradient_map,
    "3 views matter": check_views_matter,
    "4 all trained": check_all_trained,
    "5 untrained": check_untrained,
    "6 resume": check_resume,
    "7 two ranks": check_two_ranks,
    "9 initial": check_initial,
    "10 parts": check_parts,
    "11 pixels": check_pixels,
    "12 repeats": check_repeats,
    "13 processes": check_processes,
    "14 prediction": check_prediction,
}


def check_method(name: str, say: Callable[[str], None]) -> list[str]:
    """Run every point on a method with its default constants and return what failed.

    Args:
        name: registry name or ``package.module:Class``.
        say: receives one line a point.

    Raises:
        ConfigError: there is no such method, or its file or class cannot be loaded.
    """
    module = METHODS.get(name, name).partition(":")[0]
    try:
        cases = Case(name).each_round()
    except FewmaskError:
        raise
    except Exception as error:  # of its constants, or its rounds
        raise ConfigError(f"it cannot be made: {traced(error, module)}", where=name, todo="mend it there") from error
    failures: list[str] = []
    said: set[str] = set()
    for case in cases:
        where = f", round {case.round + 1}" if len(cases) > 1 else ""
        for point, check in POINTS.items():
            try:
                check(case)
            except Exception as error:  # whatever the method's own code raises, it does not keep this point
                text = traced(error, module)
                failures.append(f"{point}{where}: {text}")
                say(f"FAILED {point}{where}: {'as above' if text in said else text}")
                said.add(text)
            else:
                say(f"ok     {point}{where}")
    return failures


def run_two_ranks(cases: Sequence[Case]) -> dict[str, str]:
    """Train every case in two gloo processes; return case to the first tensor that differs, "" if none.

    Four steps, and one more in parts, where a part need not hold images that belong together.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        words = [json.dumps([c.name, dict(c.constants), c.round]) for c in cases]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*command, "-m", "fewmask.contract", str(out), *words], capture_output=True, text=True, timeout=240
        )
        lines = [line for line in done.stderr.splitlines() if "Error" in line]
        assert done.returncode == 0, f"two processes failed: {(lines or ['no error line'])[0]}\n{done.stderr[-4000:]}"
        return json.loads(out.read_text())
