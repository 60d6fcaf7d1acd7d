"""Generate examples with a run's trained model: samples, reconstructions of given examples, interpolations."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.data.spec import Source, Spec, Splits
from dltrain.errors import ConfigError, OutOfMemory, format_error, suggest
from dltrain.runs.assemble import Components
from dltrain.runs.export import Generated
from dltrain.runs.inference import eval_batches, explain_missing_data, own_prepare, training_data, user_inputs
from dltrain.tasks.base import GenerateRequest, Task, TextRequest
from dltrain.tasks.pixel_range import PixelRange
from dltrain.training.device import is_out_of_memory
from dltrain.training.evaluation import run_in_eval_mode

COUNT = 64  # default number of examples
BATCH_SIZE = 64
MAX_NAMES = 20  # maximum number of classes in a message
MAX_DIGITS = 9  # maximum digits of a class index; int() rejects thousands of digits


def generate(
    components: Components, count: int, seed: int, label: int | None, interpolate: bool, inputs: Sequence[str]
) -> Generated:
    """Generate examples; the pixels of images are in [0, 1].

    Args:
        count: Number of examples; ignored with ``inputs``.
        seed: Random seed, at least 0.
        label: Class to generate; None for random classes.
        interpolate: Whether to generate interpolations, in rows of eight.
        inputs: Files and folders of examples to reconstruct.

    Raises:
        OutOfMemory: Generating all examples together needs too much memory.
    """

    @functools.cache
    def splits() -> Splits:
        with explain_missing_data():
            return training_data(components).load()

    with contextlib.ExitStack() as stack, _explain_out_of_memory(None if inputs else count):

        def train() -> Batches:
            return stack.enter_context(contextlib.closing(eval_batches(components, splits(), "train")))

        given = None
        if inputs:
            given = _read_inputs(components, own_prepare(components) or splits().test.prepare, inputs)
        request = GenerateRequest(
            count=count if given is None else len(given),
            noise=torch.Generator().manual_seed(seed),
            device=components.device.device,
            label=label,
            interpolate=interpolate,
            given=given,
            train=train,
        )
        examples = run_in_eval_mode(components.task.generate, components.model, components.device, request)
    spec = components.data.spec
    shown = None if given is None else PixelRange(spec.low, spec.high).to_unit(given).float().cpu()
    return Generated(examples.float().cpu(), shown, interpolate)


def writes_text(task: Task) -> bool:
    """Return whether a task generates text instead of examples."""
    return type(task).write is not Task.write


def generates_examples(task: Task) -> bool:
    """Return whether a task generates examples."""
    return type(task).generate is not Task.generate


def file_formats(components: Components) -> Mapping[str, Callable[[str], bytes]]:
    """Return the file formats of generated text: suffix -> function that converts text to the bytes of a file."""
    formats: Mapping[str, Callable[[str], bytes]] = getattr(components.data, "file_formats", {})
    return formats


def write(components: Components, request: TextRequest, emit: Callable[[str], None]) -> None:
    """Generate text and pass each piece to `emit` as soon as it is generated.

    The model must be in evaluation mode.
    """
    with torch.inference_mode(), components.device.autocast():
        for piece in components.task.write(components.model, request):
            emit(piece)


@contextlib.contextmanager
def _explain_out_of_memory(count: int | None) -> Iterator[None]:
    """Convert an out-of-memory error to `OutOfMemory` with a hint; `count` is None for reconstructions."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "All examples are reconstructed together: try fewer examples in --given"
        if count is not None:
            hint = f"All {count:,} examples are generated together: try a smaller --count"
        raise OutOfMemory(f"out of memory: {reason}. {hint}") from None


def _read_inputs(components: Components, prepare: nn.Module, names: Sequence[str]) -> Tensor:
    pieces = user_inputs(components, InputFiles(tuple(names)))
    device = components.device.device
    batches = (Batches(Source(piece.rows, prepare), BATCH_SIZE, device) for piece in pieces)
    examples = [batch["inputs"] for piece in batches for batch in piece]
    if not examples:
        raise ConfigError(format_error("--given", "at least one example", "none"))
    return torch.cat(examples)


def class_number(name: str, spec: Spec) -> int:
    """Return the index of a class, given its name or its index."""
    if not spec.classes:
        raise ConfigError("--class: not supported because this run's data have no classes")
    names = list(spec.class_names or map(str, range(spec.classes)))
    if name in names:
        return names.index(name)
    if name.isdecimal() and len(name) <= MAX_DIGITS and int(name) < spec.classes:
        return int(name)
    listed = f"{', '.join(names[:MAX_NAMES])}{' ...' if len(names) > MAX_NAMES else ''}"
    hint = suggest(name, names) or f"The classes are {listed}."
    expected = f"a class name, or a number from 0 to {spec.classes - 1}"
    raise ConfigError(format_error("--class", expected, name, hint))
