"""BLEU and chrF of translations, computed by sacrebleu."""

from collections.abc import Sequence
from importlib.util import find_spec

PACKAGE = "sacrebleu"


def is_available() -> bool:
    """Return whether sacrebleu is installed."""
    return find_spec(PACKAGE) is not None


def score_translations(found: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return corpus-level ``bleu`` and ``chrf``, from 0 to 100, and their signatures.

    Args:
        found: Translations, at least one.
        references: Reference of each translation.

    Source: Papineni et al. 2002 (BLEU); Popović 2015 (chrF); Post 2018, "A call for clarity in reporting BLEU scores".
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # A vocabulary of words produces tokenized texts; `force` suppresses the warning about them.
    scores, signatures = dict[str, float](), dict[str, str]()
    for name, metric in (("bleu", BLEU(force=True)), ("chrf", CHRF())):
        scores[name] = float(metric.corpus_score(list(found), [list(references)]).score)
        signatures[name] = str(metric.get_signature())
    return scores, signatures
