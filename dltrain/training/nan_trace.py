"""Locate the first NaN or infinity by repeating training from a checkpoint and checking every step."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.tasks.base import Turn
from dltrain.training.loop import Loop, grouped
from dltrain.training.step import StepInfo

MAX_EXAMPLES = 20  # examples of a step that the message lists; the report lists all


def trace(loop: Loop, until: int) -> dict[str, Any] | None:
    """Repeat training until the first loss, gradient or weight that is not finite, without logging or saving.

    Args:
        loop: Loop at the start of the run or at a loaded checkpoint.
        until: The step at which the divergence was detected.

    Returns:
        A report of the step, or None if all steps up to ``until`` are finite this time.
    """
    if not loop.runner.optimizers:
        loop.begin_stage()
    start, last_loss = loop.state.step, None
    while (state := loop.state).step < until:
        if loop.stage_is_over:
            loop.begin_next_stage()
            continue
        for group in grouped(loop.current.batches.epoch(state.epoch, state.batch), loop.config.accumulate):
            report, last_loss = _repeat_step(loop, group, last_loss)
            if report is not None:
                return {**report, "repeated_from": start}
            if state.step >= until or loop.stage_is_over:
                break
        else:
            state.epoch, state.batch = state.epoch + 1, 0
    return None


def _repeat_step(loop: Loop, group: list[Batch], last_loss: float | None) -> tuple[dict[str, Any] | None, float | None]:
    """Take one step and check its losses, gradients and weights; return a report or None, and the last loss."""
    state, batches = loop.state, [batch for batch in group if batch]
    info = StepInfo(state.step, state.step - state.stage_start, state.step / loop.stages.steps)
    for turn in loop.current.stage.turns:
        if (state.step + 1) % turn.every or not batches:
            continue
        random_state, task_state = torch.get_rng_state(), copy.deepcopy(loop.task.state_dict())
        optimizer = loop.runner.optimizers[turn.name]
        losses = loop.runner.compute_gradients(turn, batches, info) or []
        totals = [float(loss.total.detach()) for loss in losses if float(loss.weight)]
        what = None if all(map(math.isfinite, totals)) else "loss"
        weights = dict(loop.model.named_parameters())
        if what is None and optimizer.scaler is None:  # a scaler skips steps with non-finite gradients
            what = _first_not_finite("gradient of", {name: weight.grad for name, weight in weights.items()})
        if what is not None:
            torch.set_rng_state(random_state)
            loop.task.load_state_dict(task_state)
            return _report(loop, turn, group, what, totals, last_loss), last_loss
        last_loss = sum(totals) / max(1, len(totals))
        optimizer.step(info.step_in_stage)
        if what := _first_not_finite("weight", weights):
            return _report(loop, turn, group, what, totals, last_loss), last_loss
    state.step += 1
    state.batch += len(group)
    return None, last_loss


def _first_not_finite(kind: str, tensors: Mapping[str, Tensor | None]) -> str | None:
    """Return kind and name of the first tensor with a NaN or infinity, or None."""
    names = (name for name, value in tensors.items() if value is not None and not value.isfinite().all())
    return next((f"{kind} {name}" for name in names), None)


def _report(
    loop: Loop, turn: Turn, group: list[Batch], what: str, totals: list[float], last_loss: float | None
) -> dict[str, Any]:
    state = loop.state
    parts = loop.current.batches.plan(state.epoch)[state.batch : state.batch + len(group)]
    return {
        "step": state.step + 1,
        "epoch": state.epoch,
        "batch": state.batch,
        "turn": turn.name,
        "what": what,
        "value": next((str(total) for total in totals if not math.isfinite(total)), "not finite"),
        "lr": loop.runner.optimizers[turn.name].lr,
        "last_finite_loss": last_loss,
        "module": _first_bad_module(loop, turn, group) if what == "loss" else None,
        "examples": torch.cat(parts).tolist(),
    }


def _first_bad_module(loop: Loop, turn: Turn, group: list[Batch]) -> str | None:
    """Return the first module whose output is not finite, with its class; None if only the loss is not finite."""
    found: list[str] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(bool(value.isfinite().all()) for value in _float_tensors(output)):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in loop.model.named_modules()]
    try:
        with torch.no_grad(), loop.device.autocast():
            for batch in filter(None, group):
                turn.loss(batch, loop.state.step / loop.stages.steps)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _float_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in _float_tensors(item)]


def summarize(report: dict[str, Any]) -> str:
    """Return the error message for a report."""
    where = f"First module with a non-finite output: {report['module']}. " if report["module"] else ""
    loss = report["last_finite_loss"]
    before = "" if loss is None else f"; last finite loss {loss:.4g}"
    examples = report["examples"]
    names = ", ".join(map(str, examples[:MAX_EXAMPLES])) + (", …" if len(examples) > MAX_EXAMPLES else "")
    value = f"became {report['value']}" if report["what"] == "loss" else "is not finite"
    return (
        f"the {report['what']} {value} in step {report['step']} (learning rate {report['lr']:.4g}{before}). "
        f"{where}Examples of this step: {names}. The full report is in nan_report.json"
    )
