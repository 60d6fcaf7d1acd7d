"""Lines that describe recordings and their transcripts."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from dltrain.datasets import transcripts
from dltrain.datasets.describe import classes_line, count, splits_line
from dltrain.datasets.image_layout import SPLIT_NAMES, TEST, TRAIN, VAL
from dltrain.datasets.speech_features import Features, Frames
from dltrain.datasets.speech_files import Utterances
from dltrain.datasets.transcripts import TranscriptVocabulary

Rows = Mapping[str, Sequence[tuple[int, Frames]]]  # split -> row and frames of each recording


def describe_speech(
    utterances: Utterances,
    rows: Rows,
    features: Features,
    vocabulary: TranscriptVocabulary,
    classes: Sequence[str],
    long: int,
) -> list[str]:
    """Return lines about recordings, features, transcripts, classes and splits.

    Args:
        long: Number of recordings that are left out because of their duration.
    """
    every = [pair for part in rows.values() for pair in part]
    seconds = np.array([frames.seconds for _, frames in every])
    texts = {split: [utterances.texts[row] for row, _ in part] for split, part in rows.items()}
    tokens = {split: [vocabulary.encode(text) for text in part] for split, part in texts.items()}
    lengths, ignored = [len(each) for part in tokens.values() for each in part], utterances.ignored
    lines = [
        f"{utterances.name}: {count(len(every), 'recording')}, {seconds.sum() / 60:.1f} minutes "
        f"({seconds.min():.1f} to {seconds.max():.1f} seconds)",
        *([f"{count(ignored, 'audio file')} left out: not in a folder named after a word"] if ignored else []),
        *([f"{count(long, 'recording')} left out: longer than data.max_seconds"] if long else []),
        f"features: {features.bands} mel bands every {features.hop_ms:g} ms at {features.rate:,} Hz, "
        f"{count(features.stack, 'frame')} per step",
        *_describe_conversions([frames for _, frames in every], features.rate or 0),
        f"transcripts: {min(lengths)} to {max(lengths)} {vocabulary.kind}, vocabulary of {len(vocabulary.content):,}",
    ]
    held_out = [token for split in (VAL, TEST) for each in tokens[split] for token in each]
    if unknown := held_out.count(transcripts.UNKNOWN):
        share = f"{unknown / len(held_out):.1%} of the {vocabulary.kind}"
        lines.append(f"{share} of the validation and test splits are unknown")
    known = set(texts[TRAIN])
    if copies := sum(text in known for split in (VAL, TEST) for text in texts[split]) if not classes else 0:
        lines.append(
            f"duplicates: {count(copies, 'transcript')} of the validation and test splits also in the training split"
        )
    if classes:
        numbers = {name: number for number, name in enumerate(classes)}
        labels = {SPLIT_NAMES[split]: np.array([numbers[text] for text in part], int) for split, part in texts.items()}
        lines += classes_line(classes, labels)
    return [*lines, splits_line({SPLIT_NAMES[split]: len(part) for split, part in rows.items()}, "recordings")]


def _describe_conversions(frames: Sequence[Frames], rate: int) -> list[str]:
    """Return lines about recordings at other sample rates or with several channels."""
    rates = Counter(each.rate for each in frames if each.rate != rate)
    several = sum(each.channels > 1 for each in frames)
    lines = [f"converted to {rate:,} Hz: {count(n, 'recording')} of {other:,} Hz" for other, n in sorted(rates.items())]
    if lower := sum(number for other, number in rates.items() if other < rate):
        lines.append(f"warning: no sound in the highest bands of {count(lower, 'recording')} with lower sample rates")
    return lines + ([f"{count(several, 'recording')} with several channels, which are averaged"] * bool(several))
