"""Arrays that a user brings in .npy and .npz files, one example after another."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dltrain.data.inputs import Given, GivenFile
from dltrain.data.spec import Inputs
from dltrain.datasets.array_file import UNREADABLE, refuse
from dltrain.errors import ConfigError, format_error

ENDINGS = (".npy", ".npz")
MAGIC = (b"\x93NUMPY", b"PK\x03\x04")
NAMES = ("x", "x_test")

Example = tuple[dict[str, Any], np.ndarray]


def array_inputs(given: Given, shape: tuple[int, ...]) -> Iterator[Inputs]:
    """Examples of numbers, as they are."""
    return gathered(_all(given, shape), given.batch, "inputs")


def _all(given: Given, shape: tuple[int, ...]) -> Iterator[Example]:
    for file in given.files(f"a .npy or .npz file of examples of shape {shape}"):
        with file.blamed():
            for name, example in examples(file, file.content(), shape):
                if example.dtype.kind not in "fiub" or not np.isfinite(example).all():
                    raise ConfigError(format_error("INPUT", f"finite numbers in {name['input']}", example.dtype))
                yield name, example.astype(np.float32)


def gathered(found: Iterator[Example], size: int, key: str) -> Iterator[Inputs]:
    """Examples ``size`` at a time; those before a mistake come before it is raised."""
    held: list[Example] = []
    mistake = None
    try:
        for example in found:
            held.append(example)
            if len(held) == size:
                yield _stacked(held, key)
                held = []
    except ConfigError as error:
        mistake = error
    if held:
        yield _stacked(held, key)
    if mistake is not None:
        raise mistake


def _stacked(held: list[Example], key: str) -> Inputs:
    return Inputs({key: torch.from_numpy(np.stack([value for _, value in held]))}, [name for name, _ in held])


def examples(file: GivenFile, content: bytes, shape: tuple[int, ...]) -> Iterator[Example]:
    """The examples of a file of arrays, each in the shape of the run's own and named by its place.

    Raises:
        ConfigError: When the file holds no such array.
    """
    array = _array(file, content)
    arranged = _arranged(array, shape)
    if arranged is None:
        raise ConfigError(format_error("INPUT", f"examples of shape {shape} in {file.path}", f"an array {array.shape}"))
    if not len(arranged):
        raise ConfigError(format_error("INPUT", f"at least one example in {file.path}", f"an array {array.shape}"))
    for place, example in enumerate(arranged):
        yield {"input": f"{file.name}[{place}]"}, example


def _array(file: GivenFile, content: bytes) -> np.ndarray:
    """The array of a file; of several the one called ``x`` or ``x_test``. Pickled objects are refused."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        wanted = [name for name in NAMES if name in found.files] or found.files
        if len(found.files) > 1 and wanted == found.files:
            expected = f"one array, or one called {' or '.join(NAMES)}, in {file.path}"
            raise ConfigError(format_error("INPUT", expected, ", ".join(found.files)))
        sizes = {member.filename.removesuffix(".npy"): member.file_size for member in found.zip.infolist()}
        refuse("INPUT", file.path, wanted[:1], sizes)
        return found[wanted[0]]
    except (*UNREADABLE, IndexError) as error:
        # NumPy advises to load such a file unsafely.
        got = "something else, or objects of Python's, which may run code" if "pickle" in str(error) else str(error)
        raise ConfigError(format_error("INPUT", f"arrays that can be read in {file.path}", got)) from error


def _arranged(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """An array whose first axis counts examples of this shape; pictures may have their channels last, or none."""
    if array.shape in (shape, *_layouts(shape)):
        array = array[None]
    if array.shape[1:] == shape:
        return array
    if array.shape[1:] not in _layouts(shape):
        return None
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array[:, None]


def _layouts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(shape) != 3:
        return []
    channels, height, width = shape
    return [(height, width, channels), *([(height, width)] if channels == 1 else [])]
