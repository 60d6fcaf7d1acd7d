"""Gradient of the last step's loss with respect to the inputs of earlier steps: how far back in time a model learns."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.plots.distance import distance_chart
from dltrain.tasks.base import Batch, Evaluation, Goal, Media, Task

EXAMPLES = 64  # examples whose gradients are averaged
KEY = "gradient_distance"


class TaskOverSteps(Task):
    """Base class of tasks that can plot the gradient of the last step's loss by distance in time.

    If ``gradient_distance`` is true, validation plots the norm of the gradient of the loss at the last step with
    respect to the input of each step, averaged over up to 64 examples of the first batch.

    Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.
    Differs: the gradient is taken with respect to the inputs (or embeddings), not the hidden states.
    """

    gradient_distance: bool = False

    @property
    def goal(self) -> Goal:
        """Goal of the task; its evaluation keeps the first batch if the gradients are shown."""
        goal = super().goal
        if not self.gradient_distance:
            return goal
        return goal._replace(evaluate=self._evaluate_and_keep, show=self._show_with_gradients)

    def begin(self, model: nn.Module) -> None:
        """Check that the gradients can be computed.

        Raises:
            ConfigError: `gradient_distance` is true and the model has no module ``steps``.
        """
        if self.gradient_distance and not isinstance(getattr(model, "steps", None), nn.Module):
            reason = f"{type(model).__name__} has no module `steps`; rnn, lstm, gru and transformer have one"
            raise ConfigError(f"task.gradient_distance: not supported because {reason}")

    def last_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss at the last step, summed over the examples; by default, the loss of the task."""
        total, weight, _ = self.loss(model, batch, 1.0)
        return total * weight

    def _evaluate_and_keep(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Evaluate, and keep the first batch."""
        kept: list[Batch] = []

        def watched() -> Iterator[Batch]:
            for batch in batches:
                kept[:] = kept or [batch]
                yield batch

        evaluation = self.evaluate(model, watched())
        evaluation.extra[KEY] = kept[0]
        return evaluation

    def _show_with_gradients(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return the media of the task, and a chart and a table of the gradients."""
        norms = gradient_norms(self, model, evaluation.extra[KEY])
        return [*self.show(model, evaluation), Media(KEY, distance_chart(norms)), Media(KEY, text=table(norms))]


def gradient_norms(task: TaskOverSteps, model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean norm of the gradient of the last step's loss at each distance in time, (L,).

    The gradient is taken with respect to the output of the model's module ``steps``. Element ``d`` of the result is the
    mean norm ``d`` steps before the last step, over the examples that have such a step.
    """
    found: list[Tensor] = []

    def cut(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        found[:] = [output.detach().requires_grad_()]
        return found[0]

    hook = model.get_submodule("steps").register_forward_hook(cut)
    device = batch["inputs"].device.type
    try:
        # Inference tensors have no gradients, cuDNN computes no RNN gradients in eval mode, and hooks need eager mode.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            with torch.backends.cudnn.flags(enabled=False), _in_eager_mode():
                loss = task.last_loss(model, first_examples(batch))
            (gradient,) = torch.autograd.grad(loss, found[0])
    finally:
        hook.remove()
    return mean_by_distance(gradient.norm(dim=-1), batch.get("lengths"))


def _in_eager_mode() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which compiled modules run without compilation."""
    compiled = "torch._dynamo" in sys.modules  # imported by the first compilation; importing it takes seconds
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


def first_examples(batch: Batch) -> Batch:
    """Return copies of the first examples of a batch; fields without a batch axis are copied unchanged."""
    size = len(batch["inputs"])
    return {
        name: (value[:EXAMPLES] if value.dim() and len(value) == size else value).clone()
        for name, value in batch.items()
    }


def mean_by_distance(norms: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the mean of norms (B, T) at each distance from the last step, (L,); L is the largest length, or T."""
    if lengths is None:
        return norms.mean(0).flip(0)
    last = lengths[: len(norms)].clamp(min=1).to(norms.device)[:, None] - 1
    distance = last - torch.arange(norms.shape[1], device=norms.device)
    total, count = norms.new_zeros(norms.shape[1]), norms.new_zeros(norms.shape[1])
    inside = distance >= 0
    total.index_add_(0, distance[inside], norms[inside])
    count.index_add_(0, distance[inside], torch.ones_like(norms[inside]))
    return total[: int(last.max()) + 1] / count[: int(last.max()) + 1]


def table(norms: Tensor) -> str:
    """Return the norms at some distances as a table in Markdown."""
    places = [0, *(2**power for power in range(len(norms).bit_length())), len(norms) - 1]
    rows = [f"| {place} | {float(norms[place]):.3g} |" for place in sorted({p for p in places if p < len(norms)})]
    return "\n".join(["| steps before the last step | norm of the gradient |", "| ---: | ---: |", *rows])
