"""Pieces of music from files: piano rolls in the JSB layout, and MIDI files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from dltrain.data.bad_samples import BadSamples
from dltrain.data.checks import existing_file, existing_folder
from dltrain.data.folders import find_files, subfolders
from dltrain.data.splits import held_out_size, permutation
from dltrain.datasets.image_layout import TEST, TRAIN, VAL, split_of
from dltrain.datasets.midi_files import MAX_BYTES, SUFFIXES, Song, read_song, to_sounding
from dltrain.datasets.note_frames import HIGHEST, LOWEST
from dltrain.errors import ConfigError, format_error
from dltrain.storage import safe_read

T = TypeVar("T")
Steps = list[list[int]]  # the MIDI pitches of each step of a piece

LAYOUT = "JSON of splits -> lists of pieces -> lists of steps -> lists of MIDI pitches"
SILENT = -1  # pitch of a silent voice in some files with this layout


class Piece(NamedTuple, Generic[T]):
    """Piece of music; `name` is its file, or its position in a file."""

    name: str
    content: T


Pieces = dict[str, list[Piece[T]]]  # by split


def read_rolls(path: Path, bad: BadSamples) -> Pieces[Steps]:
    """Return the pieces of a file in the JSB layout.

    Raises:
        ConfigError: The file is not in this layout, has no training pieces, or has an invalid piece that must not be
            skipped.
    """
    if path.is_dir():
        hint = "data=midi reads a folder of MIDI files"
        raise ConfigError(format_error("data.path", f"a file, {LAYOUT}", f"the folder {path}", hint))
    existing_file(path, f"an existing file, {LAYOUT}")
    found: Pieces[Steps] = {}
    for name, pieces in _read_json(path).items():
        split = split_of(name)
        if split is None or split in found or not isinstance(pieces, list):
            problem = "is not a split" if split is None else "does not hold a list"
            problem = "repeats a split" if split in found else problem
            raise ConfigError(format_error("data.path", f"{LAYOUT} in {path}", f"the key {name!r}, which {problem}"))
        found[split] = list(_check_pieces(pieces, f"{name} in {path}", bad))
    if not found.get(TRAIN):
        raise ConfigError(format_error("data.path", f"{LAYOUT} in {path}", "no pieces in train"))
    return found


def read_roll_pieces(path: Path, text: str) -> Iterator[Piece[Steps]]:
    """Yield the pieces to predict, from all splits of a file in the JSB layout or from a list of pieces."""
    content = _parse_json(path, text)
    for name, pieces in content.items() if isinstance(content, dict) else [("the list", content)]:
        if not isinstance(pieces, list):
            got = f"a value of type {type(pieces).__name__}"
            raise ConfigError(format_error("data.path", f"{LAYOUT}, or a list of pieces, in {path}", got))
        yield from _check_pieces(pieces, f"{name} in {path}", BadSamples())


def _read_json(path: Path) -> dict[str, Any]:
    if path.suffix.casefold() in (".pickle", ".pkl", ".npz", ".npy", ".mat"):
        hint = "Convert it to JSON. Pickled files are not read because they can run arbitrary code"
        raise ConfigError(format_error("data.path", LAYOUT, path, hint))
    try:
        text = safe_read.read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(format_error("data.path", f"{LAYOUT} in {path}", str(error))) from None
    content = _parse_json(path, text)
    if not isinstance(content, dict):
        got = f"a value of type {type(content).__name__}"
        raise ConfigError(format_error("data.path", f"{LAYOUT} in {path}", got))
    return content


def _parse_json(path: Path, text: str) -> Any:
    try:
        return safe_read.parse_json(text)
    except ValueError as error:
        got = f"text that is not JSON ({error})" if text.strip() else "an empty file"
        raise ConfigError(format_error("data.path", f"{LAYOUT} in {path}", got)) from None


def _check_pieces(pieces: list[Any], where: str, bad: BadSamples) -> Iterator[Piece[Steps]]:
    """Yield the valid pieces of a split, numbered from 1."""
    for number, piece in enumerate(pieces, 1):
        name = f"piece {number} of {where}"
        try:
            yield Piece(name, _check_piece(piece, name))
        except ConfigError as error:
            bad.add(str(error))


def _check_piece(piece: Any, name: str) -> Steps:
    """Return the pitches of each step of a piece.

    Raises:
        ConfigError: The piece is not a list of steps, has no notes, or has values that are not pitches of a piano.
    """
    if not isinstance(piece, list) or not all(isinstance(step, list) for step in piece):
        raise ConfigError(format_error("data.path", f"a list of steps, each a list of MIDI pitches, in {name}", piece))
    steps = [[pitch for pitch in step if pitch != SILENT] for step in piece]
    for number, pitch in ((number, pitch) for number, step in enumerate(steps, 1) for pitch in step):
        if type(pitch) not in (int, float) or pitch % 1 or not LOWEST <= pitch <= HIGHEST:
            expected = f"MIDI pitches from {LOWEST} to {HIGHEST} in step {number} of {name}"
            raise ConfigError(format_error("data.path", expected, pitch))
    if not any(steps):
        raise ConfigError(format_error("data.path", f"notes in {name}", "a piece without notes"))
    return [[int(pitch) for pitch in step] for step in steps]


def is_midi(file: Path) -> bool:
    """Return whether a file has the suffix of a MIDI file."""
    return file.suffix.casefold() in SUFFIXES


def read_songs(path: Path, steps_per_beat: int, bad: BadSamples) -> Pieces[Song]:
    """Return the pieces of a folder of MIDI files, at any depth; folders ``train``, ``val`` and ``test`` are splits.

    Raises:
        ConfigError: The folder does not exist, its splits are incomplete or repeated, there is no MIDI file for
            training, or a file cannot be read and must not be skipped.
    """
    if path.is_file():
        hint = "data=pianoroll reads piano rolls in JSON" if path.suffix.casefold() == ".json" else ""
        raise ConfigError(format_error("data.path", "a folder of MIDI files", f"the file {path}", hint))
    root = existing_folder(path, "an existing folder of MIDI files")
    found: Pieces[Song] = {}
    for split, folder in _find_splits(root).items():
        songs = found[split] = []
        for file in sorted(filter(is_midi, find_files(folder))):
            try:
                songs.append(Piece(str(file.relative_to(root)), read_midi(file, steps_per_beat)))
            except ConfigError as error:
                bad.add(str(error))
    if not found.get(TRAIN):
        expected = f"MIDI files ({' '.join(SUFFIXES)}) in {root}"
        raise ConfigError(format_error("data.path", expected, "none for training"))
    return found


def read_midi(file: Path, steps_per_beat: int) -> Song:
    """Return the notes of a MIDI file; see `dltrain.datasets.midi_files.read_song`."""
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(format_error("data.path", f"a MIDI file at {file}", "a pipe or device"))
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(format_error("data.path", f"a MIDI file at {file}", error.strerror)) from None
    return read_song(content, file, steps_per_beat)


def _find_splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split; `root` is the training folder if no folder in it is named after a split."""
    named = [(split, folder) for folder in subfolders(root) if (split := split_of(folder.name))]
    if not named:
        return {TRAIN: root}
    splits = dict(named)
    if TRAIN not in splits or len(splits) < len(named):
        got = ", ".join(folder.name for _, folder in named)
        expected = f"a folder train, and at most one folder each of val and test, in {root}"
        raise ConfigError(format_error("data.path", expected, got))
    return splits


def sounding(pieces: Pieces[Song]) -> Pieces[Steps]:
    """Convert the notes of pieces to the pitches that sound in each step."""
    return {
        split: [Piece(piece.name, to_sounding(piece.content.notes)) for piece in songs]
        for split, songs in pieces.items()
    }


def complete_splits(pieces: Pieces[T], validation: float, test: float) -> Pieces[T]:
    """Return all splits of pieces; missing splits are held out from the training pieces, the same pieces in every run.

    Args:
        validation, test: Fractions of the training pieces.

    Raises:
        ConfigError: There are too few pieces, or a split of the files is empty.
    """
    train = pieces[TRAIN]
    missing = {split: share for split, share in ((TEST, test), (VAL, validation)) if split not in pieces}
    sizes = [held_out_size(len(train), share) for share in missing.values()]
    if sum(sizes) >= len(train):
        expected = f"at least {sum(sizes) + 1} pieces for training"
        raise ConfigError(format_error("data.path", expected, len(train)))
    if empty := [split for split in pieces if not pieces[split]]:
        raise ConfigError(format_error("data.path", "pieces in each split", f"none in {', '.join(empty)}"))
    order = permutation(len(train)).split([len(train) - sum(sizes), *sizes])
    parts = [[train[row] for row in part.tolist()] for part in order]
    return {**pieces, TRAIN: parts[0], **dict(zip(missing, parts[1:], strict=True))}
