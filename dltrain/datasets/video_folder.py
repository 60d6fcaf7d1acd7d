"""User-provided clips, one folder per class."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_fraction, check_held_out, existing_folder, user_path
from dltrain.data.folders import subfolders
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Clip, Fitted, Inputs, Source, Splits
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.datasets import image_report
from dltrain.datasets.augmentation import Augmentation
from dltrain.datasets.class_counts import format_class_counts, shorten_names
from dltrain.datasets.clip_files import (
    ClipView,
    check_video_reader,
    decode_clip,
    find_clip_problem,
    find_clips,
    frame_files,
    is_frame_or_video,
    is_video,
)
from dltrain.datasets.clip_inputs import read_clips
from dltrain.datasets.clips import clip_spec, clip_splits, prepare_clips
from dltrain.datasets.image_check import MAX_CHECKED, reject_unreadable
from dltrain.datasets.image_inputs import UNREADABLE
from dltrain.datasets.image_layout import TEST, TRAIN, VAL, Listing, find_splits, split_listing
from dltrain.datasets.images import ImageTransform
from dltrain.errors import ConfigError, format_error, suggest

CHANNELS = 3


class VideoFolder:
    """Clips in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/`` below ``path``, or in ``<class>/`` only.

    A clip is a folder of frames, in the order of the numbers in their names, or a video file. A split without a folder
    is held out from ``train``. Clips are decoded when they are needed. In training a clip starts at a random frame; in
    evaluation the middle of the clip is read. If a clip is too short, its last frame is repeated.

    Args:
        path: The folder.
        frames: Number of frames that the model reads, at least 1.
        frame_stride: Distance in the clip between consecutive frames that are read, at least 1.
        image_size: Height and width of the frames in pixels, at least 1; see
            `dltrain.datasets.image_folder.ImageFolder`.
        validation: Fraction of the clips of each class to hold out, in [0, 1); unused if there is a folder ``val``.
        test: Fraction of each class to hold out for testing, in (0, 1); unused if there is a folder ``test``.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor after the subtraction, above 0; one number, or one per channel.
        augment: Random changes in training, the same for all frames of a clip; see
            `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Processes that decode clips; 0 decodes in the main process between steps.
        worker_timeout: Seconds without a batch after which workers count as hanging and the run stops.
        on_bad_sample: Policy for unreadable clips: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of clips to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None uses the names of the class folders.
    """

    def __init__(
        self,
        path: str,
        frames: int = 16,
        frame_stride: int = 2,
        image_size: int = 112,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 8,
        workers: int = 0,
        worker_timeout: float = TIMEOUT_S,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        self.path = user_path(path)
        sizes = {"frames": frames, "frame_stride": frame_stride, "image_size": image_size}
        self.view = ClipView(CHANNELS, *(at_least(f"data.{name}", size, 1) for name, size in sizes.items()))
        self.validation = check_fraction("data.validation", validation)
        self.test = test
        self.transform = ImageTransform(CHANNELS, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.worker_timeout = worker_timeout
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.lengths: dict[Path, int] = {}
        self.parts: dict[str, Listing] = {}
        if fitted is None:
            self.folders = self._find_splits()
            if TEST not in self.folders:
                check_held_out(0 if VAL in self.folders else validation, test)
            self.classes = _class_names(self.folders[TRAIN])
        else:
            self.classes = [str(name) for name in fitted["classes"]]
        self.prepare = prepare_clips(self.transform)
        self.spec = clip_spec(Clip(CHANNELS, frames, image_size, image_size), self.classes)

    def _find_splits(self) -> dict[str, Path]:
        return find_splits(existing_folder(self.path, "an existing folder of clips"), is_frame_or_video)

    def fit(self) -> Fitted:
        """Return the names of the classes."""
        return {"classes": list(self.classes)}

    def evaluation(self) -> Source:
        """Return all clips of the folder, from all splits."""
        return Source(self._files([*chain.from_iterable(map(self._list, self._find_splits().values()))]), self.prepare)

    def load(self) -> Splits:
        """Return the splits; the clips are listed, and nothing is decoded yet."""
        self.lengths = {}
        self.parts = {split: self._list(folder) for split, folder in self.folders.items()}
        for split, fraction in ((TEST, self.test), (VAL, self.validation)):
            if split not in self.folders:
                self.parts[TRAIN], self.parts[split] = split_listing(self.parts[TRAIN], fraction)
        train, val, test = (self._files(self.parts[split]) for split in (TRAIN, VAL, TEST))
        return clip_splits(self.transform, self.spec, train, val, test)

    def _files(self, listing: Listing) -> "ClipFiles":
        return ClipFiles(listing, self.view, self.path, self.transform.augment)

    def _list(self, folder: Path) -> Listing:
        """Return each clip of a split with the index of its class, and store its number of frames."""
        if unknown := sorted(set(_class_names(folder)) - set(self.classes)):
            expected = f"only the classes {', '.join(self.classes)} in {folder}"
            raise ConfigError(format_error("data.path", expected, unknown[0], suggest(unknown[0], self.classes)))
        listing: Listing = []
        for number, name in enumerate(self.classes):
            clips = find_clips(folder / name) if (folder / name).is_dir() else {}
            if folder / name in clips:
                expected = f"a folder of frames for each clip in {folder / name}"
                got = "images directly in the class folder"
                raise ConfigError(format_error("data.path", expected, got))
            self.lengths |= clips
            listing.extend((clip, number) for clip in clips)
        check_video_reader([clip for clip, _ in listing], "data.path")
        return listing

    def check(self) -> None:
        """Raise ConfigError if clips that `load` has listed cannot be read and must not be skipped."""
        clips = [clip for split in (TEST, VAL, TRAIN) for clip, _ in self.parts[split]]
        frames = sum(max(1, self.lengths[clip]) for clip in clips) / max(1, len(clips))
        reject_unreadable(clips, find_clip_problem, "clips", self.bad, max(1, int(MAX_CHECKED / max(1, frames))))

    def describe(self) -> list[str]:
        """Return lines about the clips that `load` has found: splits, classes, clips that are too short."""
        parts = {split: self.parts[split] for split in (TRAIN, VAL, TEST)}
        labels = [label for listing in parts.values() for _, label in listing]
        return [
            f"{len(labels):,} clips in {self.path}",
            ", ".join(f"{split} {len(listing):,}" for split, listing in parts.items()),
            f"classes: {format_class_counts(labels, self.classes)}",
            *image_report.missing_classes(parts, self.classes, "clip"),
            *self._describe_short(),
        ]

    def _describe_short(self) -> list[str]:
        needed = (self.view.frames - 1) * self.view.stride + 1
        short = [clip.relative_to(self.path).as_posix() for clip, length in self.lengths.items() if 0 < length < needed]
        shown = shorten_names(short)
        return [f"clips of fewer than {needed} frames, whose last frame is repeated: {shown}"] if short else []

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read video files and folders of frames."""
        return read_clips(files, self.view)


class ClipFiles:
    """Clips below ``root``, decoded one at a time.

    Args:
        listing: Path (a folder or a file) and class index of each clip.
        view: Number, stride and format of the frames to read.
        root: Folder that clip names are relative to.
        augmentation: Random changes in training; only the crop is applied here, at full resolution.
    """

    def __init__(self, listing: Listing, view: ClipView, root: Path, augmentation: Augmentation) -> None:
        self.listing, self.view, self.root, self.augmentation = listing, view, root, augmentation

    def __len__(self) -> int:
        return len(self.listing)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the path below ``root`` and the size in bytes of each clip; -1 if the clip no longer exists."""
        for path, _ in self.listing:
            files = [path] if is_video(path) else frame_files(path) if path.is_dir() else []
            size = sum(file.stat().st_size for file in files) if all(file.exists() for file in files) else -1
            yield path.relative_to(self.root).as_posix(), size if files else -1

    def targets(self) -> Tensor:
        """Return the class of each clip."""
        return torch.tensor([label for _, label in self.listing])

    def example(self, index: int, key: int | None) -> tuple[np.ndarray, int]:
        """Decode a clip (frames, size, size, 3) in uint8, and return it with its class."""
        path, label = self.listing[index]
        try:
            return decode_clip(path, self.view, self.augmentation, key), label
        except UNREADABLE as error:
            expected = f"a readable clip at {path} (index {index} of its split)"
            raise ConfigError(format_error("data.path", expected, str(error), "Replace or delete it")) from error

    def stack(self, examples: list[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
        """Return ``pixels`` (B, 3, frames, size, size) in uint8 and ``labels`` (B,) in int64."""
        pixels, labels = zip(*examples, strict=True)
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 4, 1, 2, 3).contiguous()
        return {"pixels": stacked, "labels": torch.tensor(labels)}


def _class_names(root: Path) -> list[str]:
    """Return the names of the folders of a split that contain clips."""
    names = [folder.name for folder in subfolders(root) if find_clips(folder)]
    if not names:
        expected = f"a folder per class, with a folder of frames or a video file per clip, in {root}"
        raise ConfigError(format_error("data.path", expected, "none"))
    return names
