"""Questions and contexts that contain the answers, from JSON files in the format of SQuAD."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dltrain.data.checks import at_least, check_held_out, existing_file
from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.loader import Batch
from dltrain.data.plans import JITTER, ByLength
from dltrain.data.ragged import check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size, permutation
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.input_vocabulary import VocabularySettings, state_of
from dltrain.datasets.squad_file import Question, read_questions
from dltrain.datasets.squad_windows import Windows
from dltrain.errors import ConfigError, format_error

MIN_ARTICLES = 3
SPECIAL_TOKENS = 3  # a begin token, an end token after the question, and an end token after the window


class PrepareQuestions(nn.Module):
    """Module that converts rows of windows to the fields of a batch.

    Shape: tokens and segments (B, T), spans (B, T, 2), text (B, characters) of code points; question, offset, start
    and end (B,) -> inputs and segments (B, T), int64; lengths (B,), int64 on the CPU; the other fields unchanged.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of padded windows."""
        batch = {
            "inputs": rows["tokens"].long(),
            "lengths": rows["tokens_lengths"],
            "segments": rows["segments"].long(),
        }
        others = "spans", "text", "question", "offset", "start", "end"
        return batch | {name: rows[name] for name in others}


class Squad:
    """Questions whose answers are spans of a context; articles are divided into random but fixed splits.

    A context that is too long is read in overlapping windows.

    Args:
        path: JSON file in the format of SQuAD 1.1.
        tokens: ``words``, or subwords that are fitted to the training texts: ``bpe`` or ``wordpiece``, as in BERT.
        tokenizer: File ``tokenizer.json`` of the package tokenizers; None to use ``tokens``.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join, in the training texts, at least 1.
        max_words: Maximum number of words (without special tokens) or of subwords (with special tokens and all bytes or
            characters, which are always kept), at least 1.
        max_length: Maximum number of tokens of a question and a window, including special tokens; above
            ``max_question`` + ``overlap`` + 3.
        max_question: Maximum number of tokens of a question, at least 1; longer questions are truncated.
        overlap: Number of tokens that consecutive windows of a context share, at least 0.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation: Fraction of the articles to hold out for validation, in [0, 1).
        test: Fraction of the articles to hold out for testing, in (0, 1).
        batch_size: Windows per batch, at least 1.
        workers: Unused: the texts stay in memory.
        fitted: Result of `fit` in an earlier run; None fits to the training texts.
    """

    def __init__(
        self,
        path: str,
        tokens: str = "words",
        tokenizer: str | None = None,
        lowercase: bool = True,
        min_count: int = 2,
        max_words: int = 20_000,
        max_length: int = 256,
        max_question: int = 40,
        overlap: int = 64,
        pad_multiple: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 16,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.path = path
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        at_least("data.max_question", max_question, 1)
        at_least("data.overlap", overlap, 0)
        if max_length <= (needed := max_question + overlap + SPECIAL_TOKENS):
            expected = f"more than {needed}: data.max_question + data.overlap + {SPECIAL_TOKENS}"
            raise ConfigError(format_error("data.max_length", expected, max_length))
        self.prepare, self.pad_multiple = PrepareQuestions(), check_multiple(pad_multiple)
        vocabulary = VocabularySettings(tokens, tokenizer, lowercase, min_count, max_words)
        if fitted is None:
            self.questions = read_questions(existing_file(path, "an existing JSON file"))
            self.parts = self._split(validation, test)
            texts = dict.fromkeys(text for question in self.parts[0] for text in (question.text, question.context))
            self.words = vocabulary.fit(texts)
        else:
            self.words = vocabulary.restore(fitted)
        self.windows = Windows(self.words, max_length, max_question, overlap)
        known, length = self.words.tokens, largest_width(max_length)
        self.spec = Spec(shape=(length,), length=length, features=known.size, tokens=known, answer_spans=True)

    def fit(self) -> Fitted:
        """Return the vocabulary or the tokenizer."""
        return state_of(self.words)

    def evaluation(self) -> Source:
        """Return all questions of the file."""
        return self._source(read_questions(existing_file(self.path, "an existing JSON file")))

    def load(self) -> Splits:
        """Return the splits."""
        train, val, test = self.parts
        return Splits(self._source(train), self._source(val) if val else None, self._source(test))

    def describe(self) -> list[str]:
        """Return lines about the questions and the splits."""
        contexts = {question.context for question in self.questions}
        lengths = [len(self.words.encode_spans(context)[0]) for context in contexts]
        lines = [
            f"{Path(self.path).name}: {count(len(self.questions), 'question')} on {count(len(contexts), 'context')}"
        ]
        lines += [f"contexts: {min(lengths)} to {max(lengths)} tokens, vocabulary of {self.words.tokens.size:,}"]
        sizes = dict(zip(("training", "validation", "test"), map(len, self.parts), strict=True))
        return [*lines, f"{splits_line(sizes, 'questions')}, by article"]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read JSON lines with a question and a context each."""
        for file in files.expand("a JSON lines file with question and context", (".jsonl",)):
            with file.errors_as_input():
                yield from self._read_lines(file, files.batch_size)

    def _read_lines(self, file: InputFile, size: int) -> Iterator[Inputs]:
        try:
            with file.open_text() as lines:
                found = [(number, _parse(line, number, file)) for number, line in enumerate(lines, 1) if line.strip()]
        except UnicodeDecodeError as error:
            raise ConfigError(format_error("text", f"UTF-8 text at {file.path}", str(error))) from error
        for first in range(0, len(found), size):
            part = found[first : first + size]
            names: list[dict[str, Any]] = [
                {"input": file.name, "line": number, "question": question.text} for number, question in part
            ]
            yield Inputs(self.windows.rows([question for _, question in part]), names)

    def _split(self, validation: float, test: float) -> list[list[Question]]:
        articles = list(dict.fromkeys(question.article for question in self.questions))
        if len(articles) < MIN_ARTICLES:
            expected = f"at least {MIN_ARTICLES} articles with questions in {self.path}"
            raise ConfigError(format_error("data.path", expected, len(articles)))
        held_out = [held_out_size(len(articles), validation), held_out_size(len(articles), test)]
        order = permutation(len(articles))
        parts = order.split([len(articles) - sum(held_out), *held_out])
        chosen = [{articles[number] for number in part.tolist()} for part in parts]
        return [[question for question in self.questions if question.article in part] for part in chosen]

    def _source(self, questions: list[Question]) -> Source:
        rows = self.windows.rows(questions)
        lengths = torch.stack([rows["tokens"].lengths, rows["text"].lengths], dim=1)
        return Source(rows, self.prepare, plan=ByLength(lengths, multiple=self.pad_multiple, jitter=JITTER))


def _parse(line: str, number: int, file: InputFile) -> Question:
    expected = f'a JSON object with "question" and "context" in line {number} of {file.path}'
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(format_error("text", expected, str(error))) from None
    if not isinstance(entry, dict):
        raise ConfigError(format_error("text", expected, line.strip()))
    if missing := [key for key in ("question", "context") if key not in entry]:
        raise ConfigError(format_error("text", expected, f"an object without {' and '.join(missing)}"))
    question, context = entry["question"], entry["context"]
    if not (isinstance(question, str) and isinstance(context, str) and question.strip() and context.strip()):
        raise ConfigError(format_error("text", expected, "an empty text, or a value that is not text"))
    return Question(0, question, context, [])
