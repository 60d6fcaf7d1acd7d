"""Speech: recordings with transcripts, as log-mel features in memory."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, one_of
from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.loader import Batch
from dltrain.data.plans import JITTER, ByLength
from dltrain.data.ragged import Ragged, check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import hold_out, hold_out_stratified
from dltrain.datasets.audio_files import SUFFIXES, UnreadableAudio, check_installed
from dltrain.datasets.image_layout import SPLIT_NAMES, TEST, TRAIN, VAL
from dltrain.datasets.spec_augment import Masks, SpecAugment
from dltrain.datasets.speech_features import Features, Frames
from dltrain.datasets.speech_files import UtteranceReader, Utterances
from dltrain.datasets.speech_report import describe_speech
from dltrain.datasets.transcripts import (
    CHARACTERS,
    KINDS,
    UNKNOWN,
    TranscriptVocabulary,
    fit_vocabulary,
    min_steps,
    normalize,
)
from dltrain.errors import ConfigError, format_error

MIN_RECORDINGS = 3


class PrepareSpeech(nn.Module):
    """Module that converts rows of recordings and transcripts to the fields of a batch.

    Shape: features (B, T, numbers) and, if known, transcript (B, L) and targets (B,) -> inputs (B, T, numbers),
    lengths (B,) and, if known, transcript, transcript_lengths (B,) and targets. Lengths are int64 on the CPU.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of padded recordings."""
        batch = {"inputs": rows["features"], "lengths": rows["features_lengths"]}
        if "transcript" in rows:
            batch |= {"transcript": rows["transcript"].long(), "transcript_lengths": rows["transcript_lengths"]}
        return batch | {name: rows[name] for name in ("targets",) if name in rows}


class Speech:
    """Recordings with transcripts; the splits are random but fixed, unless there are folders for them.

    If transcripts occur at least twice on average, they are also classes, for the recognition of single words.

    Args:
        path: A table (CSV or TSV) with a column of audio files (WAV, FLAC, OGG or MP3) and one of transcripts, or a
            folder with audio files in ``<word>/``, or in ``train/<word>/``, ``val/<word>/`` and ``test/<word>/``.
        audio, transcript: Columns of a table; None if it has only one column of audio files and one of texts.
        audio_folder: Folder of the audio files of a table; None for the folder of the table.
        header: Whether the first line of a table names the columns.
        tokens: ``characters`` or ``words``, the vocabulary of transcripts.
        lowercase: Whether to convert transcripts to lower case.
        punctuation: Whether to keep punctuation; see `dltrain.datasets.transcripts.normalize`.
        min_count: Minimum occurrences of a token in the training transcripts, at least 1; rarer ones are unknown.
        max_words: Maximum number of characters or words in the vocabulary, at least 1.
        sample_rate: Sample rate in Hz to which recordings are converted; None for the most frequent rate in the
            training data.
        mels, window_ms, hop_ms, stack: See `dltrain.datasets.speech_features.Features`.
        max_seconds: Maximum duration; longer recordings are left out.
        frequency_masks, frequency_mask_size, time_masks, time_mask_size, time_mask_share: Masks in training; see
            `dltrain.datasets.spec_augment.Masks`.
        max_tokens: Maximum number of steps per batch including padding; None to use ``batch_size``.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation: Fraction to hold out for validation, in [0, 1), unless there is a folder ``val``.
        test: Fraction to hold out for testing, in (0, 1), unless there is a folder ``test``.
        batch_size: Recordings per batch, at least 1.
        workers: Unused: the features stay in memory.
        on_bad_sample: Policy for recordings and transcripts that cannot be used: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of recordings to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None fits to the training recordings.
    """

    def __init__(
        self,
        path: str,
        audio: str | None = None,
        transcript: str | None = None,
        audio_folder: str | None = None,
        header: bool = True,
        tokens: str = CHARACTERS,
        lowercase: bool = True,
        punctuation: bool = False,
        min_count: int = 1,
        max_words: int = 20_000,
        sample_rate: int | None = None,
        mels: int = 40,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        stack: int = 2,
        max_seconds: float = 20.0,
        frequency_masks: int = 0,
        frequency_mask_size: int = 8,
        time_masks: int = 0,
        time_mask_size: int = 20,
        time_mask_share: float = 0.2,
        max_tokens: int | None = None,
        pad_multiple: int = 1,
        validation: float = 0.1,
        test: float = 0.1,
        batch_size: int = 16,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        check_installed("soundfile", "decodes audio files")
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.kind, self.max_seconds = one_of("data.tokens", tokens, KINDS), max_seconds
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        normalized = partial(normalize, lowercase=lowercase, punctuation=punctuation)
        self.reader = UtteranceReader(path, audio, transcript, header, audio_folder, normalized, self.bad)
        self.features = Features(mels, window_ms, hop_ms, stack, sample_rate)
        self.masks = Masks(frequency_masks, frequency_mask_size, time_masks, time_mask_size, time_mask_share)
        self.prepare, self.pad_multiple = PrepareSpeech(), check_multiple(pad_multiple)
        self.frames: dict[str, list[tuple[int, Frames]]] = {}  # split -> row and frames of each recording
        self.long = 0
        if fitted is None:
            self._fit(validation, test, min_count, max_words)
        else:
            self._adopt(fitted)
        width, numbers = largest_width(self.features.max_steps(max_seconds)), mels * stack
        self.max_tokens = None if max_tokens is None else at_least("data.max_tokens", max_tokens, width)
        self.spec = Spec(
            shape=(width, numbers),
            length=width,
            features=numbers,
            audio=self.features.audio,
            transcripts=self.vocabulary.as_tokens(),
            classes=len(self.classes) or None,
            class_names=tuple(self.classes) or None,
        )

    def _fit(self, validation: float, test: float, min_count: int, max_words: int) -> None:
        """Read and split the transcripts, and fit the vocabulary and the sample rate to the training split."""
        self.utterances = self.reader.read()
        texts = self.utterances.texts
        if len(texts) < MIN_RECORDINGS:
            expected = f"at least {MIN_RECORDINGS} recordings in {self.utterances.name}"
            raise ConfigError(format_error("data.path", expected, len(texts)))
        different = sorted(set(texts))
        self.classes = different if 2 * len(different) <= len(texts) else []
        self.parts = self._split(validation, test)
        train = (texts[row] for row in self.parts[TRAIN])
        self.vocabulary = fit_vocabulary(self.kind, train, min_count, max_words)
        self.features.fit_rate([self.utterances.files[row] for row in self.parts[TRAIN]])

    def _split(self, validation: float, test: float) -> dict[str, list[int]]:
        """Return the rows of each split: from its folder, or held out of the training rows."""
        texts, parts = self.utterances.texts, dict(self.utterances.splits)
        parts.setdefault(TRAIN, list(range(len(texts))))
        numbers = {name: number for number, name in enumerate(self.classes)}
        shares = {TEST: test, VAL: validation if TEST in parts else validation / (1 - test)}
        for split, share in shares.items():
            if split not in parts:
                rows = parts[TRAIN]
                labels = torch.tensor([numbers[texts[row]] for row in rows]) if numbers else None
                kept, held = hold_out(len(rows), share) if labels is None else hold_out_stratified(labels, share)
                parts[TRAIN], parts[split] = ([rows[index] for index in part.tolist()] for part in (kept, held))
        return parts

    def fit(self) -> Fitted:
        """Return vocabulary, classes, columns of the table, and the sample rate and scale of the features."""
        vocabulary = {"vocabulary": self.vocabulary.content, "classes": list(self.classes)}
        return {**vocabulary, "columns": list(self.reader.columns), **self.features.state()}

    def _adopt(self, fitted: Fitted) -> None:
        self.vocabulary = TranscriptVocabulary(self.kind, fitted["vocabulary"])
        self.classes = [str(name) for name in fitted["classes"]]
        audio, transcript = fitted["columns"]
        self.reader.columns = audio, transcript
        self.features.adopt(fitted)

    def load(self) -> Splits:
        """Decode all recordings, fit the scale of the features to the training split, and return the splits."""
        self.long = 0
        frames = {
            split: self._decode(self.utterances, self.parts[split], split != TRAIN) for split in (TRAIN, VAL, TEST)
        }
        for split, kept in frames.items():
            if self.parts[split] and not kept:
                expected = f"usable recordings in the {SPLIT_NAMES[split]} split"
                hint = "Set a larger data.max_seconds" if self.long else ""
                raise ConfigError(format_error("data.path", expected, "none", hint))
        self.features.fit_scale(list(frames[TRAIN].values()))
        train, val, test = (self._source(self.utterances, kept, split == TRAIN) for split, kept in frames.items())
        for split, kept in frames.items():
            self.frames[split] = [(row, each.without_values()) for row, each in kept.items()]
        return Splits(train, val if len(val) else None, test)

    def evaluation(self) -> Source:
        """Return all usable recordings of the table or folder, however long."""
        utterances = self.reader.read()
        return self._source(utterances, self._decode(utterances, range(len(utterances.texts)), True, False), False)

    def _decode(
        self, utterances: Utterances, rows: Iterable[int], held_out: bool, limit: bool = True
    ) -> dict[int, Frames]:
        """Return the frames of the rows that can be used.

        Args:
            held_out: Whether all characters of a transcript must be in the vocabulary.
            limit: Whether to leave out long recordings.
        """
        kept = {}
        for row in rows:
            try:
                frames = self.features.frames(utterances.files[row].read_bytes())
            except (OSError, UnreadableAudio) as error:
                expected, file = f"readable audio in {utterances.places[row]}", utterances.files[row]
                self.bad.add(format_error("data.path", expected, f"{file}: {error}"))
                continue
            if limit and frames.seconds > self.max_seconds:
                self.long += 1
            elif problem := self._find_problem(utterances, row, frames, held_out):
                self.bad.add(problem)
            else:
                kept[row] = frames
        return kept

    def _find_problem(self, utterances: Utterances, row: int, frames: Frames, held_out: bool) -> str | None:
        """Return the error if a held-out transcript has unknown characters or a recording is too short, else None."""
        place, text = utterances.places[row], utterances.texts[row]
        tokens = self.vocabulary.encode(text)
        if held_out and self.kind == CHARACTERS and UNKNOWN in tokens:
            expected = f"only characters of the vocabulary in {place}"
            return format_error("data.path", expected, text[tokens.index(UNKNOWN)])
        needed, steps = min_steps(tokens), self.features.count_steps(frames)
        if steps >= needed:
            return None
        got = f"{steps} ({frames.seconds:.2f} seconds)"
        hint = "Correct the transcript, or set a smaller data.hop_ms or data.stack"
        return format_error("data.path", f"at least {needed} steps for the transcript in {place}", got, hint)

    def _source(self, utterances: Utterances, kept: dict[int, Frames], training: bool) -> Source:
        """Return the recordings in `kept` as a split, with batches of recordings of similar length."""
        texts = [utterances.texts[row] for row in kept]
        features, tokens = self.features.steps(list(kept.values())), [self.vocabulary.encode(text) for text in texts]
        rows: dict[str, Tensor | Ragged] = {"features": features, "transcript": as_ragged(tokens)}
        if self.classes:
            numbers = {name: number for number, name in enumerate(self.classes)}
            rows["targets"] = torch.tensor([numbers.get(text, -1) for text in texts], dtype=torch.int64)
        hashed = (f"{frames.digest} {text}" for frames, text in zip(kept.values(), texts, strict=True))
        settings = "\n".join([str(self.features), " ".join(self.vocabulary.content), *hashed])
        augment = SpecAugment(self.features.bands, self.masks) if training and not self.masks.is_empty else None
        plan = ByLength(features.lengths, self.max_tokens, self.pad_multiple, JITTER)
        return Source(rows, self.prepare, augment, fingerprinted=settings, plan=plan)

    def describe(self) -> list[str]:
        """Return lines about the recordings, the transcripts and the splits that `load` has read."""
        return describe_speech(self.utterances, self.frames, self.features, self.vocabulary, self.classes, self.long)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read audio files, and folders of audio files."""
        pending: list[tuple[dict[str, object], Frames]] = []
        error = None
        try:
            for file in files.expand("an audio file, or a folder of audio files", SUFFIXES):
                with file.errors_as_input():
                    pending.append(self._read_input(file))
                if len(pending) == files.batch_size:
                    yield self._inputs(pending)
                    pending = []
        except ConfigError as caught:
            error = caught
        if pending:
            yield self._inputs(pending)
        if error is not None:
            raise error

    def _read_input(self, file: InputFile) -> tuple[dict[str, object], Frames]:
        try:
            frames = self.features.frames(file.read_bytes())
        except UnreadableAudio as error:
            raise ConfigError(format_error("INPUT", f"readable audio in {file.path}", str(error))) from error
        return {"input": file.name, "seconds": frames.seconds}, frames

    def _inputs(self, read: list[tuple[dict[str, object], Frames]]) -> Inputs:
        return Inputs({"features": self.features.steps([frames for _, frames in read])}, [name for name, _ in read])


def as_ragged(tokens: list[list[int]]) -> Ragged:
    """Return lists of tokens as rows of different lengths."""
    values = np.fromiter(chain.from_iterable(tokens), dtype=np.int32)
    return Ragged(torch.from_numpy(values), torch.tensor([len(row) for row in tokens], dtype=torch.int64))
