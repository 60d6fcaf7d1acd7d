"""Speech: log-mel features compared with their formula, sample rates, splits, SpecAugment and rejected files."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_files import write_recording, write_speech
from torch import Tensor

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.datasets import audio_files
from dltrain.datasets.audio_files import decode_audio
from dltrain.datasets.log_mel import GUARD, LogMel, mel_filters
from dltrain.datasets.spec_augment import Masks, SpecAugment
from dltrain.datasets.speech import Speech
from dltrain.datasets.speech_features import Features
from dltrain.datasets.transcripts import fit_vocabulary, min_steps, normalize
from dltrain.errors import ConfigError

SMALL: dict[str, Any] = {"mels": 20, "stack": 1}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_speech(tmp_path_factory.mktemp("speech"), 40))


def triangles(bands: int, bins: int, rate: int) -> np.ndarray:
    """Compute the mel filters of HTK by interpolation: each is 1 at its center and 0 at the neighboring centers."""
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.arange(bins) * rate / 2 / (bins - 1)
    return np.stack([np.interp(frequencies, edges, np.eye(bands + 2)[band + 1]) for band in range(bands)], axis=1)


@pytest.mark.parametrize(("bands", "bins", "rate"), [(40, 129, 8000), (20, 257, 16000), (1, 9, 11025)])
def test_mel_filters_are_the_triangles_of_htk(bands: int, bins: int, rate: int) -> None:
    np.testing.assert_allclose(mel_filters(bands, bins, rate).numpy(), triangles(bands, bins, rate), atol=1e-12)


@pytest.mark.parametrize(("count", "window_ms"), [(1000, 25.0), (80, 20.0), (37, 13.3)])
def test_log_mel_features_equal_an_explicit_fourier_transform(count: int, window_ms: float) -> None:
    rate, bands, hop = 8000, 12, 80
    samples = np.random.default_rng(0).normal(size=count).astype(np.float32)
    length = round(rate * window_ms / 1000)
    size = 2 ** int(np.ceil(np.log2(length)))
    window = np.zeros(size)
    start = (size - length) // 2
    window[start : start + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    padded = np.pad(samples.astype(np.float64), size // 2)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size // 2 + 1)) / size)
    frames = np.stack([(padded[n * hop : n * hop + size] * window) @ waves for n in range(1 + count // hop)])
    expected = np.log(np.abs(frames) ** 2 @ triangles(bands, size // 2 + 1, rate) + GUARD)
    found = LogMel(rate, bands, window_ms, 10.0)(torch.from_numpy(samples))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_window_too_short_for_the_number_of_bands_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"data\.mels: expected fewer bands for a window of 5 ms at 8,000 Hz"):
        LogMel(8000, 40, 5.0, 10.0)


def test_recordings_at_other_sample_rates_have_the_same_loudest_band_in_most_frames(tmp_path: Path) -> None:
    found = []
    for rate in (8000, 16000, 44100):
        write_recording(tmp_path / f"{rate}.wav", "abcabc", rate)
    lines = ["path\ttranscript", *(f"8000.wav\t{letter}" for letter in "abc"), "16000.wav\ta", "44100.wav\tb"]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    data = Speech(str(tmp_path / "a.tsv"), sample_rate=8000, validation=0.2, test=0.2, **SMALL)
    data.load()
    for rate in (8000, 16000, 44100):
        found.append(data.features.frames((tmp_path / f"{rate}.wav").read_bytes()).values)
    for other in found[1:]:
        assert other.shape == found[0].shape
        # The noise differs, so the loudest band of each frame is compared.
        assert (other.argmax(1) == found[0].argmax(1)).float().mean() > 0.9
    described = "\n".join(data.describe())
    assert (
        "converted to 8,000 Hz: 1 recording of 16,000 Hz\nconverted to 8,000 Hz: 1 recording of 44,100 Hz" in described
    )


def test_the_sample_rate_of_the_training_recordings_is_used_and_is_part_of_the_fitted_state(table: str) -> None:
    data = Speech(table, **SMALL)
    data.load()
    assert data.features.rate == data.fit()["rate"] == 8000


def test_channels_are_averaged(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.array([[1000, 3000], [-8000, 0]], dtype="<i2").tobytes())
    recording = decode_audio((tmp_path / "a.wav").read_bytes())
    np.testing.assert_allclose(recording.samples, np.array([2000, -4000]) / 32768)
    assert recording.channels == 2


def batches(source: Source, **options: Any) -> list[dict[str, Tensor]]:
    return list(Batches(source, 7, **options))


def steps_of(batch: dict[str, Tensor]) -> list[Tensor]:
    """Return the steps of each recording in a batch, without padding."""
    return [row[:length] for row, length in zip(batch["inputs"], batch["lengths"].tolist(), strict=True)]


def test_features_of_the_training_split_are_standardized_and_padding_is_zero(table: str) -> None:
    splits = Speech(table, **SMALL).load()
    steps = torch.cat([row for batch in batches(splits.train) for row in steps_of(batch)])
    torch.testing.assert_close(steps.mean(0), torch.zeros(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(steps.std(0, correction=0), torch.ones(20), atol=1e-3, rtol=0)
    for source in (splits.train, splits.val, splits.test):
        for batch in batches(source):
            padded = torch.arange(batch["inputs"].shape[1]) >= batch["lengths"][:, None]
            assert not batch["inputs"][padded].any()


def test_joining_frames_into_steps_keeps_every_frame(table: str) -> None:
    one, three = (Speech(table, mels=20, stack=stack).load() for stack in (1, 3))
    for single, joined in zip(batches(one.test), batches(three.test), strict=True):
        for row, other in zip(steps_of(single), steps_of(joined), strict=True):
            assert len(other) == -(-len(row) // 3)
            assert torch.equal(other.reshape(-1, 20)[: len(row)], row)


def test_transcripts_are_encoded_and_decoded_with_a_vocabulary_of_characters_or_words(table: str) -> None:
    data = Speech(table, **SMALL)
    known = set(data.vocabulary.content)
    splits, texts = data.load(), set()
    for source in (splits.train, splits.val, splits.test):
        for batch in batches(source):
            rows = zip(batch["transcript"].tolist(), batch["transcript_lengths"].tolist(), strict=True)
            texts |= {data.spec.transcripts.decode(row[:length]) for row, length in rows}
    assert texts == {"a", "be", "cab", "dad", "a cab", "bad", "add", "fee", "feed me", "me", "a bed", "fade"}
    assert known == set("abcdefm ")
    words = Speech(table, tokens="words", **SMALL)
    assert "feed" in words.vocabulary.content and words.vocabulary.decode(words.vocabulary.encode("a bed")) == "a bed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Press 1, please...", "press 1 please"),
        ("the A.M. o’clock 'quote'", "the a m o'clock quote"),
        ("Cafe\u0301 -- naïve", "café naïve"),
        ("[…]", ""),
    ],
)
def test_transcripts_are_normalized(text: str, expected: str) -> None:
    assert normalize(text, lowercase=True, punctuation=False) == expected
    assert normalize("A,  b", lowercase=False, punctuation=True) == "A, b"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", ""], r"data.path: expected transcripts with letters or digits, got only empty transcripts"),
        (["on", "no", "o"], r"data.min_count: expected at most 3, the count of the most frequent character .* got 4"),
    ],
)
def test_transcripts_without_frequent_characters_are_rejected(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_vocabulary("characters", texts, min_count=4, max_words=10)


def test_equal_neighboring_tokens_need_one_more_step_for_a_blank() -> None:
    assert [min_steps(tokens) for tokens in ([], [3], [3, 3], [3, 4, 4, 4])] == [0, 1, 3, 6]


def test_repeated_words_are_classes_with_equal_fractions_in_each_split(tmp_path: Path) -> None:
    for number in range(60):
        word = ("yes", "no", "stop")[number % 3]
        write_recording(tmp_path / "words" / word / f"{number}.wav", word, seed=number)
    data = Speech(str(tmp_path / "words"), **SMALL)
    assert data.spec.class_names == ("no", "stop", "yes")
    splits = data.load()
    counts = [torch.bincount(torch.cat([b["targets"] for b in batches(s)])).tolist() for s in (splits.test, splits.val)]
    assert counts == [[2, 2, 2], [2, 2, 2]]
    for batch in batches(splits.train):
        for target, row, length in zip(batch["targets"], batch["transcript"], batch["transcript_lengths"], strict=True):
            assert data.spec.class_names[target] == data.spec.transcripts.decode(row[:length].tolist())
    assert "classes: no (20), stop (20), yes (20)" in data.describe()
    write_recording(tmp_path / "words" / "loose.wav", "no")
    again = Speech(str(tmp_path / "words"), **SMALL)
    again.load()
    assert "1 audio file left out: not in a folder named after a word" in again.describe()
    for name, share in (("train", 0), ("test", 40)):
        for number in range(share, share + 20):
            word = ("yes", "no")[number % 2]
            write_recording(tmp_path / "split" / name / word / f"{number}.wav", word)
    parts = Speech(str(tmp_path / "split"), **SMALL).load()
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [18, 2, 20]


def test_the_audio_column_is_inferred_and_ambiguous_transcript_columns_are_rejected(tmp_path: Path) -> None:
    for number in range(6):
        write_recording(tmp_path / "clips" / f"{number}.wav", "ab")
    lines = ["id\tclip\tsentence\tspeaker", *(f"{n}\t{n}.wav\tab {'ab' * n}\tanna" for n in range(6))]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError) as caught:
        Speech(str(tmp_path / "a.tsv"), audio_folder=str(tmp_path / "clips"))
    assert "expected one column of texts in" in str(caught.value) and "2 such columns" in str(caught.value)
    data = Speech(str(tmp_path / "a.tsv"), transcript="sentence", audio_folder=str(tmp_path / "clips"))
    assert data.reader.columns == ("clip", "sentence") and len(data.utterances.files) == 6


def test_long_recordings_are_left_out_and_counted(table: str) -> None:
    data = Speech(table, max_seconds=0.45, **SMALL)
    splits = data.load()
    kept = sum(map(len, (splits.train, splits.val, splits.test)))
    assert kept == 37 and "3 recordings left out: longer than data.max_seconds" in data.describe()
    message = message_of(lambda: Speech(table, max_seconds=0.01, **SMALL).load())
    assert message.endswith("usable recordings in the training split, got none. Set a larger data.max_seconds")
    assert data.spec.length == 48  # 46 frames, rounded up to a multiple of 8
    again = Speech(table, max_seconds=0.45, fitted=data.fit(), **SMALL)
    assert len(again.evaluation()) == 40


@pytest.mark.parametrize(("rate", "hop_ms", "seconds"), [(22_050, 10.0, 90.0), (11_025, 10.0, 85.3), (8000, 7.3, 60.0)])
def test_no_recording_of_the_maximum_duration_has_more_steps_than_the_model_expects(
    rate: int, hop_ms: float, seconds: float
) -> None:
    features = Features(20, 25.0, hop_ms, 1, rate)  # the hop, rounded to whole samples, is shorter than hop_ms
    assert features.log_mel is not None
    frames = features.log_mel(torch.zeros(int(rate * seconds)))
    nominal = -(-(int(seconds * 1000 / hop_ms) + 1) // 8) * 8
    assert nominal < len(frames) <= features.max_steps(seconds) <= len(frames) + 1


def test_batches_have_at_most_max_tokens(table: str) -> None:
    data = Speech(table, max_seconds=1.0, max_tokens=104, **SMALL)
    sizes = [batch["inputs"].shape[:2].numel() for batch in batches(data.load().train, training=True)]
    assert max(sizes) <= 104 and len(sizes) > 3


# --- SpecAugment ------------------------------------------------------------------------------------------------------


def runs_of(hidden: Tensor) -> list[int]:
    """Return the lengths of the runs of true values."""
    values, counts = hidden.unique_consecutive(return_counts=True)
    return counts[values].tolist()


def test_masks_hide_whole_bands_and_whole_frames_inside_the_recording() -> None:
    masks, lengths = Masks(1, 5, 1, 6, 0.5), torch.randint(4, 20, (200,), generator=torch.Generator().manual_seed(0))
    batch = {"inputs": torch.ones(200, 20, 2 * 8), "lengths": lengths}
    hidden = SpecAugment(8, masks)(batch, torch.arange(200))["inputs"].view(200, 40, 8) == 0
    sizes = []
    for row, length in zip(hidden, (2 * lengths).tolist(), strict=True):
        bands, frames = row.all(0), row.all(1)
        assert torch.equal(row, bands | frames[:, None])
        assert not frames[length:].any() and len(runs_of(bands)) <= 1 and len(runs_of(frames)) <= 1
        assert int(frames.sum()) <= min(6, length // 2)
        sizes.append((int(bands.sum()), int(frames.sum())))
    assert {size for size, _ in sizes} == set(range(6)) and {size for _, size in sizes} == set(range(7))


def test_masks_depend_only_on_seed_epoch_and_example(table: str) -> None:
    options = {**SMALL, "time_masks": 2, "frequency_masks": 1, "time_mask_share": 0.5}
    splits, plain = Speech(table, **options).load(), Speech(table, **SMALL).load()
    assert splits.val.augment is None and splits.test.augment is None

    def rows(size: int, **keys: int) -> dict[int, Tensor]:
        found = Batches(splits.train, size, training=True, seed=keys.get("seed", 3))
        plan = found.plan(keys.get("epoch", 1))
        batches = found.epoch(keys.get("epoch", 1))
        return {
            index: row
            for batch, indices in zip(batches, plan, strict=True)
            for index, row in zip(indices.tolist(), steps_of(batch), strict=True)
        }

    first = rows(7)
    assert all(torch.equal(row, first[index]) for index, row in rows(3).items())
    for keys in ({"seed": 4}, {"epoch": 2}):
        assert any(not torch.equal(row, first[index]) for index, row in rows(7, **keys).items())
    unsorted = Source(plain.train.rows, plain.train.prepare)
    original = [row for batch in Batches(unsorted, 8) for row in steps_of(batch)]
    for index, row in first.items():
        assert torch.equal(torch.where(row == 0, original[index], row), original[index])


# --- bad input --------------------------------------------------------------------------------------------------------


def rows_of(folder: Path, *changed: str) -> str:
    """Write recordings and a table of them with the lines `changed` from line 3 on; return the path of the table."""
    path = write_speech(folder, 30)
    lines = path.read_text().splitlines()
    lines[2 : 2 + len(changed)] = changed
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def message_of(build: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build()
    (line,) = caught.value.problems
    return line


BAD = {
    "wav/none.wav\tbe": ["an audio file in line 3 of prompts.tsv, got", "wav/none.wav, which does not exist"],
    "wav/3.wavv\tbe": ["line 3 of prompts.tsv, got", "Did you mean", "wav/3.wav? data.on_bad_sample"],
    "\tbe": ["an audio file in line 3 of prompts.tsv, got an empty cell. data.on_bad_sample"],
    "wav/1.wav\t": ["a transcript in line 3 of prompts.tsv, got an empty transcript"],
    "wav/1.wav\t...": ['a transcript in line 3 of prompts.tsv, got "...", without letters or digits'],
    "noise.wav\tbe": ["readable audio in line 3 of prompts.tsv, got", "noise.wav: Format not recognised"],
    "empty.wav\tbe": ["readable audio in line 3 of prompts.tsv, got", "empty.wav: a file without samples"],
    "wav/0.wav\tfeed fade bead": [
        "at least 15 steps for the transcript in line 3 of prompts.tsv, got 9 (0.08 seconds)"
    ],
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_rejected_with_its_number_or_skipped(line: str, tmp_path: Path) -> None:
    path = rows_of(tmp_path, line)
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(0).bytes(400))
    write_recording(tmp_path / "empty.wav", "")
    message = message_of(lambda: Speech(path, **SMALL).load())
    assert message.startswith("data.path: expected ") and all(part in message for part in BAD[line])
    assert message.endswith("data.on_bad_sample=skip skips such examples")
    skipping = Speech(path, on_bad_sample="skip", **SMALL)
    splits = skipping.load()
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 29 and len(skipping.bad.found) == 1


def test_a_character_found_only_in_held_out_transcripts_is_rejected(tmp_path: Path) -> None:
    path = rows_of(tmp_path)
    row = Speech(path, **SMALL).parts["test"][0]
    lines = Path(path).read_text().splitlines()
    lines[row + 1] = "wav/8.wav\taxe"
    Path(path).write_text("\n".join(lines) + "\n")
    message = message_of(lambda: Speech(path, **SMALL).load())
    assert message.startswith(
        f"data.path: expected only characters of the vocabulary in line {row + 2} of prompts.tsv, got x"
    )
    words = Speech(path, tokens="words", **SMALL)
    words.load()
    assert any("of the words of the validation and test splits are unknown" in line for line in words.describe())


@pytest.mark.parametrize(
    ("package", "purpose"), [("soundfile", "decodes audio files"), ("scipy", "converts 16,000 Hz")]
)
def test_the_error_message_for_a_missing_package_has_an_install_hint(
    package: str, purpose: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recording(tmp_path / "16000.wav", "abcabc", 16000)
    content = Path(table).read_text().replace("wav/", f"{Path(table).parent}/wav/")
    (tmp_path / "a.tsv").write_text(f"{content}{tmp_path}/16000.wav\ta\n")
    monkeypatch.setattr(audio_files, "find_spec", lambda name: None if name == package else name)
    message = message_of(lambda: Speech(str(tmp_path / "a.tsv"), **SMALL).load())
    assert message.startswith(f"data.path: not supported because {package}, which {purpose}")
    assert message.endswith("is not installed. Run pip install 'dltrain[speech]'.")


def test_unusable_folders_and_missing_tables_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a" / "word").mkdir(parents=True)
    assert "a folder per word with audio files" in message_of(lambda: Speech(str(tmp_path / "a")))
    for key in ("audio", "transcript", "audio_folder"):
        message = message_of(lambda key=key: Speech(str(tmp_path / "a"), **{key: "b"}))
        assert message == f"data.{key}: not supported because data.path is a folder, not a table"
    assert "a table of audio files and transcripts" in message_of(lambda: Speech(str(tmp_path / "b.tsv")))
    for word in ("no", "yes"):
        (tmp_path / "d" / word).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "d" / word / f"{number}.wav").write_text("not audio")
    message = message_of(lambda: Speech(str(tmp_path / "d"), validation=0.25, test=0.25))
    assert f"readable audio files for training, got 4 that cannot be read, such as {tmp_path / 'd'}" in message
    for split in ("train", "test"):
        for number in range(4):
            word = "unheard" if split == "test" else ("yes", "no")[number % 2]
            write_recording(tmp_path / "c" / split / word / f"{number}.wav", "ab")
    message = message_of(lambda: Speech(str(tmp_path / "c")))
    assert "with the names of words in the training folder" in message and "got unheard" in message


def test_inputs_before_an_unreadable_file_are_read(table: str, tmp_path: Path) -> None:
    data = Speech(table, **SMALL)
    data.load()
    for number in range(3):
        write_recording(tmp_path / f"{number}.wav", "ab" * (number + 1))
    (tmp_path / "3.wav").write_text(json.dumps([]))
    found = data.inputs(InputFiles((str(tmp_path),), batch_size=2))
    pieces = [next(found), next(found)]
    assert [len(piece.names) for piece in pieces] == [2, 1]
    assert pieces[0].names[1] == {"input": str(tmp_path / "1.wav"), "seconds": pytest.approx(0.32)}
    assert message_of(lambda: next(found)).startswith("INPUT 1: expected readable audio in")
