"""The interface between data sets and the rest of dltrain: spec values, splits, batches of rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from dltrain.data.inputs import InputFiles
from dltrain.data.notes import Notes
from dltrain.data.plans import Plan
from dltrain.data.ragged import Ragged
from dltrain.data.selection import Selection
from dltrain.data.tokens import Tokens


class Clip(NamedTuple):
    """Size of a clip, a short piece of a video. YAML refers to its fields: ``channels: ${spec.clip.channels}``.

    Args:
        channels: Channels of each frame.
        frames: Number of frames.
        height: Height of each frame in pixels.
        width: Width of each frame in pixels.
    """

    channels: int
    frames: int
    height: int
    width: int


class Audio(NamedTuple):
    """Format of the steps of a recording. YAML refers to its fields: ``bands: ${spec.audio.bands}``.

    Args:
        bands: Number of mel bands per frame.
        frames: Consecutive frames that form one step, so that a step has ``bands * frames`` features.
        step_seconds: Seconds from one step to the next.
    """

    bands: int
    frames: int
    step_seconds: float


@dataclass(frozen=True)
class Spec:
    """Spec values of a data set: sizes, names and types; None for values that do not apply.

    YAML refers to them by name: ``features: ${spec.features}``. A model or task argument that does not accept None
    rejects data without this spec value, so unsuitable combinations fail early.

    Args:
        shape: Shape of the ``inputs`` of one example, without the batch axis.
        size: Number of values of a flattened example.
        features: Number of values per step. An image is a sequence of pixel rows; a token is a one-hot vector.
        length: Steps per example; if examples differ in length, the maximum number of steps of a padded batch.
        channels: Channels of an image.
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        clip: Size of a clip; its inputs are (B, channels, frames, height, width).
        audio: Format of the steps of a recording; its inputs are (B, steps, frames * bands).
        low: Model input for black, one number per channel; None if inputs are not images.
        high: Model input for white, one number per channel; None if inputs are not images.
        classes: Number of classes.
        class_names: One name per class.
        pixel_classes: Number of classes of each pixel of an image (segmentation).
        pixel_class_names: One name per class of pixels.
        object_classes: Number of classes of objects in an image (detection).
        object_class_names: One name per class of objects.
        tags: Number of tags of words (tagging).
        tag_names: One name per tag.
        answer_spans: Whether the examples are questions whose answers are parts of a context (question answering).
        sentence_pairs: Whether the examples are pairs of passages (next sentence prediction).
        targets: Number of values to predict per example (regression).
        target_names: One name per predicted number or column.
        series_names: Names of the series, if a file has several; each is split by time separately.
        columns: Number of columns that are forecast together.
        horizon: Steps to predict.
        lags: Number of values in a window of a series, steps times features, for models with a linear path.
        season: Steps per season of a series, for the naive forecasts.
        normalize: Normalization of windows of a series: ``last``, ``window`` or ``train``.
        unit: Unit of the predicted numbers.
        tokens: Vocabulary of the inputs, if they are tokens.
        idf: Inverse document frequency of each token in the training texts, float32 (tokens.size,), 0 for special
            tokens.
        target_tokens: Vocabulary of the targets, if they are tokens.
        transcripts: Vocabulary of transcripts, which are not aligned with the steps of the inputs; it has a ``blank``.
        target_length: Maximum steps of a target, including the end token, if inputs and targets differ in length.
        notes: Notes that a step may contain, if the steps are frames of a piano roll.
        shared_vocabulary: Whether inputs and targets have the same vocabulary.
        prefixes: Task prefixes of the inputs, such as ``summarize: ``; one for each table.
    """

    shape: tuple[int, ...] | None = None
    size: int | None = None
    features: int | None = None
    length: int | None = None
    channels: int | None = None
    height: int | None = None
    width: int | None = None
    clip: Clip | None = None
    audio: Audio | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    pixel_classes: int | None = None
    pixel_class_names: tuple[str, ...] | None = None
    object_classes: int | None = None
    object_class_names: tuple[str, ...] | None = None
    tags: int | None = None
    tag_names: tuple[str, ...] | None = None
    answer_spans: bool | None = None
    sentence_pairs: bool | None = None
    targets: int | None = None
    target_names: tuple[str, ...] | None = None
    series_names: tuple[str, ...] | None = None
    columns: int | None = None
    horizon: int | None = None
    lags: int | None = None
    season: int | None = None
    normalize: str | None = None
    unit: str | None = None
    tokens: Tokens | None = None
    idf: Tensor | None = field(default=None, compare=False)
    target_tokens: Tokens | None = None
    transcripts: Tokens | None = None
    target_length: int | None = None
    notes: Notes | None = None
    shared_vocabulary: bool | None = None
    prefixes: tuple[str, ...] | None = None


Field = Tensor | Selection | Ragged


class Files(Protocol):
    """Examples that worker processes decode, e.g. because they do not fit into memory.

    Two methods are optional. ``files() -> Iterable[(path, size)]`` returns the file of each example, for the
    fingerprint: its path below the folder of the data set, and its size in bytes. ``targets() -> Tensor`` returns the
    targets of all examples without decoding the examples, for tasks that count classes.
    """

    def __len__(self) -> int:
        """Return the number of examples."""

    def example(self, index: int, key: int | None) -> Any:
        """Decode one example, in the form that `stack` expects.

        Args:
            index: Position in the split.
            key: Key of the random numbers for decoding in training, e.g. for a crop; None outside training. See
                `dltrain.keyed_random.draw`.

        Raises:
            ConfigError: The example cannot be read; the message names it.
        """

    def stack(self, examples: list[Any]) -> dict[str, Tensor]:
        """Return the fields of one or more examples: name -> tensor with one row per example."""


@dataclass(frozen=True)
class Source:
    """One split of a data set.

    Args:
        rows: `Files`, or tensors, `Selection` and `Ragged` fields with one row per example. Views such as those of
            ``unfold`` stay views: a row is copied only when it is read.
        prepare: Module that turns a batch of rows on the device into the fields a task reads (``inputs``, ``targets``,
            ...). It treats each row independently and draws no random numbers.
        augment: Random change of each prepared example in training, independent of other examples:
            ``augment(batch, keys)``. All random numbers come from the keys (int64, one per example); see
            `dltrain.keyed_random.uniform`.
        blend: Random combination of the examples of a batch in training: ``blend(batch, keys)``.
        fingerprinted: Tensors to fingerprint instead of `rows`; or, for computed rows, a string of their settings,
            because the last digits of computed values depend on the CPU. None fingerprints `rows`.
        plan: Division of the examples into batches; None for batches of a fixed size, in random order in training.
    """

    rows: Mapping[str, Field] | Files
    prepare: nn.Module
    augment: nn.Module | None = None
    blend: nn.Module | None = None
    fingerprinted: Mapping[str, Field] | str | None = None
    plan: Plan | None = None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()))) if isinstance(self.rows, Mapping) else len(self.rows)


@dataclass(frozen=True)
class Splits:
    """The splits of a data set.

    Args:
        train: Training examples.
        val: Validation examples; None if no examples are held out for validation.
        test: Test examples.
        unlabeled: All training examples, with labels removed, if ``train`` has only the labeled ones; otherwise None.
    """

    train: Source
    val: Source | None
    test: Source
    unlabeled: Source | None = None


Fitted = dict[str, Any]  # tensors and plain Python values, stored with a run


class Inputs(NamedTuple):
    """User-provided examples in the format of `Source.rows`; targets are absent or unknown.

    Args:
        rows: Rows before ``Source.prepare``. Unknown future values are NaN (series) or -1 (tokens).
        names: Origin of each line of the prediction, in order: ``input`` and, for example, a line number.
    """

    rows: Mapping[str, Tensor | Ragged]
    names: list[dict[str, Any]]


class Data(Protocol):
    """A data set built from YAML. The constructor reads only what the spec values require; `load` reads everything.

    The constructor and `load` raise `dltrain.errors.ConfigError`, which names the wrong key below ``data``. Optional
    attributes:

    - ``bad`` (`dltrain.data.bad_samples.BadSamples`), ``worker_timeout`` (seconds), ``describe() -> list[str]`` (how
      the loaded files were read).
    - ``check()``: called after `load` before a run is trained; raises ConfigError for examples that cannot be read, so
      that they do not stop the run later.
    - ``prepare``: the module `Source.prepare` of the splits, for the rows of `inputs`; it does not need `load`.
    - ``plan``, ``pad_multiple``: if ``plan.contiguous``, the rows of `inputs` are divided into batches by ``plan``;
      otherwise, batches keep the order of the rows and are padded to a multiple of ``pad_multiple`` steps.
    - ``fit() -> Fitted``: after `load`, the state fitted to the training examples and inferred from the files. The
      constructor then has an argument ``fitted``, which YAML never sets. If it is given, no data are read, and
      ``spec``, ``prepare`` and `inputs` use the fitted state.
    - ``evaluation() -> Source``: all examples of the files named by the arguments, to evaluate with the fitted state.
    - ``file_formats``: suffix -> function that converts generated text to the content of such a file.
    - ``describe_file(path, **arguments) -> list[str]``: a static method that describes a file that the constructor may
      reject.
    """

    spec: Spec
    batch_size: int
    workers: int

    def load(self) -> Splits:
        """Read the data and return the splits."""

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Yield user-provided examples in batches of about ``files.batch_size``.

        Examples before an invalid one are yielded before the error is raised.
        """


def describe_data(data: Data) -> list[str]:
    """Return the description of a loaded data set, line by line; empty if it has none."""
    describe = getattr(data, "describe", None)
    return describe() if describe else []
