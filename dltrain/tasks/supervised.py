"""Supervised learning: a criterion compares the model's outputs with the targets of a batch."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from dltrain.tasks.base import Batch, Loss, Task
from dltrain.tasks.model_call import call_model


class Supervised(Task):
    """Base class of tasks whose training loss compares the model's outputs with the targets of the batch.

    In training, a model may return ``(outputs, heads)``, where ``heads`` maps the name of each auxiliary head to its
    weight and its outputs: ``{"aux": (0.4, outputs)}``. The loss of each head is multiplied by its weight and
    added to the total; the log shows it without the weight, under the name of the head. In evaluation, a model returns
    only its outputs.

    Source: auxiliary heads, Szegedy et al. 2015, "Going deeper with convolutions", section 5.
    """

    @abstractmethod
    def criterion(self, outputs: Any, batch: Batch) -> Loss:
        """Return the mean training loss, and its weight: the number of items, or the sum of their weights."""

    def model_inputs(self, batch: Batch) -> Tensor:
        """Return the inputs as the model reads them."""
        return batch["inputs"]

    def model_outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Return the model's outputs for a batch."""
        return call_model(model, batch, inputs=self.model_inputs(batch))

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the loss of the model's outputs plus the weighted losses of its auxiliary heads."""
        outputs = self.model_outputs(model, batch)
        outputs, heads = outputs if isinstance(outputs, tuple) else (outputs, {})
        total, weight, parts = self.criterion(outputs, batch)
        for name, (factor, auxiliary) in heads.items():
            of_head = self.criterion(auxiliary, batch).total
            total, parts = total + factor * of_head, {**parts, name: of_head}
        return Loss(total, weight, parts)
