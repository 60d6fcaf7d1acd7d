"""Piano rolls in the JSB layout: their frames, transposition, splits and errors."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from example_files import write_rolls

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.note_frames import NOTES, Transpose, decode_frame, encode_text, to_frames, to_steps
from dltrain.datasets.piano_roll import Midi, PianoRoll
from dltrain.errors import ConfigError

CHORDS = [[60, 64, 67], [], [59, 62, 67], [60, 64, 67, 72]]
VALID = {"train": [CHORDS, CHORDS[::-1], CHORDS[1:]], "valid": [CHORDS], "test": [CHORDS]}


def write(folder: Path, content: object) -> str:
    path = folder / "rolls.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_each_frame_is_predicted_from_the_frames_before_it(tmp_path: Path) -> None:
    data = PianoRoll(write(tmp_path, VALID), pad_multiple=8)
    (batch,) = Batches(data.load().test, 4)
    assert batch["lengths"].tolist() == [4] and batch["inputs"].shape == batch["targets"].shape == (1, 8, NOTES)
    assert to_steps(batch["targets"][0, :4]) == CHORDS and to_steps(batch["inputs"][0, 1:5]) == CHORDS
    assert batch["inputs"][0, 0].sum() == 0 and (batch["targets"][0, 4:] == -1).all()


def test_frame_stride_2_reads_every_second_step_and_long_pieces_are_cut_into_parts(tmp_path: Path) -> None:
    whole = PianoRoll(write(tmp_path, VALID), frame_stride=2)
    assert to_steps(whole.load().test.rows["frames"].values) == CHORDS[::2]
    cut = PianoRoll(write(tmp_path, VALID), max_length=3)
    rows = cut.load().test.rows["frames"]
    assert rows.lengths.tolist() == [3, 1] and to_steps(rows.values) == CHORDS
    assert "5 pieces cut into parts of at most 3 frames (data.max_length)" not in cut.describe()
    assert "4 pieces cut into parts of at most 3 frames (data.max_length)" in cut.describe()
    assert "duplicates: 2 pieces of the validation and test splits also in the training split" in cut.describe()


def test_missing_splits_are_taken_from_the_training_pieces(tmp_path: Path) -> None:
    pieces = [[[60 + number]] for number in range(10)]
    data = PianoRoll(write(tmp_path, {"train": pieces}), validation=0.2, test=0.3)
    splits = data.load()
    assert [len(splits.train), len(splits.val), len(splits.test)] == [5, 2, 3]
    found = [to_steps(source.rows["frames"].values) for source in (splits.train, splits.val, splits.test)]
    assert sorted(itertools.chain(*found)) == [piece[0] for piece in pieces]


def test_silent_voices_are_ignored_and_pitches_may_be_written_as_floats(tmp_path: Path) -> None:
    data = PianoRoll(write(tmp_path, {**VALID, "test": [[[74.0, -1, 60.0, 60.0]]]}))
    assert to_steps(data.load().test.rows["frames"].values) == [[60, 74]]


def test_a_transposition_moves_all_notes_of_a_piece_by_the_same_interval_within_the_piano_range(tmp_path: Path) -> None:
    write_rolls(tmp_path / "rolls.json", 30, 3)
    plain, moved = (PianoRoll(str(tmp_path / "rolls.json"), transpose=steps, batch_size=30) for steps in (0, 6))
    both = (Batches(data.load().train, 30, training=True).epoch(0) for data in (plain, moved))
    shifts = set()
    for one, other in zip(*both, strict=True):
        rows = zip(one["targets"], other["targets"], other["transposition"].tolist(), strict=True)
        for piece, changed, shift in rows:
            shifts.add(shift)
            expected = [[pitch + shift for pitch in step] for step in to_steps(piece.clamp(min=0))]
            assert to_steps(changed.clamp(min=0)) == expected
            assert torch.equal(piece < 0, changed < 0)
    assert len(shifts) > 5 and min(shifts) >= -6 and max(shifts) <= 6
    extreme = to_frames([[21, 108]])[None].float()
    keys = torch.arange(50)
    batch = {"inputs": extreme.expand(50, -1, -1), "targets": extreme.expand(50, -1, -1)}
    assert torch.equal(Transpose(12)(batch, keys)["targets"], batch["targets"])


def test_frames_converted_to_text_and_back_are_unchanged() -> None:
    numbers = [[pitch - 21 for pitch in step] for step in CHORDS]
    assert encode_text("".join(map(decode_frame, numbers))) == numbers
    assert encode_text("60 64 67, -, 59 62 67, 72 60 64 67") == numbers


@pytest.mark.parametrize("text", ["", "60,,64", "60 109", "do re mi", "60 ²", "6" * 5000], ids=lambda text: text[:9])
def test_text_with_an_invalid_frame_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^text: expected frames of MIDI pitches from 21 to 108"):
        encode_text(text)


BAD = {
    "an empty file": ("", "got an empty file"),
    "text that is not JSON": ("60 64 67", r"got text that is not JSON"),
    "a list": ([[[60]]], "got a value of type list"),
    "no training pieces": ({"test": [CHORDS]}, "got no pieces in train"),
    "an unknown split": ({**VALID, "extra": []}, "got the key 'extra', which is not a split$"),
    "a repeated split": ({**VALID, "training": []}, "got the key 'training', which repeats a split$"),
    "a split without a list": ({**VALID, "test": 3}, "got the key 'test', which does not hold a list$"),
    "an empty split": ({**VALID, "test": []}, "expected pieces in each split, got none in test"),
    "too few pieces": ({"train": [CHORDS, CHORDS]}, "expected at least 3 pieces for training, got 2"),
    "a high pitch": ({**VALID, "test": [[[60], [109]]]}, "in step 2 of piece 1 of test in .*, got 109"),
    "notes numbered from 0": ({**VALID, "test": [[[0, 40]]]}, "expected MIDI pitches from 21 to 108 .*, got 0"),
    "a pitch that is not a whole number": ({**VALID, "test": [[[60.5]]]}, "got 60.5"),
    "a boolean": ({**VALID, "test": [[[True]]]}, "got true"),
    "a step that is not a list": ({**VALID, "test": [[60, 64]]}, "expected a list of steps"),
    "a piece without notes": ({**VALID, "test": [[[], []]]}, "got a piece without notes"),
    "an empty piece": ({**VALID, "test": [[]]}, "expected notes in piece 1 of test"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_invalid_file_is_rejected_with_a_one_line_error(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    with pytest.raises(ConfigError, match=message) as caught:
        PianoRoll(write(tmp_path, content))
    (line,) = caught.value.problems
    assert line.startswith("data.path: expected ") and "\n" not in line


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "jsb.pickle"
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(ConfigError, match=r"Convert it to JSON\. Pickled files are not read because"):
        PianoRoll(str(path))


def test_pianoroll_rejects_folders_and_midi_rejects_files_with_a_hint_at_the_other_data_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got the folder .*\. data=midi reads a folder of MIDI files"):
        PianoRoll(str(tmp_path))
    with pytest.raises(ConfigError, match=r"got the file .*\. data=pianoroll reads piano rolls in JSON"):
        Midi(write(tmp_path, VALID))


def test_bad_pieces_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    content = {**VALID, "train": [*VALID["train"], [[]], [[300]]]}
    data = PianoRoll(write(tmp_path, content), on_bad_sample="skip")
    assert len(data.load().train) == 3 and len(data.bad.found) == 2
    with pytest.raises(ConfigError, match="expected at most 1 unreadable example, got"):
        PianoRoll(write(tmp_path, content), on_bad_sample="skip", max_bad_samples=1)


def test_an_input_file_may_be_a_list_of_pieces_and_an_unknown_frame_follows_each_piece(tmp_path: Path) -> None:
    data = PianoRoll(write(tmp_path, VALID))
    (tmp_path / "new.json").write_text(json.dumps([CHORDS, CHORDS[:2]]))
    pieces = list(data.inputs(InputFiles((str(tmp_path / "new.json"),))))
    assert [piece.names[0]["piece"] for piece in pieces] == [1, 2]
    rows = pieces[1].rows["frames"]
    assert rows.lengths.tolist() == [3] and to_steps(rows.values[:2]) == CHORDS[:2] and (rows.values[2] == 255).all()
