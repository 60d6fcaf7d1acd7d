"""SpecAugment, which masks bands and frames of recordings in training."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dltrain.keyed_random import mix, uniform

Fields = dict[str, Tensor]
LANE = 501  # added to keys, so that these random numbers are independent of other augmentations


@dataclass(frozen=True)
class Masks:
    """Number and sizes of the masks of SpecAugment.

    Args:
        frequency_masks: Number of masks over consecutive mel bands, at least 0.
        frequency_mask_size: Maximum number of bands of each mask.
        time_masks: Number of masks over consecutive frames, at least 0.
        time_mask_size: Maximum number of frames of each mask.
        time_mask_share: Maximum fraction of the frames of a recording that a time mask covers, in [0, 1].
    """

    frequency_masks: int = 0
    frequency_mask_size: int = 8
    time_masks: int = 0
    time_mask_size: int = 20
    time_mask_share: float = 0.2

    @property
    def is_empty(self) -> bool:
        """Whether there are no masks, or only masks of size 0."""
        return not (self.frequency_masks and self.frequency_mask_size) and not (self.time_masks and self.time_mask_size)


class SpecAugment(nn.Module):
    """SpecAugment: sets random bands and frames to zero, the mean of normalized features.

    Sizes are uniform from 0 to their maximum, and positions are uniform; masks lie inside the recording.

    Args:
        bands: Mel bands of a frame; a step of the inputs has one or more frames.

    Shape:
        inputs (B, T, frames * bands) -> inputs of the same shape

    Source: Park et al. 2019, "SpecAugment", section 2, without time warping.
    """

    def __init__(self, bands: int, masks: Masks) -> None:
        super().__init__()
        self.bands, self.masks = bands, masks

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Mask bands and frames of each recording."""
        inputs, masks, device = batch["inputs"], self.masks, batch["inputs"].device
        frames = inputs.shape[2] // self.bands
        lengths = batch["lengths"].to(device, non_blocking=True) * frames
        drawn = uniform(mix(keys + LANE), 2 * (masks.frequency_masks + masks.time_masks)).unflatten(1, (-1, 2))
        bands, times = drawn.split([masks.frequency_masks, masks.time_masks], dim=1)
        most = torch.full((len(inputs), 1), min(masks.frequency_mask_size, self.bands), device=device)
        longest = (lengths * masks.time_mask_share).long().clamp(max=masks.time_mask_size)[:, None]
        every = torch.full_like(most, self.bands)
        hidden_bands = _cover(bands, most, every, self.bands)
        hidden_frames = _cover(times, longest, lengths[:, None], inputs.shape[1] * frames)
        hidden = hidden_bands[:, None, :] | hidden_frames[:, :, None]  # (B, frames of all steps, bands)
        return {**batch, "inputs": inputs.masked_fill(hidden.view(inputs.shape), 0.0)}


def _cover(drawn: Tensor, most: Tensor, ends: Tensor, size: int) -> Tensor:
    """Return which of ``size`` positions are covered by at least one mask, bool (B, size).

    Args:
        drawn: Two uniform numbers per mask, (B, masks, 2).
        most: Maximum size of a mask, int64 (B, 1).
        ends: Number of positions that may be covered, int64 (B, 1).
    """
    sizes = (drawn[:, :, 0] * (most + 1)).long()
    starts = (drawn[:, :, 1] * (ends - sizes + 1)).long()
    positions = torch.arange(size, device=drawn.device)
    return ((positions >= starts[:, :, None]) & (positions < (starts + sizes)[:, :, None])).any(1)
