"""Questions, contexts and answers from JSON files in the format of SQuAD."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from dltrain.errors import ConfigError, format_error

SLACK = 2  # maximum error of answer_start in characters; in SQuAD, some values are off by two


class Question(NamedTuple):
    """A question about a context.

    Args:
        article: Index of the article that the context belongs to.
        answers: Correct answers, which occur in the context; empty if unknown.
        start: Position of the first answer in the context, in characters.
    """

    article: int
    text: str
    context: str
    answers: list[str]
    start: int = 0


def read_questions(file: Path) -> list[Question]:
    """Read the questions of a file.

    Raises:
        ConfigError: The file is not JSON in UTF-8 or has a different structure, or a question has no answer, or an
            answer is more than `SLACK` characters from its ``answer_start`` in the context.
    """
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(format_error("data.path", f"a file in UTF-8 at {file}", str(error))) from None
    except json.JSONDecodeError as error:
        got = f"invalid JSON in line {error.lineno}, column {error.colno} ({error.msg})"
        raise ConfigError(format_error("data.path", f"JSON in {file}", got)) from None
    except RecursionError as error:
        raise ConfigError(format_error("data.path", f"JSON in {file}", str(error))) from None
    try:
        return [
            _question(number, paragraph["context"], entry, file)
            for number, article in enumerate(content["data"])
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        keys = "data, paragraphs, context, qas, question, answers, text and answer_start"
        expected = f"the keys {keys}, as in SQuAD, in {file}"
        got = f"an object without {error}" if isinstance(error, KeyError) else f"another structure ({error})"
        raise ConfigError(format_error("data.path", expected, got)) from None


def _question(article: int, context: str, entry: dict[str, Any], file: Path) -> Question:
    name = f"question {entry.get('id', entry['question'])} of {file}"
    if not isinstance(entry["question"], str):
        raise TypeError("a question that is not text")
    if not entry["answers"]:
        hint = "Questions without an answer are not supported: remove them."
        raise ConfigError(format_error("data.path", f"an answer to {name}", "none", hint))
    places = [_place(context, answer["text"], answer["answer_start"], name) for answer in entry["answers"]]
    answers = [answer["text"] for answer in entry["answers"]]
    return Question(article, entry["question"], context, answers, places[0])


def _place(context: str, text: str, start: int, name: str) -> int:
    """Return the position of an answer in its context, at most `SLACK` characters from ``start``."""
    for shift in sorted(range(-SLACK, SLACK + 1), key=abs):
        if text and start + shift >= 0 and context.startswith(text, start + shift):
            return start + shift
    expected = f"a context that holds the answer {text!r} at character {start} in {name}"
    raise ConfigError(format_error("data.path", expected, repr(context[max(0, start) :][: max(1, len(text))])))
