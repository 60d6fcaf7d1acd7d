"""Input files for prediction: images, arrays, tables, series and texts."""

import io
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.inputs import InputFiles, check_inputs
from dltrain.data.spec import Inputs
from dltrain.datasets import csv_file
from dltrain.datasets.array_inputs import read_arrays
from dltrain.datasets.digits import Digits
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform
from dltrain.datasets.npz import Npz
from dltrain.datasets.table import CsvTable
from dltrain.datasets.text import Text
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError


def inputs_of(*paths: Path, **more) -> InputFiles:
    return InputFiles(tuple(map(str, paths)), **more)


def concatenate(pieces: Iterator[Inputs], key: str = "pixels") -> torch.Tensor:
    return torch.cat([piece.rows[key] for piece in pieces])


def read(paths: list[Path], shape: tuple[int, ...], white: float = 255.0, **more) -> torch.Tensor:
    return concatenate(read_images(inputs_of(*paths, **more), ImageTransform(shape[0], 0.5, 0.5, [], white), shape))


# --- images ---------------------------------------------------------------------------------------------------------


def test_images_are_converted_to_the_number_of_channels_of_the_model(tmp_path):
    Image.new("RGB", (5, 5), (250, 100, 10)).save(tmp_path / "color.png")
    Image.new("L", (5, 5), 77).save(tmp_path / "gray.png")
    gray = read([tmp_path / "color.png", tmp_path / "gray.png"], (1, 5, 5))
    # ITU-R 601 luma.
    assert gray.dtype == torch.uint8 and gray[0, 0, 0, 0] == round(0.299 * 250 + 0.587 * 100 + 0.114 * 10)
    assert (gray[1] == 77).all()
    assert (read([tmp_path / "gray.png"], (3, 5, 5)) == 77).all()
    with_alpha = read([tmp_path / "color.png"], (4, 5, 5))
    assert with_alpha[0, :, 2, 2].tolist() == [250, 100, 10, 255]


def test_gray_images_of_16_bits_are_scaled_to_8_bits(tmp_path):
    levels = np.random.default_rng(0).integers(0, 2**16, (6, 5), dtype=np.uint16)
    expected = np.round(levels / 257)
    (tmp_path / "p.ppm").write_bytes(b"P5\n5 6\n65535\n" + levels.byteswap().tobytes())
    for name in ("a.png", "b.tif"):
        Image.fromarray(levels).save(tmp_path / name)
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "c.tif")
    for name in ("a.png", "b.tif", "c.tif", "p.ppm"):
        for channels in (1, 3):
            pixels = read([tmp_path / name], (channels, 6, 5))[0]
            assert all(np.array_equal(channel, expected) for channel in pixels.numpy())


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.linspace(0, 1, 30, dtype=np.float32), "floats from 0 to 1"),
        (np.arange(30, dtype=np.int32) * 10**6, "whole numbers from 0 to 2.9e"),
        (np.arange(30, dtype=np.int32) - 1, "whole numbers from -1 to 28"),
    ],
)
def test_gray_images_on_an_unknown_scale_are_rejected(levels, message, tmp_path):
    Image.fromarray(levels.reshape(6, 5)).save(tmp_path / "a.tif")
    with pytest.raises(ConfigError, match=f"INPUT 1: expected a readable image at .*a.tif, got .*{message}"):
        read([tmp_path / "a.tif"], (1, 6, 5))


def test_transparent_pixels_are_blended_with_white(tmp_path):
    alpha = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(4, 4)
    dot = np.stack([np.zeros_like(alpha), alpha], axis=2)
    Image.fromarray(dot, "LA").save(tmp_path / "la.png")
    Image.fromarray(np.concatenate([dot[..., :1]] * 3 + [dot[..., 1:]], axis=2), "RGBA").save(tmp_path / "rgba.png")
    drawn = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4), "P")
    drawn.putpalette([0] * 48)
    drawn.save(tmp_path / "palette.png", transparency=alpha.tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("la.png", "rgba.png", "palette.png"):
            for channels in (1, 3):
                pixels = read([tmp_path / name], (channels, 4, 4))[0].int().numpy()
                assert np.abs(pixels - (255 - alpha)).max() <= 1
            assert np.array_equal(read([tmp_path / name], (4, 4, 4))[0, 3], alpha)


def test_an_image_above_the_pixel_limit_of_pillow_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    Image.new("1", (10, 9), 1).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read([tmp_path / "large.png"], (1, 4, 4)) == 255).all()


def test_an_image_of_another_size_is_scaled_and_cropped_at_the_center(tmp_path):
    pixels = np.zeros((20, 60), dtype=np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read([tmp_path / "wide.png"], (1, 20, 20)) == 200).all()
    assert (read([tmp_path / "wide.png"], (1, 10, 10))[0, 0, :, 1:-1] == 200).all()
    assert read([tmp_path / "wide.png"], (1, 8, 16)).shape == (1, 1, 8, 16)


def test_an_image_is_rotated_according_to_its_exif_data(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4), dtype=np.uint8)
    turned = Image.fromarray(np.rot90(pixels))
    exif = turned.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    turned.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read([tmp_path / "turned.png"], (1, 6, 4))[0, 0].numpy(), pixels)


def test_bytes_are_converted_to_the_scale_of_the_data_set(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "all.png")
    sixteen = read([tmp_path / "all.png"], (1, 16, 16), white=16.0)
    assert sixteen.dtype == torch.uint8 and sixteen.flatten()[[0, 8, 128, 255]].tolist() == [0, 1, 8, 16]
    one = read([tmp_path / "all.png"], (1, 16, 16), white=1.0)
    assert one.dtype == torch.float32
    assert torch.allclose(one.flatten(), torch.arange(256) / 255)


def test_images_in_folders_are_read_recursively_in_order_and_other_files_are_ignored(tmp_path):
    for number, name in enumerate(["b.png", "a/z.JPG", "a/c.bmp"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), 100 * number).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    pieces = list(read_images(inputs_of(tmp_path, batch_size=2), ImageTransform(1, 0.5, 0.5, []), (1, 2, 2)))
    names = [name["input"] for piece in pieces for name in piece.names]
    assert names == [str(tmp_path / name) for name in ("a/c.bmp", "a/z.JPG", "b.png")]
    assert [len(piece.names) for piece in pieces] == [2, 1]


def test_an_array_of_images_must_have_the_pixel_scale_and_the_shape_of_the_data_set(tmp_path):
    shape = (1, 8, 8)
    for values, white, message in (
        (np.zeros((2, 8, 8)), 255.0, "bytes from 0 to 255 in .*x.npy.0., as in training, got float64"),
        (np.zeros((2, 8, 8), np.uint8), 1.0, "floats from 0 to 1 .* got uint8"),
        (np.full((2, 8, 8), 17, np.uint8), 16.0, "bytes from 0 to 16 .* got 0 to 17"),
        (np.full((2, 8, 8), 1.5), 1.0, "floats from 0 to 1 .* got 0 to 1.5"),
        (np.full((2, 8, 8), np.nan), 1.0, "floats from 0 to 1"),
        (
            np.zeros((2, 8, 9), np.uint8),
            255.0,
            r"examples of shape \(1, 8, 8\) in .* got an array of shape \(2, 8, 9\)",
        ),
    ):
        np.save(tmp_path / "x.npy", values)
        with pytest.raises(ConfigError, match=f"^INPUT 1: expected {message}"):
            read([tmp_path / "x.npy"], shape, white)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (4, 2), (6,)])
def test_arrays_may_have_one_or_many_examples_and_channels_first_or_last(shape, tmp_path):
    values = np.random.default_rng(0).random((9, *shape)).astype(np.float32)
    layouts = [values]
    if len(shape) == 3:
        layouts.append(values.transpose(0, 2, 3, 1))
    if shape[0] == 1:
        layouts.append(values[:, 0])
    for layout in layouts:
        np.save(tmp_path / "many.npy", layout)
        np.save(tmp_path / "one.npy", layout[4])
        assert np.array_equal(
            concatenate(read_arrays(inputs_of(tmp_path / "many.npy", batch_size=4), shape), "inputs"), values
        )
        assert np.array_equal(concatenate(read_arrays(inputs_of(tmp_path / "one.npy"), shape), "inputs"), values[4:5])


def test_the_input_array_of_an_archive_is_x_or_x_test_or_its_only_array(tmp_path):
    x, y = np.random.default_rng(0).random((3, 2)), np.zeros(3)
    for name, arrays in (
        ("x", {"x": x, "y": y}),
        ("test", {"x_train": y, "x_test": x}),
        ("both", {"x": x, "x_test": y}),
        ("only", {"anything": x}),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert concatenate(read_arrays(inputs_of(tmp_path / f"{name}.npz"), (2,)), "inputs").shape == (3, 2)
    np.savez(tmp_path / "unclear.npz", a=x, b=x)
    np.savez(tmp_path / "none.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:200])
    np.save(tmp_path / "nan.npy", np.array([[1.0, np.nan]]))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    for name, message in (
        ("unclear.npz", "a single array, or an array called x or x_test, in .* got a, b"),
        ("none.npz", "a single array, or an array called x or x_test, in .* got none"),
        ("half.npz", "readable arrays"),
        ("nan.npy", "finite numbers in .*nan.npy.0., got NaN or infinity"),
        ("words.npy", "numbers in .*words.npy.0., got <U1"),
    ):
        with pytest.raises(ConfigError, match=f"INPUT 1: expected {message}"):
            list(read_arrays(inputs_of(tmp_path / name), (2,)))


def test_npz_inputs_are_read_like_the_test_split(tmp_path):
    random = np.random.default_rng(0)
    for shape in ((7,), (6, 2), (5, 5, 3)):
        x = random.random((20, *shape)).astype(np.float32)
        np.savez(tmp_path / "data.npz", x_train=x, x_test=x, y_train=np.arange(20) % 2, y_test=np.arange(20) % 2)
        data = Npz(str(tmp_path / "data.npz"))
        own = data.load().test.rows
        key = "pixels" if "pixels" in own else "inputs"
        assert torch.equal(concatenate(data.inputs(inputs_of(tmp_path / "data.npz", batch_size=8)), key), own[key])


def test_examples_before_an_invalid_input_are_yielded_before_the_error(tmp_path):
    np.save(tmp_path / "good.npy", np.zeros((3, 2)))
    pieces = read_arrays(inputs_of(tmp_path / "good.npy", tmp_path / "gone.npy", batch_size=2), (2,))
    assert [len(next(pieces).names) for _ in range(2)] == [2, 1]
    with pytest.raises(ConfigError, match=r"INPUT 2: expected a readable file at .*gone.npy, got No such file"):
        next(pieces)


# --- tables, series and texts -----------------------------------------------------------------------------------------


def test_a_table_read_in_pieces_equals_the_whole_table():
    lines = ['"a,b;c";x\n', "1,5;2\n", "\n", "2,5;3\n", "3,5;4\n", "\n", "\n"]
    path = Path("a.csv")
    (whole,) = csv_file.iterate_tables(lines, path, None)
    pieces = list(csv_file.iterate_tables(lines, path, 2))
    assert [len(piece) for piece in pieces] == [2, 1]
    assert rows_of(whole) == [row for piece in pieces for row in rows_of(piece)]
    assert rows_of(whole) == [["1,5", "2"], ["2,5", "3"], ["3,5", "4"]]
    assert whole.lines.tolist() == [line for piece in pieces for line in piece.lines] == [2, 4, 5]
    assert all(piece.marks.decimal == "," and piece.header == ["a,b;c", "x"] for piece in pieces)


def rows_of(table):
    return [[cells[row] for cells in table.columns] for row in range(len(table))]


def test_an_empty_line_in_a_file_of_one_column_is_a_missing_value_except_at_the_end():
    (table,) = csv_file.iterate_tables(["x\n", "1\n", "\n", "3\n", "\n"], Path("a.csv"), None)
    assert rows_of(table) == [["1"], [""], ["3"]] and table.lines.tolist() == [2, 3, 4]
    pieces = list(csv_file.iterate_tables(["x\n", "1\n", "\n", "3\n", "\n"], Path("a.csv"), 1))
    assert [rows_of(piece) for piece in pieces] == [[["1"]], [[""]], [["3"]]]


def test_numbers_are_normalized_as_in_training_and_unknown_categories_become_zeros(tmp_path):
    random = np.random.default_rng(0)
    numbers, words = random.normal(3, 2, 50).round(3), random.choice(["red", "blue"], 50)
    content = "".join(f"{n},{w},{k % 3}.25\n" for k, (n, w) in enumerate(zip(numbers, words, strict=True)))
    (tmp_path / "a.csv").write_text("size,color,price\n" + content)
    data = CsvTable(str(tmp_path / "a.csv"), column="price", missing="mean")
    train = data.parts[0].numpy()
    (tmp_path / "new.csv").write_text("color,size\nred,4.5\ngreen,\n")
    (piece,) = data.inputs(inputs_of(tmp_path / "new.csv"))
    standard = (4.5 - numbers[train].mean()) / numbers[train].std()
    assert piece.rows["inputs"].tolist() == [[pytest.approx(standard), 0.0, 1.0], [0.0, 0.0, 0.0]]
    own = data.load().test.rows
    assert torch.equal(piece.rows["shift"], own["shift"][:2]) and torch.equal(piece.rows["scale"], own["scale"][:2])


def test_a_new_series_has_nan_targets_and_is_normalized_as_in_training(tmp_path):
    (tmp_path / "a.csv").write_text("x\n" + "".join(f"{n % 7 + 0.1 * n:.2f}\n" for n in range(60)))
    data = TimeSeries(path=str(tmp_path / "a.csv"), window=5, horizon=3, normalize="train")
    (tmp_path / "new.csv").write_text("x\n" + "".join(f"{100 + n}\n" for n in range(8)))
    (piece,) = data.inputs(inputs_of(tmp_path / "new.csv"))
    batch = data.load().test.prepare(dict(piece.rows))
    train = np.loadtxt(tmp_path / "a.csv", skiprows=1)[: 60 - 2 * 9]
    expected = (np.arange(103, 108) - train.mean()) / train.std()
    assert batch["inputs"][0, :, 0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert batch["targets"].isnan().all() and batch["targets"].shape == (1, 3, 1)
    assert piece.names == [{"input": str(tmp_path / "new.csv"), "time": None}] * 3


def test_a_text_is_read_whole_and_its_last_target_is_ignored(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh" * 50)
    data = Text(str(tmp_path / "a.txt"), context_length=4)
    first, second = data.inputs(inputs_of(tmp_path / "a.txt", text="head"))
    batch = data.load().test.prepare(dict(first.rows))
    assert batch["inputs"].tolist() == [[7, 4, 0, 3]] and batch["targets"].tolist() == [[4, 0, 3, -1]]
    assert second.rows["tokens"].shape == (1, 401)
    assert second.names == [{"input": str(tmp_path / "a.txt"), "characters": 400}]


# --- files ------------------------------------------------------------------------------------------------------------


def test_reading_standard_input_does_not_close_it(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffa,é\n1,2\n".encode())))
    (file,) = InputFiles(("-",)).expand("anything")
    with file.open_text() as lines:
        assert list(lines) == ["a,é\n", "1,2\n"]
    assert not sys.stdin.buffer.closed


def test_all_missing_input_files_are_reported_with_the_nearest_name_if_there_is_one(tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (tmp_path / "secret.csv").chmod(0)
    long = "x" * 5000
    with pytest.raises(ConfigError) as caught:
        check_inputs([str(tmp_path / "secrets.csv"), "-", long])
    assert [line.split(":")[0] for line in caught.value.problems] == ["INPUT 1", "INPUT 3"]
    assert f"Did you mean {tmp_path / 'secret.csv'}?" in caught.value.problems[0]


def test_digits_saved_as_images_are_read_back_exactly(tmp_path):
    data = Digits()
    own = data.load().test.rows["pixels"][:20]
    for number, pixels in enumerate(own):
        Image.fromarray((pixels[0].double() * 255 / 16).round().to(torch.uint8).numpy()).save(
            tmp_path / f"{number:02}.png"
        )
    assert torch.equal(concatenate(data.inputs(inputs_of(tmp_path))), own)


HEADS = ["{'descr': '<f8', 'shape': (2,), ", "{'descr': }", "{'descr': '<f8', 'fortran_order': 1, 1: (2,)}", "((("]


@pytest.mark.parametrize("head", HEADS)
def test_a_damaged_array_header_is_rejected(tmp_path, head):
    words = head.encode().ljust(118)
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words + bytes(16))
    with pytest.raises(ConfigError, match=r"^INPUT 1: expected readable arrays in .*x.npy"):
        next(read_arrays(inputs_of(tmp_path / "x.npy"), (2,)))


def test_an_encrypted_archive_is_rejected_in_training_and_prediction(tmp_path):
    np.savez(tmp_path / "x.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.eye(2)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(mark, content):
            content[found.start() + flags] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^data.path: expected a complete .npz file at .*encrypted"):
        Npz(str(tmp_path / "x.npz"))
    with pytest.raises(ConfigError, match=r"^INPUT 1: expected readable arrays in .*encrypted"):
        next(read_arrays(inputs_of(tmp_path / "x.npz"), (2,)))


def test_arrays_larger_than_memory_are_rejected_before_reading(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as bomb:
        bomb.writestr("x.npy", bytes(16))
        bomb.filelist[0].file_size = 2**50  # the size in the central directory
    with pytest.raises(ConfigError, match=r"^INPUT 1: .* 1,125,900 GB uncompressed"):
        next(read_arrays(inputs_of(tmp_path / "x.npz"), (2,)))


def test_an_array_without_examples_is_rejected(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 2)))
    with pytest.raises(
        ConfigError, match=r"INPUT 1: expected at least one example in .*x.npy, got an array of shape \(0, 2\)"
    ):
        next(read_arrays(inputs_of(tmp_path / "x.npy"), (2,)))
