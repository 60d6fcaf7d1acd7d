"""One turn's optimizer with everything that regularization adds on the way."""

import inspect
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.optim.schedules import Schedule
from dltrain.tasks.base import Loss

SKIPPED = "skipped_steps"  # how many are left out, as it is logged


@dataclass(frozen=True)
class Regularization:
    """What regularization asks of the optimizer; 0 is off everywhere.

    Args:
        l1: Adds ``l1 * sum |w|`` to the loss.
        l2: Adds ``l2 / 2 * sum w^2`` to the loss, so that it equals torch's ``weight_decay`` under SGD.
        weight_decay: Decoupled: each step multiplies weights by ``1 - lr * weight_decay``, whatever the optimizer.
            It comes on top of a ``weight_decay`` of the optimizer's own.
        clip_norm: Largest norm of all gradients together.
        clip_value: Largest size of a single gradient.
        decay_biases: Penalise biases and norm scales too.

    Source: decoupled decay: Loshchilov, Hutter 2019, "Decoupled weight decay regularization", algorithm 2.
    """

    l1: float = 0.0
    l2: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    clip_value: float = 0.0
    decay_biases: bool = False


class Optimizer:
    """What a turn calls in each step: `backward` for every micro-batch, then `step`.

    Penalties and decay, the optimizer's own ``weight_decay`` included, leave out biases and norm scales (fewer than
    two dimensions) unless ``regularization.decay_biases`` is true.

    Args:
        make: A torch optimizer with its arguments bound; called with parameter groups. Fused or foreach kernels are
            chosen where there are any and ``make`` does not say.
        parameters: What this turn may change.
        schedule: Moves the learning rate, as a factor on the optimizer's own.
        steps: Steps of the whole run.
        regularization: Penalties and clipping.
        scaler: For float16. A step whose gradients overflow leaves the optimizer and its state alone and is counted
            in `skipped`. From the time it is known, see `know_skipped`, the schedule does not count it; decoupled decay
            goes on.
        partial: Other turns own other parameters, so that gradients must be kept to these.
        skip: Leave out steps whose gradients are not finite; on a GPU this waits for each step.
    """

    def __init__(
        self,
        make: partial[Any],
        parameters: Sequence[nn.Parameter],
        schedule: Schedule,
        steps: int,
        regularization: Regularization,
        scaler: torch.amp.GradScaler | None = None,
        partial: bool = False,
        skip: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        self.schedule = schedule
        self.steps = steps
        self.regularization = regularization
        self.scaler = scaler
        self.skip = skip and scaler is None  # the scaler skips them itself
        self._inputs = self.parameters if partial else None
        self._penalised: list[Tensor] = [p for p in self.parameters if regularization.decay_biases or p.ndim >= 2]
        self._fast = kernels(inspect.unwrap(make.func), make.keywords, self.parameters)
        self.optimizer: Any = make(self._grouped(own_decay(make)), **self._fast)
        self._move = bare_step(self.optimizer)
        self._groups: list[dict[str, Any]] = self.optimizer.param_groups
        self._rates = [group["lr"] for group in self._groups]
        self._decays = self._decayed_by_group()
        r = regularization
        self._reshapes = any((r.l1, r.l2, r.clip_norm, r.clip_value))
        self._first: float | Tensor = 1.0
        self._weights: float | Tensor | None = None
        self._factor: float | None = None
        self._one = torch.ones((), device=self.parameters[0].device)
        self.skipped = torch.zeros_like(self._one)
        self._known = 0  # skipped steps that the host has heard of
        self._pace(0)

    def backward(self, loss: Loss, first: bool = True) -> None:
        """Add one micro-batch's gradients.

        Args:
            loss: Micro-batches may have different weights: the step is that of the mean over all of them.
            first: This is the step's first micro-batch.
        """
        total = loss.total
        if first:
            self._first, self._weights = loss.weight, None
        else:
            # Relative to the first, so that float16 gradients keep the size that the scaler has tuned.
            ratio = loss.weight / self._first
            self._weights = ratio + (1.0 if self._weights is None else self._weights)
            total = total * ratio
        if self.scaler is not None:
            total = self.scaler.scale(total)
        if self._inputs is None:
            total.backward()
        else:
            total.backward(inputs=self._inputs)

    def step(self, number: int, measure: bool = False) -> Tensor | None:
        """Move the weights and drop the gradients.

        Args:
            number: The run's step, counted from 0.
            measure: Return the norm of all gradients together, penalties included, before clipping.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = None
        if measure or self._reshapes or self.skip or self._weights is not None:
            norm = self._reshape_gradients(measure or self.skip)
        if self.skip and norm is not None and not math.isfinite(norm):
            self.skipped += 1
            self._known += 1
            self.drop_gradients()
            return norm
        self._pace(number - self._known)
        if self._decays:
            self._decay()
        if self.scaler is None:
            self._move()
        else:
            self._step_scaled(self.scaler)
        self.drop_gradients()
        return norm

    def drop_gradients(self) -> None:
        """Forget all gradients, in half the time of zero_grad, which matters in small networks."""
        for parameter in self.parameters:
            parameter.grad = None

    def know_skipped(self, count: float) -> None:
        """Hear, when the device has been asked anyway, how many steps were skipped so far."""
        self._known = int(count)

    @property
    def lr(self) -> float:
        """The learning rate of the last step (of the first group)."""
        return self._groups[0]["lr"]

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """What L1 and L2 presently add to the loss, for logging."""
        total = torch.zeros_like(self._one)
        l1, l2 = self.regularization.l1, self.regularization.l2
        for weight in self._penalised:
            if l1:
                total += l1 * weight.abs().sum()
            if l2:
                total += l2 / 2 * weight.square().sum()
        return total

    def readings(self) -> dict[str, Tensor]:
        """What to log beside the loss, 0-d tensors that are still on the device."""
        found = {"penalty": self.penalty()} if self.regularization.l1 or self.regularization.l2 else {}
        return {**found, SKIPPED: self.skipped} if self.scaler is not None or self.skip else found

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the schedule's state, as tensors and plain Python."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
            "skipped": self.skipped,
            "known": self._known,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` said; kernels are those of this machine.

        Raises:
            ValueError: When a part of the state has not the shape of its weight.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        self._groups = self.optimizer.param_groups
        for group in self._groups:
            group.update(self._fast)
        if any(group.get("fused") for group in self._groups):
            self._lay_out()
        self._factor = None
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped.copy_(state["skipped"])
        self._known = state["known"]

    def _lay_out(self) -> None:
        """Give the state of each weight the layout of the weight: fused kernels go by addresses and check neither."""
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                wanted = weight.shape if name != "step" else torch.Size()
                if not isinstance(value, Tensor):
                    continue
                if value.shape != wanted or value.layout != torch.strided:
                    found = f"{tuple(value.shape)}, expected {tuple(wanted)}"
                    raise ValueError(f"the optimizer's {name} has shape {found}")
                if name != "step" and value.stride() != weight.stride():
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def _grouped(self, decay: float) -> list[dict[str, Any]]:
        """One group where one will do: each costs a launch per step."""
        if self.regularization.decay_biases or not decay:
            return [{"params": self.parameters}]
        spared = [p for p in self.parameters if p.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": self._penalised}, {"params": spared, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def _decayed_by_group(self) -> list[tuple[int, list[Tensor]]]:
        """Which parameters of which group decay: groups may differ in their learning rates."""
        if not self.regularization.weight_decay:
            return []
        chosen = {id(p) for p in self._penalised}
        lists = [[p for p in group["params"] if id(p) in chosen] for group in self._groups]
        return [(index, members) for index, members in enumerate(lists) if members]

    def _pace(self, number: int) -> None:
        factor = self.schedule.factor(number, self.steps)
        if factor != self._factor:
            self._factor = factor
            for group, rate in zip(self._groups, self._rates, strict=True):
                group["lr"] = rate * factor
        momentum = self.schedule.momentum(number, self.steps)
        if momentum is None:
            return
        for group in self._groups:
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif group.get("momentum"):
                group["momentum"] = momentum

    @torch.no_grad()
    def _reshape_gradients(self, measure: bool) -> Tensor | None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return torch.zeros_like(self._one) if measure else None
        if self._weights is not None:
            torch._foreach_div_(gradients, self._weights)
        self._add_penalties()
        norm = None
        clip = self.regularization.clip_norm
        if measure or clip:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if norm is not None and clip:
            torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp_(max=1.0))
        if limit := self.regularization.clip_value:
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)
        return norm if measure else None

    def _add_penalties(self) -> None:
        l1, l2 = self.regularization.l1, self.regularization.l2
        if not (l1 or l2):
            return
        weights = [p for p in self._penalised if p.grad is not None]
        gradients = [g for p in weights if (g := p.grad) is not None]
        if weights and l2:
            torch._foreach_add_(gradients, weights, alpha=l2)
        if weights and l1:
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=l1)

    @torch.no_grad()
    def _decay(self) -> None:
        for index, weights in self._decays:
            torch._foreach_mul_(weights, 1 - self._groups[index]["lr"] * self.regularization.weight_decay)

    def _step_scaled(self, scaler: torch.amp.GradScaler) -> None:
        """The scale falls after an overflow and only then, which counts skipped steps without asking the device."""
        before = scaler.scale(self._one)
        scaler.step(self.optimizer)
        scaler.update()
        self.skipped += scaler.scale(self._one) < before


def bare_step(optimizer: Any) -> Callable[[], Any]:
    """An optimizer's step without what torch wraps around it for profilers, hooks and its compiler.

    None of these serves here, together they take a tenth of a small network's step, and the first call imports the
    compiler, which takes two seconds.
    """
    step = torch.no_grad()(inspect.unwrap(type(optimizer).step))
    return partial(step, optimizer)


def own_decay(make: partial[Any]) -> float:
    """The ``weight_decay`` that a bound optimizer will use, 0 where it takes none."""
    argument = inspect.signature(make.func).parameters.get("weight_decay")
    return make.keywords.get("weight_decay", argument.default if argument else 0.0)


def kernels(kind: Any, given: Container[str], parameters: Sequence[Tensor]) -> dict[str, bool]:
    """The fastest implementation that ``kind`` offers for these parameters, as arguments to it."""
    accepted = inspect.signature(kind).parameters
    if "fused" in given or "foreach" in given:
        return {}
    device = parameters[0].device.type
    # Adagrad came late to fused kernels on GPUs; an older torch refuses them.
    devices = ("cpu",) if kind is torch.optim.Adagrad else ("cpu", "cuda", "mps")
    if "fused" in accepted and device in devices:
        return {"fused": True}
    return {"foreach": True} if "foreach" in accepted else {}
