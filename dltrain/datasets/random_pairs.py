"""Random sequences of tokens, each with a random target: there is nothing to learn except the pairs themselves."""

from collections.abc import Iterator

import torch

from dltrain.data.checks import at_least
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.datasets.sequence_pairs import PreparePairs, read_texts
from dltrain.datasets.vocabularies import END, SPECIAL, Pieces, as_tokens
from dltrain.keyed_random import uniform


class RandomPairs:
    """Pairs of random source and target sequences, drawn uniformly; they do not depend on the seed of a run.

    The training pairs are also the validation and test splits, so test metrics show how much a model has memorized. As
    text, a sequence is a list of numbers separated by spaces.

    Args:
        pairs: Number of pairs, at least 1.
        steps: Number of tokens of each source and target, without the end token of the target, at least 1.
        vocabulary: Number of distinct tokens, including the four special tokens, at least 5.
        batch_size: Pairs per batch, at least 1.
        workers: Unused: the pairs stay in memory.
    """

    def __init__(
        self, pairs: int = 64, steps: int = 100, vocabulary: int = 5000, batch_size: int = 64, workers: int = 0
    ) -> None:
        self.pairs = at_least("data.pairs", pairs, 1)
        self.steps = at_least("data.steps", steps, 1)
        self.number = at_least("data.vocabulary", vocabulary, len(SPECIAL) + 1) - len(SPECIAL)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.vocabulary = Pieces([str(token) for token in range(self.number)], str.split, " ")
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
        """Draw the pairs, and return them as all three splits."""
        drawn = (uniform(torch.arange(self.pairs), 2 * self.steps) * self.number).to(torch.int32) + len(SPECIAL)
        target = torch.cat([drawn[:, self.steps :], torch.full_like(drawn[:, :1], END)], dim=1)
        pairs = Source({"source": drawn[:, : self.steps], "target": target}, self.prepare)
        return Splits(pairs, pairs, pairs)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read sequences of numbers: the lines of text files, or the text on the command line."""
        return read_texts(files, self.vocabulary)
