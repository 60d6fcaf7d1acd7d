"""User-provided clips: video files, folders of frames, and folders of clips."""

from collections.abc import Iterator
from pathlib import Path

from dltrain.data.inputs import STANDARD_INPUT, InputFile, InputFiles
from dltrain.data.spec import Inputs
from dltrain.datasets.array_inputs import Example, stack_examples
from dltrain.datasets.clip_files import ClipView, check_video_reader, decode_clip, find_clips, is_video
from dltrain.datasets.image_inputs import UNREADABLE
from dltrain.errors import ConfigError, format_error

EXPECTED = "a folder of frames, a folder of clips, or a video file"


def read_clips(files: InputFiles, view: ClipView) -> Iterator[Inputs]:
    """Yield frames from the middle of each clip.

    Args:
        files: Video files, folders of frames, and folders that contain clips at any depth.
        view: Number, stride and format of the frames to read.
    """
    return stack_examples(_examples(files, view), files.batch_size, "pixels")


def _examples(files: InputFiles, view: ClipView) -> Iterator[Example]:
    if files.text is not None or not files.names:
        next(files.expand(EXPECTED))  # always raises ConfigError
    for number, name in enumerate(files.names, 1):
        file = InputFile(number, name)
        with file.errors_as_input():
            for clip in _clips(file):
                try:
                    pixels = decode_clip(clip, view)
                except UNREADABLE as error:
                    raise ConfigError(format_error("INPUT", f"a readable clip at {clip}", str(error))) from error
                yield {"input": str(clip)}, pixels.transpose(3, 0, 1, 2)


def _clips(file: InputFile) -> list[Path]:
    if file.name == STANDARD_INPUT:
        raise ConfigError("INPUT: not supported because clips cannot be read from standard input. Pass a path.")
    clips = list(find_clips(file.path)) if file.path.is_dir() else [file.path] if is_video(file.path) else []
    if not clips:
        raise ConfigError(format_error("INPUT", EXPECTED, file.name))
    check_video_reader(clips, "INPUT")
    return clips
