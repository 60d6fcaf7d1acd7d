"""Where a number stopped being finite: training is repeated from the last good checkpoint, looking at every step."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.tasks.base import Stage, Turn
from dltrain.training.loop import Loop, grouped
from dltrain.training.step import StepInfo

EXAMPLES = 20  # how many of a batch are named in a message; the report names all


@dataclass
class Found(Exception):
    """What was found: the step, what was not finite in it, and the circumstances."""

    report: dict[str, Any]


def find(loop: Loop, until: int) -> dict[str, Any] | None:
    """Repeat training until the first loss or gradient that is not finite.

    Args:
        loop: Stands where a checkpoint, or the beginning, left it; nothing that it does is logged or saved.
        until: The step by which it was noticed.

    Returns:
        What was found, or None when the steps up to ``until`` are all finite this time.
    """
    begun = loop.state.step
    try:
        repeat(loop, until)
    except Found as found:
        return {**found.report, "repeated_from": begun}
    return None


def repeat(loop: Loop, until: int) -> None:
    """Take the steps of the present stage once more.

    Raises:
        Found: At the first number that is not finite.
    """
    if not loop.runner.optimizers:
        loop.begin_stage()
    span, state, last = loop.stages.present, loop.state, None
    loop.model.train()
    while state.step < until:
        for group in grouped(span.batches.epoch(state.epoch, state.batch), loop.config.accumulate):
            last = take_step(loop, span.stage, group, last)
            if state.step >= until:
                return
        state.epoch, state.batch = state.epoch + 1, 0


def take_step(loop: Loop, stage: Stage, group: list[Batch], last: float | None) -> float | None:
    """One step with a look at each loss and gradient; the loss, or None when no turn was due."""
    moment = StepInfo(loop.state.step, loop.state.step - loop.state.stage_start, loop.state.step / loop.steps)
    for turn in stage.turns:
        if (loop.state.step + 1) % turn.every or not any(group):
            continue
        before = torch.get_rng_state()
        optimizer = loop.runner.optimizers[turn.name]
        losses = loop.runner.find_gradients(turn, [batch for batch in group if batch], moment) or []
        totals = [float(loss.total.detach()) for loss in losses]
        wrong = next((total for total in totals if not is_finite(total)), None)
        name = bad_gradient(loop.model) if wrong is None and optimizer.scaler is None else None
        if wrong is not None or name is not None:
            torch.set_rng_state(before)
            raise Found(describe(loop, turn, group, wrong, name, last))
        last = sum(totals) / max(1, len(totals))
        optimizer.step(moment.in_stage)
    loop.state.step += 1
    loop.state.batch += len(group)
    return last


def describe(
    loop: Loop, turn: Turn, group: list[Batch], loss: float | None, gradient: str | None, last: float | None
) -> dict[str, Any]:
    """All that helps to understand it."""
    state, batches = loop.state, loop.stages.present.batches
    size = batches.batch_size
    order = batches.order(state.epoch)[state.batch * size : (state.batch + len(group)) * size]
    return {
        "step": state.step + 1,
        "epoch": state.epoch,
        "batch": state.batch,
        "turn": turn.name,
        "what": "loss" if loss is not None else f"gradient of {gradient}",
        "value": str(loss) if loss is not None else "not finite",
        "lr": loop.runner.optimizers[turn.name].lr,
        "last_finite_loss": last,
        "module": first_module(loop, turn, group) if loss is not None else None,
        "examples": order.tolist(),
    }


def first_module(loop: Loop, turn: Turn, group: list[Batch]) -> str | None:
    """The first module whose output is not finite, with its kind; None when all are and the loss itself is not."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(bool(value.isfinite().all()) for value in tensors(output)):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in loop.model.named_modules()]
    try:
        with torch.no_grad(), loop.device.autocast():
            for batch in filter(None, group):
                turn.loss(batch, loop.state.step / loop.steps)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of floats in what a module returns."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]


def bad_gradient(model: nn.Module) -> str | None:
    """The first parameter whose gradient is not finite."""
    return next((n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()), None)


def is_finite(value: float) -> bool:
    """Whether it is a number that is not infinite."""
    return abs(value) < float("inf")


def sentence(report: dict[str, Any]) -> str:
    """The report in a line or two."""
    where = f"first not finite: {report['module']}. " if report["module"] else ""
    loss = report["last_finite_loss"]
    before = "there was no finite loss before it" if loss is None else f"the loss before it was {loss:.4g}"
    names = ", ".join(map(str, report["examples"][:EXAMPLES])) + (", …" if len(report["examples"]) > EXAMPLES else "")
    value = f"became {report['value']}" if report["what"] == "loss" else "is not finite"
    return (
        f"the {report['what']} {value} in step {report['step']} (learning rate {report['lr']:.4g}; {before}). "
        f"{where}Examples of the batch: {names}. nan_report.json has it all"
    )
