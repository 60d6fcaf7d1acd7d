"""The facts that data state. Models and tasks meet data only through them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from dltrain.data.inputs import Given


@dataclass(frozen=True)
class Spec:
    """A closed list of facts about one data set; None where it has nothing to say.

    YAML pulls a fact by name, ``features: ${spec.features}``. A model or task whose argument does not admit None
    refuses data that do not state it, which is how a pairing that makes no sense stops at once.

    Args:
        shape: Shape of one example's ``inputs``, without the batch axis.
        size: Numbers in a whole example, flattened.
        features: Numbers per step of a sequence (an image is a sequence of rows; a token counts as one-hot).
        length: Steps per example.
        channels: Of an image.
        height: Of an image, in pixels.
        width: Of an image, in pixels.
        low: What a model reads for black, one number per channel; None where inputs have no bounds.
        high: What it reads for white, likewise.
        classes: Number of classes to tell apart.
        class_names: One name per class.
        targets: Numbers to predict per example (regression).
        target_names: One name per predicted number or series.
        columns: Series that are predicted together.
        horizon: Steps to predict.
        season: Steps after which a series repeats, for the naive forecasts.
        unit: Unit of the predicted numbers.
        vocabulary: Number of different tokens.
        pad: The token that fills short sequences.
        decode: Turns a list of tokens into text.
        encode: Turns text into a list of tokens.
    """

    shape: tuple[int, ...] | None = None
    size: int | None = None
    features: int | None = None
    length: int | None = None
    channels: int | None = None
    height: int | None = None
    width: int | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    targets: int | None = None
    target_names: tuple[str, ...] | None = None
    columns: int | None = None
    horizon: int | None = None
    season: int | None = None
    unit: str | None = None
    vocabulary: int | None = None
    pad: int | None = None
    decode: Callable[[list[int]], str] | None = None
    encode: Callable[[str], list[int]] | None = None


class Files(Protocol):
    """Examples that must be decoded one by one or do not fit into memory; read by worker processes."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch at once: name -> tensor with one row per index.

        Raises:
            ConfigError: One of the examples cannot be read; asked for alone, it is named.
        """

    # Optional: files() -> (name, bytes) of each example's file, which tells these data from others; the name is the
    # same wherever the whole set lies.


@dataclass(frozen=True)
class Source:
    """One split of a data set.

    Args:
        rows: Tensors whose first axis counts the examples (views such as ``unfold`` are welcome: a row is copied only
            when it is drawn), or `Files`.
        prepare: Turns a batch of rows, already on the device, into what the task reads (``inputs``, ``targets``, ...).
            It works on any number of rows at once, each row by itself, and draws no random numbers.
        augment: Changes a prepared batch at random, in training only: ``augment(batch, keys)``, where ``keys`` (int64,
            one per example) name the randomness of each example; see `dltrain.data.loader.uniform`.
    """

    rows: Mapping[str, Tensor] | Files
    prepare: nn.Module
    augment: nn.Module | None = None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()))) if isinstance(self.rows, Mapping) else len(self.rows)


@dataclass(frozen=True)
class Splits:
    """What ``load`` returns: the three parts of a data set.

    Args:
        train: Training examples.
        val: Examples to choose by; None when a recipe trains on everything.
        test: Examples that nothing is chosen by.
        unlabelled: All training examples without answers, where those of some are held back; None where ``train`` has
            all that there are.
    """

    train: Source
    val: Source | None
    test: Source
    unlabelled: Source | None = None


class Inputs(NamedTuple):
    """Some of what a user brought, as `Source.rows` has examples, without what is to be predicted.

    Args:
        rows: As those of a split, so that its ``prepare`` makes of them what the task reads. What comes after a series
            or a text is unknown, and stands there as NaN or -1.
        names: For each line of the task's answer what it is about, in order: ``input``, and a line, a time ...
    """

    rows: Mapping[str, Tensor]
    names: list[dict[str, Any]]


class Data(Protocol):
    """A data set as YAML builds it. Construction is quick and says the facts; `load` reads everything.

    Both raise `dltrain.errors.ConfigError` naming the ``data.`` key when something is missing or makes no sense.
    """

    spec: Spec
    batch_size: int
    workers: int
    # Optional: bad (`dltrain.data.bad_samples.BadSamples`) and worker_timeout, in seconds; fitted, false where nothing
    # is fitted to the training part, so that other examples of the same classes are seen in the same way.

    def load(self) -> Splits:
        """Read everything and cut it into splits."""

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's own examples, some at a time; a mistake in one is raised when its turn comes."""
