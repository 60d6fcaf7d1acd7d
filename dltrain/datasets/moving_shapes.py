"""Synthetic clips of a moving shape; the class is the motion."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dltrain.data.checks import at_least
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Clip, Inputs, Splits
from dltrain.data.splits import held_out_size
from dltrain.datasets.clip_files import ClipView
from dltrain.datasets.clip_inputs import read_clips
from dltrain.datasets.clips import clip_spec, clip_splits, prepare_clips
from dltrain.datasets.images import ImageTransform
from dltrain.errors import ConfigError
from dltrain.keyed_random import uniform

MOTIONS = ("left", "right", "up", "down", "clockwise", "counter-clockwise", "grow", "shrink")
MIRRORED = ("flip", "flip_vertical")  # augmentations that turn one motion into another
FORMS = 3  # bar, triangle, corner
SMALLEST, LARGEST = 0.18, 0.36  # radius of a shape, as a fraction of the image size
DRAWN = 8  # uniform numbers per clip, in addition to one per pixel for the noise
NOISE = 30  # gray levels
CHUNK = 128  # clips that are drawn together
VALIDATION, TEST = 0.1, 0.2


class MovingShapes:
    """Gray clips of a moving bar, triangle or corner, with noise; the clips do not depend on the run's seed.

    A shape crosses the image to the left, right, top or bottom, rotates by 180 degrees in either direction, doubles its
    radius, or halves it. A part that leaves the image enters on the other side. Position, angle, size and brightness
    are random, except for the quantity that the motion changes, which covers its whole range. The frames are evenly
    spaced in time, with a random offset of less than one frame. A single frame at a random moment therefore has the
    same distribution for each motion and does not reveal it.

    Args:
        clips: Number of clips: 70% for training, 10% for validation, 20% for testing; at least 8.
        frames: Frames of a clip, at least 1.
        image_size: Height and width of the frames in pixels, at least 1.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white).
        std: Divisor after the subtraction, above 0.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`. Flips are rejected.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the clips stay in memory.
    """

    def __init__(
        self,
        clips: int = 4000,
        frames: int = 8,
        image_size: int = 24,
        mean: float | list[float] = 0.25,
        std: float | list[float] = 0.15,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 32,
        workers: int = 0,
    ) -> None:
        self.clips = at_least("data.clips", clips, len(MOTIONS))
        self.frames = at_least("data.frames", frames, 1)
        self.image_size = at_least("data.image_size", image_size, 1)
        self.transform = ImageTransform(1, mean, std, augment)
        for name in MIRRORED:
            if getattr(self.transform.augment, name):
                reason = "mirroring changes the class of some motions"
                raise ConfigError(f"augment.{name}: not supported by data=moving_shapes because {reason}")
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = prepare_clips(self.transform)
        self.spec = clip_spec(Clip(1, frames, image_size, image_size), MOTIONS)

    def load(self) -> Splits:
        """Draw all clips, and return the splits."""
        rows = draw_clips(self.clips, self.frames, self.image_size)
        val, test = (held_out_size(self.clips, share) for share in (VALIDATION, TEST))
        sizes = [self.clips - val - test, val, test]
        parts = zip(*(values.split(sizes) for values in rows.values()), strict=True)
        return clip_splits(self.transform, self.spec, *(dict(zip(rows, part, strict=True)) for part in parts))

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read video files and folders of frames."""
        return read_clips(files, ClipView(1, self.frames, 1, self.image_size))


def draw_clips(count: int, frames: int, size: int) -> dict[str, Tensor]:
    """Return ``pixels`` (count, 1, frames, size, size) and ``labels`` (count,), both in uint8."""
    numbers = torch.arange(count)
    pixels = torch.cat([_draw(part, frames, size) for part in numbers.split(CHUNK)])
    return {"pixels": pixels[:, None], "labels": (numbers % len(MOTIONS)).byte()}


def _draw(numbers: Tensor, frames: int, size: int) -> Tensor:
    """Return the clips with these indices, (count, frames, size, size) in uint8."""
    drawn = uniform(numbers, DRAWN + frames * size * size)
    form, shade, level, moment, *path = drawn[:, :DRAWN, None].unbind(1)
    noise = drawn[:, DRAWN:].view(-1, frames, size, size)
    moments = (torch.arange(frames) + moment) / frames
    pose = _path(numbers % len(MOTIONS), moments, path)
    covered = _cover((form * FORMS).floor(), *pose, size=size)
    background = 30 + 50 * shade[..., None, None]
    levels = background + (140 + 60 * level[..., None, None] - background) * covered + NOISE * (noise - 0.5)
    return levels.clamp(0, 255).byte()


def _path(motion: Tensor, moments: Tensor, drawn: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, y, angle and radius at each moment, all (count, frames); lengths as fractions of the image size.

    Args:
        motion: Index into `MOTIONS`, (count,).
        moments: From 0 to 1, (count, frames).
        drawn: Uniform numbers (count, 1): x, y, angle and size.
    """
    step = (motion[:, None, None] == torch.arange(len(MOTIONS))).float().unbind(-1)
    left, right, up, down, clockwise, counter, grow, shrink = step
    rising, falling = (right, down, clockwise, grow), (left, up, counter, shrink)
    x, y, angle, size = (
        (1 - rise - fall) * value + rise * moments + fall * (1 - moments)
        for value, rise, fall in zip(drawn, rising, falling, strict=True)
    )
    return x, y, torch.pi * (angle - 0.5), SMALLEST * (LARGEST / SMALLEST) ** size


def _cover(form: Tensor, x: Tensor, y: Tensor, angle: Tensor, radius: Tensor, size: int) -> Tensor:
    """Return the approximate fraction of each pixel that a shape covers, (count, frames, size, size)."""
    x, y, angle, radius, form = (value[..., None, None] for value in (x, y, angle, radius, form))
    positions = (torch.arange(size) + 0.5) / size
    across, down = (positions - x + 0.5) % 1 - 0.5, (positions[:, None] - y + 0.5) % 1 - 0.5  # wraps around
    along = (across * angle.cos() + down * angle.sin()) / radius
    upward = (down * angle.cos() - across * angle.sin()) / radius
    bar = _box(along, upward, 0.0, 0.0, 1.0, 0.35)
    triangle = torch.maximum((2 * along.abs() + upward - 1) / 5**0.5, -upward - 0.5)
    corner = torch.minimum(_box(along, upward, 0.25, -0.25, 0.75, 0.25), _box(along, upward, -0.25, 0.25, 0.25, 0.75))
    distance = torch.where(form == 0, bar, torch.where(form == 1, triangle, corner)) * radius * size
    return (0.5 - distance).clamp(0, 1)


def _box(along: Tensor, upward: Tensor, x: float, y: float, half_width: float, half_height: float) -> Tensor:
    """Return the distance to the edge of a box, negative inside; beyond a corner, a lower bound of the distance."""
    return torch.maximum((along - x).abs() - half_width, (upward - y).abs() - half_height)
