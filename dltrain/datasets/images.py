"""Spec values, pixel scaling and augmentation of images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.data.spec import Files, Source, Spec, Splits
from dltrain.data.splits import hold_out_stratified
from dltrain.datasets.array_scale import ArrayScale
from dltrain.datasets.augmentation import COLORS, read_augmentation
from dltrain.datasets.blending import make_blend
from dltrain.datasets.changes import make_changes
from dltrain.datasets.colors import Unit
from dltrain.datasets.geometry import Frame
from dltrain.errors import ConfigError, format_error

Rows = dict[str, Tensor]
Augment = dict[str, Any] | list[str] | None


def image_spec(channels: int, height: int, width: int, class_names: Sequence[str] | None) -> Spec:
    """Return the spec values of images; for sequence models, each row of pixels, with all channels, is a step."""
    return Spec(
        shape=(channels, height, width),
        size=channels * height * width,
        channels=channels,
        height=height,
        width=width,
        features=channels * width,
        length=height,
        classes=len(class_names) if class_names else None,
        class_names=tuple(class_names) if class_names else None,
    )


class ImageTransform:
    """Scaling of pixels and augmentation of the images of a data set.

    Args:
        channels: Channels of the images.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor after the subtraction, above 0, on the same scale.
        augment: Random changes in training, see `dltrain.datasets.augmentation.Augmentation`: a mapping with its
            arguments, or a list of ``flip`` (``flip: true``) and ``crop`` (``shift: 4``). Uncovered areas get
            the stored value 0, which is black unless arrays have a different scale.
        white: Stored value of white (black is 0), or 1 for arrays without a standard scale.
        arrays: Scale of user-provided arrays; None for the scale of the stored values.
    """

    def __init__(
        self,
        channels: int,
        mean: float | list[float],
        std: float | list[float],
        augment: Augment,
        white: float = 255.0,
        arrays: ArrayScale | None = None,
    ) -> None:
        self.mean = _per_channel("data.mean", mean, channels)
        self.std = _per_channel("data.std", std, channels)
        if not bool((self.std > 0).all()):
            raise ConfigError(format_error("data.std", "numbers above 0", std))
        self.augment = read_augmentation(augment)
        self.white = white
        self.arrays = arrays or ArrayScale(white=white, whole=white > 1)

    def scaling(self) -> "ScalePixels":
        """Return the module that scales pixels."""
        return ScalePixels(self.mean, self.std, self.white)

    def unit(self) -> Unit:
        """Return the module that converts between normalized pixels and the scale from 0 (black) to 1 (white).

        Raises:
            ConfigError: Colors are changed, but the scale of arrays is unknown.
        """
        changes = self.augment.enabled(COLORS)
        if changes and not self.arrays.known:
            reason = f"the arrays are {self.arrays}, so black and white are unknown"
            raise ConfigError(f"{changes}: not supported because {reason}")
        return Unit(self.mean, self.std)

    def to_stored_scale(self, pixels: np.ndarray) -> np.ndarray:
        """Convert bytes from 0 to 255 to the stored scale, rounded if the stored values are whole numbers.

        Raises:
            ConfigError: The scale of arrays is unknown.
        """
        if not self.arrays.known:
            reason = f"the model was trained on arrays of {self.arrays}. Pass arrays on this scale"
            raise ConfigError(f"INPUT: image files are not supported because {reason}")
        if self.white == 255:
            return pixels
        scaled = pixels.astype(np.float32) * (self.white / 255)
        return scaled.round().astype(np.uint8) if self.white > 1 else scaled

    def add_bounds(self, spec: Spec) -> Spec:
        """Return ``spec`` with ``low`` and ``high``: the model inputs for black and white, one number per channel."""
        channels = spec.channels or 1
        ends = ((end - self.mean) / self.std for end in self.arrays.bounds)
        low, high = (tuple(end.expand(channels, 1, 1).flatten().float().tolist()) for end in ends)
        return replace(spec, low=low, high=high)

    def splits(self, train: Rows | Files, val: Rows | Files | None, test: Rows | Files, classes: int | None) -> Splits:
        """Return splits of ``pixels`` (B, channels, height, width) and ``labels`` (B,).

        Only training images are augmented; `Files` are cropped during decoding.

        Args:
            classes: Number of classes, for mixup and cutmix; None if the labels are not classes.
        """
        prepare = self.scaling()
        moves = self.augment if isinstance(train, Mapping) else self.augment.without_crop()
        augment = make_changes(moves, Frame({"inputs": prepare.offset}), self.unit())
        held_out = Source(val, prepare) if val is not None and len(Source(val, prepare)) else None
        blend = make_blend(self.augment, classes)
        return Splits(Source(train, prepare, augment, blend), held_out, Source(test, prepare))


def select_rows(rows: Mapping[str, Tensor], indices: Tensor) -> Rows:
    """Return the rows with these indices."""
    return {name: value[indices] for name, value in rows.items()}


def limit_labels(splits: Splits, count: int | None) -> Splits:
    """Keep the labels of only some training examples; all training examples form the split ``unlabeled``.

    Args:
        splits: Splits of tensors.
        count: Number of labeled examples, at least 1; they are the same in every run. The same fraction of each class
            is labeled, to within one example. None keeps all labels.

    Raises:
        ConfigError: ``count`` is below 1 or larger than the training split.
    """
    if count is None or not isinstance(splits.train.rows, Mapping):
        return splits
    rows, available = {name: cast(Tensor, value) for name, value in splits.train.rows.items()}, len(splits.train)
    if not 1 <= count <= available:
        expected = f"a whole number from 1 to {available:,}, the number of training examples"
        raise ConfigError(format_error("data.num_labels", expected, count))
    _, labeled = hold_out_stratified(rows["labels"], count / available)
    train = replace(splits.train, rows=select_rows(rows, labeled))
    unlabeled = replace(splits.train, rows={"pixels": rows["pixels"]}, blend=None)
    return replace(splits, train=train, unlabeled=unlabeled)


def _per_channel(key: str, value: float | list[float], channels: int) -> Tensor:
    numbers = torch.tensor(value, dtype=torch.float64).flatten()
    if len(numbers) not in (1, channels):
        several = f", or {channels} numbers (one per channel)" if channels > 1 else ""
        raise ConfigError(format_error(key, f"one number{several}", value))
    return numbers.expand(channels)[:, None, None]


class ScalePixels(nn.Module):
    """Module that subtracts a mean from pixels and divides the result by a standard deviation.

    Shape:
        pixels (B, channels, height, width) and optional labels (B,) -> inputs (B, channels, height, width) in float32
        and targets (B,) in int64, or in float32 if labels are floats
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Tensor, std: Tensor, white: float) -> None:
        super().__init__()
        self.register_buffer("scale", (1 / (white * std)).float())
        self.register_buffer("offset", (-mean / std).float())

    def forward(self, rows: Rows) -> Batch:
        """Prepare any number of images."""
        stored = rows["pixels"]
        pixels = stored.to(torch.float32, memory_format=torch.contiguous_format)
        result = None if pixels is stored else pixels  # reuse the converted copy, because allocating memory takes time
        batch = {"inputs": torch.addcmul(self.offset, pixels, self.scale, out=result)}
        if (labels := rows.get("labels")) is not None:
            batch["targets"] = labels if labels.is_floating_point() else labels.long()
        return batch
