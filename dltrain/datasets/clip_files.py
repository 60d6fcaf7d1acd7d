"""Find and decode clips. A clip is a folder of frames or a video file."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dltrain.data.folders import find_files, is_leftover
from dltrain.datasets.augmentation import Augmentation, crop_window
from dltrain.datasets.image_check import find_problem, image_size
from dltrain.datasets.image_inputs import MODES, UNREADABLE, Window, decode_image, resize_image
from dltrain.datasets.image_layout import is_image
from dltrain.errors import ConfigError
from dltrain.keyed_random import draw

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
Choose = Callable[[int], list[int]]  # number of frames of a clip -> ascending positions of the frames to read


def is_video(file: Path) -> bool:
    """Return whether a file has the suffix of a video."""
    return file.suffix.casefold() in VIDEO_SUFFIXES


def is_frame_or_video(file: Path) -> bool:
    """Return whether a file has the suffix of an image or a video."""
    return is_image(file) or is_video(file)


def natural_order(path: Path) -> list[Any]:
    """Return a sort key that orders the numbers in paths by value: 2 before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), part) if number % 2 else part.casefold() for number, part in enumerate(parts)]


def find_clips(root: Path) -> dict[Path, int]:
    """Return the number of frames of each clip in a folder, at any depth, in natural order; 0 for a video file."""
    files = list(filter(is_frame_or_video, find_files(root)))
    found = Counter(file.parent for file in files if is_image(file)) | dict.fromkeys(filter(is_video, files), 0)
    return {clip: found[clip] for clip in sorted(found, key=natural_order)}


def check_video_reader(clips: list[Path], key: str) -> None:
    """Raise ConfigError if there is a video file but no package to read it."""
    if (video := next(filter(is_video, clips), None)) and find_spec("av") is None:
        hint = "Install it with pip install 'dltrain[video]', or use a folder of frames for each clip"
        raise ConfigError(f"{key}: not supported because reading {video} needs the package av. {hint}.")


def frame_files(folder: Path) -> list[Path]:
    """Return the files of the frames of a clip in natural order."""
    files = (entry for entry in folder.iterdir() if is_image(entry) and not is_leftover(entry.name))
    return sorted(files, key=natural_order)


def find_clip_problem(clip: Path) -> str | None:
    """Return the file and reason if a clip cannot be read, else None. Only the first frame of a video is decoded."""
    if is_video(clip):
        try:
            next(_read_video(clip, ClipView(1, 1, 1, 1), lambda total: [0]))
        except UNREADABLE as error:
            return f"{clip}: {error}"
        return None
    sizes = set[tuple[int, int]]()
    for file in frame_files(clip):
        if (reason := find_problem(file)) is not None:
            return f"{file}: {reason}"
        sizes.add(image_size(file))
    return None if len(sizes) < 2 else f"{clip}: {_different(sizes)}"


class ClipView(NamedTuple):
    """Number, stride and format of the frames to read from a clip.

    Args:
        channels: Channels of a frame.
        frames: Number of frames to read.
        stride: Distance between these frames in the clip.
        size: Height and width of the result in pixels.
    """

    channels: int
    frames: int
    stride: int
    size: int

    def positions(self, total: int, moment: float | None) -> list[int]:
        """Return the positions of the frames to read; if a clip is too short, its last frame is repeated.

        Args:
            total: Number of frames of the clip.
            moment: Random number in [0, 1) that selects one of the possible starts; None selects the middle.
        """
        spare = max(0, total - 1 - (self.frames - 1) * self.stride)
        start = spare // 2 if moment is None else int(moment * (spare + 1))
        return [min(start + number * self.stride, total - 1) for number in range(self.frames)]


def decode_clip(
    path: Path, view: ClipView, augmentation: Augmentation | None = None, key: int | None = None
) -> np.ndarray:
    """Decode a clip to a uint8 array (frames, size, size, channels).

    All frames are cropped to the same square at their center and resized. If `key` is given, the first frame to read
    is random, and the random crop of `augmentation`, if it has one, replaces the crop at the center.

    Raises:
        OSError, ValueError: The clip cannot be read.
    """
    drawn = None if key is None else draw(key, 5)
    choose = partial(view.positions, moment=None if drawn is None else drawn[4])
    sizes: set[tuple[int, int]] = set()
    crop = partial(_window, sizes, augmentation, drawn)
    if is_video(path):
        frames = [resize_image(frame, view.size, view.size, crop) for frame in _read_video(path, view, choose)]
        return np.stack(frames).reshape(-1, view.size, view.size, view.channels)
    files = frame_files(path)
    if not files:
        raise ValueError("no frames")
    chosen, decoded = choose(len(files)), dict[int, np.ndarray]()
    for position in dict.fromkeys(chosen):
        try:
            frame = decode_image(files[position], MODES[view.channels], view.size, view.size, crop)
        except UNREADABLE as error:
            raise ValueError(f"{files[position].name}: {error}") from error
        decoded[position] = frame.reshape(view.size, view.size, view.channels)
    return np.stack([decoded[position] for position in chosen])


def _window(
    sizes: set[tuple[int, int]], augmentation: Augmentation | None, drawn: list[float] | None, width: int, height: int
) -> Window:
    """Return the part of a frame to keep: a square at the center, or the random crop of the clip."""
    sizes.add((width, height))
    if len(sizes) > 1:
        raise ValueError(_different(sizes))
    if augmentation is None or drawn is None or augmentation.min_area == 1:
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side
    left, top, across, along = map(float, crop_window(augmentation, drawn[:4], height, width, height / width))
    return left, top, left + across * width, top + along * height


def _different(sizes: set[tuple[int, int]]) -> str:
    shown = " and ".join(f"{across} x {along}" for across, along in sorted(sizes))
    return f"frames of different sizes: {shown} pixels"


def _read_video(path: Path, view: ClipView, choose: Choose) -> Iterator[Any]:
    """Yield the chosen frames of a video file as images; the frames before them are also decoded."""
    import av

    try:
        with av.open(str(path)) as container:
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        chosen = choose(max(1, total))
        with av.open(str(path)) as container:
            last, read = None, 0
            for position, frame in enumerate(container.decode(video=0)):
                last = frame
                while read < len(chosen) and chosen[read] <= position:
                    yield frame.to_image().convert(MODES[view.channels])
                    read += 1
                if read == len(chosen):
                    return
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(str(error)) from error
    if last is None:
        raise ValueError("no frames")
    for _ in range(len(chosen) - read):  # repeat the last frame: some of the counted packets may contain no frame
        yield last.to_image().convert(MODES[view.channels])
