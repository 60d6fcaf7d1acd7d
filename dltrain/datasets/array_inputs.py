"""User-provided arrays in .npy and .npz files."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.spec import Inputs
from dltrain.datasets.array_file import UNREADABLE, check_members, member_sizes
from dltrain.errors import ConfigError, format_error

SUFFIXES = (".npy", ".npz")
MAGIC = (b"\x93NUMPY", b"PK\x03\x04")
NAMES = ("x", "x_test")

Example = tuple[dict[str, Any], np.ndarray]


def read_arrays(files: InputFiles, shape: tuple[int, ...]) -> Iterator[Inputs]:
    """Yield stacks of examples of the given shape from array files, in float32."""
    return stack_examples(_examples(files, shape), files.batch_size, "inputs")


def _examples(files: InputFiles, shape: tuple[int, ...]) -> Iterator[Example]:
    for file in files.expand(f"a .npy or .npz file of examples of shape {shape}"):
        with file.errors_as_input():
            for name, example in iterate_examples(file, file.read_bytes(), shape):
                if example.dtype.kind not in "fiub":
                    raise ConfigError(format_error("INPUT", f"numbers in {name['input']}", example.dtype))
                if not np.isfinite(example).all():
                    raise ConfigError(format_error("INPUT", f"finite numbers in {name['input']}", "NaN or infinity"))
                yield name, example.astype(np.float32)


def stack_examples(examples: Iterator[Example], size: int, key: str) -> Iterator[Inputs]:
    """Yield stacks of at most ``size`` examples; raise a ConfigError only after yielding the examples before it."""
    pending: list[Example] = []
    error = None
    try:
        for example in examples:
            pending.append(example)
            if len(pending) == size:
                yield _stack(pending, key)
                pending = []
    except ConfigError as caught:
        error = caught
    if pending:
        yield _stack(pending, key)
    if error is not None:
        raise error


def _stack(examples: list[Example], key: str) -> Inputs:
    return Inputs({key: torch.from_numpy(np.stack([value for _, value in examples]))}, [name for name, _ in examples])


def iterate_examples(file: InputFile, content: bytes, shape: tuple[int, ...]) -> Iterator[Example]:
    """Yield the examples of an array file with their names, ``file[index]``.

    Args:
        file: The file, for names and messages.
        content: Its content.
        shape: Shape of one example. The file may hold one example or several; images may have the channels last.

    Raises:
        ConfigError: The file cannot be read, has no example, or has examples of a different shape.
    """
    array = _load(file, content)
    arranged, got = _arrange(array, shape), f"an array of shape {array.shape}"
    if arranged is None:
        raise ConfigError(format_error("INPUT", f"examples of shape {shape} in {file.path}", got))
    if not len(arranged):
        raise ConfigError(format_error("INPUT", f"at least one example in {file.path}", got))
    for index, example in enumerate(arranged):
        yield {"input": f"{file.name}[{index}]"}, example


def _load(file: InputFile, content: bytes) -> np.ndarray:
    """Load the array ``x``, else ``x_test``, else the only array; reject pickled objects."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        named = [name for name in NAMES if name in found.files]
        names = named or found.files
        if not named and len(names) != 1:
            expected = f"a single array, or an array called {' or '.join(NAMES)}, in {file.path}"
            raise ConfigError(format_error("INPUT", expected, ", ".join(names) or "none"))
        check_members("INPUT", file.path, names[:1], member_sizes(found.zip))
        return found[names[0]]
    except (*UNREADABLE, IndexError) as error:
        # NumPy's own message recommends allowing pickles, which would run code from the file.
        unsafe = "a format other than .npy and .npz, or Python objects, which may run code"
        got = unsafe if "pickle" in str(error) else str(error)
        raise ConfigError(format_error("INPUT", f"readable arrays in {file.path}", got)) from error


def _arrange(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the array as (examples, *shape), or None if its shape does not fit."""
    if array.shape in (shape, *_image_layouts(shape)):
        array = array[None]
    if array.shape[1:] == shape:
        return array
    if array.shape[1:] not in _image_layouts(shape):
        return None
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array[:, None]


def _image_layouts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the other accepted shapes of an image: channels last and, for one channel, without the channel axis."""
    if len(shape) != 3:
        return []
    channels, height, width = shape
    return [(height, width, channels), *([(height, width)] if channels == 1 else [])]
