"""MIDI files as sequences of events, for language models."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, user_path
from dltrain.data.inputs import InputFiles, errors_as
from dltrain.data.plans import Streams
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.image_layout import TEST, TRAIN, VAL
from dltrain.datasets.midi_files import SUFFIXES, Song, check_installed, read_song, write_song
from dltrain.datasets.music_files import Piece, Pieces, complete_splits, read_songs
from dltrain.datasets.note_events import SIZE, START, encode, event_tokens, from_events, to_events
from dltrain.datasets.piano_roll import check_steps_per_beat, outside_line
from dltrain.datasets.token_windows import EVALUATION_STREAMS, UNKNOWN, NextToken
from dltrain.errors import ConfigError, format_error


class MidiEvents:
    """A folder of MIDI files as events: starts and ends of notes on a time grid, and waiting times.

    The pieces of a split follow one another, each after the token `START`. Training windows start every ``stride``
    tokens; validation and test windows predict each token of their split once, except the first token. Folders
    ``train``, ``val`` and ``test`` are splits.

    Args:
        path: The folder.
        steps_per_beat: Steps per quarter note, from 1 to 96.
        context_length: Tokens that a model reads at once, at least 1.
        stride: Tokens between the starts of training windows, at least 1; None for ``context_length``.
        streams: Read each split as contiguous streams; see `dltrain.datasets.text.Text`.
        validation, test: Fractions of the training pieces to hold out, in [0, 1) and (0, 1); unused for a split with a
            folder.
        batch_size: Windows per batch, at least 1.
        workers: Unused: the pieces stay in memory.
        on_bad_sample: Policy for files that cannot be read: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of files to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None reads the folder.
    """

    def __init__(
        self,
        path: str,
        steps_per_beat: int = 4,
        context_length: int = 256,
        stride: int | None = None,
        streams: bool = False,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 16,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_installed("data")
        check_held_out(validation, test)
        self.path, self.held_out = user_path(path), (validation, test)
        self.steps_per_beat = check_steps_per_beat(steps_per_beat)
        self.context_length = at_least("data.context_length", context_length, 1)
        self.stride = context_length if stride is None else at_least("data.stride", stride, 1)
        if streams and self.stride != context_length:
            expected = f"null or {context_length} with data.streams=true"
            raise ConfigError(format_error("data.stride", expected, stride, "Windows of a stream follow one another."))
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.plan = Streams(EVALUATION_STREAMS) if streams else None
        self.training_plan = Streams() if streams else None
        self.prepare = NextToken()
        self.pieces: Pieces[Song] = {}
        if fitted is None:
            self.pieces = complete_splits(self._read(), *self.held_out)
        tokens = event_tokens()
        shape = (context_length,)
        self.spec = Spec(shape=shape, length=context_length, features=SIZE, tokens=tokens, target_tokens=tokens)
        self.file_formats: Mapping[str, Callable[[str], bytes]] = {".mid": self._write_midi}

    def _read(self) -> Pieces[Song]:
        return read_songs(self.path, self.steps_per_beat, self.bad)

    def fit(self) -> Fitted:
        """Return the number of different events, which does not depend on the files."""
        return {"events": SIZE}

    def load(self) -> Splits:
        """Return the splits."""
        train = _join(self.pieces[TRAIN])
        rows = self._windows(train, self.stride)
        val = self.pieces.get(VAL)
        return Splits(
            Source(rows, self.prepare, plan=self.training_plan),
            self._held_out(_join(val)) if val else None,
            self._held_out(_join(self.pieces[TEST])),
        )

    def evaluation(self) -> Source:
        """Return windows that predict each token of all pieces of the folder once, except the first token."""
        return self._held_out(_join([piece for split in self._read().values() for piece in split]))

    def describe(self) -> list[str]:
        """Return lines about the pieces and the splits."""
        songs = [piece.content for pieces in self.pieces.values() for piece in pieces]
        notes, beats = (
            sum(len(song.notes) for song in songs),
            sum(max(note.end for note in song.notes) for song in songs) / self.steps_per_beat,
        )
        line = f"{self.path}: {count(len(songs), 'piece')}, {count(notes, 'note')}, length {beats:,.0f} quarter notes"
        names = zip(("training", "validation", "test"), (TRAIN, VAL, TEST), strict=True)
        sizes = {name: len(self.pieces.get(split, ())) for name, split in names}
        return [line, *outside_line(sum(song.outside for song in songs)), splits_line(sizes, "pieces")]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Yield a row of tokens for the events from the command line and for each MIDI file; each row ends with -1."""
        if files.text is not None:
            with errors_as("--text"):
                yield _whole("--text", encode(files.text))
        if files.names or files.text is None:
            for file in InputFiles(files.names, None, files.batch_size).expand("a MIDI file", SUFFIXES):
                with file.errors_as_input():
                    song = read_song(file.read_bytes(), file.path, self.steps_per_beat)
                    yield _whole(file.name, to_events(song.notes))

    def _held_out(self, part: Tensor) -> Source:
        missing = -(len(part) - 1) % self.context_length
        windows = self._windows(F.pad(part, (0, missing), value=UNKNOWN), self.context_length)
        return Source(windows, self.prepare, plan=self.plan)

    def _windows(self, part: Tensor, stride: int) -> dict[str, Tensor]:
        if len(part) <= self.context_length:
            expected = f"a whole number below {len(part)}, the number of events in the training split of {self.path}"
            hint = "Reduce data.context_length, or use more files."
            raise ConfigError(format_error("data.context_length", expected, self.context_length, hint))
        return {"tokens": part.unfold(0, self.context_length + 1, stride)}

    def _write_midi(self, text: str) -> bytes:
        """Convert events written as text to a MIDI file."""
        return write_song(from_events(encode(text)), self.steps_per_beat)


def _join(pieces: list[Piece[Song]]) -> Tensor:
    """Return the events of all pieces as one tensor, int16, with `START` before each piece and after the last one."""
    events = [token for piece in pieces for token in (START, *to_events(piece.content.notes))]
    return torch.tensor([*events, START], dtype=torch.int16)


def _whole(name: str, events: list[int]) -> Inputs:
    """Return a piece as inputs: `START`, its events, and `UNKNOWN` for the event to predict."""
    if not events:
        raise ConfigError(format_error("text", "at least one event", "none"))
    events = events if events[0] == START else [START, *events]
    return Inputs({"tokens": torch.tensor([[*events, UNKNOWN]])}, [{"input": name}])
