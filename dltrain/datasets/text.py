"""Text as a row of tokens, for language models."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.checks import at_least, file, fractions, one_of
from dltrain.data.inputs import Given
from dltrain.data.loader import Batch
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import share
from dltrain.errors import ConfigError, format_error, shorten

BUNDLED = Path(__file__).parent / "bundled" / "moby_dick.txt"
BYTES = 256
UNKNOWN = -1


class Text:
    """A text file cut, in its order, into a training, a validation and a test part.

    Training reads windows that begin every ``stride`` tokens; validation and test predict each of their tokens once.
    The alphabet is that of the whole file, so a character that only the test part holds is known, if untrained.

    Args:
        path: A text file in UTF-8; None takes the text that comes with the package, Moby Dick up to chapter 46.
        tokens: ``characters``, or ``bytes`` of the file as it is.
        context_length: Tokens that a model reads at once.
        stride: Tokens from the start of one training window to the next; None is 1, so that every position is one.
        validation: Fraction of the text that is held out for validation.
        test: Fraction of the text, at its end, that is held out for the test.
        batch_size: Windows per step.
        workers: Not needed here: the text stays in memory.
    """

    def __init__(
        self,
        path: str | None = None,
        tokens: str = "characters",
        context_length: int = 64,
        stride: int | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        fractions(validation, test)
        self.path = file(path, "an existing text file") if path else BUNDLED
        one_of("data.tokens", tokens, ("characters", "bytes"))
        self.context_length = at_least("data.context_length", context_length, 1)
        self.stride = at_least("data.stride", stride, 1) if stride is not None else 1
        self.validation = validation
        self.test = test
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.alphabet: Characters | Bytes = Bytes() if tokens == "bytes" else Characters(_read(self.path))
        self.spec = Spec(
            shape=(context_length,),
            length=context_length,
            features=self.alphabet.size,
            vocabulary=self.alphabet.size,
            decode=self.alphabet.decode,
            encode=self.alphabet.encode,
        )

    def load(self) -> Splits:
        """Read the file and cut it."""
        tokens = self.alphabet.tokens(self.path)
        held = [share(len(tokens), self.validation), share(len(tokens), self.test)]
        train, val, test = tokens.split([len(tokens) - sum(held), *held])
        sources = [self._source(part, stride) for part, stride in ((train, self.stride), (test, self.context_length))]
        return Splits(sources[0], self._source(val, self.context_length) if self.validation else None, sources[1])

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's texts, each whole; the token after it is -1, unknown."""
        if given.text is not None:
            yield _whole("--text", self.alphabet.encode(given.text))
        if given.names or given.text is None:
            for found in replace(given, text=None).files("a text file"):
                with found.blamed():
                    yield _whole(found.name, self.alphabet.read(found.content()))

    def _source(self, part: Tensor, stride: int) -> Source:
        if len(part) <= self.context_length:
            expected = f"more than length = {self.context_length} tokens in each part of {self.path}"
            hint = "Shorten data.context_length, or enlarge data.validation and data.test"
            raise ConfigError(format_error("data.context_length", expected, f"{len(part)} tokens in one part", hint))
        return Source({"tokens": part.unfold(0, self.context_length + 1, stride)}, NextToken())


class NextToken(nn.Module):
    """A window of tokens as what is read and what is predicted: the same, one token later.

    Shape:
        tokens (B, length + 1) -> inputs (B, length), targets (B, length), both int64
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows at once."""
        tokens = rows["tokens"].long()
        return {"inputs": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}


def _whole(name: str, tokens: list[int]) -> Inputs:
    if not tokens:
        raise ConfigError(format_error(name, "a text of at least one character", "an empty one"))
    return Inputs({"tokens": torch.tensor([[*tokens, UNKNOWN]])}, [{"input": name}])


class Bytes:
    """The 256 bytes as tokens."""

    size = BYTES

    def tokens(self, path: Path) -> Tensor:
        """Every byte of a file, uint8."""
        return torch.from_numpy(np.fromfile(path, dtype=np.uint8))

    def read(self, content: bytes) -> list[int]:
        """The tokens of a file's content."""
        return list(content)

    def encode(self, text: str) -> list[int]:
        """The bytes of a text in UTF-8; those of a command line that are none come as they were typed."""
        return list(text.encode(errors="surrogateescape"))

    def decode(self, tokens: list[int]) -> str:
        """The text of the bytes; what is no UTF-8 is shown as replacement characters."""
        return bytes(tokens).decode(errors="replace")


class Characters:
    """The different characters of a text, in their order in Unicode, as tokens."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        self.size = len(self.characters)
        self.numbers = {character: number for number, character in enumerate(self.characters)}

    def tokens(self, path: Path) -> Tensor:
        """Every character of a file, in the smallest type that holds them: uint8, int16 or int32."""
        codes = np.frombuffer(_read(path).encode("utf-32-le"), dtype=np.uint32)
        alphabet = np.array([ord(character) for character in self.characters], dtype=np.uint32)
        kind = np.uint8 if self.size <= 2**8 else np.int16 if self.size <= 2**15 else np.int32
        return torch.from_numpy(np.searchsorted(alphabet, codes).astype(kind))

    def read(self, content: bytes) -> list[int]:
        """The tokens of a file's content.

        Raises:
            ConfigError: It is no UTF-8, or holds a character that the alphabet does not.
        """
        try:
            return self.encode(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ConfigError(format_error("text", "a text in UTF-8", str(error))) from error

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, whose lines may end as they do anywhere: a file's do when it is read for training.

        Raises:
            ConfigError: The text holds a character that the alphabet does not.
        """
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        unknown = sorted(set(text) - set(self.numbers))
        if unknown:
            known = f"characters of the training text ({shorten(repr(''.join(self.characters)))})"
            raise ConfigError(format_error("text", known, repr("".join(unknown))))
        return [self.numbers[character] for character in text]

    def decode(self, tokens: list[int]) -> str:
        """The text of the tokens."""
        return "".join(self.characters[token] for token in tokens)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "data.tokens=bytes reads any file"
        raise ConfigError(format_error("data.path", f"a text in UTF-8 at {path}", str(error), hint)) from error
    if not text:
        raise ConfigError(format_error("data.path", f"a text at {path}", "an empty file"))
    return text
