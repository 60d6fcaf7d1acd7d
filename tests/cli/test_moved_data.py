"""Commands on runs whose training data were moved: series, texts, speech, music and clips.

``predict`` and ``generate`` need no data; ``evaluate`` and ``resume`` name the missing file and accept its new path.
"""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from example_files import write_recording
from in_process import Result, run_command
from prediction_examples import SHORT

from dltrain.cli.main import main

SMALL = ["model.hidden_size=8"]
LSTM = ["model=lstm", "model.num_layers=1", *SMALL]
BERT = ["model=bert", "model.num_layers=1", "model.num_heads=2", *SMALL]
BOOK = ["data=text", "data.context_length=8", "data.stride=8"]
SALES = ["optimizer/schedule=constant", "data=timeseries", "data.window=8", "data.horizon=2", "data.season=7"]
CTC = ["model=deep_speech2", "model.channels=2", "model.num_layers=1", *SMALL]
BOOK_INPUT, PROMPT = ["--text", "the whale"], ["--prompt", "the whale", "--length", "4"]
PIECE = ["--out", "piece.mid", "--length", "6"]


class Case(NamedTuple):
    """A kind of run: its data, overrides, and the arguments of ``predict`` and ``generate``."""

    data: str
    overrides: list[str]
    predict: list[str]
    generate: list[str] | None = None


CASES = {
    "series": Case(
        "sales",
        [*LSTM, *SALES, "data.known=[holiday]", "data.calendar=[weekday]", "task.output=quantile"],
        ["later.csv"],
    ),
    "characters": Case("book", [*LSTM, *BOOK, "data.streams=true"], BOOK_INPUT, PROMPT),
    "words": Case("book", [*LSTM, *BOOK, "data.tokens=words"], BOOK_INPUT, PROMPT),
    "bpe": Case("book", [*LSTM, *BOOK, "data.tokens=bpe", "data.max_words=270"], BOOK_INPUT, PROMPT),
    "wordpiece": Case("book", [*LSTM, *BOOK, "data.tokens=wordpiece", "data.max_words=40"], BOOK_INPUT, PROMPT),
    "tokenizer": Case("book", [*LSTM, *BOOK, "data.tokenizer=data/tokenizer.json"], BOOK_INPUT, PROMPT),
    "masked": Case(
        "book", [*BERT, *BOOK, "data.special_tokens=true", "task=masked_language_modeling"], ["--text", "the <mask>ha"]
    ),
    "masked_wordpiece": Case(
        "text_table",
        [*BERT, "data.tokens=wordpiece", "data.special_tokens=true", "task=masked_language_modeling"],
        ["--text", "a <mask> film"],
    ),
    "reviews": Case("text_table", [*LSTM, "model.readout=attention"], ["--text", "a good film"]),
    "translation": Case("parallel", ["model=seq2seq", *SMALL], ["--text", "the dog"], ["--prompt", "the dog"]),
    "tagging": Case("conll", LSTM, ["--text", "Ada sleeps"]),
    "questions": Case("squad", BERT, ["question.jsonl"]),
    "transcripts": Case("speech", CTC, ["new.wav"]),
    "keywords": Case("spoken", [*LSTM, "data=speech", "data.stack=1", "task=classification"], ["new.wav"]),
    "pianoroll": Case("pianoroll", LSTM, ["piece.mid"], PIECE),
    "midi": Case("midi", LSTM, ["piece.mid"], PIECE),
    "midi_events": Case("midi_events", LSTM, ["piece.mid"], PIECE),
    "clips": Case("video_folder", ["model=cnn_lstm", *SMALL], ["clip"]),
}


# Kinds that run by default.
ALWAYS = ("series", "tokenizer", "questions", "keywords")
KINDS = [kind if kind in ALWAYS else pytest.param(kind, marks=pytest.mark.slow) for kind in CASES]


@pytest.mark.parametrize("kind", KINDS)
def test_predict_and_generate_work_without_the_data_while_evaluate_and_resume_accept_its_new_path(
    kind: str,
    small_data: Callable[[str], list[str]],
    own_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    case, call = CASES[kind], partial(run_command, capsys)
    overrides = write_data(case.data, Path("data"), own_files)
    if case.data in own_files:
        overrides = [word for word in small_data(case.data) if not word.startswith("data.path=")] + overrides
    assert main([*SHORT, *overrides, *case.overrides, "hydra.run.dir=run"]) == 0
    verbs = ("generate", "predict") if case.generate else ("predict",)
    flags = {"generate": case.generate or [], "predict": case.predict}
    write_inputs(own_files)

    def results() -> list[Result]:
        Path("piece.mid").unlink(missing_ok=True)
        return [call(verb, "run", *flags[verb]) for verb in verbs]

    before = results()
    assert [result.code for result in before] == [0] * len(verbs), before
    (path,) = (word.partition("=")[2] for word in overrides if word.startswith("data.path="))
    evaluated = call("evaluate", "run", "--json")
    Path("data").rename("moved")
    assert results() == before
    moved = [f"data.path={path.replace('data', 'moved', 1)}"]
    moved += ["data.tokenizer=moved/tokenizer.json"] if kind == "tokenizer" else []
    missing = [call("evaluate", "run"), call("resume", "run", "trainer.max_steps=3")]
    assert all(result.code == 2 and path in result.err and "Traceback" not in result.err for result in missing)
    assert call("evaluate", "run", *moved, "--json") == evaluated
    assert call("resume", "run", *moved, "trainer.max_steps=3").code == 0


def write_data(kind: str, folder: Path, own_files: dict[str, Path]) -> list[str]:
    """Write the training data of a kind to a folder; return the overrides that select them."""
    folder.mkdir()
    if kind in own_files:
        source = own_files[kind]
        source = source.parent if kind == "speech" else source  # copy the recordings, too
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / source.name)
        return [f"data.path={folder / source.name / 'prompts.tsv' if kind == 'speech' else folder / source.name}"]
    if kind == "spoken":
        for number in range(40):
            word = ("yes", "no")[number % 2]
            write_recording(folder / "words" / word / f"{number}.wav", word, seed=number)
        return [f"data.path={folder / 'words'}"]
    if kind == "sales":
        write_sales(folder / "sales.csv", 80)
        return [f"data.path={folder / 'sales.csv'}"]
    (folder / "book.txt").write_text("It was the whale, the white whale.\n" * 20)
    write_tokenizer(folder / "tokenizer.json")
    return [f"data.path={folder / 'book.txt'}"]


def write_sales(path: Path, rows: int, later: int = 0) -> None:
    """Write daily sales with a holiday every third day; the last `later` rows have no sales."""
    lines = ["date,sales,holiday"]
    for day in range(rows + later):
        sales = "" if day >= rows else f"{100 - 40 * (day % 3 == 0) + day % 7}"
        lines.append(f"{date(2024, 1, 1) + timedelta(day)},{sales},{int(day % 3 == 0)}")
    path.write_text("\n".join(lines) + "\n")


def write_tokenizer(path: Path) -> None:
    """Write a word-level tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "It", "was", "the", "whale", "white", ",", "."]
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.add_special_tokens(["[UNK]"])
    own.save(str(path))


def write_inputs(own_files: dict[str, Path]) -> None:
    """Write new inputs for ``predict`` to the current folder."""
    write_sales(Path("later.csv"), 30, later=2)
    write_recording(Path("new.wav"), "yes")
    Path("question.jsonl").write_text('{"question": "Where does it rise?", "context": "It rises in Rome."}\n')
    shutil.copytree(own_files["video_folder"] / "brighter" / "clip1", "clip", dirs_exist_ok=True)
