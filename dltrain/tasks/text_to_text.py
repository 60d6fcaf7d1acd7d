"""Text to text: several tasks, each marked by a prefix of its sources, learned as one translation task."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from dltrain.metrics import summaries as metrics
from dltrain.tasks.base import Batch
from dltrain.tasks.text_scores import Texts
from dltrain.tasks.translation import Translation

COUNTED_BATCHES = 200  # number of training batches whose answers are counted for the baseline


@dataclass(eq=False)
class TextToText(Translation):
    """Text to text: the model reads ``classify: a slow film`` and generates ``bad``; scored by exact match.

    A batch has the field ``text_task`` (B,), the index of the task of each pair, if there are several tasks. The
    baseline is the most frequent answer of each task.

    Args:
        prefixes: Prefix of the sources of each task; the part before its colon names the task in the metrics.
            Tasks with the same name share their metrics.

    Source: Raffel et al. 2020, "Exploring the limits of transfer learning", section 2.4.
    """

    written: ClassVar[str] = "answer"
    shown: ClassVar[str] = "answers"

    prefixes: tuple[str, ...] | None = None

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Count the answers of up to 200 training batches."""
        if not self.decode_examples:
            return None
        counts: dict[int, Counter[tuple[int, ...]]] = {}
        for batch in islice(train, COUNTED_BATCHES):
            for kind, tokens in zip(self.kinds(batch), self._cut(batch["targets"]), strict=True):
                counts.setdefault(kind, Counter())[tuple(tokens)] += 1
        frequent = {kind: list(found.most_common(1)[0][0]) for kind, found in counts.items()}
        self.baselines = {"most frequent answer": lambda batch: [frequent.get(k, []) for k in self.kinds(batch)]}
        return None

    def score(self, texts: Texts) -> tuple[dict[str, float], dict[str, str]]:
        """Return the exact match over all texts and by task and, if rouge-score is installed, ROUGE-L by task."""
        found, definitions = {"exact_match": texts.exact_match}, dict[str, str]()
        kinds: dict[str, list[int]] = {}
        for kind, prefix in enumerate(self.prefixes or ()):
            kinds.setdefault(prefix.partition(":")[0] or str(kind), []).append(kind)
        for name, same in kinds.items():
            own = texts.of_kinds(same)
            if not len(own):
                continue
            found[f"exact_match {name}"] = own.exact_match
            if metrics.is_available():
                scores, how = metrics.score_summaries(own.found, own.references, ("rougeL",))
                found[f"rougeL {name}"], definitions["rougeL"] = scores["rougeL"], how["rougeL"]
        return found, definitions
