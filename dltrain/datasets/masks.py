"""Spec values, preparation and augmentation of images with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from dltrain.data.spec import Files, Source, Spec, Splits
from dltrain.datasets import boxes
from dltrain.datasets.changes import make_changes
from dltrain.datasets.geometry import Frame
from dltrain.datasets.images import ImageTransform, Rows, ScalePixels, image_spec
from dltrain.errors import ConfigError

UNKNOWN = 255  # stored value of pixels without a class
IGNORED = -1  # target of pixels without a class


class PrepareMasks(nn.Module):
    """Module that scales pixels, converts masks to targets, and leaves boxes unchanged.

    Shape:
        pixels (B, channels, height, width) and optional masks (B, height, width) in uint8 -> inputs in float32 and
        targets in int64, -1 for pixels without a class
    """

    def __init__(self, scaling: ScalePixels) -> None:
        super().__init__()
        self.scaling = scaling

    def forward(self, rows: Rows) -> Rows:
        """Prepare any number of images."""
        batch = self.scaling({"pixels": rows["pixels"]})
        if (masks := rows.get("masks")) is not None:
            batch["targets"] = masks.long().masked_fill(masks == UNKNOWN, IGNORED)
        return batch | {name: rows[name] for name in boxes.FIELDS if name in rows}


def mask_spec(transform: ImageTransform, size: tuple[int, int, int], names: Sequence[str]) -> Spec:
    """Return the spec values of images of size (channels, height, width) with pixels of the classes `names`."""
    spec = transform.add_bounds(image_spec(*size, None))
    return replace(spec, pixel_classes=len(names), pixel_class_names=tuple(names))


def prepare_masks(transform: ImageTransform) -> PrepareMasks:
    """Return the module that prepares images with masks."""
    return PrepareMasks(transform.scaling())


def mask_splits(transform: ImageTransform, train: Rows | Files, val: Rows | Files | None, test: Rows | Files) -> Splits:
    """Return the splits of ``pixels`` and ``masks``, and of ``boxes`` and ``kinds`` if the training rows have them.

    Only training images are augmented; `Files` are cropped during decoding.

    Raises:
        ConfigError: Mixup or cutmix is enabled.
    """
    settings = transform.augment
    if settings.mixup or settings.cutmix:
        raise ConfigError("augment.mixup augment.cutmix: not supported because each pixel has one class")
    prepare = prepare_masks(transform)
    moves = settings if isinstance(train, Mapping) else settings.without_crop()
    boxed = ("boxes",) if isinstance(train, Mapping) and "boxes" in train else ()
    frame = Frame({"inputs": prepare.scaling.offset}, {"targets": IGNORED}, boxed)
    augment = make_changes(moves, frame, transform.unit())
    held_out = Source(val, prepare) if val is not None and len(Source(val, prepare)) else None
    return Splits(Source(train, prepare, augment), held_out, Source(test, prepare))
