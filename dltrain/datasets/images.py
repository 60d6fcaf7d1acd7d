"""What all pictures share: their facts, how pixels become numbers, and how pictures vary at random in training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.checks import one_of
from dltrain.data.loader import Batch, uniform
from dltrain.data.spec import Files, Source, Spec, Splits
from dltrain.data.splits import hold_out_of_each
from dltrain.errors import ConfigError, format_error

Rows = dict[str, Tensor]

AUGMENTATIONS = ("flip", "crop")
CROP_PAD = 4


def picture_facts(channels: int, height: int, width: int, class_names: Sequence[str] | None) -> Spec:
    """The facts of pictures; read as a sequence, each row of pixels (of all channels) is a step."""
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


class Look:
    """How pictures reach a model: their scale, and how they vary in training.

    Args:
        channels: Of the pictures.
        mean: Taken from the pixels, on the scale from 0 (black) to 1 (white); a number, or one per channel.
        std: What the pixels are divided by after that, on the same scale.
        augment: Any of ``flip`` (left and right, for half of the pictures) and ``crop`` (moved by up to 4 pixels each
            way, black where nothing was).
        white: The stored value that stands for 1.
    """

    def __init__(
        self,
        channels: int,
        mean: float | list[float],
        std: float | list[float],
        augment: list[str],
        white: float = 255.0,
    ) -> None:
        self.mean = _per_channel("data.mean", mean, channels)
        self.std = _per_channel("data.std", std, channels)
        if not bool((self.std > 0).all()):
            raise ConfigError(format_error("data.std", "numbers above 0", std))
        self.augment = [one_of("data.augment", name, AUGMENTATIONS) for name in augment]
        self.white = white

    def stored(self, pixels: np.ndarray) -> np.ndarray:
        """Bytes from 0 to 255 on the set's own scale; where that is one of whole numbers, rounded to them."""
        if self.white == 255:
            return pixels
        scaled = pixels.astype(np.float32) * (self.white / 255)
        return scaled.round().astype(np.uint8) if self.white > 1 else scaled

    def facts(self, spec: Spec) -> Spec:
        """``spec`` with what black and white are to a model."""
        channels = spec.channels or 1
        black, white = (-self.mean / self.std), ((1 - self.mean) / self.std)
        low, high = (tuple(v.expand(channels, 1, 1).flatten().float().tolist()) for v in (black, white))
        return replace(spec, low=low, high=high)

    def splits(self, train: Rows | Files, val: Rows | Files | None, test: Rows | Files) -> Splits:
        """Three sources of ``pixels`` (B, channels, height, width) and ``labels`` (B,); only training is augmented."""
        prepare = Pixels(self.mean, self.std, self.white)
        augment = Augment("flip" in self.augment, "crop" in self.augment, self.mean, self.std) if self.augment else None
        held = Source(val, prepare) if val is not None and len(Source(val, prepare)) else None
        return Splits(Source(train, prepare, augment), held, Source(test, prepare))


def picked(rows: Mapping[str, Tensor], indices: Tensor) -> Rows:
    """Some rows of all of them."""
    return {name: value[indices] for name, value in rows.items()}


def answered(splits: Splits, count: int | None) -> Splits:
    """The same data as if the labels of only some training examples were known; those of ``val`` and ``test`` stay.

    Args:
        splits: With resident rows.
        count: How many; the same ones in every run, and of each class its share, to within one. None for all.

    Raises:
        ConfigError: When there are fewer.
    """
    rows, most = splits.train.rows, len(splits.train)
    if count is None or not isinstance(rows, Mapping):
        return splits
    if not 1 <= count <= most:
        raise ConfigError(
            format_error("data.num_labels", f"from 1 to {most:,}, the number of training examples", count)
        )
    _, known = hold_out_of_each(rows["labels"], count / most)
    train = replace(splits.train, rows=picked(rows, known))
    return replace(splits, train=train, unlabelled=replace(splits.train, rows={"pixels": rows["pixels"]}))


def _per_channel(key: str, value: float | list[float], channels: int) -> Tensor:
    numbers = torch.tensor(value, dtype=torch.float64).flatten()
    if len(numbers) not in (1, channels):
        raise ConfigError(format_error(key, f"one number, or {channels} (one per channel)", value))
    return numbers.expand(channels)[:, None, None]


class Pixels(nn.Module):
    """Pixels as floating point numbers less their mean, in units of their deviation.

    Shape:
        pixels (B, channels, height, width) and labels (B,), if they are known -> inputs (B, channels, height, width) in
        float32 and targets (B,) in int64, or in float32 where labels are numbers
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Tensor, std: Tensor, white: float) -> None:
        super().__init__()
        self.register_buffer("scale", (1 / (white * std)).float())
        self.register_buffer("offset", (-mean / std).float())

    def forward(self, rows: Rows) -> Batch:
        """Prepare any number of pictures at once."""
        batch = {"inputs": torch.addcmul(self.offset, rows["pixels"].float(), self.scale)}
        if (labels := rows.get("labels")) is not None:
            batch["targets"] = labels if labels.is_floating_point() else labels.long()
        return batch


class Augment(nn.Module):
    """Flip and crop a whole batch at once, each picture by the numbers that its key names.

    Shape:
        inputs (B, channels, height, width) -> the same
    """

    black: Tensor

    def __init__(self, flip: bool, crop: bool, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.flip = flip
        self.pad = CROP_PAD if crop else 0
        self.register_buffer("black", (-mean / std).float())

    def forward(self, batch: Batch, keys: Tensor) -> Batch:
        """Change ``inputs`` only; the targets stay."""
        pixels = batch["inputs"]
        count, channels, height, width = pixels.shape
        flip, down, right = uniform(keys, 3).unbind(1)
        rows = self._moved(height, down)
        columns = self._moved(width, right)
        if self.flip:
            columns = torch.where(flip[:, None] < 0.5, width - 1 - columns, columns)
        inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        places = places.view(count, 1, height * width).expand(-1, channels, -1)
        moved = pixels.flatten(2).gather(2, places).view(pixels.shape)
        return {**batch, "inputs": torch.where(inside[:, None], moved, self.black)}

    def _moved(self, size: int, draw: Tensor) -> Tensor:
        """From which place (B, size) each pixel is taken; it may lie outside by up to ``pad``."""
        shift = (draw * (2 * self.pad + 1)).long() - self.pad
        return torch.arange(size, device=draw.device) + shift[:, None]


def _within(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)
