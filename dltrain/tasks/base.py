"""The contract between a task and the loop: what is learned, and in which turns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from dltrain.errors import ConfigError, problem

Batch = dict[str, Tensor]
Line = dict[str, Any]


class Loss(NamedTuple):
    """What a turn minimises.

    Args:
        total: Mean loss over ``weight`` examples or tokens, a scalar that can be differentiated.
        weight: How many examples or tokens the mean is over: a number, or a 0-d tensor when only the device knows.
        parts: Named scalars that are logged beside the loss, means over the same weight.
    """

    total: Tensor
    weight: float | Tensor
    parts: dict[str, Tensor] = {}  # noqa: RUF012


@dataclass
class Turn:
    """One optimizer's move within a step.

    Args:
        name: Tells apart several turns of a stage (``generator``, ``critic``).
        parameters: What this turn, and nothing else, may change.
        loss: ``loss(batch, progress)``, where progress rises from 0 to 1 over the run.
        every: Move only in every n-th step.
    """

    name: str
    parameters: list[nn.Parameter]
    loss: Callable[[Batch, float], Loss]
    every: int = 1


@dataclass
class Stage:
    """A span of training with fixed turns; ``epochs`` None takes what the trainer says."""

    name: str
    turns: list[Turn]
    epochs: int | None = None


class Shown(NamedTuple):
    """Something to look at: a picture (uint8, 3 x height x width) or a text (Markdown)."""

    tag: str
    image: Tensor | None = None
    text: str | None = None


@dataclass
class Evaluation:
    """What one pass over a split says.

    Args:
        metrics: Name -> value, ``loss`` among them.
        baselines: Naive method -> the same metrics, where naive methods exist.
        extra: Whatever `Task.show` wants to draw without a second pass.
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


class Task(ABC):
    """What is learned. Most tasks write only `loss` and `evaluate`."""

    metric: ClassVar[str]
    better: ClassVar[Literal["min", "max"]]

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the model must know: ``outputs``, ``each_step`` (an output at every step), ``causal``."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """The loss of one batch; `stages` uses it unless a task takes turns of its own."""

    def stages(self, model: nn.Module) -> list[Stage]:
        """The spans of training: here one, in which one turn owns every trainable parameter."""
        owned = [p for p in model.parameters() if p.requires_grad]
        return [Stage("train", [Turn("train", owned, lambda batch, progress: self.loss(model, batch, progress))])]

    @abstractmethod
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Metrics over a whole split, exact also when the last batch is short."""

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """What the model says about examples whose answers nobody knows, for people and other programs to read.

        A task may take more arguments, each with a default; ``dltrain predict`` has a flag of the same name for it.

        Args:
            model: In evaluation mode.
            batch: As for `evaluate`; targets are missing, NaN or -1.

        Returns:
            Lines of plain Python, in the data's own units: one for each example, or several, as the data expect.

        Raises:
            ConfigError: For tasks that have nothing to say about a single example.
        """
        raise ConfigError(problem("task", "a task that predicts", type(self).__name__))

    def state_dict(self) -> dict[str, Any]:
        """What the task itself remembers from step to step (a carried hidden state); tensors and plain Python."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  most tasks remember nothing
        """Go on from what `state_dict` said."""

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Shown]:
        """Pictures and text that say how well it works; drawn from ``evaluation.extra`` and the model."""
        return []
