"""A user's own arrays in one .npz file."""

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.checks import at_least, check_fraction, existing_file
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets.array_file import UNREADABLE, check_members, load_arrays, member_sizes
from dltrain.datasets.array_inputs import read_arrays
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform, Rows, image_spec, select_rows
from dltrain.errors import ConfigError, format_error

NAMES = ("x_train", "y_train", "x_test", "y_test")
MAX_CHANNELS = 4


class Npz:
    """Arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test`` whose first axis counts the examples.

    The shape and dtype of x decide what it is: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) are images; floats with
    four axes are images from 0 to 1; floats (N, T, F) are sequences of T steps; (N, D) are vectors. Images have at most
    4 channels; if both the first and the last axis fit, the channels are last. The dtype of y decides what it is:
    integers from 0 are classes, floats (N,) or (N, K) are numbers to predict. Only images are scaled.

    Args:
        path: The .npz file.
        validation: Fraction of the training arrays to hold out, in [0, 1).
        mean: Images only: subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per
            channel.
        std: Images only: divisor of the pixels after that, above 0; one number, or one per channel.
        augment: Images only: any of ``flip`` and ``crop``; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per step, at least 1.
        workers: Unused: the arrays stay in memory.
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
        self.path = existing_file(path, "an existing .npz file")
        self.validation = check_fraction("data.validation", validation)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        shape, dtype = _read_header(self.path, "x_train")
        facts = _facts_of_x(shape, dtype, self.path)
        self.spec = replace(facts, **_facts_of_y(self.path))
        white = 255.0 if dtype == np.uint8 else 1.0
        self.transform = ImageTransform(facts.channels, mean, std, augment or [], white) if facts.channels else None
        self.spec = self.transform.add_bounds(self.spec) if self.transform else self.spec

    def load(self) -> Splits:
        """Read all arrays."""
        x, y, x_test, y_test = load_arrays("data.path", self.path, NAMES)
        rest, test = self._rows(x, y, "train"), self._rows(x_test, y_test, "test")
        parts = (*(select_rows(rest, indices) for indices in hold_out(len(x), self.validation)), test)
        if self.transform:
            return self.transform.splits(*parts)
        train, val, test_source = (Source(rows, nn.Identity()) for rows in parts)
        return Splits(train, val if len(val) else None, test_source)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read arrays, and image files if the examples are images."""
        shape = self.spec.shape or ()
        return read_images(files, self.transform, shape) if self.transform else read_arrays(files, shape)

    def _rows(self, x: np.ndarray, y: np.ndarray, part: str) -> Rows:
        shape = self.spec.shape
        if len(x) != len(y):
            raise self._error(f"as many examples in x_{part} as in y_{part}", f"{len(x)} and {len(y)}")
        if self.transform is not None:
            x = x[..., None] if x.ndim == 3 else x
            x = x if x.shape[1:] == shape else x.transpose(0, 3, 1, 2)
        if x.shape[1:] != shape:
            raise self._error(f"examples of shape {shape} in x_{part} as in x_train", x.shape[1:])
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            first = np.argwhere(~np.isfinite(x))[0].tolist()
            raise self._error(f"finite numbers in x_{part}", f"{x[tuple(first)]} at {first}")
        labels = _to_labels(y)
        if self.transform is None:
            return {"inputs": torch.from_numpy(x.astype(np.float32)), "targets": labels}
        pixels = x if x.dtype == np.uint8 else x.astype(np.float32)
        return {"pixels": torch.from_numpy(np.ascontiguousarray(pixels)), "labels": labels}

    def _error(self, expected: str, got: object) -> ConfigError:
        return ConfigError(format_error("data.path", f"{expected} ({self.path})", got))


def _read_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype of an array without reading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_members("data.path", path, NAMES, member_sizes(archive))
            with archive.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
                return shape, dtype
    except UNREADABLE as error:
        raise ConfigError(format_error("data.path", f"a complete .npz file at {path}", str(error))) from error


def _facts_of_x(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> Spec:
    example = shape[1:]
    whole = dtype == np.uint8
    if len(example) == 3 and (whole or dtype.kind == "f"):
        if example[2] <= MAX_CHANNELS:
            return image_spec(example[2], example[0], example[1], None)
        if example[0] <= MAX_CHANNELS:
            return image_spec(*example, None)
    if len(example) == 2 and whole:
        return image_spec(1, *example, None)
    if len(example) == 2 and dtype.kind == "f":
        steps, features = example
        return Spec(shape=example, size=steps * features, features=features, length=steps)
    if len(example) == 1 and dtype.kind in "fiub":
        return Spec(shape=example, size=example[0])
    expected = "x_train of images (uint8 with 3 or 4 axes), sequences (float with 3 axes) or vectors (2 axes)"
    raise ConfigError(format_error("data.path", f"{expected} in {path}", f"{dtype} with shape {shape}"))


def _facts_of_y(path: Path) -> dict[str, Any]:
    """Return the number of classes or of numbers to predict; y is read, because no header states the classes."""
    train, test = load_arrays("data.path", path, ["y_train", "y_test"])
    if train.dtype.kind == test.dtype.kind == "f":
        return {"targets": _to_labels(train).shape[1]}
    labels = np.concatenate([train.reshape(-1), test.reshape(-1)])
    if labels.dtype.kind not in "iub" or train.size != len(train) or test.size != len(test) or labels.min() < 0:
        expected = "one whole number from 0 per example (a class), or floats, in y_train and y_test"
        got = f"{train.dtype} with shape {train.shape} and {test.dtype} with shape {test.shape}"
        raise ConfigError(format_error("data.path", f"{expected} of {path}", got))
    classes = int(labels.max()) + 1
    return {"classes": classes, "class_names": tuple(str(number) for number in range(classes))}


def _to_labels(y: np.ndarray) -> Tensor:
    """Return classes (N,) in int64, or numbers to predict (N, K) in float32."""
    if y.dtype.kind == "f":
        return torch.from_numpy(y.astype(np.float32)).reshape(len(y), -1)
    return torch.from_numpy(y.astype(np.int64)).reshape(-1)
