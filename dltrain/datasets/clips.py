"""Spec values, preparation and augmentation of all data sets of clips."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.spec import Clip, Files, Source, Spec, Splits
from dltrain.datasets.augmentation import COLORS, Augmentation
from dltrain.datasets.blending import make_blend
from dltrain.datasets.geometry import Frame, Geometry
from dltrain.datasets.images import ImageTransform, Rows, ScalePixels
from dltrain.errors import ConfigError

Augment = dict[str, Any] | list[str] | None


class PrepareClips(nn.Module):
    """Module that scales the pixels of clips and converts their class indices to int64.

    Shape:
        pixels (B, channels, frames, height, width) in uint8 and optional labels (B,) -> inputs of the same shape in
        float32 and targets (B,) in int64
    """

    def __init__(self, scaling: ScalePixels) -> None:
        super().__init__()
        self.scaling = scaling

    def forward(self, rows: Rows) -> Rows:
        """Prepare any number of clips."""
        offset, scale = (values[:, None] for values in (self.scaling.offset, self.scaling.scale))
        batch = {"inputs": torch.addcmul(offset, rows["pixels"].float(), scale)}
        return batch | {"targets": rows["labels"].long()} if "labels" in rows else batch


class ClipGeometry(nn.Module):
    """Random geometry of clips: the same flip, shift, crop, rotation and zoom for all frames of a clip.

    Args:
        augmentation: What to change and how much.
        outside: Value outside the image, one number per channel, (channels, 1, 1).
        frames: Number of frames of a clip.

    Shape:
        inputs (B, channels, frames, height, width) -> inputs of the same shape; other fields are unchanged
    """

    def __init__(self, augmentation: Augmentation, outside: Tensor, frames: int) -> None:
        super().__init__()
        self.geometry = Geometry(augmentation, Frame({"inputs": outside.repeat_interleave(frames, 0)}))

    def forward(self, batch: Rows, keys: Tensor) -> Rows:
        """Apply one random transformation to all frames of a clip; `keys` (B,) holds a random key for each clip."""
        inputs = batch["inputs"]
        moved = self.geometry({"inputs": inputs.flatten(1, 2)}, keys)["inputs"]
        return {**batch, "inputs": moved.unflatten(1, inputs.shape[1:3])}


def clip_spec(clip: Clip, names: Sequence[str]) -> Spec:
    """Return the spec values for clips with these classes."""
    return Spec(shape=tuple(clip), clip=clip, classes=len(names), class_names=tuple(names))


def prepare_clips(transform: ImageTransform) -> PrepareClips:
    """Return the module that prepares clips."""
    return PrepareClips(transform.scaling())


def clip_splits(
    transform: ImageTransform, spec: Spec, train: Rows | Files, val: Rows | Files | None, test: Rows | Files
) -> Splits:
    """Return splits of ``pixels`` (B, channels, frames, height, width) and ``labels`` (B,).

    Only training clips are augmented; `Files` are cropped during decoding.

    Raises:
        ConfigError: Color changes, RandAugment or cutout are enabled.
    """
    if wrong := transform.augment.enabled((*COLORS, "erase")):
        reason = "clips support only geometric changes, mixup and cutmix"
        raise ConfigError(f"{wrong}: not supported because {reason}")
    prepare = prepare_clips(transform)
    augmentation = transform.augment if isinstance(train, Mapping) else transform.augment.without_crop()
    frames = spec.clip.frames if spec.clip else 1
    augment = ClipGeometry(augmentation, prepare.scaling.offset, frames) if augmentation.moves else None
    blend = make_blend(transform.augment, spec.classes)
    held_out = Source(val, prepare) if val is not None and len(Source(val, prepare)) else None
    return Splits(Source(train, prepare, augment, blend), held_out, Source(test, prepare))
