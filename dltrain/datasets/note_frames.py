"""Frames of a piano roll: the notes that sound in each step, as text, as tensors and as the fields of a batch."""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.data.notes import Notes
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import uniform

LOWEST, HIGHEST = 21, 108  # MIDI pitches of the keys of a piano
NOTES = HIGHEST - LOWEST + 1
MAX_DIGITS = 3  # maximum digits of a MIDI pitch; int() rejects thousands of digits
UNKNOWN = 255  # value of unknown frames: the padding of a piece, and the frame to predict
REST = "-"  # text of a frame without notes


def to_frames(steps: Sequence[Iterable[int]]) -> Tensor:
    """Return frames, uint8 (steps, NOTES), with 1 for each note whose MIDI pitch is in the step, 0 otherwise."""
    frames = torch.zeros(len(steps), NOTES, dtype=torch.uint8)
    placed = [(step, pitch - LOWEST) for step, pitches in enumerate(steps) for pitch in pitches]
    if placed:
        frames[tuple(torch.tensor(placed).T)] = 1
    return frames


def to_steps(frames: Tensor) -> list[list[int]]:
    """Return the MIDI pitches of each frame, in ascending order."""
    return [(frame.nonzero()[:, 0] + LOWEST).tolist() for frame in frames]


def encode_text(text: str) -> list[list[int]]:
    """Return the note indices of each frame of a text, in ascending order.

    MIDI pitches are separated by spaces, frames by commas or line breaks.

    Raises:
        ConfigError: The text has an empty frame, or a word that is neither the MIDI pitch of a piano key nor `REST`.
    """
    frames = [frame.split() for frame in re.split(r"[,\n]", text.strip())]
    expected = f"frames of MIDI pitches from {LOWEST} to {HIGHEST}, such as '60 64 67, 60 65 69'; {REST} for a rest"
    for word in (word for frame in frames for word in frame if word != REST):
        is_number = word.isascii() and word.isdecimal() and len(word) <= MAX_DIGITS
        if not (is_number and LOWEST <= int(word) <= HIGHEST):
            raise ConfigError(format_error("text", expected, word))
    if not all(frames):
        raise ConfigError(format_error("text", expected, "an empty frame" if text.strip() else "an empty text"))
    return [sorted({int(word) - LOWEST for word in frame if word != REST}) for frame in frames]


def decode_frame(notes: list[int]) -> str:
    """Return a line with the MIDI pitches of a frame, or with `REST` for a frame without notes."""
    return " ".join(str(note + LOWEST) for note in notes) + "\n" if notes else f"{REST}\n"


def piano_notes() -> Notes:
    """Return the notes of a piano."""
    return Notes(NOTES, encode_text, decode_frame, LOWEST)


class PrepareFrames(nn.Module):
    """Module that converts frames to inputs and targets: each frame is predicted from the frames before it.

    Shape:
        - Input: frames (B, T, NOTES) in uint8, `UNKNOWN` in padding; frames_lengths (B,).
        - Output: inputs (the previous frames) and targets (-1 in unknown frames), both (B, T, NOTES) in float32;
          lengths (B,) on the CPU.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of pieces."""
        frames = rows["frames"]
        is_known = frames != UNKNOWN
        values = (frames * is_known).float()
        inputs = torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)
        targets = values.masked_fill(~is_known, -1.0)
        return {"inputs": inputs, "targets": targets, "lengths": rows["frames_lengths"]}


class Transpose(nn.Module):
    """Random transposition of each piece in training, limited to the range of a piano.

    The field ``transposition`` (B,), int64, holds the number of semitones by which each piece is transposed.

    Args:
        semitones: Maximum transposition, at least 0.
    """

    def __init__(self, semitones: int) -> None:
        super().__init__()
        self.semitones = semitones

    def forward(self, batch: Batch, keys: Tensor) -> Batch:
        """Return the transposed pieces."""
        drawn = (uniform(keys, 1)[:, 0] * (2 * self.semitones + 1)).long() - self.semitones
        sounds = (batch["targets"] > 0).any(dim=1).long()
        lowest, highest = sounds.argmax(1), NOTES - 1 - sounds.flip(1).argmax(1)
        moved = torch.minimum(torch.maximum(drawn, -lowest), NOTES - 1 - highest)
        moved = torch.where(sounds.any(1), moved, 0)
        index = (torch.arange(NOTES, device=moved.device) - moved[:, None]) % NOTES
        fields = {name: roll_notes(batch[name], index) for name in ("inputs", "targets")}
        return {**batch, **fields, "transposition": moved}


def roll_notes(frames: Tensor, index: Tensor) -> Tensor:
    """Move note ``index[b, n]`` of piece `b` to note `n`, in frames (B, T, notes)."""
    return frames.gather(2, index[:, None, :].expand(-1, frames.shape[1], -1))
