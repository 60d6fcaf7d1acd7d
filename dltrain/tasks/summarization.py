"""Summarization: a model generates the summary of a text."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from dltrain.metrics import summaries as metrics
from dltrain.tasks.base import Batch
from dltrain.tasks.text_scores import Texts
from dltrain.tasks.translation import Translation

COUNTED_BATCHES = 50  # number of training batches whose summaries are measured for the baseline
SENTENCE = re.compile(r"(?<=[.!?])\s")


@dataclass(eq=False)
class Summarization(Translation):
    """Summarization: translation of a text into its summary, measured by ROUGE.

    The baselines are the first sentence of the text (lead-1) and its first N words, where N is the mean number of words
    of the training summaries.

    Args:
        encode: Function that turns text into tokens of the target; None for no baselines.
        prefixes: Prefixes of the sources, which the baselines remove.
    """

    written: ClassVar[str] = "summary"
    shown: ClassVar[str] = "summaries"

    encode: Callable[[str], list[int]] | None = None
    prefixes: tuple[str, ...] | None = None

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Measure the lengths of training summaries for the baselines; return a note if ROUGE is unavailable."""
        if not self.decode_examples or self.encode is None or self.decode_source is None:
            return None
        cut = (self._cut(batch["targets"]) for batch in islice(train, COUNTED_BATCHES))
        lengths = [len(self.text(tokens).split()) for rows in cut for tokens in rows]
        self.lead = max(1, round(sum(lengths) / max(1, len(lengths))))
        self.baselines = {"first sentence": self._first_sentences, f"first {self.lead} words": self._first_words}
        if metrics.is_available():
            return None
        return "without ROUGE, because rouge-score is not installed: pip install 'dltrain[text]'"

    def score(self, texts: Texts) -> tuple[dict[str, float], dict[str, str]]:
        """Return ROUGE, and how it was computed; both are empty if rouge-score is not installed."""
        return metrics.score_summaries(texts.found, texts.references) if metrics.is_available() else ({}, {})

    def _first_sentences(self, batch: Batch) -> list[list[int]]:
        return [self._encode(SENTENCE.split(text, 1)[0]) for text in self._texts(batch)]

    def _first_words(self, batch: Batch) -> list[list[int]]:
        return [self._encode(" ".join(text.split()[: self.lead])) for text in self._texts(batch)]

    def _encode(self, text: str) -> list[int]:
        assert self.encode is not None, "baselines are fitted only if `encode` is set"
        return self.encode(text)

    def _texts(self, batch: Batch) -> list[str]:
        """Return the sources as texts without their prefix."""
        names = "|".join(re.escape(prefix.partition(":")[0]) for prefix in self.prefixes or () if prefix)
        texts = (self._source_text(row).strip() for row in self.unpadded(batch))
        return [re.sub(rf"^(?:{names})\s*:\s*", "", text, flags=re.IGNORECASE) if names else text for text in texts]
