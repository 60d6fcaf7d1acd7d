"""Runs that translate after their training data were deleted, and runs that fill masked spans."""

import json
from pathlib import Path

import pytest
from in_process import run_command
from prediction_examples import Predict, SmallData, Train

from dltrain.storage.checkpoints import Checkpoints

TRANSLATION = [
    "model=seq2seq",
    "model.hidden_size=16",
    "data.max_length=10",
    "trainer.max_steps=12",
    "optimizer.lr=0.03",
]


@pytest.fixture(scope="module")
def run(train: Train, small_data: SmallData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on pairs and delete the training data; return the run folder."""
    overrides = small_data("parallel")
    (path,) = (word.removeprefix("data.path=") for word in overrides if word.startswith("data.path="))
    moved = tmp_path_factory.mktemp("pairs") / "phrases.tsv"
    moved.write_text(Path(path).read_text())
    folder = train(*overrides, *TRANSLATION, f"data.path={moved}")
    moved.unlink()
    return folder


def test_lines_are_translated_by_greedy_decoding_or_beam_search(run: Path, predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("the dog sees\nthe cat sleeps and sees the dog\nunheard of\n")
    greedy = predict(run, tmp_path / "new.txt").lines
    wide = predict(run, tmp_path / "new.txt", "task.beam=5").lines
    assert [line["line"] for line in greedy] == [1, 2, 3] and all(line["translation"] for line in greedy)
    assert all(found["score"] >= line["score"] - 1e-6 for found, line in zip(wide, greedy, strict=True))
    assert predict(run, "--text", "the dog sees").lines[0]["score"] == pytest.approx(greedy[0]["score"], abs=1e-5)
    (tmp_path / "new.tsv").write_text("english\tnote\nthe dog sees\t-\n")
    (line,) = predict(run, tmp_path / "new.tsv").lines
    assert line["translation"] == greedy[0]["translation"] and line["line"] == 2


def test_pairs_in_another_file_are_evaluated_with_the_vocabularies_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str], predict: Predict, own_files: dict[str, Path], tmp_path: Path
) -> None:
    rows = [row.split("\t") for row in own_files["parallel"].read_text().splitlines()]
    (tmp_path / "other.tsv").write_text("".join(f"{target}\t{source}\n" for source, target in rows))
    again = run_command(capsys, "evaluate", run, f"data.path={tmp_path / 'other.tsv'}", "--json")
    assert again.code == 0, again.err
    metrics = json.loads(again.out)["metrics"]
    assert {"loss", "token_accuracy", "exact_match"} <= set(metrics)
    assert len(rows) == 121
    lines = predict(run, tmp_path / "other.tsv").lines
    right = [line["translation"] == row[1] for line, row in zip(lines, rows[1:], strict=True)]
    assert metrics["exact_match"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the dog\n\nthe cat\n", "INPUT 1: expected a text in line 2 of"),
        ("", "INPUT 1: expected a text in each line of"),
        (b"caf\xe9\n", "INPUT 1: expected UTF-8 text"),
    ],
)
def test_texts_that_cannot_be_translated_are_rejected_without_a_traceback(
    content: str | bytes, message: str, run: Path, predict: Predict, tmp_path: Path
) -> None:
    file = tmp_path / "new.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = predict(run, file)
    assert result.code == 2 and message in result.err and "Traceback" not in result.err


def test_generate_and_predict_give_the_same_translation_greedily_and_by_beam_search(
    run: Path,
    generate,  # type: ignore[no-untyped-def]
    predict: Predict,
) -> None:
    for beam, flags in ((1, []), (4, ["--beam", 4])):
        (line,) = predict(run, "--text", "the dog sees", f"task.beam={beam}").lines
        assert generate(run, "--prompt", "the dog sees", *flags).out == line["translation"] + "\n"
    assert len(generate(run, "--prompt", "the dog sees", "--length", 1, "--temperature", 1).out.split()) <= 1
    for words, message in (
        (["--prompt", "the unheard dog"], "--prompt: expected words of the training texts, got 'unheard'"),
        ([], "--prompt: expected a text, got none"),
        (["--prompt", ""], "--prompt: expected a text, got an empty text"),
        (["--prompt", "x", "--beam", 2, "--top-k", 3], "--beam: not supported with --top-k because"),
    ):
        result = generate(run, *words)
        assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


HIDDEN = ["model=t5", "model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "task=span_corruption"]
HIDDEN += ["data.shared_vocabulary=true", "data.sentinels=8", "data.min_count=1", "data.max_length=12"]


def test_span_corruption_fills_masked_spans_and_its_weights_initialize_a_translation_model(
    train: Train,
    small_data: SmallData,
    predict: Predict,
    generate,  # type: ignore[no-untyped-def]
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    options = [*small_data("parallel"), *HIDDEN, "optimizer.lr=0.03"]
    run = train(*options, "trainer.max_steps=12")
    text = "the dog <extra_id_0> and sleeps <extra_id_1>"
    (line,) = predict(run, "--text", text).lines
    assert line["text"].startswith("the dog") and "<extra_id_" not in line["text"].split("sleeps")[0]
    assert generate(run, "--prompt", text).out == line["spans"] + "\n"
    result = predict(run, "--text", "the dog sleeps")
    assert result.code == 2 and "text: expected at least one sentinel, such as <extra_id_0>, got none" in result.err
    fine = [word for word in options if word != "task=span_corruption"]
    tuned = train(*fine, "trainer.max_steps=1", "transfer=finetune", f"transfer.weights={run}")
    record = json.loads((tuned / "transfer.json").read_text())
    assert not record["new"] and "target_embedding.weight" in record["names"]
    other = ["data.max_words=5", "trainer.max_steps=1", f"transfer.weights={run}", "transfer=finetune"]
    rejected = run_command(capsys, *fine, *other, f"hydra.run.dir={tmp_path / 'other'}")
    assert rejected.code == 2 and "transfer.weights: expected weights for the same tokens" in rejected.err


def test_a_resumed_run_of_span_corruption_ends_with_the_weights_of_an_uninterrupted_run(
    train: Train, small_data: SmallData, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = [*small_data("parallel"), *HIDDEN, "data.batch_size=24", "regularization.dropout=0.1", "device=cpu"]
    whole = train(*options, "trainer.max_steps=7")
    part = train(*options, "trainer.max_steps=4")
    assert run_command(capsys, "resume", part, "trainer.max_steps=7").code == 0
    states = [Checkpoints(run).load("last.pt")["model"] for run in (whole, part)]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
