"""The fastest implementation of a torch optimizer: fused or foreach kernels, and a step without torch's wrappers."""

import inspect
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def kernel_options(kind: Any, given: Container[str], parameters: Sequence[Tensor]) -> dict[str, bool]:
    """Return the arguments for an optimizer's fastest kernels; empty if there are none or `given` sets one of them."""
    accepted = inspect.signature(kind).parameters
    if "fused" in given or "foreach" in given:
        return {}
    device = parameters[0].device.type
    # Adagrad has fused kernels on GPUs only in newer versions of torch.
    devices = ("cpu",) if kind is torch.optim.Adagrad else ("cpu", "cuda", "mps")
    if "fused" in accepted and device in devices:
        return {"fused": True}
    return {"foreach": True} if "foreach" in accepted else {}


def bare_step(optimizer: Any) -> Callable[[], Any]:
    """Return an optimizer's step without torch's wrappers for profilers, hooks and its compiler.

    The wrappers are unused here, take 10 % of the step time of a small network, and import the compiler at the first
    call (2 s).
    """
    step, no_grad = inspect.unwrap(type(optimizer).step), torch.no_grad()

    def bare() -> Any:
        with no_grad:  # as a decorator, it would make a new object in each step
            return step(optimizer)

    return bare


def fill_momentum(optimizer: Any) -> None:
    """Initialize the momentum of fused SGD to zero: torch leaves it uninitialized if the kernel skips the first step.

    Differs: the first step applies dampening; torch's first step ignores it.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and group.get("momentum") and "dampening" in group:
            for weight in group["params"]:
                optimizer.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))


def can_skip(optimizer: Any) -> bool:
    """Return whether an optimizer skips its step if its ``found_inf`` is 1, like torch's fused kernels."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


@contextmanager
def scaler_skips(scaler: torch.amp.GradScaler, optimizer: Any, skip: Tensor | None) -> Iterator[None]:
    """Skip the scaler's step within this context if `skip` is true; the gradients must already be unscaled.

    On exit, the scaler's own overflow flags are restored, so that its next scale does not depend on `skip`.
    """
    if skip is None:
        yield
        return
    flags = list(scaler._found_inf_per_device(optimizer).values())
    overflows = [flag.clone() for flag in flags]
    for flag in flags:
        flag.copy_(torch.maximum(flag, skip.to(flag)))
    try:
        yield
    finally:
        for flag, overflow in zip(flags, overflows, strict=True):
            flag.copy_(overflow)


def match_state_layout(optimizer: Any) -> None:
    """Convert the optimizer state of each weight to the memory layout of the weight.

    Fused kernels check neither shape nor layout.

    Raises:
        ValueError: A state tensor differs in shape from its weight (``step`` must be a scalar), or is not strided.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            expected = torch.Size() if name == "step" else weight.shape
            if value.shape != expected or value.layout != torch.strided:
                got = f"{tuple(value.shape)} in {value.layout}"
                raise ValueError(f"the optimizer's {name}: expected shape {tuple(expected)}, strided, got {got}")
            if name != "step" and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
