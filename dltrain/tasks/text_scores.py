"""Generated texts and their references, collected for scoring."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class Texts:
    """Generated texts and their references.

    Args:
        found: Generated texts; unknown tokens are removed because they must never count as correct.
        references: The reference of each text.
        exact: Whether each text equals its reference and has no unknown token.
        kinds: Index of the task of each text; 0 if there is only one task.
    """

    found: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.found)

    def add(self, found: Sequence[str], references: Sequence[str], exact: Sequence[bool], kinds: Sequence[int]) -> None:
        """Add the texts of a batch."""
        self.found += found
        self.references += references
        self.exact += exact
        self.kinds += kinds

    def of_kinds(self, kinds: Collection[int]) -> "Texts":
        """Return the texts of the tasks with these indices."""
        rows = [row for row, own in enumerate(self.kinds) if own in kinds]
        return Texts(
            [self.found[row] for row in rows],
            [self.references[row] for row in rows],
            [self.exact[row] for row in rows],
            [self.kinds[row] for row in rows],
        )

    @property
    def exact_match(self) -> float:
        """Fraction of the texts for which `exact` is true."""
        return sum(self.exact) / len(self.exact)
