"""MIDI files as piano rolls and as events: notes in files that mido writes, round trips, and rejected files."""

import io
import random
from pathlib import Path

import mido
import pytest
from example_files import write_rolls, write_songs

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets import midi_files
from dltrain.datasets.midi_events import MidiEvents
from dltrain.datasets.midi_files import Note, from_sounding, read_song, to_sounding, write_song
from dltrain.datasets.note_events import NAMES, SIZE, START, decode, encode, from_events, to_events
from dltrain.datasets.note_frames import to_steps
from dltrain.datasets.piano_roll import Midi, PianoRoll
from dltrain.errors import ConfigError

PATH = Path("song.mid")


def content_of(*messages: mido.Message, kind: int = 1, ticks: int = 96) -> bytes:
    midi, file = mido.MidiFile(type=kind, ticks_per_beat=ticks), io.BytesIO()
    midi.add_track().extend(messages)
    midi.save(file=file)
    return file.getvalue()


def on(pitch: int, time: int = 0, **more: int) -> mido.Message:
    return mido.Message("note_on", note=pitch, time=time, **more)


def off(pitch: int, time: int = 0, **more: int) -> mido.Message:
    return mido.Message("note_off", note=pitch, time=time, **more)


def random_steps(seed: int) -> list[list[int]]:
    """Return random chords, most of which last several steps; the last one is not empty."""
    draw, steps = random.Random(seed), list[list[int]]()
    while len(steps) < 60:
        chord = sorted(draw.sample(range(21, 109), draw.randrange(6)))
        steps += [chord] * draw.randrange(1, 6)
    return [*steps, [60]]


@pytest.mark.parametrize("steps_per_beat", [1, 2, 4, 96])
def test_a_roll_survives_writing_and_reading_a_midi_file(steps_per_beat: int) -> None:
    for seed in range(5):
        steps = random_steps(seed)
        content = write_song(from_sounding(steps), steps_per_beat)
        assert to_sounding(read_song(content, PATH, steps_per_beat).notes) == steps


def test_events_survive_writing_and_reading_a_midi_file_and_keep_repeated_notes() -> None:
    notes = [Note(60, 0, 2), Note(64, 0, 50), Note(60, 2, 4), Note(60, 4, 5), Note(64, 100, 101)]
    assert read_song(write_song(notes, 4), PATH, 4).notes == notes
    assert from_events(to_events(notes)) == notes and encode(decode(to_events(notes))) == to_events(notes)
    expected = "on60 on64 wait2 off60 on60 wait2 off60 wait32 wait14 off64"
    assert decode(to_events(notes[:3])).split() == expected.split()
    for seed in range(5):
        notes = from_sounding(random_steps(seed))
        assert from_events(to_events(notes)) == notes


def test_random_events_are_read_without_an_error() -> None:
    draw = random.Random(0)
    for _ in range(20):
        events = [draw.randrange(SIZE) for _ in range(200)]
        notes = from_events(events)
        assert all(note.start < note.end for note in notes)
        assert from_events(to_events(notes)) == notes
    assert from_events([NUMBER["on60"]]) == [Note(60, 0, 1)]
    assert from_events([NUMBER["on60"], NUMBER["wait2"], START, NUMBER["wait3"]]) == [Note(60, 0, 2)]


NUMBER = {name: number for number, name in enumerate(NAMES)}


def test_times_are_rounded_to_the_grid_and_each_note_lasts_at_least_one_step() -> None:
    content = content_of(on(60), off(60, 90), on(62, 8), off(62, 5), on(64, 90), on(64, 96, velocity=0))
    assert read_song(content, PATH, 2).notes == [Note(60, 0, 2), Note(62, 2, 3), Note(64, 4, 6)]
    assert read_song(content, PATH, 1).notes == [Note(60, 0, 1), Note(62, 1, 2), Note(64, 2, 3)]


def test_voices_on_one_pitch_do_not_overlap_and_unterminated_notes_extend_to_the_end_of_the_file() -> None:
    content = content_of(on(60), on(60, 96, channel=1), off(60, 96), off(60, 96, channel=1), on(70), off(72, 96))
    assert read_song(content, PATH, 1).notes == [Note(60, 0, 1), Note(60, 1, 3), Note(70, 3, 4)]


def test_percussion_is_ignored_and_notes_outside_the_piano_are_left_out_and_counted(tmp_path: Path) -> None:
    messages = [on(60), on(36, channel=9), on(10), on(110), off(60, 96), off(36, channel=9), off(10), off(110)]
    song = read_song(content_of(*messages), PATH, 1)
    assert song.notes == [Note(60, 0, 1)] and song.outside == 2
    write_songs(tmp_path, 4)
    (tmp_path / "low.mid").write_bytes(content_of(*messages))
    for data in (Midi(str(tmp_path)), MidiEvents(str(tmp_path), context_length=8)):
        assert "2 notes outside the piano range (MIDI pitches 21 to 108) left out" in data.describe()


BAD = {
    "an empty file": (b"", "got an empty file"),
    "another kind of file": (b"\x89PNG\r\n\x1a\n", "got another kind of file"),
    "a header alone": (b"MThd", r"got a damaged file \(it ends too early\)"),
    "a truncated file": (content_of(on(60), off(60, 96))[:-9], "got a damaged file"),
    "no notes": (content_of(), "expected a MIDI file with notes from 21 to 108 at song.mid, got none"),
    "drums only": (content_of(on(40, channel=9), off(40, 9, channel=9)), "got none"),
    "notes outside of the piano": (content_of(on(9), off(9, 9)), "got only other notes"),
    "separate tracks": (content_of(on(60), off(60, 96), kind=2), "got a MIDI file of type 2"),
    "a time in seconds": (
        content_of(on(60), off(60, 96))[:12] + b"\xe7\x28" + b"MTrk",
        "not in ticks per quarter note",
    ),
    "no ticks": (content_of(on(60), off(60, 96))[:12] + b"\0\0" + b"MTrk", "not in ticks per quarter note"),
    "an endless note": (content_of(on(60), off(60, 2**27)), "expected a MIDI file of at most 100,000 steps"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_read_is_rejected_with_a_one_line_error(kind: str) -> None:
    content, message = BAD[kind]
    with pytest.raises(ConfigError, match=message) as caught:
        read_song(content, PATH, 4)
    (line,) = caught.value.problems
    assert line.startswith("data.path: expected a MIDI file") and "\n" not in line


def test_damaged_bytes_are_read_as_notes_or_rejected_with_a_one_line_error() -> None:
    draw, whole = random.Random(0), content_of(*(on(60 + n % 9, 24) for n in range(30)), off(60, 96))
    rejected = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            assert read_song(bytes(content), PATH, 4).notes
        except ConfigError as error:
            rejected += 1
            assert len(error.problems) == 1 and "\n" not in error.problems[0]
    assert 0 < rejected < 400


def test_folders_named_like_splits_are_used_and_unreadable_files_can_be_skipped(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("validation", 2), ("test", 3)):
        write_songs(tmp_path / split / "bach", count)
    (tmp_path / "train" / "notes.txt").write_text("not music")
    (tmp_path / "train" / "broken.mid").write_bytes(b"MThd")
    with pytest.raises(ConfigError, match=r"broken\.mid, got a damaged file .*data\.on_bad_sample=skip skips such"):
        Midi(str(tmp_path))
    splits = Midi(str(tmp_path), on_bad_sample="skip").load()
    assert [len(splits.train), len(splits.val), len(splits.test)] == [6, 2, 3]


@pytest.mark.parametrize("folders", [["test"], ["train", "val", "valid"]])
def test_split_folders_without_train_or_with_a_repeated_split_are_rejected(folders: list[str], tmp_path: Path) -> None:
    for folder in folders:
        write_songs(tmp_path / folder, 3)
    with pytest.raises(ConfigError, match=r"data\.path: expected a folder train, and at most one folder each of"):
        Midi(str(tmp_path))


def test_a_folder_without_midi_files_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path: expected MIDI files \(\.mid \.midi\) in .*, got none"):
        Midi(str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.path: expected an existing folder of MIDI files"):
        MidiEvents(str(tmp_path / "nowhere"))
    (tmp_path / "link.mid").symlink_to("gone.mid")
    with pytest.raises(ConfigError, match=r"link\.mid, got No such file or directory"):
        Midi(str(tmp_path))


def test_midi_files_are_rejected_with_an_install_hint_if_mido_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(midi_files, "find_spec", lambda name: None)
    for kind in (Midi, MidiEvents):
        with pytest.raises(ConfigError, match=r"^data: not supported because mido, .*pip install 'dltrain\[music\]'"):
            kind(str(tmp_path))


def test_midi_and_pianoroll_read_the_same_frames_from_a_midi_file(tmp_path: Path) -> None:
    write_songs(tmp_path, 6)
    rolls = Midi(str(tmp_path), steps_per_beat=2)
    write_rolls(tmp_path / "rolls.json", 20, 2)
    data = PianoRoll(str(tmp_path / "rolls.json"))
    song = str(tmp_path / "02.mid")
    frames = [next(each.inputs(InputFiles((song,)))).rows["frames"].values for each in (rolls, data)]
    known = read_song(Path(song).read_bytes(), PATH, 2)
    assert to_steps(frames[0][:-1]) == to_steps(frames[1][:-1]) == to_sounding(known.notes)


def test_the_targets_of_all_windows_contain_each_event_of_a_split_once(tmp_path: Path) -> None:
    write_songs(tmp_path, 12)
    data = MidiEvents(str(tmp_path), context_length=10)
    splits = data.load()
    songs = [piece.content for piece in data.pieces["test"]]
    expected = [token for song in songs for token in (*to_events(song.notes), START)]
    targets = [token for batch in Batches(splits.test, 4) for token in batch["targets"].flatten().tolist()]
    assert [token for token in targets if token >= 0] == expected
    streamed = MidiEvents(str(tmp_path), context_length=10, streams=True).load()
    assert "continues" in next(iter(Batches(streamed.train, 2, training=True)))
    with pytest.raises(ConfigError, match=r"data\.stride: expected null or 10 with data\.streams=true, got 3"):
        MidiEvents(str(tmp_path), context_length=10, streams=True, stride=3)
    with pytest.raises(
        ConfigError, match=r"^data\.context_length: expected a whole number below \d+, the .*, got 5000"
    ):
        MidiEvents(str(tmp_path), context_length=5000).load()


@pytest.mark.parametrize("text", ["on20", "off109", "wait0", "wait33", "60"])
def test_an_unknown_event_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^text: expected events such as on60 wait4 off60.*, got {text}$"):
        encode(f"on60 {text}")
