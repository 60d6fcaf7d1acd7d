"""``dltrain predict --explain``: images with a color over the parts that support their class."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dltrain.cli.main import main
from dltrain.plots import heat


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder, random = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_explain_draws_one_picture_per_image_and_does_not_change_predictions(
    finished_run: Callable[..., Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run("augmented")
    assert main(["predict", str(run), str(pictures)]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["predict", str(run), str(pictures), "--explain", "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    files = [line.pop("explanation") for line in lines]
    assert lines == plain and files == [str(tmp_path / "out" / f"{name}.png") for name in ("one", "two")]
    for file in files:
        drawn = np.array(Image.open(file))
        assert drawn.shape == (heat.MIN_SIDE, heat.MIN_SIDE, 3)  # 8x8 pixels, enlarged
        assert (drawn[..., 0] != drawn[..., 2]).any()  # colored


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("augmented", [], "--explain: expected a folder for the pictures, got none. Add --out FOLDER"),
        ("plain", ["--out", "out"], "--explain: not supported because this model has no feature maps"),
        ("forecast", ["--out", "out"], "--explain: not supported because the task is Forecasting"),
    ],
)
def test_an_explanation_that_is_not_supported_is_rejected_with_the_reason(
    kind: str,
    words: list[str],
    message: str,
    finished_run: Callable[..., Path],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = [] if kind == "forecast" else [str(pictures)]
    assert main(["predict", str(finished_run(kind)), *inputs, "--explain", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1] and not captured.out
    assert not (tmp_path / "out").exists()
