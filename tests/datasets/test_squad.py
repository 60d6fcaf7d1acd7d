"""Extractive question answering: windows, positions of answers, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.squad import Squad
from dltrain.errors import ConfigError

SMALL: dict[str, Any] = {"max_length": 24, "max_question": 6, "overlap": 4, "min_count": 1}


def content(articles: int = 6) -> dict[str, Any]:
    data = []
    for number in range(articles):
        context = f"{'Before it, nothing. ' * number}The river number {number} rises in Rome; it ends at sea."
        answer = {"text": f"{number}", "answer_start": context.index(f"number {number}") + 7}
        end = {"text": "Rome", "answer_start": context.index("Rome")}
        questions = [
            {"id": f"{number}a", "question": "Which river is it?", "answers": [answer, answer]},
            {"id": f"{number}b", "question": "Where does it rise?", "answers": [end]},
        ]
        data.append({"title": "t", "paragraphs": [{"context": context, "qas": questions}]})
    return {"data": data}


def write(folder: Path, whole: dict[str, Any] | None = None) -> str:
    (folder / "a.json").write_text(json.dumps(whole or content()))
    return str(folder / "a.json")


def text(row: torch.Tensor) -> str:
    return "".join(map(chr, row.tolist())).rstrip("\0")


@pytest.mark.parametrize("tokens", ["words", "bpe", "wordpiece"])
def test_answer_tokens_match_the_text_of_the_answer_in_the_window_that_contains_it(tokens: str, tmp_path: Path) -> None:
    if tokens != "words":
        pytest.importorskip("tokenizers")
    data = Squad(write(tmp_path), tokens=tokens, **SMALL)
    splits, held = data.load(), set[str]()
    windows = 0
    for source, questions in zip((splits.train, splits.val, splits.test), data.parts, strict=True):
        assert source is not None
        for batch in Batches(source, 4):
            for row in range(len(batch["inputs"])):
                windows += 1
                start, end, spans = batch["start"][row], batch["end"][row], batch["spans"][row]
                context, *answers = text(batch["text"][row]).split("\0")
                question = questions[int(batch["question"][row])]
                assert batch["lengths"][row] <= 24 and batch["inputs"][row, 0] == 2
                assert question.context[int(batch["offset"][row]) :].startswith(context)
                if end > 0:
                    found = context[int(spans[start, 0]) : int(spans[end, 1])]
                    assert found == answers[0] and batch["segments"][row, start] == 1
                    held.add(f"{question.article} {question.text}")
                else:
                    assert start == 0
    assert len(held) == 12 and windows > 12  # every answer is in a window; long contexts have several windows


def test_articles_are_not_divided_between_splits(tmp_path: Path) -> None:
    data = Squad(write(tmp_path), **SMALL)
    parts = [{question.article for question in part} for part in data.parts]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6 and all(parts)


def test_every_token_of_a_context_is_in_a_window(tmp_path: Path) -> None:
    data = Squad(write(tmp_path), **SMALL)
    for question in data.questions:
        rows = data.windows.rows([question])
        parts = rows["spans"].values.split(rows["spans"].lengths.tolist())
        spans = {
            tuple(span)
            for part, offset in zip(parts, rows["offset"], strict=True)
            for span in (part[part[:, 1] > 0] + offset).tolist()
        }
        assert spans == set(data.words.encode_spans(question.context)[1])


def test_input_questions_are_read_without_the_training_data(tmp_path: Path) -> None:
    data = Squad(write(tmp_path), **SMALL)
    again = Squad("moved.json", **SMALL, fitted=data.fit())
    entry = {"question": "Where does it rise?", "context": "It rises in Rome."}
    (tmp_path / "q.jsonl").write_text(json.dumps(entry) + "\n")
    (given,) = again.inputs(InputFiles((str(tmp_path / "q.jsonl"),)))
    assert given.names == [{"input": str(tmp_path / "q.jsonl"), "line": 1, "question": "Where does it rise?"}]
    batch = again.prepare(next(iter(first_rows(given.rows))))
    assert text(batch["text"][0]) == entry["context"]
    (tmp_path / "q.jsonl").write_text('{"question": "?"}\n{')
    with pytest.raises(ConfigError, match=r'"question" and "context" in line 1 .*, got an object without context$'):
        list(again.inputs(InputFiles((str(tmp_path / "q.jsonl"),))))
    for line, got in (("[1]", r"\[1\]"), ("[" * 200_000, "maximum recursion depth"), ("x", "Expecting value")):
        (tmp_path / "q.jsonl").write_text(line)
        with pytest.raises(ConfigError, match=rf"^INPUT 1: expected a JSON object .* in line 1 .*, got {got}"):
            list(again.inputs(InputFiles((str(tmp_path / "q.jsonl"),))))
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"^INPUT 1: expected UTF-8 text at .*q\.jsonl, got"):
        list(again.inputs(InputFiles((str(tmp_path / "q.jsonl"),))))


def first_rows(rows: Any) -> Any:
    """Return an iterator over one batch, which has only the first row."""
    from dltrain.data.loader import TensorLoader

    loader = TensorLoader(rows, 1, torch.device("cpu"))
    return (part for _, _, part, _ in loader.chunks([torch.tensor([0])], 0, None))


def test_other_formats_and_incorrect_or_missing_answers_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content(), indent=1).replace('"title": "t",', '"title" "t",', 1))
    with pytest.raises(ConfigError, match=r"^data.path: expected JSON in .*, got invalid JSON in line 4, .*delimiter"):
        Squad(str(file))
    no_object = {"data": [{"paragraphs": [{"context": "c", "qas": [[]]}]}]}
    for text in ("[]", json.dumps(no_object), json.dumps(content()).replace('"answer_start"', '"start"')):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"^data.path: expected the keys .* text and answer_start, as in SQuAD"):
            Squad(str(file))
    no_text = content()
    no_text["data"][0]["paragraphs"][0]["qas"][0]["question"] = 5
    with pytest.raises(
        ConfigError, match=r"^data.path: expected the keys .*, got another structure \(a question that is not text\)$"
    ):
        Squad(write(tmp_path, no_text))
    file.write_text("[" * 200_000)
    with pytest.raises(ConfigError, match=r"^data.path: expected JSON in .*, got maximum recursion depth"):
        Squad(str(file))
    whole = content()
    right = whole["data"][1]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"]
    whole["data"][1]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = 3
    with pytest.raises(
        ConfigError, match=r"^data.path: expected a context that holds the answer 'Rome' at character 3 in"
    ):
        Squad(write(tmp_path, whole))
    whole["data"][1]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = right + 3
    with pytest.raises(ConfigError, match=r"^data.path: expected a context that holds the answer 'Rome'"):
        Squad(write(tmp_path, whole))
    whole["data"][1]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = (
        right - 2
    )  # in SQuAD, some values of answer_start are off by two
    (found,) = (
        each for each in Squad(write(tmp_path, whole)).questions if (each.article, each.answers) == (1, ["Rome"])
    )
    assert found.start == right
    whole["data"][1]["paragraphs"][0]["qas"][1]["answers"] = []
    with pytest.raises(ConfigError, match=r"^data.path: expected an answer to question 1b of .*, got none"):
        Squad(write(tmp_path, whole))
