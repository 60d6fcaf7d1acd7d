"""Problems that need a long memory: adding two marked numbers, and copying symbols after a delay."""

import string
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from dltrain.data.checks import at_least
from dltrain.data.inputs import InputFile, InputFiles, errors_as
from dltrain.data.loader import Batch
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size
from dltrain.data.tokens import Tokens
from dltrain.datasets.array_inputs import read_arrays
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import uniform

VALIDATION, TEST = 0.05, 0.05
MIN_SEQUENCES = 8
BLANK, DELIMITER, FIRST_SYMBOL = 0, 1, 2  # tokens of `CopyMemory`
MARKS = "_:"  # characters of BLANK and DELIMITER


class AddingProblem:
    """Sequences of random numbers; the target is the sum of the two numbers that are marked.

    A step has a number from 0 to 1 and a mark of 0 or 1. One step of the first half and one of the second half are
    marked. Predicting the mean, 1, for every sequence gives a mean squared error of 1/6. The sequences do not depend on
    the seed of a run.

    Args:
        sequences: Number of sequences: 90% for training, 5% each for validation and testing; at least 8.
        steps: Steps of a sequence, at least 2.
        batch_size: Sequences per batch, at least 1.
        workers: Unused: the sequences stay in memory.

    Source: Hochreiter and Schmidhuber 1997, section 5.4; in the form of Le, Jaitly and Hinton 2015, section 4.1.
    """

    def __init__(self, sequences: int = 10_000, steps: int = 100, batch_size: int = 64, workers: int = 0) -> None:
        self.sequences = at_least("data.sequences", sequences, MIN_SEQUENCES)
        self.steps = at_least("data.steps", steps, 2)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = nn.Identity()
        self.spec = Spec(shape=(steps, 2), features=2, length=steps, targets=1, target_names=("sum",))

    def load(self) -> Splits:
        """Draw all sequences, and return the splits."""
        drawn = uniform(torch.arange(self.sequences), self.steps + 2)
        numbers, places = drawn[:, :-2], drawn[:, -2:]
        half = self.steps // 2
        first, second = (places[:, 0] * half).long(), half + (places[:, 1] * (self.steps - half)).long()
        marked = torch.stack([first, second], dim=1)
        marks = torch.zeros_like(numbers).scatter_(1, marked, 1.0)
        targets = numbers.gather(1, marked).sum(1, keepdim=True)
        return _split({"inputs": torch.stack([numbers, marks], dim=2), "targets": targets}, self.prepare)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read arrays of sequences, each (steps, 2)."""
        return read_arrays(files, (self.steps, 2))


class PrepareCopy(nn.Module):
    """Module that builds the inputs and targets of `CopyMemory` from the symbols to copy.

    Shape: int (B, items) -> ``inputs`` and ``targets``, both int64 (B, delay + 2 * items).
    """

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.delay = delay

    def forward(self, rows: Batch) -> Batch:
        """Return symbols, blanks, a delimiter and blanks as ``inputs``; blanks and symbols as ``targets``."""
        symbols = rows["symbols"].long()
        items = symbols.shape[1]
        blank = symbols.new_full((len(symbols), self.delay + items), BLANK)
        after = blank.clone()
        after[:, self.delay - 1] = DELIMITER
        return {"inputs": torch.cat([symbols, after], dim=1), "targets": torch.cat([blank, symbols], dim=1)}


class CopyMemory:
    """Random symbols to reproduce after a delay; they do not depend on the seed of a run.

    The inputs are the symbols, ``delay`` - 1 blanks, a delimiter, and one blank for each symbol; the targets are blanks
    up to and including the step of the delimiter, and then the symbols. A model without memory predicts blanks and then
    each symbol with equal probability: its cross-entropy is ``items * log(symbols) / (delay + 2 * items)`` nats per
    step.

    Args:
        sequences: Number of sequences: 90% for training, 5% each for validation and testing; at least 8.
        delay: Steps between the last symbol and the first step of the copy, at least 1.
        items: Number of symbols to copy, at least 1.
        symbols: Number of different symbols, from 2 to 26.
        batch_size: Sequences per batch, at least 1.
        workers: Unused: the sequences stay in memory.

    Source: Hochreiter and Schmidhuber 1997; in the form of Arjovsky, Shah and Bengio 2016, section 5.1, where
    ``items`` is 10 and ``symbols`` is 8.
    """

    def __init__(
        self,
        sequences: int = 10_000,
        delay: int = 20,
        items: int = 10,
        symbols: int = 8,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.sequences = at_least("data.sequences", sequences, MIN_SEQUENCES)
        self.delay = at_least("data.delay", delay, 1)
        self.items = at_least("data.items", items, 1)
        if not 2 <= symbols <= len(string.ascii_lowercase):
            raise ConfigError(format_error("data.symbols", "a whole number from 2 to 26", symbols))
        self.characters = MARKS + string.ascii_lowercase[:symbols]
        self.symbols = symbols
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = PrepareCopy(delay)
        tokens = Tokens(len(self.characters), encode=self._encode, decode=self._decode)
        length = delay + 2 * items
        self.spec = Spec(
            shape=(length,), features=len(self.characters), length=length, tokens=tokens, target_tokens=tokens
        )

    def load(self) -> Splits:
        """Draw all symbols, and return the splits."""
        drawn = (uniform(torch.arange(self.sequences), self.items) * self.symbols).long() + FIRST_SYMBOL
        return _split({"symbols": drawn.to(torch.int16)}, self.prepare)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read symbols to copy: the lines of text files, or one text on the command line."""
        if files.text is not None:
            with errors_as("--text"):
                yield self._read_all([files.text], [{"input": "--text"}])
        if files.names or files.text is None:
            for file in InputFiles(files.names, None, files.batch_size).expand("a text file", (".txt",)):
                with file.errors_as_input():
                    yield from self._read_lines(file, files.batch_size)

    def _read_lines(self, file: InputFile, size: int) -> Iterator[Inputs]:
        try:
            with file.open_text() as lines:
                numbered = enumerate((line.rstrip("\r\n") for line in lines), 1)
                while found := list(islice(numbered, size)):
                    yield self._read_all(
                        [text for _, text in found], [{"input": file.name, "line": number} for number, _ in found]
                    )
        except UnicodeDecodeError as error:
            raise ConfigError(format_error("text", f"UTF-8 text at {file.path}", str(error))) from error

    def _read_all(self, texts: list[str], names: list[dict[str, object]]) -> Inputs:
        """Return rows of symbols.

        Raises:
            ConfigError: A text does not consist of `items` known symbols. For a file, the message names the line.
        """
        letters = self.characters[FIRST_SYMBOL:]
        for text, name in zip(texts, names, strict=True):
            if len(text) != self.items or not set(text) <= set(letters):
                where = f" in line {name['line']} of {name['input']}" if "line" in name else ""
                expected = f"{self.items} letters from {letters[0]} to {letters[-1]}{where}"
                raise ConfigError(format_error("text", expected, text))
        return Inputs({"symbols": torch.tensor(list(map(self._encode, texts)), dtype=torch.int16)}, names)

    def _encode(self, text: str) -> list[int]:
        wrong = next((character for character in text if character not in self.characters), None)
        if wrong is not None:
            raise ConfigError(format_error("text", f"one of the characters {self.characters}", wrong))
        return [self.characters.index(character) for character in text]

    def _decode(self, tokens: list[int]) -> str:
        return "".join(self.characters[token] for token in tokens)


def _split(rows: Mapping[str, Tensor], prepare: nn.Module) -> Splits:
    """Return the first rows as the training split, and the others as the validation and test splits."""
    count = len(next(iter(rows.values())))
    held_out = [held_out_size(count, share) for share in (VALIDATION, TEST)]
    cuts = [0, count - sum(held_out), count - held_out[1], count]
    train, val, test = (
        Source({name: value[start:end] for name, value in rows.items()}, prepare) for start, end in pairwise(cuts)
    )
    return Splits(train, val, test)
