"""Baselines of polyphonic music: the frequency of each note, overall and after a frame with or without this note."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dltrain.tasks.base import Batch


class NoteCounts:
    """Frequency of each note in the training pieces: overall, and after a frame with or without this note.

    Transposed pieces are counted in their original key: note ``n`` of piece ``b`` is stored in the batch as note
    ``n + transposition[b]``. Probabilities are ``(count + 1) / (frames + 2)``, so that no probability is 0.
    """

    def __init__(self, train: Iterable[Batch]) -> None:
        sounding, frames = torch.zeros(()), torch.zeros(())
        for batch in train:
            inputs, targets = (_original(batch[name].double(), batch) for name in ("inputs", "targets"))
            before = torch.stack([1 - inputs, inputs]) * is_known(targets)[:, :, None]  # (2, B, T, notes)
            frames = frames + before.sum((1, 2)).cpu()
            sounding = sounding + (before * targets).sum((1, 2)).cpu()
        self.after = _logits(sounding, frames)  # (2, notes): after a frame without the note, and with it
        self.overall = _logits(sounding.sum(0), frames.sum(0))  # (notes,)

    def predictions(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return baselines by name, each a function of the previous frames (B, T, notes) that returns logits."""

        def repeat(inputs: Tensor) -> Tensor:
            after = self.after.to(inputs.device)
            return torch.where(inputs > 0, after[1], after[0])

        return {
            "note frequencies": lambda inputs: self.overall.to(inputs.device).expand_as(inputs),
            "repeat last frame": repeat,
        }


def is_known(targets: Tensor) -> Tensor:
    """Return which frames are known, bool (B, T); all notes of unknown frames are -1."""
    return targets[..., 0] >= 0


def _original(frames: Tensor, batch: Batch) -> Tensor:
    """Return frames (B, T, notes) as they were before a transposition."""
    if "transposition" not in batch:
        return frames
    notes = torch.arange(frames.shape[2], device=frames.device)
    index = (notes + batch["transposition"][:, None]) % frames.shape[2]
    return frames.gather(2, index[:, None, :].expand_as(frames))


def _logits(sounding: Tensor, frames: Tensor) -> Tensor:
    return torch.logit((sounding + 1) / (frames + 2)).float()
