"""Runs on summaries or on several text tasks: prediction and generation from the run folder, and invalid data."""

import json
from pathlib import Path

import pytest
from in_process import run_command
from prediction_examples import Predict, SmallData, Train

from dltrain.storage.checkpoints import Checkpoints

T5 = ["model=t5", "model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "data.min_count=1"]


def test_summarization_needs_only_the_run_folder_to_predict_and_resumes_exactly(
    train: Train,
    small_data: SmallData,
    predict: Predict,
    generate,  # type: ignore[no-untyped-def]
    own_files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    moved = tmp_path / "moved.jsonl"
    moved.write_text(own_files["summaries"].read_text())
    options = [*T5, "data=summaries", f"data.path={moved}", "data.batch_size=16", "optimizer.lr=0.03"]
    options += ["data.max_length=16", "regularization.dropout=0.1", "task.decode_examples=8"]
    whole = train(*options, "trainer.max_steps=12")
    part = train(*options, "trainer.max_steps=8")
    assert run_command(capsys, "resume", part, "trainer.max_steps=12").code == 0
    states = [Checkpoints(run).load("last.pt")["model"] for run in (whole, part)]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    result = json.loads((whole / "result.json").read_text())
    assert {"first sentence", "first 4 words"} == set(result["baselines"])  # each summary has four words
    moved.unlink()
    text = "This tool can sort files. It has 3 options and more."
    (tmp_path / "new.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (line,) = predict(whole, tmp_path / "new.jsonl").lines
    assert line["line"] == 1 and line["summary"]
    assert generate(whole, "--prompt", text).out == line["summary"] + "\n"


def test_several_tasks_are_learned_in_one_run_and_chosen_by_a_prefix(
    train: Train, small_data: SmallData, predict: Predict
) -> None:
    run = train(*T5, *small_data("text_to_text"), "trainer.max_steps=200", "optimizer.lr=0.01", "data.max_length=24")
    result = json.loads((run / "result.json").read_text())
    assert result["test"]["exact_match classify"] == 1 > result["baselines"]["most frequent answer"]["exact_match"]
    text = "This game can read files. It has 2 options."
    (answer,) = predict(run, "--text", f"classify: {text}").lines
    assert answer["answer"] == "game"
    (answer,) = predict(run, "--text", f"summarize: {text}").lines
    assert answer["answer"].startswith("game to")


LINES = [json.dumps({"text": f"a text about {number}", "summary": f"about {number}"}) for number in range(20)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a text"', "data.path: expected a JSON object with fields in line 17 of"),
        ('{"text": " ", "summary": "x"}', "data.path: expected a source and a target in line 17 of a.jsonl, got an em"),
        ('{"text": "a text"}', "data.path: expected a source and a target in line 17 of a.jsonl, got an empty target"),
    ],
)
def test_invalid_json_and_empty_texts_are_rejected_with_a_message_of_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([*LINES[:16], line, *LINES[16:]]) + "\n")
    overrides = [*T5, "data=summaries", f"data.path={tmp_path / 'a.jsonl'}", f"hydra.run.dir={tmp_path / 'run'}"]
    result = run_command(capsys, *overrides)
    _, problem = result.err.splitlines()  # the first line shows the options of the run
    assert result.code == 2 and message in problem
