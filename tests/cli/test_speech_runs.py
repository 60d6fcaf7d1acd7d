"""Speech runs whose recordings were deleted: transcripts of new recordings, evaluation and errors."""

import json
import shutil
import wave
from pathlib import Path

import jiwer
import pytest
from example_files import write_recording
from in_process import run_command
from prediction_examples import Predict, SmallData, Train

from dltrain.cli.main import main

SPEECH = [
    *("model=deep_speech2", "model.channels=4", "model.hidden_size=24", "model.num_layers=1", "trainer.max_steps=15"),
    *("optimizer.lr=0.01", "data.batch_size=8", "data.time_masks=1", "data.time_mask_size=2"),
]


@pytest.fixture
def run(
    train: Train, small_data: SmallData, own_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train on recordings and delete them; return the run folder."""
    moved = tmp_path_factory.getbasetemp() / "moved_speech"
    overrides = [word for word in small_data("speech") if not word.startswith(("data.path=", "data.batch_size="))]
    if not moved.exists():
        shutil.copytree(own_files["speech"].parent, moved)
    folder = train(*SPEECH, *overrides, f"data.path={moved / 'prompts.tsv'}")
    shutil.rmtree(moved / "wav", ignore_errors=True)
    return folder


def test_files_folders_and_standard_input_are_transcribed_by_best_path_or_beam_search(
    run: Path, predict: Predict, own_files: dict[str, Path], tmp_path: Path
) -> None:
    wav = own_files["speech"].parent / "wav"
    (line,) = predict(run, wav / "4.wav").lines
    assert line["seconds"] == 0.4 and line["input"] == str(wav / "4.wav") and line["score"] < 0
    lines, wide = predict(run, wav).lines, predict(run, wav, "task.beam=5").lines
    assert len(lines) == len(wide) == 40
    assert line["transcript"] in [each["transcript"] for each in lines if each["input"] == line["input"]]
    assert all(other["score"] >= one["score"] - 1e-6 for one, other in zip(lines, wide, strict=True))
    write_recording(tmp_path / "fast.wav", "feed me", rate=22050)  # converted to 8,000 Hz
    assert predict(run, tmp_path / "fast.wav").lines[0]["seconds"] == 0.56
    again = predict(run, "-", stdin=(wav / "4.wav").read_bytes()).lines[0]
    assert again["input"] == "-" and again["transcript"] == line["transcript"]


def test_recordings_at_another_path_are_evaluated_with_the_normalization_and_vocabulary_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str], predict: Predict, own_files: dict[str, Path]
) -> None:
    again = run_command(capsys, "evaluate", run, f"data.path={own_files['speech']}", "--json")
    assert again.code == 0, again.err
    metrics = json.loads(again.out)["metrics"]
    rows = [row.split("\t") for row in own_files["speech"].read_text().splitlines()[1:]]
    references = [text.lower().rstrip(".") for _, text in rows]
    lines = predict(run, *(own_files["speech"].parent / file for file, _ in rows)).lines
    transcripts = [line["transcript"] for line in lines]
    assert metrics["cer"] == pytest.approx(jiwer.cer(references, transcripts)) and set(metrics) == {
        "loss",
        "cer",
        "wer",
    }
    assert set(json.loads((run / "result.json").read_text())["baselines"]["unigram"]) == {"cer", "wer"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not audio", "INPUT 1: expected readable audio in"),
        (b"", "INPUT 1: expected readable audio in"),
        (None, "a file without samples"),
    ],
)
def test_a_file_without_readable_audio_is_rejected_without_a_traceback(
    content: bytes | None, message: str, run: Path, predict: Predict, tmp_path: Path
) -> None:
    file = tmp_path / "new.wav"
    if content is None:
        with wave.open(str(file), "wb") as empty:
            empty.setparams((1, 2, 8000, 0, "NONE", ""))
    else:
        file.write_bytes(content)
    result = predict(run, file)
    assert result.code == 2 and result.err.count(message) == 1 and "Traceback" not in result.err


def test_a_transcript_that_needs_more_steps_than_its_recording_has_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_files: dict[str, Path]
) -> None:
    shutil.copytree(own_files["speech"].parent, tmp_path / "speech")
    table = tmp_path / "speech" / "prompts.tsv"
    table.write_text(table.read_text().replace("wav/0.wav\tA.", "wav/0.wav\tFeed me a cab and a bed."))
    assert (
        main(["data=speech", "model=gru", f"data.path={table}", f"hydra.run.dir={tmp_path / 'run'}", "device=cpu"]) == 2
    )
    error = capsys.readouterr().err
    assert "data.path: expected at least 24 steps for the transcript in line 2 of prompts.tsv, got 5" in error
    assert "Traceback" not in error
