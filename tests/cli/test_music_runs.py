"""Runs on music: predict and generate without the training data, evaluate data at another path, and resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mido
import pytest
import torch
from in_process import Result, run_command
from prediction_examples import TEXT, Predict, SmallData, Train

from dltrain.datasets.midi_files import read_song
from dltrain.storage.checkpoints import Checkpoints

GRU = ["model=gru", "model.hidden_size=16", "model.num_layers=1"]
MODELS = {"pianoroll": GRU, "midi": GRU, "midi_events": TEXT}


@pytest.fixture(scope="module")
def runs(
    train: Train, small_data: SmallData, own_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Train with each data option for music and delete the training data; return the run folders."""
    folder, found = tmp_path_factory.mktemp("music"), {}
    for kind, model in MODELS.items():
        moved = folder / kind
        (shutil.copytree if own_files[kind].is_dir() else shutil.copy)(own_files[kind], moved)
        found[kind] = train(*model, *small_data(kind), f"data.path={moved}", "data.validation=0.1")
        (shutil.rmtree if moved.is_dir() else Path.unlink)(moved)
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_music_is_written_as_text_or_to_a_midi_file(
    kind: str, runs: dict[str, Path], generate: Callable[..., Result], predict: Predict
) -> None:
    prompt = "on60 on64 wait2" if kind == "midi_events" else "60 64"
    words = [runs[kind], "--length", 8, "--prompt", prompt, "--seed", 3]
    text = generate(*words)
    assert text.code == 0 and text.out.split()[:2] == prompt.split()[:2]
    result = generate(*words, "--out", "song.mid")
    assert (result.code, result.out) == (0, "song.mid\n") and "best checkpoint" in result.err
    song = read_song(Path("song.mid").read_bytes(), Path("song.mid"), 4 if kind == "midi_events" else 2)
    assert {note.pitch for note in song.notes if note.start == 0} == {60, 64}
    assert mido.MidiFile("song.mid").type == 0
    (line,) = predict(runs[kind], "song.mid").lines
    assert line["input"] == "song.mid" and any(isinstance(value, float) for value in line.values())
    assert {"events", "nats_per_event"} <= set(line) if kind == "midi_events" else line["frames"] <= 9
    again = generate(*words, "--out", "song.mid")
    assert again.code == 2 and "--force replaces a file" in again.err
    assert generate(*words, "--out", "song.mid", "--force").code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "song.wav"], "--out: expected a file ending in .mid, got song.wav"),
        (["--count", "3"], "--count: not supported for the task"),
        (["--prompt", "do re mi"], "--prompt: expected "),
    ],
)
@pytest.mark.parametrize("kind", ["pianoroll", "midi_events"])
def test_flags_and_prompts_that_do_not_fit_music_are_rejected_and_no_file_is_written(
    kind: str, flags: list[str], message: str, runs: dict[str, Path], generate: Callable[..., Result]
) -> None:
    result = generate(runs[kind], *flags)
    assert result.code == 2 and f"dltrain: {message}" in result.err and "Traceback" not in result.err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("kind", MODELS)
def test_evaluate_reads_music_at_another_path_and_predict_scores_each_piece_of_a_file(
    kind: str, runs: dict[str, Path], own_files: dict[str, Path], capsys: pytest.CaptureFixture[str], predict: Predict
) -> None:
    again = run_command(capsys, "evaluate", runs[kind], f"data.path={own_files[kind]}", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["metrics"]["loss"] > 0
    if kind == "pianoroll":
        lines = predict(runs[kind], own_files[kind]).lines
        assert len(lines) == 30 and {line["input"] for line in lines} == {str(own_files[kind])}
        assert [line["piece"] for line in lines] == list(range(1, 31))


def test_predict_and_evaluate_report_the_same_mean_loss_per_frame(
    runs: dict[str, Path],
    own_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    predict: Predict,
) -> None:
    content = json.loads(own_files["pianoroll"].read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"train": content["test"]}))
    again = run_command(capsys, "evaluate", runs["pianoroll"], f"data.path={other}", "--json")
    loss = json.loads(again.out)["metrics"]["loss"]
    lines = predict(runs["pianoroll"], other).lines
    frames = [line["frames"] for line in lines]
    assert frames == [len(piece) for piece in content["test"]]
    mean = sum(n * line["nats_per_frame"] for n, line in zip(frames, lines, strict=True)) / sum(frames)
    assert mean == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("new.mid", b"MThd", "INPUT 1: expected a MIDI file at "),
        ("new.mid", b"", "INPUT 1: expected a MIDI file at "),
        ("new.json", b"[[[]]]", "INPUT 1: expected notes in piece 1 of the list in "),
        ("new.json", b'{"train": [[[9]]]}', "INPUT 1: expected MIDI pitches from 21 to 108 in step 1 of piece 1"),
        ("new.json", b"\xff\xfe", "INPUT 1: expected JSON of "),
    ],
)
def test_music_that_cannot_be_read_is_rejected_without_a_traceback(
    name: str, content: bytes, message: str, runs: dict[str, Path], predict: Predict, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    result = predict(runs["pianoroll"], tmp_path / name)
    assert result.code == 2 and message in result.err and "Traceback" not in result.err


RESUMED = {
    "pianoroll": [*GRU, "data.transpose=5"],  # random transpositions, batches of pieces of similar length
    "midi_events": [*GRU, "data.streams=true"],  # the state is carried from batch to batch
}


@pytest.mark.parametrize("kind", ["pianoroll", pytest.param("midi_events", marks=pytest.mark.slow)])
def test_a_resumed_run_on_music_has_the_weights_of_an_uninterrupted_run(
    kind: str, small_data: SmallData, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*RESUMED[kind], *small_data(kind), "regularization.dropout=0.2", "data.batch_size=2"]
    whole, part = train(*overrides, "trainer.max_steps=6"), tmp_path / "run"
    shutil.copytree(train(*overrides), part)
    assert run_command(capsys, "resume", part, "trainer.max_steps=6").code == 0
    one, other = (Checkpoints(folder).load("last.pt") for folder in (whole, part))
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
