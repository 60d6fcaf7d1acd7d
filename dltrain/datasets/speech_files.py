"""Find recordings and their transcripts: in a table with a column of audio files, or in folders named after words."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from dltrain.data.bad_samples import BadSamples
from dltrain.data.checks import existing_file, existing_folder, similar_file, user_path
from dltrain.data.folders import find_files, subfolders
from dltrain.datasets.audio_files import SUFFIXES, is_audio
from dltrain.datasets.csv_file import Notation, read_csv
from dltrain.datasets.csv_table import Table
from dltrain.datasets.image_layout import TRAIN, find_splits
from dltrain.errors import ConfigError, format_error, suggest

EXPECTED = "a table of audio files and transcripts, or a folder with one subfolder of audio files per word"


class Utterances(NamedTuple):
    """Recordings with transcripts.

    Args:
        name: Name of the table, or path of the folder.
        files: Audio files.
        texts: Their normalized transcripts, none of them empty.
        places: Location of each transcript, for messages.
        splits: Split -> indices of its recordings; empty for a table, and for a folder that is not divided into splits.
        ignored: Number of audio files in the folder of a split, but not in a folder named after a word.
    """

    name: str
    files: list[Path]
    texts: list[str]
    places: list[str]
    splits: dict[str, list[int]]
    ignored: int = 0


class UtteranceReader:
    """Reader of recordings and transcripts.

    Args:
        path: A table, or a folder.
        audio, transcript: Columns of the table; None if it has only one column of audio files and one of texts.
        header: Whether the first line of the table names the columns.
        audio_folder: Folder of the audio files of a table; None for the folder of the table.
        normalize: Function that normalizes a transcript.
        bad: Policy for unreadable lines, missing audio files and empty transcripts.
    """

    def __init__(
        self,
        path: str,
        audio: str | None,
        transcript: str | None,
        header: bool,
        audio_folder: str | None,
        normalize: Callable[[str], str],
        bad: BadSamples,
    ) -> None:
        self.path, self.audio_folder = path, audio_folder
        self.columns = audio, transcript
        self.notation, self.normalize, self.bad = Notation(header), normalize, bad

    def read(self) -> Utterances:
        """Read the table, or list the folders; no audio file is decoded.

        Raises:
            ConfigError: The path or a column does not exist, a column cannot be inferred, a folder is not named after a
                word of the training folder, or a line that must not be skipped is unreadable or lacks an
                audio file or a transcript.
        """
        if user_path(self.path).is_dir():
            return self._list_folders(existing_folder(self.path, EXPECTED))
        file = existing_file(self.path, EXPECTED)
        table = read_csv(file, self.notation, self.bad)
        self.notation = replace(self.notation, trained_on=table.marks)
        audio, transcript = self._choose(table)
        self.columns = table.header[audio], table.header[transcript]
        root = file.parent if self.audio_folder is None else existing_folder(self.audio_folder, "an existing folder")
        cells = (table.columns[audio], table.columns[transcript])
        files, texts, places = list[Path](), list[str](), list[str]()
        for row, line in enumerate(table.lines.tolist()):
            place = f"line {line} of {file.name}"
            if pair := self._check(root / cells[0][row], cells[0][row], cells[1][row], place):
                files.append(pair[0])
                texts.append(pair[1])
                places.append(place)
        return Utterances(file.name, files, texts, places, {})

    def _check(self, file: Path, cell: str, text: str, place: str) -> tuple[Path, str] | None:
        """Return the file and the normalized transcript of a line; None to skip a line that lacks one of them."""
        normalized = self.normalize(text)
        if not cell or not file.is_file():
            got, hint = (f"{file}, which does not exist", similar_file(str(file))) if cell else ("an empty cell", "")
            self.bad.add(format_error("data.path", f"an audio file in {place}", got, hint))
            return None
        if not normalized:
            got = f'"{text}", without letters or digits' if text else "an empty transcript"
            self.bad.add(format_error("data.path", f"a transcript in {place}", got))
            return None
        return file, normalized

    def _choose(self, table: Table) -> tuple[int, int]:
        """Return the columns of audio files and of transcripts."""
        columns = range(len(table.header))
        audio, transcript = self.columns
        found = [column for column in columns if _has_audio(table, column)]
        texts = [column for column in columns if column not in found and not table.is_numeric(column)]
        return _column(table, audio, "audio", found), _column(table, transcript, "transcript", texts)

    def _list_folders(self, root: Path) -> Utterances:
        """Return the files of each folder; the transcript of a file is the name of its folder."""
        for key, value in zip(("audio", "transcript", "audio_folder"), (*self.columns, self.audio_folder), strict=True):
            if value is not None:
                raise ConfigError(f"data.{key}: not supported because data.path is a folder, not a table")
        folders = find_splits(root, is_audio)
        files, texts, splits = list[Path](), list[str](), dict[str, list[int]]()
        known = self._words(folders[TRAIN])
        for split, folder in folders.items():
            words = self._words(folder)
            if unknown := sorted(set(words.values()) - set(known.values())):
                expected = f"folders in {folder} with the names of words in the training folder"
                raise ConfigError(format_error("data.path", expected, unknown[0], suggest(unknown[0], known.values())))
            found = [
                (file, word) for each, word in words.items() for file in sorted(filter(is_audio, find_files(each)))
            ]
            splits[split] = list(range(len(files), len(files) + len(found)))
            files += [file for file, _ in found]
            texts += [word for _, word in found]
        places = [str(file.relative_to(root)) for file in files]
        ignored = sum(map(is_audio, chain.from_iterable(folder.iterdir() for folder in folders.values())))
        return Utterances(str(root), files, texts, places, splits if len(splits) > 1 else {}, ignored)

    def _words(self, folder: Path) -> dict[Path, str]:
        """Return the transcript of each folder with audio files: its normalized name, with spaces for underscores."""
        folders = [each for each in subfolders(folder) if any(map(is_audio, find_files(each)))]
        if not folders:
            expected = f"a folder per word with audio files ({', '.join(SUFFIXES)}) in {folder}"
            raise ConfigError(format_error("data.path", expected, "none"))
        words = {each: self.normalize(each.name.replace("_", " ")) for each in folders}
        if empty := next((each for each, word in words.items() if not word), None):
            raise ConfigError(format_error("data.path", f"a folder in {folder} named after a word", empty.name))
        return words


def _has_audio(table: Table, column: int) -> bool:
    words = table.columns[column].words
    return 2 * sum(is_audio(Path(word)) for word in words) > len(words)


def _column(table: Table, name: str | None, key: str, found: list[int]) -> int:
    """Return the named column, or the only column in `found`."""
    if name is not None:
        return table.index_of(name, f"data.{key}")
    if len(found) == 1:
        return found[0]
    kind = {"audio": "audio file names", "transcript": "texts"}[key]
    got = f"{len(found)} such columns" if found else "none"
    hint = f"Set data.{key} to one of {', '.join(table.header)}."
    raise ConfigError(format_error("data.path", f"one column of {kind} in {table.path}", got, hint))
