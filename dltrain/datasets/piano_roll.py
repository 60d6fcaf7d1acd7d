"""Piano rolls: the notes that sound in each step of a piece, from a file in the JSB layout or from MIDI files."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, user_path
from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.plans import JITTER, ByLength
from dltrain.data.ragged import Ragged, check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.image_layout import TEST, TRAIN, VAL
from dltrain.datasets.midi_files import (
    MAX_STEPS_PER_BEAT,
    SUFFIXES,
    TICKS_PER_STEP,
    check_installed,
    from_sounding,
    read_song,
    to_sounding,
    write_song,
)
from dltrain.datasets.music_files import (
    Piece,
    Pieces,
    Steps,
    complete_splits,
    read_roll_pieces,
    read_rolls,
    read_songs,
    sounding,
)
from dltrain.datasets.note_frames import (
    LOWEST,
    NOTES,
    UNKNOWN,
    PrepareFrames,
    Transpose,
    encode_text,
    piano_notes,
    to_frames,
)
from dltrain.errors import ConfigError, format_error

SPLITS = (TRAIN, VAL, TEST)
INPUTS = (".json", *SUFFIXES)


class PianoRollData(ABC):
    """Base class of data sets of piano rolls; subclasses differ in the files that they read.

    Pieces of more than ``max_length`` frames are cut into parts, which are separate examples.
    """

    def __init__(
        self,
        path: str,
        steps_per_beat: int,
        frame_stride: int,
        max_length: int,
        transpose: int,
        pad_multiple: int,
        held_out: tuple[float, float],
        batch_size: int,
        workers: int,
        bad: BadSamples,
        fitted: Fitted | None,
    ) -> None:
        check_held_out(*held_out)
        self.path, self.held_out, self.bad = user_path(path), held_out, bad
        self.steps_per_beat = check_steps_per_beat(steps_per_beat)
        self.frame_stride = at_least("data.frame_stride", frame_stride, 1)
        self.max_length = at_least("data.max_length", max_length, 1)
        self.transpose = at_least("data.transpose", transpose, 0)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare, self.pad_multiple = PrepareFrames(), check_multiple(pad_multiple)
        self.length = int(fitted["length"]) if fitted is not None else self._read_splits()
        width = largest_width(self.length + 1)  # in predictions, an unknown frame follows each part
        self.spec = Spec(shape=(width, NOTES), features=NOTES, length=width, notes=piano_notes())
        self.file_formats: Mapping[str, Callable[[str], bytes]] = {".mid": self._write_midi}

    @abstractmethod
    def read(self) -> Pieces[Steps]:
        """Return the pieces of each split that the files have."""

    def _read_splits(self) -> int:
        """Read and split the pieces; return the number of frames of the longest piece, at most `max_length`."""
        self.pieces = {
            split: [Piece(piece.name, self._frames(piece.content)) for piece in pieces]
            for split, pieces in complete_splits(self.read(), *self.held_out).items()
        }
        return min(self.max_length, max(len(piece.content) for split in SPLITS for piece in self.pieces.get(split, ())))

    def _frames(self, steps: Steps) -> torch.Tensor:
        return to_frames(steps[:: self.frame_stride])

    def fit(self) -> Fitted:
        """Return the number of frames of the longest piece, at most ``max_length``."""
        return {"length": self.length}

    def load(self) -> Splits:
        """Return the splits."""
        train, val, test = ([piece.content for piece in self.pieces.get(split, ())] for split in SPLITS)
        augment = Transpose(self.transpose) if self.transpose else None
        return Splits(self._source(train, augment), self._source(val) if val else None, self._source(test))

    def evaluation(self) -> Source:
        """Return all pieces of the file or folder."""
        pieces = [piece for split in self.read().values() for piece in split]
        return self._source([self._frames(piece.content) for piece in pieces])

    def _source(self, pieces: list[torch.Tensor], augment: Transpose | None = None) -> Source:
        """Return pieces as a split, cut into parts of at most `length` frames."""
        parts = [part for piece in pieces for part in piece.split(self.length)]
        lengths = torch.tensor([len(part) for part in parts])
        rows = {"frames": Ragged(torch.cat(parts), lengths, UNKNOWN)}
        plan = ByLength(lengths, multiple=self.pad_multiple, jitter=JITTER)
        return Source(rows, self.prepare, augment=augment, plan=plan)

    def describe(self) -> list[str]:
        """Return lines about the pieces, their notes and the splits."""
        pieces = [piece.content for split in SPLITS for piece in self.pieces.get(split, ())]
        lengths, frames = np.array([len(piece) for piece in pieces]), torch.cat(pieces)
        pitches = (frames.any(0).nonzero()[:, 0] + LOWEST).tolist()
        lines = [
            f"{self.path}: {count(len(pieces), 'piece')} of {lengths.min()} to {lengths.max()} frames "
            f"({lengths.mean():.0f} on average), {frames.sum(1).float().mean():.1f} notes per frame, pitches "
            f"{pitches[0]} to {pitches[-1]}"
        ]
        if cut := int((lengths > self.length).sum()):
            lines.append(f"{count(cut, 'piece')} cut into parts of at most {self.length} frames (data.max_length)")
        trained = Counter(piece.content.numpy().tobytes() for piece in self.pieces[TRAIN])
        held_out = [piece for split in (VAL, TEST) for piece in self.pieces.get(split, ())]
        if copies := sum(piece.content.numpy().tobytes() in trained for piece in held_out):
            lines.append(
                f"duplicates: {count(copies, 'piece')} of the validation and test splits also in the training split"
            )
        names = zip(("training", "validation", "test"), SPLITS, strict=True)
        return [*lines, splits_line({name: len(self.pieces.get(split, ())) for name, split in names}, "pieces")]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read pieces from MIDI files and files in the JSB layout; the frame after each part is unknown."""
        for file in files.expand("a MIDI file or a piano roll in JSON", INPUTS):
            with file.errors_as_input():
                for name, steps in self._read_input(file):
                    parts = self._frames(steps).split(self.length)
                    for number, part in enumerate(parts, 1):
                        frames = torch.cat([part, part.new_full((1, NOTES), UNKNOWN)])
                        rows = {"frames": Ragged(frames, torch.tensor([len(frames)]), UNKNOWN)}
                        yield Inputs(rows, [{**name, "part": number} if len(parts) > 1 else name])

    def _read_input(self, file: InputFile) -> Iterator[tuple[dict[str, object], Steps]]:
        content = file.read_bytes()
        if file.suffix == ".json":
            text = content.decode(errors="replace")
            for number, piece in enumerate(read_roll_pieces(file.path, text), 1):
                yield {"input": file.name, "piece": number}, piece.content
        else:
            yield {"input": file.name}, to_sounding(read_song(content, file.path, self.steps_per_beat).notes)

    def _write_midi(self, text: str) -> bytes:
        """Convert frames written as text to a MIDI file."""
        steps = [[note + LOWEST for note in frame] for frame in encode_text(text)]
        return write_song(from_sounding(steps), self.steps_per_beat, TICKS_PER_STEP * self.frame_stride)


class PianoRoll(PianoRollData):
    """Pieces in a JSON file in the layout of the JSB chorales: split -> pieces -> steps -> MIDI pitches.

    Args:
        path: The file.
        steps_per_beat: Steps per quarter note, from 1 to 96, for reading and writing MIDI files.
        frame_stride: Distance in steps between the frames that are read, at least 1.
        max_length: Maximum number of frames of a piece, at least 1; longer pieces are cut into parts.
        transpose: Maximum transposition of pieces in training, in semitones, at least 0.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation, test: Fractions of the training pieces to hold out, in [0, 1) and (0, 1); unused if the file has
            the split.
        batch_size: Pieces or parts of long pieces per batch, at least 1.
        workers: Unused: the pieces stay in memory.
        on_bad_sample: Policy for pieces that cannot be read: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of pieces to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None reads the file.

    Source: Allan and Williams 2005; Boulanger-Lewandowski, Bengio and Vincent 2012.
    """

    def __init__(
        self,
        path: str,
        steps_per_beat: int = 2,
        frame_stride: int = 1,
        max_length: int = 512,
        transpose: int = 0,
        pad_multiple: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 16,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        held_out, bad = (validation, test), BadSamples(on_bad_sample, max_bad_samples)
        of_frames = (steps_per_beat, frame_stride, max_length, transpose, pad_multiple)
        super().__init__(path, *of_frames, held_out, batch_size, workers, bad, fitted)

    def read(self) -> Pieces[Steps]:
        """Return the pieces of each split of the file."""
        return read_rolls(self.path, self.bad)


class Midi(PianoRollData):
    """A folder of MIDI files as piano rolls; see `PianoRoll` for the arguments.

    Folders ``train``, ``val`` and ``test`` are splits. A note that is struck again without a pause is one long note.
    """

    def __init__(
        self,
        path: str,
        steps_per_beat: int = 4,
        max_length: int = 512,
        transpose: int = 0,
        pad_multiple: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 16,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_installed("data")
        self.outside = 0
        held_out, bad = (validation, test), BadSamples(on_bad_sample, max_bad_samples)
        of_frames = (steps_per_beat, 1, max_length, transpose, pad_multiple)
        super().__init__(path, *of_frames, held_out, batch_size, workers, bad, fitted)

    def read(self) -> Pieces[Steps]:
        """Return the pieces of each split of the folder."""
        songs = read_songs(self.path, self.steps_per_beat, self.bad)
        self.outside = sum(piece.content.outside for split in songs.values() for piece in split)
        return sounding(songs)

    def describe(self) -> list[str]:
        """Return lines about the pieces, and the number of notes that were left out."""
        return [*super().describe(), *outside_line(self.outside)]


def check_steps_per_beat(steps_per_beat: int) -> int:
    """Return `steps_per_beat` if it is valid."""
    if not 1 <= at_least("data.steps_per_beat", steps_per_beat, 1) <= MAX_STEPS_PER_BEAT:
        expected = f"a whole number from 1 to {MAX_STEPS_PER_BEAT}"
        raise ConfigError(format_error("data.steps_per_beat", expected, steps_per_beat))
    return steps_per_beat


def outside_line(outside: int) -> list[str]:
    """Return a line with the number of notes outside the piano range, if there are any."""
    return [f"{count(outside, 'note')} outside the piano range (MIDI pitches 21 to 108) left out"] if outside else []
