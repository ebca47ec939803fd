"""The learner: a method's networks and optimisers, and one update of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewmask.batch import Batch, Slots
from fewmask.engine.checkpoint import Snapshot
from fewmask.engine.faults import site
from fewmask.engine.flatten import flatten_optimiser, load_networks, networks_to_flat, restore_optimiser
from fewmask.engine.optim import OptimConfig, learning_rate, make_optimiser, set_learning_rate
from fewmask.engine.parts import Part, divided, whole
from fewmask.engine.precision import Format
from fewmask.errors import ConfigError
from fewmask.method import Build, Method, Nets, Phase, Step, make_networks
from fewmask.ops.rng import Purpose, torch_seed

if TYPE_CHECKING:  # seconds to import, and a run that is only read does without
    from lightning_fabric import Fabric


class Learner:
    """Holds every network by name and trains those that the method's flow names.

    Args:
        fabric: launched; device, ranks and precision are its business.
        method: the paper.
        build: makes networks.
        optim: the recipe's optimiser; networks may override it.
        slots: this rank's share of each stream.
        total: steps of the run.
        seed: of the run.
        layout: memory format and precision.
        trains: else the networks only predict: there are no optimisers, and nothing is wrapped for distribution, which
            all ranks would have to do together.
        parts: of each step, computed one after the other: see ``engine.parts``.
    """

    def __init__(
        self, fabric: Fabric, method: Method, build: Build, optim: OptimConfig, slots: Mapping[str, Slots],
        total: int, seed: int, layout: Format, trains: bool = True, parts: int = 1,
    ) -> None:  # fmt: skip
        self.fabric, self.method, self.optim = fabric, method, optim
        self.slots, self.total, self.seed, self.layout, self.parts = dict(slots), total, seed, layout, parts
        self.phases = method.phases()
        self.trained = sorted({name for phase in self.phases for name in phase.trained}) if trains else []
        if layout.precision == "fp16" and len(self.trained) > 1:
            # one gradient scaler cannot serve optimisers that step at different times
            raise ConfigError("fp16 trains one network only", where="machine.precision", todo="use bf16 or fp32")
        self._build = build
        self.nets = self._prepare(make_networks(method, build, seed))
        self.wrapped: dict[str, Any] = {}
        self.optimisers: dict[str, Any] = {}
        for name in self.trained:
            override = method.optimisers.get(name)
            cfg = OptimConfig(**(optim.model_dump() | dict(override.values))) if override else optim
            # gradients that a scaler has enlarged can only be clipped where the optimiser does not reduce them itself
            optimiser = make_optimiser(self.nets[name], cfg, fused=layout.precision != "fp16" or cfg.clip is None)
            self.wrapped[name], self.optimisers[name] = fabric.setup(self.nets[name], optimiser)
            self.optimisers[name].fewmask_config = cfg
        self._finite = torch.ones((), dtype=torch.bool, device=fabric.device)
        self._scaler = torch.amp.GradScaler("cpu").state_dict() if fabric._precision.state_dict() else {}  # of fp16
        if self._scaler and trains:  # Fabric has one for the whole command: it has seen what was trained before
            fabric._precision.load_state_dict(self._scaler)

    def _prepare(self, nets: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """Move the networks, and give BatchNorm the statistics of all ranks where the device can."""
        for name, net in nets.items():
            if self.fabric.world_size > 1 and self.fabric.device.type == "cuda":
                net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
            net = net.to(self.fabric.device)
            nets[name] = net.to(memory_format=torch.channels_last) if self.layout.channels_last else net
        return nets

    def step_at(self, t: int) -> Step:
        """Return what a method may know about step ``t``."""
        fabric = self.fabric
        return Step.of(
            self.method.streams, self.slots, t, self.total, self.seed, fabric.global_rank, self.reduce, self.gather,
            fabric.world_size,
        )  # fmt: skip

    def reduce(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over the ranks."""
        out = self.fabric.all_reduce(x, reduce_op="sum")
        assert isinstance(out, Tensor)
        return out

    def mean(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means of scalars over the ranks, with one device sync; of loss terms those of the whole batch."""
        values = torch.stack([term.detach().float() for term in terms.values()])
        return dict(zip(terms, (self.reduce(values) / self.fabric.world_size).tolist(), strict=True))

    def gather(self, x: Tensor) -> Tensor:
        """Return the tensors of all ranks, [ranks, ...]; all must have one shape."""
        out = self.fabric.all_gather(x)
        assert isinstance(out, Tensor)
        return out.view(self.fabric.world_size, *x.shape)

    def any_rank(self, flag: bool, due: bool) -> bool:
        """Return whether the flag is set on any rank; several ranks ask each other only when it is ``due``."""
        if self.fabric.world_size == 1:
            return flag
        return due and bool(self.reduce(torch.tensor(int(flag), device=self.fabric.device)))

    def train_mode(self) -> None:
        """Put trained networks in training mode, the others in the mode that the method declares."""
        for name, net in self.nets.items():
            net.train(name in self.trained or self.method.teacher_bn == "train")

    def update(self, batch: Batch, t: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Do step ``t``: every phase's losses, backward pass and optimiser step, then the method's ``after_step``.

        Returns:
            The detached loss terms by name, and the memo.
        """
        torch.manual_seed(torch_seed(self.seed, Purpose.DROPOUT, t, slot=self.fabric.global_rank))
        step, logged = self.step_at(t), {}
        parts = divided(batch, step, self.parts)
        for phase in self.phases:
            logged |= self._phase(phase, parts)
        memo = whole([memo for _, _, memo in parts], self.method.joined)
        self._average_statistics()
        with torch.no_grad():
            self.method.after_step(self.nets, step, memo)
        return logged, memo

    def _phase(self, phase: Phase, parts: Sequence[Part]) -> dict[str, Tensor]:
        """Do one phase of a step and return its loss terms, those of the parts averaged."""
        mine = phase.trained
        if len(self.phases) > 1:  # networks of the other phases must collect no gradient here
            for name in self.trained:
                self.nets[name].requires_grad_(name in mine)
        nets = {name: self.wrapped[name] if name in mine else net for name, net in self.nets.items()}
        found = [self._gradients(phase, nets, part, last=part is parts[-1]) for part in parts]
        site("step.inside")
        for name in mine:
            optimiser = self.optimisers[name]
            cfg: OptimConfig = optimiser.fewmask_config
            if cfg.clip is not None:
                self.fabric.clip_gradients(self.wrapped[name], optimiser, max_norm=cfg.clip)
            set_learning_rate(optimiser, learning_rate(cfg, parts[0][1].t, self.total))
            optimiser.step()
            optimiser.zero_grad()
        if len(found) == 1:
            return found[0]
        return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}

    def _gradients(self, phase: Phase, nets: Nets, part: Part, last: bool) -> dict[str, Tensor]:
        """Add a part's share to the gradients and return its loss terms; the ranks meet in the last part."""
        batch, step, memo = part
        with ExitStack() as stack:
            if not last and self.fabric.world_size > 1:
                for name in phase.trained:
                    stack.enter_context(self.fabric.no_backward_sync(self.wrapped[name]))
            with self.autocast():
                terms = phase.losses(nets, batch, step, memo)
            if terms.keys() != phase.flow.keys():
                raise ValueError(f"losses returned the terms {sorted(terms)}, flow declares {sorted(phase.flow)}")
            loss = torch.stack(list(terms.values())).sum()
            self._finite &= torch.isfinite(loss.detach())
            self.fabric.backward(loss if self.parts == 1 else loss / self.parts)
        return {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Average running statistics over the ranks where BatchNorm itself could not (SyncBatchNorm needs CUDA)."""
        if self.fabric.world_size == 1 or self.fabric.device.type == "cuda":
            return
        buffers = [
            b for net in self.nets.values() for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
            for b in (m.running_mean, m.running_var) if b is not None
        ]  # fmt: skip
        if buffers:
            flat = self.reduce(torch.cat([b.flatten() for b in buffers])) / self.fabric.world_size
            for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(mean.view_as(buffer))

    def sound(self, everything: bool = False) -> bool:
        """Return (with one device sync) whether every loss since the last restore was finite, the same on every rank.

        Args:
            everything: look at every network and optimiser too. A loss may be finite and its gradient not.
        """
        finite = self._finite
        if everything:
            # the sum of finite numbers may overflow, their largest may not
            finite = torch.stack([finite, *(x.abs().amax().isfinite().to(finite.device) for x in self._floats())]).all()
        return not bool(self.reduce((~finite).int()))

    def unsound(self) -> list[str]:
        """Return the names of this rank's parameters, buffers and optimiser moments that hold NaN or infinity."""
        flat = networks_to_flat(self.nets)
        for name, optimiser in self.optimisers.items():
            flat |= {f"optimiser of {k}": x for k, x in flatten_optimiser(name, optimiser.optimizer)[0].items()}
        return [name for name, x in flat.items() if x.is_floating_point() and not bool(x.isfinite().all())]

    def _floats(self) -> Iterator[Tensor]:
        for net in self.nets.values():
            yield from (x.detach() for x in net.state_dict().values() if x.is_floating_point() and x.numel())
        for optimiser in self.optimisers.values():
            for entry in optimiser.optimizer.state.values():
                yield from (x for x in entry.values() if isinstance(x, Tensor) and x.is_floating_point())

    def rate(self, t: int) -> float:
        """Return the encoder's learning rate at step ``t``."""
        return learning_rate(self.optim, t, self.total)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass.

        bf16 is entered here and not by Fabric, because Fabric must know its precision before the ranks can tell each
        other what the first one's probe found; fp16 needs Fabric's gradient scaler and is never the probe's choice.
        """
        if self.layout.precision == "bf16":
            # no cache: a weight that was cast in a pass without gradient would be used in one with gradient
            # (torch 2.10), and not train
            return torch.autocast(self.fabric.device.type, dtype=torch.bfloat16, cache_enabled=False)
        return self.fabric.autocast()

    def snapshot(self, step: int, state: dict[str, Any]) -> Snapshot:
        """Return everything that a resume needs."""
        tensors: dict[str, Tensor] = {}
        structure: dict[str, Any] = {}
        for name, optimiser in self.optimisers.items():
            flat, structure[name] = flatten_optimiser(name, optimiser.optimizer)
            tensors |= flat
        scaler = self.fabric._precision.state_dict()
        return Snapshot(step, networks_to_flat(self.nets), tensors, state | {"optimisers": structure, "scaler": scaler})

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, in place.

        Raises:
            CheckpointError: it belongs to other networks or optimisers.
        """
        load_networks(self.nets, snapshot.networks)
        self._finite.fill_(True)
        for name, optimiser in self.optimisers.items():
            restore_optimiser(name, optimiser.optimizer, snapshot.optimisers, snapshot.state["optimisers"][name])
        if snapshot.state["scaler"]:
            self.fabric._precision.load_state_dict(snapshot.state["scaler"])

    def begin_again(self) -> None:
        """Return to the state before step 0, in place."""
        fresh = make_networks(self.method, self._build, self.seed)
        load_networks(self.nets, networks_to_flat(fresh))
        self._finite.fill_(True)
        for optimiser in self.optimisers.values():
            optimiser.optimizer.state.clear()
        if self._scaler:
            self.fabric._precision.load_state_dict(self._scaler)
