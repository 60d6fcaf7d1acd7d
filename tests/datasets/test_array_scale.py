"""The scale of image arrays in training, testing and prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.npz import Npz
from dltrain.errors import ConfigError
from dltrain.tasks.pixel_range import PixelRange

UNIT = np.random.default_rng(0).random((20, 1, 5, 5)).astype(np.float32)
SIGNED = (2 * UNIT - 1).astype(np.float32)
Y = np.arange(20) % 2


def save_npz(folder: Path, x: np.ndarray, x_test: np.ndarray | None = None) -> Npz:
    x_test = x[:6] if x_test is None else x_test
    np.savez(folder / "a.npz", x_train=x, y_train=Y[: len(x)], x_test=x_test, y_test=Y[: len(x_test)])
    return Npz(str(folder / "a.npz"))


def read_inputs(data: Npz, path: Path) -> torch.Tensor:
    return torch.cat([data.prepare(dict(piece.rows))["inputs"] for piece in data.inputs(InputFiles((str(path),)))])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (UNIT, "floats from 0 to 1"),
        (UNIT.astype(np.float64), "floats from 0 to 1"),
        (255 * UNIT, "floats from 0 to 255"),
        (np.float16(255) * UNIT.astype(np.float16), "floats from 0 to 255"),
        (np.concatenate([300 * UNIT[:1] - 20, 255 * UNIT[1:]]).clip(-20, 270), "floats from 0 to 255"),
        (SIGNED, "not rescaled"),
        (3 * UNIT - 1.5, "not rescaled"),
        (16 * UNIT, "not rescaled"),
        (60_000 * UNIT, "not rescaled"),
    ],
)
def test_spec_low_and_high_are_the_range_of_the_inputs_and_prediction_reads_the_same_inputs(x, words, tmp_path):
    data = save_npz(tmp_path, x)
    batch = next(iter(Batches(data.load().test, 20)))["inputs"]
    unit = PixelRange(data.spec.low, data.spec.high).to_unit(batch)
    assert -0.1 < float(unit.min()) < 0.1 and 0.9 < float(unit.max()) < 1.1
    assert words in data.describe()[1]
    np.save(tmp_path / "new.npy", x[:6])
    assert torch.equal(read_inputs(data, tmp_path / "new.npy"), batch)


def test_floats_from_0_to_255_and_from_0_to_1_give_the_same_inputs(tmp_path):
    large, unit = (next(iter(Batches(save_npz(tmp_path, f * UNIT).load().test, 6)))["inputs"] for f in (255, 1))
    torch.testing.assert_close(large, unit)


@pytest.mark.parametrize(
    ("train", "other", "message"),
    [
        (255 * UNIT, UNIT, "floats from 0 to 255 in .*, as in training, got .* to 0.9"),
        (255 * UNIT, 1000 * UNIT, "floats from 0 to 255"),
        (255 * UNIT, SIGNED * 255, "floats from 0 to 255"),
        (UNIT, 255 * UNIT, "floats from 0 to 1 in"),
        (UNIT, SIGNED, "floats from 0 to 1 in"),
        (UNIT, (255 * UNIT).astype(np.uint8), "floats from 0 to 1 in .*, as in training, got uint8"),
        ((255 * UNIT).astype(np.uint8), UNIT, "bytes from 0 to 255 in .*, as in training, got float32"),
        (SIGNED, 255 * UNIT, "floats from -0.99.* to 0.99.* in"),
    ],
)
def test_a_different_scale_of_test_arrays_or_inputs_is_rejected(train, other, message, tmp_path):
    with pytest.raises(ConfigError, match=f"^data.path: expected {message}"):
        save_npz(tmp_path, train, other[:6]).load()
    np.save(tmp_path / "new.npy", other[:6])
    data = save_npz(tmp_path, train)
    with pytest.raises(ConfigError, match=f"^INPUT 1: expected {message}"):
        read_inputs(data, tmp_path / "new.npy")


def test_bytes_and_image_files_are_converted_to_the_scale_of_float_training_images(tmp_path):
    pixels = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5) * 10
    data = save_npz(tmp_path, 255 * UNIT)
    np.save(tmp_path / "new.npy", pixels)
    Image.fromarray(pixels[0, 0]).save(tmp_path / "new.png")
    for name in ("new.npy", "new.png"):
        np.testing.assert_allclose(read_inputs(data, tmp_path / name), pixels / 127.5 - 1, atol=1e-5)


def test_image_files_are_rejected_if_the_training_arrays_have_a_nonstandard_scale(tmp_path):
    Image.new("L", (5, 5)).save(tmp_path / "new.png")
    with pytest.raises(ConfigError, match=r"^INPUT 1: image files are not supported because .* floats from -0\.99"):
        read_inputs(save_npz(tmp_path, SIGNED), tmp_path / "new.png")


def test_the_fitted_state_restores_the_scale_of_the_training_images(tmp_path):
    data = save_npz(tmp_path, SIGNED)
    np.save(tmp_path / "new.npy", SIGNED)
    path = tmp_path / "gone.npz"
    again = Npz(str(path), fitted=data.fit())
    assert again.spec == data.spec and again.transform.arrays == data.transform.arrays
    np.testing.assert_array_equal(read_inputs(again, tmp_path / "new.npy"), read_inputs(data, tmp_path / "new.npy"))
