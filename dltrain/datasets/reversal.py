"""Random sequences of letters; the target is the reversed sequence."""

import string
from collections.abc import Iterator
from itertools import pairwise

import torch

from dltrain.data.checks import at_least
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size
from dltrain.datasets.sequence_pairs import PreparePairs, read_texts
from dltrain.datasets.vocabularies import END, SPECIAL, Pieces, as_tokens
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import uniform

VALIDATION, TEST = 0.05, 0.05
MIN_SEQUENCES = 8


class Reversal:
    """Sequences of random letters, each with its reverse as the target; they do not depend on the seed of a run.

    To predict the target, a model must remember the whole source, or read it backward by attention.

    Args:
        sequences: Number of sequences: 90% for training, 5% each for validation and testing; at least 8.
        steps: Number of letters in each sequence, at least 1.
        symbols: Number of different letters, from 2 to 26.
        batch_size: Sequences per batch, at least 1.
        workers: Unused: the sequences stay in memory.
    """

    def __init__(
        self, sequences: int = 20_000, steps: int = 20, symbols: int = 20, batch_size: int = 64, workers: int = 0
    ) -> None:
        self.sequences = at_least("data.sequences", sequences, MIN_SEQUENCES)
        self.steps = at_least("data.steps", steps, 1)
        if not 2 <= symbols <= len(string.ascii_lowercase):
            raise ConfigError(format_error("data.symbols", "a whole number from 2 to 26", symbols))
        self.symbols = symbols
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.vocabulary = Pieces(string.ascii_lowercase[:symbols], lambda text: list("".join(text.split())), " ")
        self.prepare = PreparePairs()
        tokens = as_tokens(self.vocabulary)
        self.spec = Spec(
            shape=(steps,),
            length=steps,
            target_length=steps + 1,
            tokens=tokens,
            target_tokens=tokens,
            shared_vocabulary=True,
        )

    def load(self) -> Splits:
        """Draw all sequences, and return the splits."""
        drawn = (uniform(torch.arange(self.sequences), self.steps) * self.symbols).long() + len(SPECIAL)
        source = drawn.to(torch.int16)
        target = torch.cat([source.flip(1), torch.full_like(source[:, :1], END)], dim=1)
        held_out = [held_out_size(self.sequences, share) for share in (VALIDATION, TEST)]
        cuts = [0, self.sequences - sum(held_out), self.sequences - held_out[1], self.sequences]
        train, val, test = (
            Source({"source": source[start:end], "target": target[start:end]}, self.prepare)
            for start, end in pairwise(cuts)
        )
        return Splits(train, val, test)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read sequences of letters, with or without spaces: lines of text files, or the text on the command line."""
        return read_texts(files, self.vocabulary)
