"""Read and write MIDI files with the package mido."""

import io
import struct
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from dltrain.datasets.note_frames import HIGHEST, LOWEST
from dltrain.errors import ConfigError, format_error

SUFFIXES = (".mid", ".midi")
DRUMS = 9  # channel of percussion, whose "pitches" are instruments
TICKS_PER_STEP = 120  # in the files that `write_song` writes
MAX_STEPS_PER_BEAT = 96
MAX_BYTES = 2**24
MAX_STEPS = 100_000  # maximum length of a piece; a longer one is damaged or made to exhaust memory
VELOCITY = 80


class Note(NamedTuple):
    """A note: MIDI pitch, first step, and the step after the last one."""

    pitch: int
    start: int
    end: int


class Song(NamedTuple):
    """Notes on a time grid, sorted by start and pitch, and the number of notes outside the piano range."""

    notes: list[Note]
    outside: int


def check_installed(key: str) -> None:
    """Raise ConfigError if mido is not installed."""
    if find_spec("mido") is None:
        reason = "mido, which reads and writes MIDI files, is not installed"
        raise ConfigError(f"{key}: not supported because {reason}. Run pip install 'dltrain[music]'.")


def read_song(content: bytes, path: Path, steps_per_beat: int) -> Song:
    """Return the notes of a MIDI file, rounded to a grid of `steps_per_beat` steps per quarter note.

    Tempo, loudness, pedals, instruments and percussion are ignored.

    Raises:
        ConfigError: The content is not a MIDI file, is damaged, too large or too long, has separate pieces as tracks or
            time in seconds, or has no note in the piano range; or mido is not installed.
    """
    check_installed("data.path")
    problem = _find_problem(content)
    if problem is None:
        try:
            tracks, ticks = _parse(content)
        except (OSError, EOFError, ValueError, LookupError, TypeError, struct.error) as error:
            problem = f"a damaged file ({str(error) or 'it ends too early'})"
    if problem is not None:
        raise ConfigError(format_error("data.path", f"a MIDI file at {path}", problem))
    found = [note for track in tracks for note in _track_notes(track, steps_per_beat / ticks)]
    if max((note.end for note in found), default=0) > MAX_STEPS:
        raise ConfigError(format_error("data.path", f"a MIDI file of at most {MAX_STEPS:,} steps at {path}", "more"))
    notes = [note for note in found if LOWEST <= note.pitch <= HIGHEST]
    if not notes:
        expected = f"a MIDI file with notes from {LOWEST} to {HIGHEST} at {path}"
        raise ConfigError(format_error("data.path", expected, "only other notes" if found else "none"))
    return Song(_separate(notes), len(found) - len(notes))


def _find_problem(content: bytes) -> str | None:
    if not content:
        return "an empty file"
    if not content.startswith(b"MThd"):
        return "another kind of file"
    if len(content) > MAX_BYTES:
        return f"a file of more than {MAX_BYTES:,} bytes"
    kind, ticks = int.from_bytes(content[8:10]), int.from_bytes(content[12:14])
    if kind > 1:
        return f"a MIDI file of type {kind}, whose tracks are separate pieces"
    if len(content) >= 14 and (ticks == 0 or ticks >= 2**15):
        return "a MIDI file whose time is not in ticks per quarter note"
    return None


def _parse(content: bytes) -> tuple[list[Any], int]:
    """Return the tracks and the ticks per quarter note."""
    import mido

    midi = mido.MidiFile(file=io.BytesIO(content))
    return midi.tracks, midi.ticks_per_beat


def _track_notes(track: Iterable[Any], steps_per_tick: float) -> list[Note]:
    """Return the notes of a track; a note that does not end lasts to the end of the track."""
    ticks, notes, sounding = 0, list[Note](), defaultdict[tuple[int, int], deque[int]](deque)

    def close(pitch: int, start: int) -> None:
        first, last = (int(time * steps_per_tick + 0.5) for time in (start, ticks))
        notes.append(Note(pitch, first, max(first + 1, last)))

    for message in track:
        ticks += message.time
        if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
            continue
        key = message.channel, message.note
        if message.type == "note_on" and message.velocity:
            sounding[key].append(ticks)
        elif sounding[key]:
            close(message.note, sounding[key].popleft())
    for (_, pitch), starts in sounding.items():
        for start in starts:
            close(pitch, start)
    return notes


def _separate(notes: list[Note]) -> list[Note]:
    """Shorten notes that overlap the next one of their pitch; of notes with equal pitch and start, keep the longest."""
    starts = defaultdict[int, dict[int, int]](dict)  # pitch -> start -> end
    for note in notes:
        ends = starts[note.pitch]
        ends[note.start] = max(note.end, ends.get(note.start, 0))
    separate = []
    for pitch, ends in starts.items():
        ordered = sorted(ends)
        for start, following in pairwise([*ordered, MAX_STEPS + 1]):
            separate.append(Note(pitch, start, min(ends[start], following)))
    return sorted(separate, key=lambda note: (note.start, note.pitch))


def to_sounding(notes: Sequence[Note]) -> list[list[int]]:
    """Return the MIDI pitches that sound in each step, up to the end of the last note."""
    steps = [set[int]() for _ in range(max((note.end for note in notes), default=0))]
    for note in notes:
        for step in range(note.start, note.end):
            steps[step].add(note.pitch)
    return [sorted(pitches) for pitches in steps]


def from_sounding(steps: Sequence[Iterable[int]]) -> list[Note]:
    """Return the notes for the pitches of each step; a pitch that sounds in consecutive steps is one note."""
    notes, begun = list[Note](), dict[int, int]()
    for step, pitches in enumerate([*map(set, steps), set[int]()]):
        for pitch in [pitch for pitch in begun if pitch not in pitches]:
            notes.append(Note(pitch, begun.pop(pitch), step))
        for pitch in pitches:
            begun.setdefault(pitch, step)
    return sorted(notes, key=lambda note: (note.start, note.pitch))


def write_song(notes: Iterable[Note], steps_per_beat: int, ticks_per_step: int = TICKS_PER_STEP) -> bytes:
    """Return the content of a MIDI file with one track, for a piano at 120 quarter notes per minute.

    Args:
        steps_per_beat: Length of a quarter note in units of `TICKS_PER_STEP` ticks, at most `MAX_STEPS_PER_BEAT`.
        ticks_per_step: Length of a step of `notes` in ticks.
    """
    check_installed("--out")
    import mido

    # In sorted order, the end of a note precedes the start of the next one of the same pitch in the same step.
    changes = [(note.start, 1, note.pitch) for note in notes] + [(note.end, 0, note.pitch) for note in notes]
    track, now = mido.MidiTrack(), 0
    for step, is_on, pitch in sorted(changes):
        time = (step - now) * ticks_per_step
        track.append(mido.Message("note_on", note=pitch, velocity=VELOCITY * is_on, time=time))
        now = step
    midi, content = mido.MidiFile(type=0, ticks_per_beat=TICKS_PER_STEP * steps_per_beat), io.BytesIO()
    midi.tracks.append(track)
    midi.save(file=content)
    return content.getvalue()
