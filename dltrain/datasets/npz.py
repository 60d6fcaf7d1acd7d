"""User-provided arrays in one .npz file."""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dltrain.data.checks import at_least, check_fraction, existing_file, user_path
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets.array_file import UNREADABLE, check_members, load_arrays, member_sizes
from dltrain.datasets.array_inputs import read_arrays
from dltrain.datasets.array_labels import Labels, find_labels
from dltrain.datasets.array_scale import ArrayScale, find_scale
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform, Rows, image_spec, select_rows
from dltrain.errors import ConfigError, format_error

NAMES = ("x_train", "y_train", "x_test", "y_test")
MAX_CHANNELS = 4


class Npz:
    """Arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test`` with the examples along the first axis.

    The shape and dtype of x determine its kind: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) are images; floats with
    four axes are images whose scale is inferred by `dltrain.datasets.array_scale.find_scale`; floats (N, T, F) are
    sequences of T steps; (N, D) are vectors. Images have at most 4 channels; if the channels could be first or last,
    they are last. The labels y are classes if they are repeated whole numbers or one-hot rows, and otherwise
    numbers to predict; see `dltrain.datasets.array_labels.find_labels`. Only images are scaled.

    Args:
        path: The .npz file.
        validation: Fraction of the training examples to hold out, in [0, 1).
        mean: Images only: subtracted from the pixels, on the scale from 0 (black) to 1 (white), or on the scale of
            x_train if it is neither 0 to 1 nor 0 to 255; one number, or one per channel.
        std: Images only: divisor after the subtraction, above 0; one number, or one per channel.
        augment: Images only: random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the arrays stay in memory.
        fitted: Result of `fit` in an earlier run; None infers shape, labels and scale from the file.
    """

    def __init__(
        self,
        path: str,
        validation: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        self.path = user_path(path)
        self.validation = check_fraction("data.validation", validation)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        if fitted is None:
            existing_file(path, "an existing .npz file")
            self.shape, self.dtype = _read_header(self.path, "x_train")
            self.y = self._load_arrays("y_train", "y_test")
            self.labels = find_labels(self.y[0], self.y[1], self.path)
        else:
            self.shape, self.dtype = (1, *map(int, fitted["shape"])), np.dtype(fitted["dtype"])
            self.labels = Labels.from_state(*fitted["labels"])
        facts = _facts_of_x(self.shape, self.dtype, self.path)
        self.spec = replace(facts, **self.labels.facts())
        self.transform = self._make_transform(mean, std, augment, fitted) if facts.channels else None
        self.spec = self.transform.add_bounds(self.spec) if self.transform else self.spec
        self.prepare = self.labels.prepare(self.transform.scaling() if self.transform else nn.Identity())
        self.sizes: dict[str, int] = {}
        self.ranges: list[str] = []

    def _make_transform(
        self,
        mean: float | list[float],
        std: float | list[float],
        augment: dict[str, Any] | list[str] | None,
        fitted: Fitted | None,
    ) -> ImageTransform:
        scale = ArrayScale() if fitted is None else ArrayScale(*fitted["scale"])
        if fitted is None and self.dtype != np.uint8:
            (x,) = load_arrays("data.path", self.path, ["x_train"])
            self._check_numbers(x, "x_train")
            scale = find_scale(x)
        return ImageTransform(self.spec.channels or 1, mean, std, augment, 255.0 if scale.whole else 1.0, scale)

    def fit(self) -> Fitted:
        """Return the shape and dtype of an example, the meaning of the labels, and the scale of the pixels."""
        scale = self.transform.arrays if self.transform else ArrayScale()
        shape = {"shape": list(self.shape[1:]), "dtype": self.dtype.str}
        return {**shape, "labels": self.labels.state(), "scale": list(astuple(scale))}

    def evaluation(self) -> Source:
        """Return all examples of the file, from the training and test arrays."""
        existing_file(self.path, "an existing .npz file")
        x, y, x_test, y_test = self._load_arrays(*NAMES)
        parts = [self._rows(x, y, "train"), self._rows(x_test, y_test, "test")]
        return Source({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, self.prepare)

    def load(self) -> Splits:
        """Read all arrays, and return the splits."""
        x, y, x_test, y_test = self._load_arrays(*NAMES)
        rest, test = self._rows(x, y, "train"), self._rows(x_test, y_test, "test")
        train, val = (select_rows(rest, indices) for indices in hold_out(len(x), self.validation))
        parts = (train, val, test)
        self.sizes = {
            split: len(next(iter(p.values()))) for split, p in zip(("train", "val", "test"), parts, strict=True)
        }
        if self.transform:
            found = self.transform.splits(train, val, test, self.spec.classes)
        else:
            self.ranges = [
                f"x_{n} from {v.min():g} to {v.max():g}" for n, v in (("train", x), ("test", x_test)) if v.size
            ]
            sources = [Source(rows, nn.Identity()) for rows in parts]
            found = Splits(sources[0], sources[1] if len(sources[1]) else None, sources[2])
        return Splits(self._label(found.train), found.val and self._label(found.val), self._label(found.test))

    def describe(self) -> list[str]:
        """Return lines about the arrays that `load` read: splits, scale, classes."""
        sizes = ", ".join(f"{split} {size:,}" for split, size in self.sizes.items())
        return [
            f"{sum(self.sizes.values()):,} examples in {self.path}: {sizes}",
            f"x: {self._describe_x()}",
            *self.labels.describe(self.y[0], self.y[1]),
        ]

    def _describe_x(self) -> str:
        shape = " x ".join(map(str, self.spec.shape or ()))
        if self.transform:
            scale = self.transform.arrays
            ends = f", not rescaled; {scale.black:g} counts as black and {scale.white:g} as white"
            return f"images of {shape}, {scale}{'' if scale.known else ends}"
        sequences = f"sequences of {shape} (steps x features; float images need 4 axes)"
        kind = sequences if self.spec.length else f"vectors of {shape}"
        return f"{kind}, not scaled: {', '.join(self.ranges)}"

    def _label(self, source: Source) -> Source:
        return replace(source, prepare=self.labels.prepare(source.prepare))

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read arrays, and image files if the examples are images."""
        shape = self.spec.shape or ()
        return read_images(files, self.transform, shape) if self.transform else read_arrays(files, shape)

    def _load_arrays(self, *names: str) -> list[np.ndarray]:
        arrays = load_arrays("data.path", self.path, names)
        for name, array in zip(names, arrays, strict=True):
            if array.ndim == 0:
                raise self._error(f"{name} with the examples along its first axis", "an array without axes")
        return arrays

    def _rows(self, x: np.ndarray, y: np.ndarray, part: str) -> Rows:
        shape = self.spec.shape
        if len(x) != len(y):
            raise self._error(f"as many examples in x_{part} as in y_{part}", f"{len(x)} and {len(y)}")
        if (found := math.prod(y.shape[1:])) != (width := self.labels.width):
            raise self._error(f"{width} value{'s' * (width != 1)} per label in y_{part}, as in training", found)
        if self.transform is not None:
            x = x[..., None] if x.ndim == 3 else x
            x = x if x.ndim != 4 or x.shape[1:] == shape else x.transpose(0, 3, 1, 2)
        if x.shape[1:] != shape:
            raise self._error(f"examples of shape {shape} in x_{part}, as in training", x.shape[1:])
        self._check_numbers(x, f"x_{part}")
        self._check_numbers(y, f"y_{part}")
        labels = self.labels.rows(y)
        if self.transform is None:
            return {"inputs": torch.from_numpy(x.astype(np.float32)), "targets": labels}
        pixels = self.transform.arrays.to_stored(x, "data.path", f"x_{part}")
        return {"pixels": torch.from_numpy(np.ascontiguousarray(pixels)), "labels": labels}

    def _check_numbers(self, values: np.ndarray, name: str) -> None:
        if values.dtype.kind not in "fiub":
            raise self._error(f"numbers in {name}", values.dtype)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            first = np.argwhere(~np.isfinite(values))[0].tolist()
            raise self._error(f"finite numbers in {name}", f"{values[tuple(first)]} at {first}")

    def _error(self, expected: str, got: object) -> ConfigError:
        return ConfigError(format_error("data.path", f"{expected} ({self.path})", got))


def _read_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype of an array without reading its values."""
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
    images = f"images (uint8 with 3 axes, or uint8 or float with 4 axes and at most {MAX_CHANNELS} channels)"
    expected = f"x_train of {images}, sequences (float with 3 axes) or vectors (numbers with 2 axes)"
    raise ConfigError(format_error("data.path", f"{expected} in {path}", f"{dtype} with shape {shape}"))
