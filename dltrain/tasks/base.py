"""The contract between a task and the loop: what is learned, and in which turns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.sample_quality import Network, Quality

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
        lr: The learning rate at the schedule's factor 1; None takes the optimizer's own.
    """

    name: str
    parameters: list[nn.Parameter]
    loss: Callable[[Batch, float], Loss]
    every: int = 1
    lr: float | None = None


class Media(NamedTuple):
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
        notes: What people should be told, a sentence each (the latent variables have collapsed).
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Goal(NamedTuple):
    """What is watched: which weights are the best, and when training stops early.

    Args:
        metric: Name of a metric.
        better: Whether a small or a large value is wanted.
        evaluate: ``evaluate(model, batches)``, which gives that metric among others.
        show: ``show(model, evaluation)``, pictures and text of that evaluation.
    """

    metric: str
    better: Literal["min", "max"]
    evaluate: Callable[[nn.Module, Iterable[Batch]], Evaluation]
    show: Callable[[nn.Module, Evaluation], list[Media]] = lambda model, evaluation: []


@dataclass
class Stage:
    """A span of training with fixed turns.

    Args:
        name: For people.
        turns: Taken in this order in each step.
        epochs: Passes over the data; None takes what the trainer says.
        data: Which examples are learned from: ``train``, whose answers are known, or ``unlabelled``, all that there
            are and without answers. Data that hold no answers back have the same examples in both.
        goal: What is watched in this stage, where it is not the task's own metric.
    """

    name: str
    turns: list[Turn]
    epochs: int | None = None
    data: Literal["train", "unlabelled"] = "train"
    goal: Goal | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """What a user wants a model to make up.

    Args:
        count: How many examples.
        noise: Where all randomness is drawn from, on the CPU, so that a seed means the same everywhere.
        device: Where the model is.
        label: The class they should be of; None for any.
        interpolate: Let them lead from one to another instead of drawing each by itself.
        given: Examples as the model reads them; one is made of each, in the same order. None for none.
        train: Gives the run's own training examples, for models that know no distribution of their own.
    """

    count: int
    noise: Generator
    device: torch.device
    label: int | None = None
    interpolate: bool = False
    given: Tensor | None = None
    train: Callable[[], Iterable[Batch]] = tuple


class Task(ABC):
    """What is learned. Most tasks write only `loss` and `evaluate`."""

    metric: ClassVar[str]
    better: ClassVar[Literal["min", "max"]]
    quality: Quality | None = None  # of tasks that judge what their model makes up

    @property
    def goal(self) -> Goal:
        """What is watched, but for stages that have a goal of their own."""
        return Goal(self.metric, self.better, self.evaluate, self.show)

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
        raise ConfigError(format_error("task", "a task that predicts", type(self).__name__))

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """New examples, for ``dltrain generate``.

        Args:
            model: In evaluation mode.
            request: What to generate.

        Returns:
            Examples as `Spec.shape` has them: pictures from 0 (black) to 1 (white), anything else in the data's own
            units.

        Raises:
            ConfigError: For what this task or model cannot do.
        """
        hint = "dltrain predict RUN INPUT says what its model makes of data."
        raise ConfigError(format_error("generate", "a run whose task makes up examples", type(self).__name__, hint))

    def look_through(self, network: Network) -> None:
        """Judge what the model makes up by the features of a trained classifier, named by the key ``task.features``."""
        if self.quality is not None:
            self.quality.network = network

    def state_dict(self) -> dict[str, Any]:
        """What the task itself remembers from step to step (a carried hidden state); tensors and plain Python."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  most tasks remember nothing
        """Go on from what `state_dict` said."""

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Pictures and text that say how well it works; drawn from ``evaluation.extra`` and the model."""
        return []

    def frame(self, model: nn.Module) -> Tensor | None:
        """A picture, uint8 3 x height x width and always of one size, for the film that the run's folder keeps.

        It is drawn at every evaluation, and from the same noise each time, so that the film shows the model learn.
        """
        return None
