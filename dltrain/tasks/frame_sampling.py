"""Sampling of music from models of piano rolls, frame by frame."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

GREEDY_BELOW = 1e-4  # below this temperature, take the notes with a probability above 0.5


class FrameWindow:
    """Step-by-step interface of a model without a state: each step reads the last ``length`` frames again."""

    def __init__(self, model: nn.Module, length: int) -> None:
        self.model, self.length = model, length

    def start(self, batch_size: int) -> dict[str, Any]:
        """Return the state before the first frame."""
        return {}

    def forward(self, x: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the outputs after each of the frames (B, T, notes), and the next state."""
        frames = torch.cat([state["frames"], x], dim=1)[:, -self.length :] if state else x[:, -self.length :]
        return self.model.forward(frames)[:, -x.shape[1] :], {"frames": frames}


def draw_notes(logits: Tensor, temperature: float, noise: Generator) -> Tensor:
    """Return which notes sound, bool of the shape of `logits`, drawn independently on the CPU."""
    logits = logits.float().cpu()
    if temperature < GREEDY_BELOW:
        return logits > 0
    return torch.rand(logits.shape, generator=noise) < (logits / temperature).sigmoid()


def sample_frames(model: Any, prompt: Tensor, length: int, temperature: float, noise: Generator) -> Iterator[Tensor]:
    """Yield an endless sequence of frames after a prompt, bool (notes,) each.

    Args:
        model: A model of piano rolls. A model with a method `start` keeps a state and reads only the new frame; other
            models read the last ``length`` frames again for each new frame.
        prompt: Frames (T, notes), T at least 1, starting with the empty frame before a piece.
        noise: CPU generator of the random numbers; torch's global generator is not used.
    """
    stepwise = model if hasattr(model, "start") else FrameWindow(model, length)
    state, frames = stepwise.start(1), prompt[None]
    # Calling `forward` bypasses torch.compile, which would compile again for each new shape of the state.
    for piece in frames.split(length, dim=1):
        logits, state = stepwise.forward(piece, state=state)
    while True:
        notes = draw_notes(logits[0, -1], temperature, noise)
        yield notes
        logits, state = stepwise.forward(notes.to(prompt)[None, None], state=state)
