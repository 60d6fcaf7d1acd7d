"""Interface between tasks and the training loop: losses, stages, evaluation, prediction, generation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.sample_quality import Quality
from dltrain.tasks.model_call import example_inputs

Batch = dict[str, Tensor]
Line = dict[str, Any]


class Loss(NamedTuple):
    """Loss of one batch.

    Args:
        total: Mean loss over ``weight`` examples or tokens, a differentiable scalar.
        weight: Number of examples or tokens, or the sum of their weights: a number, or a 0-d tensor if it is computed
            on the device. Losses of weight 0 are ignored, and a step whose weights are all 0 changes nothing. If a
            weight tensor is 0, the total must be finite and have a gradient of 0: for example, divide a sum by
            ``weight.clamp(min=1)``.
        parts: Named scalars to log with the loss, means over the same weight.
    """

    total: Tensor
    weight: float | Tensor
    parts: dict[str, Tensor] = {}  # noqa: RUF012

    @property
    def is_empty(self) -> bool:
        """Whether the weight is the number 0. Tensors are not read, since that would synchronize with the device."""
        return not isinstance(self.weight, Tensor) and self.weight == 0


@dataclass
class Turn:
    """One optimizer's update within a step.

    Args:
        parameters: The parameters that this turn updates; it must not change other parameters.
        loss: ``loss(batch, progress)``, where progress rises from 0 to 1 over the run.
        every: Number of steps per update; 1 updates in every step.
        lr: Learning rate at a schedule factor of 1; None for the optimizer's learning rate.
        rates: Learning rate factors of some parameters; 1 for the rest.
    """

    name: str
    parameters: list[nn.Parameter]
    loss: Callable[[Batch, float], Loss]
    every: int = 1
    lr: float | None = None
    rates: Mapping[nn.Parameter, float] = field(default_factory=dict)


class Media(NamedTuple):
    """Item to log: an image or animation, uint8 (3, height, width) or (frames, 3, height, width), or Markdown text."""

    tag: str
    image: Tensor | None = None
    text: str | None = None


@dataclass
class Evaluation:
    """Result of one pass over a split.

    Args:
        metrics: Name -> value, including the metric of the goal.
        baselines: Name of a baseline -> its metrics.
        extra: Data for `Task.show`, which therefore needs no second pass.
        notes: Sentences for the user, such as a warning about posterior collapse.
        per_class: Name of a class -> its metrics.
        definitions: Name of a metric -> how it was computed, such as a signature of sacrebleu.
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)


class Goal(NamedTuple):
    """The metric that selects the best weights and stops training early.

    Args:
        evaluate: ``evaluate(model, batches)``; the metrics that it returns include this metric.
    """

    metric: str
    better: Literal["min", "max"]
    evaluate: Callable[[nn.Module, Iterable[Batch]], Evaluation]
    show: Callable[[nn.Module, Evaluation], list[Media]] = lambda model, evaluation: []


@dataclass
class Stage:
    """Phase of training with fixed turns. Parameters that no turn owns are frozen.

    Args:
        epochs: Passes over the data; None for ``trainer.epochs``.
        data: Training examples of the stage: ``train`` for the labeled examples, ``unlabeled`` for all examples,
            whose batches need not contain targets. If all examples are labeled, both use the same batches.
        goal: Goal of the stage; None for the goal of the task.
    """

    name: str
    turns: list[Turn]
    epochs: int | None = None
    data: Literal["train", "unlabeled"] = "train"
    goal: Goal | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """Request for generated examples.

    Args:
        noise: CPU generator for all random numbers, so that they do not depend on the device.
        given: Model inputs to reconstruct, in order; None to generate new examples.
        train: Function that returns the run's training batches, for models without a prior distribution.
    """

    count: int
    noise: Generator
    device: torch.device
    label: int | None = None
    interpolate: bool = False
    given: Tensor | None = None
    train: Callable[[], Iterable[Batch]] = tuple


@dataclass(frozen=True)
class TextRequest:
    """Request for generated text.

    Args:
        prompt: Start of the text, at least one character; None for the task's prompt.
        length: Maximum number of tokens to generate, at least 1.
        temperature: Sampling temperature, at least 0; None for the task's temperature.
        top_k: Draw from the ``top_k`` most likely tokens; None for all.
        top_p: Draw from the smallest set of most likely tokens whose total probability, among the tokens that ``top_k``
            keeps, is at least ``top_p``, in (0, 1]; None for all.
        beam: Beam width of a search for the most likely text, which replaces sampling; None to sample.
    """

    prompt: str | None = None
    length: int = 200
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    beam: int | None = None


class Task(ABC):
    """Base class of tasks: what to learn and how to measure it. Each task implements `facts`, `loss` and `evaluate`."""

    metric: ClassVar[str]
    better: ClassVar[Literal["min", "max"]] = "min"
    soft_targets: ClassVar[bool] = False  # whether the loss accepts class probabilities (B, classes) as targets
    needs_targets: bool = False  # whether to call `fit_targets` before training
    quality: Quality | None = None  # scores generated samples, in tasks that generate

    @property
    def goal(self) -> Goal:
        """Goal of the stages that do not set their own."""
        return Goal(self.metric, self.better, self.evaluate, self.show)

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return spec values for the model: ``outputs``, ``each_step`` (an output per step), ``causal`` or others."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the loss of one batch."""

    def corrupt(self, batch: Batch, keys: Tensor) -> Batch:
        """Return the batch with random changes to each example; by default, return it unchanged.

        The loader calls this method in training and evaluation, but not in ``dltrain predict``.

        Args:
            keys: One random key per example, int64 (B,): derived from seed, epoch and index in training, otherwise from
                the index alone.
        """
        return batch

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return a training batch on the meta device, where fields have a shape and a type but no values.

        Args:
            facts: Spec values of the data, by name.
        """
        return example_inputs(facts, batch_size)

    def stages(self, model: nn.Module) -> list[Stage]:
        """Return the stages of training: by default one stage with one turn that owns all trainable parameters.

        The method may be called several times and must not change the model or the task.
        """
        owned = [p for p in model.parameters() if p.requires_grad]
        return [Stage("train", [Turn("train", owned, lambda batch, progress: self.loss(model, batch, progress))])]

    def begin(self, model: nn.Module) -> None:  # noqa: B027  most tasks have no state
        """Create the state that the task carries from step to step, such as Markov chains; called before training.

        `state_dict` returns this state; it is restored after a dry run and when a step is repeated. If a batch is
        computed in chunks, the field ``rows`` of a chunk (int64, on the CPU) has the positions of its examples in the
        whole batch.
        """

    def fit_targets(self, targets: Iterable[Tensor]) -> str | None:
        """Fit the task to the targets of all training examples, for example to the number of examples per class.

        Called once before training if `needs_targets`. Return a note for the user, or None.
        """
        return None

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:  # noqa: B027
        """Fit baselines that need training examples, for `evaluate`; return a note for the user, or None.

        Called once before training, and before ``dltrain evaluate`` if it evaluates the data of the run. Batches of
        ``train`` are shuffled and augmented.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return metrics over a whole split; they must be exact even if the last batch is smaller."""

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return predictions for examples whose targets are unknown, with the model in evaluation mode.

        The batch has the fields of `evaluate`, but targets are missing, NaN or -1. By default, return a prediction per
        example, with plain Python values in the units of the data. A mask of class indices is uint8 (height, width).
        A task that cannot predict raises ConfigError.
        """
        raise ConfigError(f"predict: not supported for the task {type(self).__name__}, which makes no predictions")

    def predictions(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[Line]:
        """Yield the predictions for all batches, each as soon as it is computed.

        By default, call `predict` for each batch. Override this method if a prediction needs the examples of several
        batches.
        """
        for batch in batches:
            yield from self.predict(model, batch)

    def explain(self, model: nn.Module, batch: Batch) -> Tensor | list[list[Line]]:
        """Return how much each pixel supports the prediction of its image, from 0 to 1, (B, height, width).

        For texts, return a list per text, with ``word`` and ``weight`` of each word. ``dltrain predict --explain``
        calls this method with the model in evaluation mode. Raise ConfigError if the task or model does not support it.
        """
        hint = "Only Classification, and Regression of texts, support it."
        raise ConfigError(f"--explain: not supported because the task is {type(self).__name__}. {hint}")

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Return new examples, for ``dltrain generate``, with the model in evaluation mode.

        Each example has the shape `Spec.shape`: images in [0, 1] from black to white, other data in their own units.
        A task or model that does not support the request raises ConfigError.
        """
        reason = f"for the task {type(self).__name__}, which generates no examples"
        raise ConfigError(f"generate: not supported {reason}. Use dltrain predict RUN INPUT for predictions.")

    def write(self, model: nn.Module, request: TextRequest) -> Iterator[str]:
        """Yield text piece by piece, for ``dltrain generate``, with the model in evaluation mode."""
        raise ConfigError(f"generate: not supported for the task {type(self).__name__}, which generates no text")

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the task carries from step to step, as tensors and plain Python values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  most tasks have no state
        """Restore the state that `state_dict` returned."""

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return images and text for the log, from ``evaluation.extra`` and the model."""
        return []

    def frame(self, model: nn.Module) -> Tensor | None:
        """Return the next frame of ``film.gif``, uint8 (3, height, width), or None; all frames have one size.

        The image is drawn at every evaluation from the same noise, so that the frames show the progress of training.
        """
        return None


def check_parts(model: nn.Module, parts: Iterable[str], expected: str) -> None:
    """Raise ConfigError if a model lacks one of the modules named `parts`."""
    if not all(hasattr(model, part) for part in parts):
        raise ConfigError(format_error("model", expected, type(model).__name__))
