"""Truncated or unsupported images, masks and frames of every split are found before training."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_files import write_clips, write_masks
from PIL import Image

from dltrain.cli.main import main
from dltrain.datasets.image_check import find_problem, image_size
from dltrain.datasets.image_folder import ImageFolder
from dltrain.datasets.image_inputs import UNREADABLE, decode_image
from dltrain.datasets.image_masks import ImageMasks
from dltrain.datasets.video_folder import VideoFolder
from dltrain.errors import ConfigError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def is_readable(path: Path) -> bool:
    try:
        decode_image(path, "RGB", 4, 4)
    except UNREADABLE:
        return False
    return True


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "ppm", "webp"])
def test_a_truncated_file_has_a_problem_if_and_only_if_it_cannot_be_decoded(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(path)
    content = path.read_bytes()
    assert find_problem(path) is None
    found = []
    for length in (0, 10, len(content) // 2, len(content) - 20, len(content) - 2, len(content) - 1):
        path.write_bytes(content[:length])
        found.append(find_problem(path) is None)
        assert found[-1] == is_readable(path), length
    assert not any(found[:3])
    path.write_bytes(content + b"\0" * 100)
    assert find_problem(path) is None


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.fromarray(NOISE).convert("L"), "jpg"),
        (Image.fromarray(NOISE).convert("CMYK"), "jpg"),
        (Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "png"),
        (Image.fromarray(NOISE).convert("P"), "png"),
        (Image.fromarray(NOISE).convert("LA"), "png"),
    ],
    ids=["gray", "CMYK", "16 bits", "palette", "alpha"],
)
def test_gray_cmyk_16_bit_and_palette_images_and_alpha_channels_are_read(
    image: Image.Image, suffix: str, tmp_path: Path
) -> None:
    image.save(tmp_path / f"a.{suffix}")
    assert find_problem(tmp_path / f"a.{suffix}") is None
    pixels = decode_image(tmp_path / f"a.{suffix}", "RGB", 40, 60).astype(float)
    gray = image.mode in ("L", "I;16", "LA")
    expected = {"L": NOISE.mean(2), "I;16": NOISE[..., 0]}.get(image.mode, NOISE.mean(2))
    assert abs(pixels.mean() - expected.mean()) < 3
    assert not gray or (pixels == pixels[..., :1]).all()


def test_floating_point_gray_levels_are_reported_as_a_problem(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., 0] / np.float32(255)).save(tmp_path / "a.tif")
    assert "floats from 0 to 1 instead of gray levels of 8 or 16 bits" in str(find_problem(tmp_path / "a.tif"))


def test_image_size_applies_the_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(NOISE).save(tmp_path / "a.jpg", exif=exif)
        size = image_size(tmp_path / "a.jpg")
        assert size == ((40, 60) if orientation >= 5 else (60, 40))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_images(root: Path, count: int = 8) -> str:
    for split in ("train", "val", "test"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(NOISE).save(root / split / name / f"{number}.jpg")
    return str(root)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_truncated_image_of_any_split_is_found_before_training(split: str, tmp_path: Path) -> None:
    path = write_images(tmp_path)
    for name in ("3.jpg", "5.jpg"):
        truncate(tmp_path / split / "a" / name)
    for policy in ("stop", "skip"):
        data = ImageFolder(path, image_size=8, on_bad_sample=policy)
        data.load()
        if policy == "skip":
            data.check()
            continue
        with pytest.raises(ConfigError) as caught:
            data.check()
        expected = f"data.path: expected readable images, got {tmp_path / split / 'a' / '3.jpg'}: "
        assert str(caught.value).startswith(expected)
        assert re.search(
            r"\(2 of \d+ checked images are unreadable\). Replace or delete it. data.on_bad_sample=skip",
            str(caught.value),
        )


def larger_mask(mask: Path) -> None:
    Image.new("L", (30, 20)).save(mask)


def unknown_value(mask: Path) -> None:
    Image.new("L", (24, 20), 9).save(mask)


def colored(mask: Path) -> None:
    Image.new("RGB", (24, 20)).save(mask)


def truncated_image(mask: Path) -> None:
    truncate(mask.parents[1] / "images" / mask.name)


@pytest.mark.parametrize(
    ("damage", "message", "part"),
    [
        (larger_mask, "masks/05.png: a mask of 30 x 20 pixels for an image of 24 x 20", "val"),
        (unknown_value, "masks/05.png: the value 9 in the mask, which is none of 0 1 2", "test"),
        (colored, "masks/05.png: colors (RGB), but classes must be palette indices or gray levels", "test"),
        (truncated_image, "images/05.png: ", "val"),
    ],
)
def test_an_invalid_mask_or_a_truncated_image_is_found_before_training(
    damage: Callable[[Path], None], message: str, part: str, tmp_path: Path
) -> None:
    for each in ("train", "val", "test"):
        write_masks(tmp_path / each, 8, (24, 20), "RGB")
    data = ImageMasks(str(tmp_path), image_size=8)
    data.load()
    data.check()
    damage(tmp_path / part / "masks" / "05.png")
    with pytest.raises(ConfigError) as caught:
        data.check()
    start = f"data.path: expected readable images and masks, got {tmp_path / part}/"
    assert str(caught.value).startswith(start + message)


def test_a_truncated_frame_and_frames_of_different_sizes_are_found_before_training(tmp_path: Path) -> None:
    write_clips(tmp_path, 20, 5, (12, 10))
    data = VideoFolder(str(tmp_path), frames=2, image_size=8)
    data.load()
    data.check()
    frame = tmp_path / "brighter" / "clip3" / "4.png"
    Image.new("RGB", (9, 9)).save(frame)
    with pytest.raises(ConfigError, match=f"got {frame.parent}: frames of different sizes: 9 x 9 and 12 x 10"):
        data.check()
    frame.write_bytes(frame.read_bytes()[:40])
    with pytest.raises(ConfigError, match=f"data.path: expected readable clips, got {frame}: "):
        data.check()


def test_a_run_with_a_truncated_test_image_ends_with_a_one_line_error_and_leaves_no_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    truncate(tmp_path / "images" / "test" / "b" / "7.jpg")
    words = ["model=mlp", "data=image_folder", "data.path=images", "data.image_size=8", "data.workers=0"]
    assert main([*words, "data.batch_size=4", "trainer.epochs=2", "device=cpu"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("dltrain: "))
    assert "data.path: expected readable images, got images/test/b/7.jpg: " in line
    assert not (tmp_path / "outputs").exists()
