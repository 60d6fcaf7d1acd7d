"""F1 score of entities in tagged sentences, computed by seqeval."""

import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

PACKAGE = "seqeval"
ENTITY = re.compile(r"[BIOESLU]-.+|O")  # schemes: BIO, BIOES, BILOU
OF_BILOU = {"L-": "E-", "U-": "S-"}  # BILOU prefix -> BIOES prefix, because seqeval does not read BILOU by default

Sentences = Sequence[Sequence[str]]


def is_available() -> bool:
    """Return whether seqeval is installed."""
    return find_spec(PACKAGE) is not None


def are_entities(tags: Sequence[str]) -> bool:
    """Return whether tags mark entities by prefixes, as in ``B-PER I-PER O``."""
    return all(ENTITY.fullmatch(tag) for tag in tags) and any(tag != "O" for tag in tags)


def score_entities(found: Sentences, true: Sentences) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return precision, recall and F1 score of exact entity matches, over all entities and for each entity type.

    The scores of a type include ``support``, the number of its entities in the true tags.

    Args:
        found, true: Predicted and true tags of the same words, in the scheme BIO, BIOES or BILOU.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared task", section 2.4.
    """
    from seqeval.metrics import classification_report

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns about types that are never predicted
        report = classification_report(_as_bioes(true), _as_bioes(found), output_dict=True)
    scores = {
        kind: {"precision": float(row["precision"]), "recall": float(row["recall"]), "f1": float(row["f1-score"])}
        | {"support": int(row["support"])}
        for kind, row in report.items()
    }
    whole = scores.pop("micro avg", {"precision": 0.0, "recall": 0.0, "f1": 0.0})
    kinds = {kind: row for kind, row in scores.items() if not kind.endswith(" avg")}
    return {name: whole[name] for name in ("precision", "recall", "f1")}, kinds


def _as_bioes(sentences: Sentences) -> list[list[str]]:
    return [[OF_BILOU.get(tag[:2], tag[:2]) + tag[2:] for tag in tags] for tags in sentences]
