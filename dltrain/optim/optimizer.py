"""Training optimizer: gradient accumulation, loss scaling, regularization, schedule and step."""

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.optim.kernels import bare_step, can_skip, fill_momentum, kernel_options, match_state_layout, scaler_skips
from dltrain.optim.regularization import Regularization, Regularizer
from dltrain.optim.schedules import Schedule
from dltrain.tasks.base import Loss

SKIPPED = "skipped_steps"  # name under which the number of skipped steps is logged


class Optimizer:
    """Torch optimizer with its schedule and regularization: call `backward` for every micro-batch, then `step`.

    Penalties and weight decay, including the optimizer's own ``weight_decay``, are not applied to biases and norm
    scales (fewer than two dimensions) unless ``regularization.decay_biases`` is true.

    Args:
        make: Class of the torch optimizer with its arguments bound; called with parameter groups. Fused or foreach
            kernels are chosen if they exist and ``make`` does not set them.
        steps: Number of steps of the training stage.
        scaler: Loss scaler for float16. If gradients overflow, the step is skipped and counted in `skipped`; only the
            decay of ``regularization.weight_decay`` is still applied. The schedule does not count skipped steps once
            `set_known_skipped` has been called with their number.
        rates: Learning rate factors of some parameters; 1 for the rest.
        only_own: Compute gradients for ``parameters`` only, not for other parameters of the model.
        skip: Skip steps whose gradients are not finite; without a scaler, this waits for the GPU in each step.
    """

    def __init__(
        self,
        make: partial[Any],
        parameters: Sequence[nn.Parameter],
        schedule: Schedule,
        steps: int,
        regularization: Regularization,
        scaler: torch.amp.GradScaler | None = None,
        only_own: bool = False,
        rates: Mapping[nn.Parameter, float] = MappingProxyType({}),
        skip: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        self.scaler = scaler
        self.skip = skip and scaler is None  # a scaler itself skips steps with gradients that are not finite
        self._inputs = self.parameters if only_own else None
        self._kernels = kernel_options(inspect.unwrap(make.func), make.keywords, self.parameters)
        self.optimizer: Any = make(_parameter_groups(make, self.parameters, regularization, rates), **self._kernels)
        self._bare_step = bare_step(self.optimizer)
        self.schedule, self.steps, self._factor = schedule, steps, math.nan
        self._groups: list[dict[str, Any]] = self.optimizer.param_groups
        self._base_rates = [group["lr"] * group.get("rate", 1.0) for group in self._groups]
        self.regularizer = Regularizer(regularization, self.parameters, self._groups)
        self._count = 0  # micro-batches since the last step
        self._first_weight: float | Tensor = 1.0
        self._weight_sum: float | Tensor = 1.0
        self._started = False  # whether a step has been taken
        self._one = torch.ones((), device=self.parameters[0].device)
        self.skipped = torch.zeros_like(self._one)
        self._known_skipped = 0
        self._set_rates(0)

    def backward(self, loss: Loss) -> None:
        """Accumulate the gradients of one micro-batch; `step` turns their sum into the gradients of the mean loss."""
        if loss.is_empty:
            return
        total = loss.total
        if self._count == 0:
            self._first_weight = self._weight_sum = loss.weight
        else:
            # Loss weights relative to the first one keep float16 gradients at the size that the scaler is tuned to.
            total = total * (loss.weight / _or_one(self._first_weight))
            self._weight_sum = self._weight_sum + loss.weight
        self._count += 1
        if self.scaler is not None:
            total = self.scaler.scale(total)
        if self._inputs is None:
            total.backward()
        else:
            total.backward(inputs=self._inputs)

    def step(self, number: int, measure: bool = False) -> Tensor | None:
        """Update the weights at step `number` of the training stage and drop the gradients.

        If `measure` is true, or `skip` without a scaler, return the norm of all gradients, including penalties, before
        clipping. If all micro-batches have weight 0, nothing changes and the result is None. If weights of losses are
        tensors, optimizers without fused kernels wait for the device in each step.
        """
        if self._count == 0:
            return None
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = None
        if measure or self.regularizer.changes_gradients or self.skip or self._count > 1:
            norm = self._finish_gradients(measure or self.skip)
        if self.skip and norm is not None and not math.isfinite(norm):
            self.skipped += 1
            self._known_skipped += 1
            self.drop_gradients()
            return norm
        self._set_rates(number - self._known_skipped)
        self._update_weights()
        self.drop_gradients()
        return norm

    def _update_weights(self) -> None:
        """Decay the parameters and step the torch optimizer, unless the losses of the step have a total weight of 0."""
        empty = self._weight_sum == 0 if isinstance(self._weight_sum, Tensor) else None
        if not self._started and (self.scaler is not None or empty is not None):
            fill_momentum(self.optimizer)
        self._started = True
        if self.regularizer.decayed:
            self.regularizer.decay(self._groups, 1.0 if empty is None else ~empty)
        if self.scaler is not None:
            self._scaled_step(self.scaler, empty)
        elif empty is None:
            self._bare_step()
        elif can_skip(self.optimizer):
            self.optimizer.found_inf = empty.float()
            self._bare_step()
            del self.optimizer.found_inf
        elif not empty:  # waits for the device
            self._bare_step()

    def _scaled_step(self, scaler: torch.amp.GradScaler, empty: Tensor | None) -> None:
        """Step unless `empty` is true, update the scale, and count a step that was skipped because of an overflow."""
        # The scale decreases only after an overflow, so this counts skipped steps without waiting for the device.
        before = scaler.scale(self._one)
        with scaler_skips(scaler, self.optimizer, empty):
            scaler.step(self.optimizer)
        scaler.update()
        self.skipped += scaler.scale(self._one) < before

    def _set_rates(self, step: int) -> None:
        """Set the learning rate and momentum of the schedule at `step`, counted from 0."""
        factor = self.schedule.factor(step, self.steps)
        if factor != self._factor:
            self._factor = factor
            for group, rate in zip(self._groups, self._base_rates, strict=True):
                group["lr"] = rate * factor
        momentum = self.schedule.momentum(step, self.steps)
        for group in self._groups if momentum is not None else ():
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif group.get("momentum"):
                group["momentum"] = momentum

    @torch.no_grad()
    def _finish_gradients(self, measure: bool) -> Tensor | None:
        """Divide accumulated gradients by the sum of weights, then add penalties and clip."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return torch.zeros_like(self._one) if measure else None
        if self._count > 1:
            relative = self._weight_sum / _or_one(self._first_weight)
            torch._foreach_div_(gradients, _or_one(relative))
        return self.regularizer.apply(gradients, measure)

    def drop_gradients(self) -> None:
        """Set all gradients to None, which is twice as fast as ``zero_grad``, and reset the number of micro-batches."""
        self._count = 0
        for parameter in self.parameters:
            parameter.grad = None

    def set_known_skipped(self, count: float) -> None:
        """Set the number of skipped steps that was last read from the device; the schedule does not count them."""
        self._known_skipped = int(count)

    @property
    def lr(self) -> float:
        """Learning rate of the first parameter group in the last step."""
        return self._groups[0]["lr"]

    def readings(self) -> dict[str, Tensor]:
        """Return scalars to log with the loss, as tensors on the device."""
        config = self.regularizer.config
        found = {"penalty": self.regularizer.penalty()} if config.l1 or config.l2 else {}
        return {**found, SKIPPED: self.skipped} if self.scaler is not None or self.skip else found

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and the scaler, but not of the schedule."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
            "skipped": self.skipped,
            "known": self._known_skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned, but keep this optimizer's choice of kernels."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._groups, self._factor = self.optimizer.param_groups, math.nan  # the next step sets the rates
        for group in self._groups:
            group.update(self._kernels)
        if any(group.get("fused") for group in self._groups):
            match_state_layout(self.optimizer)
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped.copy_(state["skipped"])
        self._known_skipped = state["known"]


def _or_one(weight: float | Tensor) -> float | Tensor:
    """Return `weight`, or 1 where it is 0, for use as a divisor.

    Only tensors are checked: `backward` has already skipped losses whose weight is the number 0.
    """
    return torch.where(weight == 0, 1, weight) if isinstance(weight, Tensor) else weight


def _parameter_groups(
    make: partial[Any],
    parameters: list[nn.Parameter],
    regularization: Regularization,
    rates: Mapping[nn.Parameter, float],
) -> list[dict[str, Any]]:
    """Return as few parameter groups as possible, because each group costs kernel launches in every step.

    Parameters with different learning rate factors need separate groups, which store the factor as ``rate``; the
    highest factor comes first.
    """
    groups = []
    for group in _decay_groups(make, parameters, regularization):
        factors = sorted({rates.get(p, 1.0) for p in group["params"]}, reverse=True)
        if factors == [1.0]:
            groups.append(group)
            continue
        for factor in factors:
            share = [p for p in group["params"] if rates.get(p, 1.0) == factor]
            groups.append({**group, "params": share, "rate": factor})
    return groups


def _decay_groups(
    make: partial[Any], parameters: list[nn.Parameter], regularization: Regularization
) -> list[dict[str, Any]]:
    """Return one group, or two if the optimizer's own decay must skip biases and norm scales."""
    argument = inspect.signature(make.func).parameters.get("weight_decay")
    decay = make.keywords.get("weight_decay", argument.default if argument else 0.0)
    adamw = make.keywords.get("adamw")  # argument of Muon
    if isinstance(adamw, Mapping):
        decay = decay or adamw.get("weight_decay", 0.0)
    if regularization.decay_biases or not decay:
        return [{"params": parameters}]
    undecayed = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
    groups = ({"params": regularization.penalized(parameters)}, undecayed)
    return [group for group in groups if group["params"]]
