"""Description of pairs of texts: their lengths, vocabularies and splits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dltrain.datasets import vocabularies
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.vocabularies import Vocabulary

SPLITS = ("training", "validation", "test")


@dataclass
class PairReport:
    """Statistics of pairs of texts, for the description of the data.

    Args:
        files: Name of each file, and its number of pairs.
        sources: The texts of all sources.
        encoded: Tokens of all sources, and of all targets.
        vocabularies: Vocabulary of the sources and of the targets.
        parts: Indices of the pairs in the training, validation and test splits.
        left_out: Number of pairs left out because a text is too long.
        cut: Number of truncated sources; None if long sources are left out.
        limits: Maximum number of tokens of sources and of targets.
    """

    files: Sequence[tuple[str, int]]
    sources: Sequence[str]
    encoded: tuple[list[list[int]], list[list[int]]]
    vocabularies: Sequence[Vocabulary]
    parts: Sequence[Tensor]
    left_out: int
    cut: int | None
    limits: tuple[int, int]

    def lines(self) -> list[str]:
        """Return lines about the files, the sources, the targets and the splits."""
        lines = [f"{name}: {count(pairs, 'pair')}" for name, pairs in self.files]
        for name, side, vocabulary in zip(("sources", "targets"), self.encoded, self.vocabularies, strict=True):
            lines.append(self._side(name, side, vocabulary))
        if self.cut:
            lines.append(f"{count(self.cut, 'source')} truncated to {count(self.limits[0], 'token')} (data.max_length)")
        if self.left_out:
            lines.append(f"{count(self.left_out, 'pair')} left out: a {self._reason()}")
        trained = {self.sources[row] for row in self.parts[0].tolist()}
        if copies := sum(self.sources[row] in trained for part in self.parts[1:] for row in part.tolist()):
            lines.append(
                f"duplicates: {count(copies, 'source')} of the validation and test splits also in the training split"
            )
        sizes = {name: len(part) for name, part in zip(SPLITS, self.parts, strict=True)}
        return [*lines, splits_line(sizes, "pairs")]

    def _side(self, name: str, side: list[list[int]], vocabulary: Vocabulary) -> str:
        lengths = np.array([len(tokens) for tokens in side])
        held_out = [token for part in self.parts[1:] for row in part.tolist() for token in side[row]]
        unknown = held_out.count(vocabularies.UNKNOWN) / max(1, len(held_out))
        return (
            f"{name}: {lengths.min()} to {lengths.max()} tokens ({lengths.mean():.0f} on average), vocabulary of "
            f"{vocabulary.size:,}, {unknown:.1%} unknown tokens in the validation and test splits"
        )

    def _reason(self) -> str:
        source, target = self.limits
        if self.cut is not None:
            return f"target has more than {target} tokens (data.max_target_length)"
        if source == target:
            return f"text has more than {source} tokens (data.max_length)"
        of_target = f"a target more than {target} (data.max_target_length)"
        return f"source has more than {source} tokens (data.max_length), or {of_target}"
