"""Questions and windows of their contexts as rows of tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dltrain.data.ragged import Ragged
from dltrain.data.tokens import Tokens
from dltrain.datasets.squad_file import Question

SEPARATOR = "\0"  # before each answer


class Splitter(Protocol):
    """Vocabulary that returns the position of each token in a text."""

    @property
    def tokens(self) -> Tokens:
        """The vocabulary."""

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of a text, and the character span (start, end) of each, end exclusive."""


@dataclass(frozen=True)
class Windows:
    """Rows of tokens: begin token, question, end token, window of the context, end token.

    Args:
        max_length: Maximum number of tokens of a row.
        max_question: Maximum number of tokens of a question; longer questions are truncated.
        overlap: Number of tokens that consecutive windows of a context share.
    """

    splitter: Splitter
    max_length: int
    max_question: int
    overlap: int

    def rows(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Return the windows of all questions; field ``question`` is the index of a window's question.

        ``text`` has the characters of the window and of all distinct answers, with a `SEPARATOR` before each answer;
        ``offset`` is the position of the window's first character in the context. ``spans`` (T, 2) are the start and
        the end (exclusive) of each token in characters of the window, 0 for tokens outside of it. ``start`` and ``end``
        are the positions of the first and the last token of the first answer, 0 if the window does not hold all of it.
        """
        ragged: dict[str, list[list[Any]]] = {name: [] for name in ("tokens", "segments", "spans", "text")}
        numbers: dict[str, list[int]] = {"question": [], "offset": [], "start": [], "end": []}
        contexts: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        for number, question in enumerate(questions):
            if question.context not in contexts:
                contexts[question.context] = self.splitter.encode_spans(question.context)
            answers = "".join(f"{SEPARATOR}{answer}" for answer in dict.fromkeys(question.answers))
            for tokens, segments, places, start, end in self._windows(question, *contexts[question.context]):
                inside = [place for place in places if place[1]]
                offset, stop = (inside[0][0], inside[-1][1]) if inside else (0, 0)
                spans = [(first - offset, last - offset) if last else (0, 0) for first, last in places]
                text = list(map(ord, question.context[offset:stop] + answers))
                rows: tuple[list[Any], ...] = (tokens, segments, spans, text)
                for name, values in zip(ragged, rows, strict=True):
                    ragged[name].append(values)
                for name, value in zip(numbers, (number, offset, start, end), strict=True):
                    numbers[name].append(value)
        pads = {"tokens": self.splitter.tokens.pad or 0}
        fields: dict[str, Any] = {name: _ragged(values, pads.get(name, 0)) for name, values in ragged.items()}
        return fields | {name: torch.tensor(values, dtype=torch.int64) for name, values in numbers.items()}

    def _windows(
        self, question: Question, tokens: list[int], spans: list[tuple[int, int]]
    ) -> Iterable[tuple[list[int], list[int], list[tuple[int, int]], int, int]]:
        vocabulary = self.splitter.tokens
        begin, end = vocabulary.begin, vocabulary.end
        asked = self.splitter.encode_spans(question.text)[0][: self.max_question]
        head = [*([] if begin is None else [begin]), *asked, *([] if end is None else [end])]
        tail = [] if end is None else [end]
        room = self.max_length - len(head) - len(tail)
        first, last = self._answer(question, spans)
        for offset in range(0, max(1, len(tokens) - self.overlap), room - self.overlap):
            part, places = tokens[offset : offset + room], spans[offset : offset + room]
            inside = bool(question.answers) and offset <= first and last < offset + len(part)
            start, stop = (len(head) + first - offset, len(head) + last - offset) if inside else (0, 0)
            segments = [*[0] * len(head), *[1] * (len(part) + len(tail))]
            yield [*head, *part, *tail], segments, [*[(0, 0)] * len(head), *places, *[(0, 0)] * len(tail)], start, stop
            if offset + room >= len(tokens):
                break

    def _answer(self, question: Question, spans: list[tuple[int, int]]) -> tuple[int, int]:
        """Return the indices of the first and the last context token that overlap with the first answer.

        Without answers, both are 0. If no token overlaps with the answer, both are the number of context tokens.
        """
        if not question.answers:
            return 0, 0
        stop = question.start + len(question.answers[0])
        inside = [number for number, (one, other) in enumerate(spans) if one < stop and other > question.start]
        return (inside[0], inside[-1]) if inside else (len(spans), len(spans))


def _ragged(rows: list[list[Any]], pad: int) -> Ragged:
    values = torch.tensor([value for row in rows for value in row], dtype=torch.int32)
    return Ragged(values, torch.tensor([len(row) for row in rows]), pad)
