"""User-provided clips from training to prediction, and their animations in TensorBoard."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dltrain.cli.main import main

WORDS = ("model=cnn_lstm", "model.blocks=[{channels: 8, pool: max}]", "model.frame_features=16", "model.hidden_size=16")
CLIPS = ("data=video_folder", "data.image_size=12", "data.frames=4", "data.batch_size=6", "optimizer.lr=0.01")


@pytest.fixture
def run(finished_run: Callable[..., Path], own_files: dict[str, Path]) -> Path:
    return finished_run(
        *WORDS, *CLIPS, f"data.path={own_files['video_folder']}", "trainer.epochs=8", "trainer.log_media=true"
    )


def test_clips_that_turn_brighter_or_darker_are_learned_and_predicted(
    run: Path, own_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((run / "result.json").read_text())["test"]["accuracy"] == 1
    clips = own_files["video_folder"]
    assert main(["predict", str(run), str(clips / "darker"), str(clips / "brighter" / "clip1")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines[:2]] == [str(clips / "darker" / f"clip{n}") for n in (0, 2)]
    assert [line["class_name"] for line in lines] == ["darker"] * 12 + ["brighter"]
    assert main(["evaluate", str(run), f"data.path={clips}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == 1


def test_the_worst_mistakes_are_shown_as_animations(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    image = events.Images("worst_mistakes/val")[0]
    with Image.open(io.BytesIO(image.encoded_image_string)) as film:
        assert (film.format, film.n_frames, film.size) == ("GIF", 4, (image.width, image.height))
        assert film.info["duration"] == 150
        frames = []
        for number in range(4):
            film.seek(number)
            frames.append(film.convert("RGB").tobytes())
    assert len(set(frames)) == 4


def test_a_folder_without_clips_is_rejected_and_no_run_folder_is_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips" / "jump").mkdir(parents=True)
    assert main([*WORDS, *CLIPS, f"data.path={tmp_path / 'clips'}"]) == 2
    error = capsys.readouterr().err
    assert "data.path: expected a folder per class" in error and "Traceback" not in error
    assert not (tmp_path / "outputs").exists()


def test_the_summary_of_a_video_model_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "model=r3d_18", "data=moving_shapes", "--input", "3x16x112x112", "--outputs", "400"]) == 0
    assert "33,371,472" in capsys.readouterr().out
