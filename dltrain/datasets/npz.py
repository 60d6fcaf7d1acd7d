"""A user's own arrays in one .npz file."""

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.checks import at_least, file, fraction
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Spec, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets import array_file
from dltrain.datasets.array_inputs import array_inputs
from dltrain.datasets.image_inputs import picture_inputs
from dltrain.datasets.images import Look, Rows, picked, picture_facts
from dltrain.datasets.table import as_they_are
from dltrain.errors import ConfigError, format_error

NAMES = ("x_train", "y_train", "x_test", "y_test")
PARTS = ("train", "test")
MOST_CHANNELS = 4


class Npz:
    """Arrays ``x_train, y_train, x_test, y_test`` whose first axis counts the examples.

    What x is follows from its shape and type: bytes (N, H, W), (N, H, W, C) or (N, C, H, W) are pictures, floats with
    four axes are pictures from 0 to 1, floats (N, T, F) are sequences of T steps, and (N, D) are plain vectors. A
    picture has at most 4 channels; where the first and the last axis could be that, the last is. What y is follows
    from its type: whole numbers from 0 on are classes, floats (N,) or (N, K) are numbers to predict. Vectors,
    sequences and y are taken as they are.

    Args:
        path: The .npz file.
        validation: Fraction of the training arrays that is held out; 0 trains on all of them.
        mean: Of pictures only: taken from the pixels, on the scale from 0 to 1; a number, or one per channel.
        std: Of pictures only: what the pixels are divided by after that.
        augment: Of pictures only: any of ``flip`` and ``crop``.
        batch_size: Examples per step.
        workers: Not needed here: all arrays stay in memory.
    """

    fitted = False

    def __init__(
        self,
        path: str,
        validation: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.path = file(path, "an existing .npz file")
        self.validation = fraction("data.validation", validation)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        shape, kind = _header(self.path, "x_train")
        facts = _provides_of_x(shape, kind, self.path)
        self.spec = replace(facts, **_provides_of_y(self.path))
        white = 255.0 if kind == np.uint8 else 1.0
        self.look = Look(facts.channels, mean, std, augment or [], white) if facts.channels else None
        self.spec = self.look.facts(self.spec) if self.look else self.spec

    def load(self) -> Splits:
        """Read all arrays."""
        x, y, x_test, y_test = array_file.read("data.path", self.path, NAMES)
        rest, test = self._rows(x, y, "train"), self._rows(x_test, y_test, "test")
        train, val = hold_out(len(next(iter(rest.values()))), self.validation)
        parts = (picked(rest, train), picked(rest, val), test)
        return self.look.splits(*parts) if self.look else as_they_are(*parts)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's arrays, and picture files where the examples are pictures."""
        shape = self.spec.shape or ()
        return picture_inputs(given, self.look, shape) if self.look else array_inputs(given, shape)

    def _rows(self, x: np.ndarray, y: np.ndarray, part: str) -> Rows:
        shape = self.spec.shape
        if len(x) != len(y):
            raise self._wrong(f"as many examples in x_{part} as in y_{part}", f"{len(x)} and {len(y)}")
        if self.look is not None:
            x = x[..., None] if x.ndim == 3 else x
            x = x if x.shape[1:] == shape else x.transpose(0, 3, 1, 2)
        if x.shape[1:] != shape:
            raise self._wrong(f"examples of shape {shape} in x_{part} as in x_train", x.shape[1:])
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            first = np.argwhere(~np.isfinite(x))[0].tolist()
            raise self._wrong(f"finite numbers in x_{part}", f"{x[tuple(first)]} at {first}")
        labels = _labels(y)
        if self.look is None:
            return {"inputs": torch.from_numpy(x.astype(np.float32)), "targets": labels}
        pixels = x if x.dtype == np.uint8 else x.astype(np.float32)
        return {"pixels": torch.from_numpy(np.ascontiguousarray(pixels)), "labels": labels}

    def _wrong(self, expected: str, got: object) -> ConfigError:
        return ConfigError(format_error("data.path", f"{expected} ({self.path})", got))


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, without reading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
            array_file.refuse("data.path", path, NAMES, sizes)
            with archive.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(member)
                return shape, kind
    except array_file.UNREADABLE as error:
        raise ConfigError(format_error("data.path", f"a whole .npz file at {path}", str(error))) from error


def _provides_of_x(shape: tuple[int, ...], kind: np.dtype, path: Path) -> Spec:
    example = shape[1:]
    whole = kind == np.uint8
    if len(example) == 3 and (whole or kind.kind == "f"):
        if example[2] <= MOST_CHANNELS:
            return picture_facts(example[2], example[0], example[1], None)
        if example[0] <= MOST_CHANNELS:
            return picture_facts(*example, None)
    if len(example) == 2 and whole:
        return picture_facts(1, *example, None)
    if len(example) == 2 and kind.kind == "f":
        steps, features = example
        return Spec(shape=example, size=steps * features, features=features, length=steps)
    if len(example) == 1 and kind.kind in "fiub":
        return Spec(shape=example, size=example[0])
    wanted = "x_train of pictures (uint8 with 3 or 4 axes), sequences (float with 3 axes) or vectors (2 axes)"
    raise ConfigError(format_error("data.path", f"{wanted} in {path}", f"{kind} with shape {shape}"))


def _provides_of_y(path: Path) -> dict[str, Any]:
    """How many classes or numbers to predict; no header says how many classes there are, so y is read."""
    train, test = array_file.read("data.path", path, [f"y_{part}" for part in PARTS])
    if train.dtype.kind == test.dtype.kind == "f":
        return {"targets": _labels(train).shape[1]}
    labels = np.concatenate([train.reshape(-1), test.reshape(-1)])
    if labels.dtype.kind not in "iub" or train.size != len(train) or test.size != len(test) or labels.min() < 0:
        wanted = "one whole number from 0 on per example (a class), or floats, in y_train and y_test"
        got = f"{train.dtype} with shape {train.shape} and {test.dtype} with shape {test.shape}"
        raise ConfigError(format_error("data.path", f"{wanted} of {path}", got))
    classes = int(labels.max()) + 1
    return {"classes": classes, "class_names": tuple(str(number) for number in range(classes))}


def _labels(y: np.ndarray) -> Tensor:
    """Classes (N,) in int64, or numbers to predict (N, K) in float32."""
    if y.dtype.kind == "f":
        return torch.from_numpy(y.astype(np.float32)).reshape(len(y), -1)
    return torch.from_numpy(y.astype(np.int64)).reshape(-1)
