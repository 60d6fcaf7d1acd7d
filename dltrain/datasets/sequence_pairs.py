"""Pairs of token sequences as the fields of a batch, and lines of text as inputs for prediction."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.inputs import InputFile, InputFiles, errors_as
from dltrain.data.loader import Batch
from dltrain.data.ragged import Ragged
from dltrain.data.spec import Inputs
from dltrain.datasets.vocabularies import BEGIN, END, PAD
from dltrain.errors import ConfigError, format_error

LINES = (".txt",)


class Encoder(Protocol):
    """Object that converts a text to tokens, such as a vocabulary."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""


@dataclass(frozen=True)
class SourceEncoder:
    """Conversion of a user's text to the tokens of a source.

    Args:
        encode_text: Function that returns the tokens of a text.
        prefix: Text before every source.
        limit: Maximum number of tokens; longer sources are truncated. None for no limit.
    """

    encode_text: Callable[[str], list[int]]
    prefix: str = ""
    limit: int | None = None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a source; an empty text has none."""
        return self.encode_text(self.prefix + text)[: self.limit] if text.strip() else []


class PreparePairs(nn.Module):
    """Module that converts source and target tokens to the fields of a batch.

    Shape: source (B, S) and, if known, target (B, T), which ends with the token END -> inputs (B, S), targets (B, T)
    and previous (B, T), the token before each target or BEGIN, all int64; lengths (B,), on the CPU, if the batch has
    source_lengths. A field text_task (B,) is unchanged.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of pairs."""
        batch = {"inputs": rows["source"].long()}
        if "text_task" in rows:
            batch["text_task"] = rows["text_task"]
        if "source_lengths" in rows:
            batch["lengths"] = rows["source_lengths"]
        if "target" in rows:
            targets = rows["target"].long()
            previous = torch.cat([torch.full_like(targets[:, :1], BEGIN), targets[:, :-1]], dim=1)
            batch |= {"previous": previous, "targets": targets}
        return batch


def as_ragged(encoded: Iterable[list[int]], end: bool = False) -> Ragged:
    """Return lists of tokens as rows of different lengths; with `end`, each is followed by the token END."""
    rows = [[*tokens, END] if end else tokens for tokens in encoded]
    values = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
    return Ragged(torch.from_numpy(values), torch.tensor([len(row) for row in rows], dtype=torch.int64), PAD)


def encode_inputs(texts: list[str], names: list[dict[str, object]], encoder: Encoder) -> Inputs:
    """Return the tokens of source texts.

    Raises:
        ConfigError: A text is empty; the message names the line of a file.
    """
    encoded = [encoder.encode(text) for text in texts]
    for name, tokens in zip(names, encoded, strict=True):
        if not tokens:
            where = f" in line {name['line']} of {name['input']}" if "line" in name else ""
            raise ConfigError(format_error("text", f"a text{where}", "an empty text"))
    rows: dict[str, Tensor | Ragged] = {"source": as_ragged(encoded)}
    return Inputs(rows, names)


def read_lines(file: InputFile, size: int, encoder: Encoder) -> Iterator[Inputs]:
    """Yield the lines of a text file as sources, at most ``size`` at a time.

    Raises:
        ConfigError: The file is empty or not UTF-8, or a line is empty.
    """
    try:
        with file.open_text() as lines:
            numbered = enumerate((line.rstrip("\r\n") for line in lines), 1)
            empty = True
            while found := list(islice(numbered, size)):
                empty = False
                names: list[dict[str, object]] = [{"input": file.name, "line": number} for number, _ in found]
                yield encode_inputs([text for _, text in found], names, encoder)
        if empty:
            raise ConfigError(format_error("text", f"a text in each line of {file.path}", "an empty file"))
    except UnicodeDecodeError as error:
        raise ConfigError(format_error("text", f"UTF-8 text at {file.path}", str(error))) from error


def read_texts(files: InputFiles, encoder: Encoder) -> Iterator[Inputs]:
    """Yield the text on the command line, if any, then the lines of text files, as sources."""
    if files.text is not None:
        with errors_as("--text"):
            yield encode_inputs([files.text], [{"input": "--text"}], encoder)
    if files.names or files.text is None:
        for file in InputFiles(files.names, None, files.batch_size).expand("a text file", LINES):
            with file.errors_as_input():
                yield from read_lines(file, files.batch_size, encoder)
