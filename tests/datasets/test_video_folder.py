"""Folders of clips: choice and order of frames, augmentation, and rejected folders and files."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets import clip_files
from dltrain.datasets.moving_shapes import MovingShapes
from dltrain.datasets.video_folder import VideoFolder
from dltrain.errors import ConfigError


def write_clip(folder: Path, levels: list[int], size: tuple[int, int] = (12, 8)) -> Path:
    """Write frames 1.png, 2.png, ... with the given gray levels."""
    folder.mkdir(parents=True)
    for number, level in enumerate(levels, 1):
        Image.new("RGB", size, (level, level, level)).save(folder / f"{number}.png")
    return folder


def write(root: Path, count: int = 10, frames: int = 12) -> str:
    """Write clips of two classes; the gray level of a frame is ten times its index."""
    for number in range(count):
        write_clip(root / ("jump" if number % 2 else "walk") / f"clip{number}", [10 * n for n in range(frames)])
    return str(root)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder of ten clips of two classes; tests must not change it."""
    return write(tmp_path_factory.mktemp("walks"))


def levels(clip: np.ndarray) -> list[int]:
    """Return the index of each frame of a clip, computed from its gray level."""
    assert (clip == clip[:, :1, :1, :1]).all()
    return [int(level) // 10 for level in clip[:, 0, 0, 0]]


def test_evaluation_reads_the_middle_frames_of_a_clip_in_numeric_order(walks: str) -> None:
    data = VideoFolder(walks, frames=4, frame_stride=2, image_size=6)
    assert data.spec.shape == (3, 4, 6, 6) and data.spec.clip.frames == 4 and data.spec.class_names == ("jump", "walk")
    clip, label = data.load().test.rows.example(0, None)
    assert levels(clip) == [2, 4, 6, 8] and label in (0, 1)


def test_the_random_key_determines_the_first_frame_of_a_training_clip(walks: str) -> None:
    files = VideoFolder(walks, frames=4, frame_stride=2, image_size=6).load().train.rows
    starts = Counter(levels(files.example(0, key)[0])[0] for key in range(120))
    assert set(starts) == set(range(6)) and min(starts.values()) > 10
    assert all(np.diff(levels(files.example(1, key)[0])).tolist() == [2, 2, 2] for key in range(5))
    assert np.array_equal(files.example(0, 7)[0], files.example(0, 7)[0])


def test_a_clip_that_is_too_short_repeats_its_last_frame(tmp_path: Path) -> None:
    data = VideoFolder(write(tmp_path, frames=3), frames=5, frame_stride=1, image_size=6)
    splits = data.load()
    for key in (None, 3):
        assert levels(splits.train.rows.example(0, key)[0]) == [0, 1, 2, 2, 2]
    assert "clips of fewer than 5 frames, whose last frame is repeated: jump/clip1" in data.describe()[-1]


def gradient(root: Path) -> str:
    """Write clips of identical frames; red increases from 0 to 255 over the columns and green over the rows."""
    across = np.broadcast_to(np.linspace(0, 255, 120)[None], (80, 120))
    along = np.broadcast_to(np.linspace(0, 255, 80)[:, None], (80, 120))
    frame = Image.fromarray(np.stack([across, along, 0 * along], -1).round().astype(np.uint8))
    for number in range(10):
        folder = root / "ab"[number % 2] / str(number)
        folder.mkdir(parents=True)
        for position in range(4):
            frame.save(folder / f"{position}.png")
    return str(root)


def test_a_class_missing_from_a_split_of_clips_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "train")
    write_clip(tmp_path / "test" / "walk" / "clip0", [10] * 12)
    data = VideoFolder(str(tmp_path), frames=4, image_size=6)
    data.load()
    assert "test has no clip of jump" in data.describe()


def test_crop_flip_and_rotation_are_the_same_in_all_frames_of_a_clip(tmp_path: Path) -> None:
    augment = {"min_area": 0.2, "flip": True, "rotation": 10.0}
    source = VideoFolder(gradient(tmp_path), frames=3, frame_stride=1, image_size=16, augment=augment).load().train
    crops = [source.rows.example(0, key)[0] for key in range(8)]
    assert all(np.array_equal(clip[0], frame) for clip in crops for frame in clip)
    assert len({clip.tobytes() for clip in crops}) == 8
    plain = source.prepare(source.rows.stack([(crops[0], 0)] * 20))
    moved = source.augment(plain, torch.arange(20))["inputs"]
    assert all(torch.equal(moved[:, :, 0], moved[:, :, number]) for number in (1, 2))
    assert len({clip.numpy().tobytes() for clip in moved}) == 20


@pytest.mark.slow
def test_batches_have_the_same_bytes_with_and_without_workers(walks: str) -> None:
    augment = {"min_area": 0.2, "flip": True, "shift": 2}
    source = VideoFolder(walks, frames=3, image_size=6, augment=augment).load().train
    found = []
    for workers in (0, 2):
        batches = Batches(source, 3, training=True, workers=workers, seed=5)
        found.append([batch["inputs"] for epoch in range(2) for batch in batches.epoch(epoch)])
        batches.close()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not torch.equal(found[0][0], found[0][len(found[0]) // 2])


def test_folders_named_train_validation_and_test_are_used_as_splits(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("validation", 4), ("test", 6)):
        write(tmp_path / split, count)
    splits = VideoFolder(str(tmp_path)).load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [8, 4, 6]


def other_size(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "test" / "walk" / "clip0" / "6.png")


def truncated(root: Path) -> None:
    file = root / "test" / "walk" / "clip0" / "6.png"
    file.write_bytes(file.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [(other_size, "frames of different sizes: 9 x 9 and 12 x 8 pixels"), (truncated, "6.png: ")],
)
def test_a_clip_that_cannot_be_read_is_rejected_with_its_path(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "train")
    write(tmp_path / "test", 2)
    splits = VideoFolder(str(tmp_path), frames=8, frame_stride=1).load()
    damage(tmp_path)
    with pytest.raises(ConfigError) as caught:
        list(Batches(splits.test, 2))
    assert f"a readable clip at {tmp_path / 'test' / 'walk' / 'clip0'} (index 1 of its split)" in str(caught.value)
    assert message in str(caught.value)


def stray(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "jump" / "1.png")


def unknown(root: Path) -> None:
    write_clip(root / "train" / "walk" / "a", [1])
    write_clip(root / "test" / "fly" / "b", [1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "jump").mkdir(), "a folder per class, with a folder of frames or a video file per clip"),
        (lambda root: (write(root), stray(root)), "a folder of frames for each clip in .*jump, got images directly"),
        (unknown, "only the classes walk in .*test, got fly"),
    ],
)
def test_a_folder_with_an_invalid_layout_or_an_unknown_class_is_rejected(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=f"data.path: expected {message}"):
        VideoFolder(str(tmp_path)).load()


def test_a_video_file_is_rejected_with_an_install_hint_if_the_package_av_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    (tmp_path / "walk" / "one.mp4").write_bytes(b"")
    monkeypatch.setattr(clip_files, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"one.mp4 needs the package av. Install it with pip install 'dltrain\[video\]'"
    ):
        VideoFolder(str(tmp_path)).load()


def write_video(path: Path, count: int) -> None:
    """Write a video; the gray level of a frame is ten times its index."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_image(Image.new("RGB", (48, 32), (10 * number,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_video_file_is_read_like_a_folder_of_its_frames(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        write_video(tmp_path / "ab"[number % 2] / f"{number}.mp4", 20)
    data = VideoFolder(str(tmp_path), frames=4, frame_stride=3, image_size=16)
    files = data.load().train.rows
    clip, _ = files.example(0, None)
    middle = clip[:, 8, 8].astype(float).mean(1)
    np.testing.assert_allclose(middle, [50, 80, 110, 140], atol=4)
    starts = {round(files.example(0, key)[0][0, 8, 8].mean() / 10) for key in range(60)}
    assert starts == set(range(11))
    (read,) = data.inputs(InputFiles((str(tmp_path / "a"),)))
    assert read.rows["pixels"].shape == (3, 3, 4, 16, 16) and read.names[0] == {"input": str(tmp_path / "a" / "0.mp4")}


def test_a_color_video_is_read_in_gray_for_a_data_set_of_gray_clips(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", 20)
    (read,) = MovingShapes(frames=4, image_size=16).inputs(InputFiles((str(tmp_path / "one.mp4"),)))
    pixels = read.rows["pixels"]
    assert isinstance(pixels, torch.Tensor) and pixels.shape == (1, 1, 4, 16, 16)
    np.testing.assert_allclose(pixels[0, 0, :, 8, 8], [80, 90, 100, 110], atol=4)


def test_a_damaged_video_file_is_rejected_with_its_path(tmp_path: Path) -> None:
    write(tmp_path)
    write_video(tmp_path / "walk" / "one.mp4", 20)
    content = (tmp_path / "walk" / "one.mp4").read_bytes()
    (tmp_path / "walk" / "one.mp4").write_bytes(content[:60])
    source = VideoFolder(str(tmp_path)).evaluation()
    with pytest.raises(ConfigError, match=r"a readable clip at .*one.mp4"):
        list(Batches(source, 4))


def test_the_method_inputs_reads_folders_of_frames_at_any_depth(walks: str, tmp_path: Path) -> None:
    data = VideoFolder(walks, frames=4, frame_stride=2, image_size=6)
    write_clip(tmp_path / "new" / "deep" / "b", [10 * n for n in range(12)])
    write_clip(tmp_path / "new" / "a", [10 * n for n in range(7)])
    (read,) = data.inputs(InputFiles((str(tmp_path / "new"),)))
    assert [name["input"] for name in read.names] == [str(tmp_path / "new" / name) for name in ("a", "deep/b")]
    assert read.rows["pixels"].shape == (2, 3, 4, 6, 6)
    assert [levels(clip.permute(1, 2, 3, 0).numpy()) for clip in read.rows["pixels"]] == [[0, 2, 4, 6], [2, 4, 6, 8]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("-",), "INPUT 1: not supported because clips cannot be read from standard input"),
        ((), "INPUT: expected a folder of frames"),
        (("{}/one.png",), "INPUT 1: expected a folder of frames, a folder of clips, or a video file, got .*one.png"),
    ],
)
def test_inputs_that_are_not_clips_are_rejected(
    names: tuple[str, ...], message: str, walks: str, tmp_path: Path
) -> None:
    data = VideoFolder(walks)
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(ConfigError, match=message):
        next(data.inputs(InputFiles(tuple(name.format(tmp_path) for name in names))))
