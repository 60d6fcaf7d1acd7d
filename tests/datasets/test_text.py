"""Texts as windows of tokens: targets, splits, characters and bytes."""

import pytest
import torch
from text_examples import batch_of, write

from dltrain.data.fingerprint import fingerprint
from dltrain.data.inputs import InputFiles
from dltrain.datasets.text import BUNDLED, Text
from dltrain.errors import ConfigError


def test_targets_are_the_next_tokens_and_training_windows_start_at_every_position(tmp_path):
    text = "abcdefghij" * 20
    data = Text(write(tmp_path / "a.txt", text), context_length=7)
    splits = data.load()
    batch = batch_of(splits.train)
    assert batch["inputs"].shape == (160 - 7, 7) and batch["inputs"].dtype == batch["targets"].dtype == torch.int64
    for row in (0, 1, 152):
        assert data.spec.tokens.decode(batch["inputs"][row].tolist()) == text[row : row + 7]
        assert data.spec.tokens.decode(batch["targets"][row].tolist()) == text[row + 1 : row + 8]


def test_validation_and_test_windows_predict_each_token_once_except_the_first_token(tmp_path):
    text = "".join(chr(97 + number % 26) for number in range(1000))
    data = Text(write(tmp_path / "a.txt", text), context_length=10)
    splits = data.load()
    for source, part in ((splits.val, text[800:900]), (splits.test, text[900:])):
        batch = batch_of(source)
        targets = batch["targets"].flatten().tolist()
        assert data.spec.tokens.decode(targets[:99]) == part[1:] and targets[99:] == [-1]
        assert data.spec.tokens.decode(batch["inputs"].flatten().tolist()[:99]) == part[:99]


def test_the_fingerprint_of_the_bundled_text_is_the_same_as_in_earlier_versions():
    assert fingerprint(Text().load()) == {
        "train": "2ddc0f6600fcba2e",
        "val": "c521ab73ff2ffa52",
        "test": "9dd9c80ad1e8a98e",
    }


def test_stride_is_the_distance_between_training_windows(tmp_path):
    path = write(tmp_path / "a.txt", "abcdefghij" * 20)
    assert len(Text(path, context_length=7, stride=5).load().train) == (160 - 8) // 5 + 1


def test_text_windows_are_views_of_a_tensor_with_one_byte_per_token():
    rows = Text().load().train.rows["tokens"]
    assert rows.dtype == torch.uint8 and rows.untyped_storage().nbytes() == len(rows) + 64


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_decode_is_the_inverse_of_encode(tokens):
    spec = Text(tokens=tokens).spec
    text = "“Call me Ishmael.”\n— CHAPTER 1"
    numbers = spec.tokens.encode(text)
    assert spec.tokens.decode(numbers) == text
    assert min(numbers) >= 0 and max(numbers) < spec.tokens.size == spec.features


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_the_option_special_tokens_adds_a_mask_token_as_the_last_token_of_the_vocabulary(tokens):
    plain, data = (Text(tokens=tokens, special_tokens=special) for special in (False, True))
    size, tokens = plain.spec.tokens.size, data.spec.tokens
    assert (tokens.size, tokens.mask, data.spec.features) == (size + 1, size, size + 1)
    encoded = tokens.encode("Call<mask><mask>me")
    assert encoded == [*plain.spec.tokens.encode("Call"), size, size, *plain.spec.tokens.encode("me")]
    assert tokens.decode(encoded) == "Call<mask><mask>me"
    assert plain.spec.tokens.mask is None and fingerprint(data.load()) == fingerprint(plain.load())


def test_byte_tokens_are_the_bytes_of_the_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 4)
    data = Text(str(tmp_path / "a.bin"), tokens="bytes", context_length=8)
    assert data.spec.tokens.size == 256
    assert batch_of(data.load().train)["inputs"][0].tolist() == list(range(8))
    assert data.spec.tokens.decode([0xFF, 65]) == "\ufffdA"


def test_the_vocabulary_includes_characters_found_only_in_the_test_split(tmp_path):
    data = Text(write(tmp_path / "a.txt", "ab" * 90 + "xyz" * 10), context_length=4)
    assert data.spec.tokens.size == 5
    assert "z" in data.spec.tokens.decode(batch_of(data.load().test)["targets"].flatten().tolist())


def test_a_vocabulary_of_more_than_256_characters_is_supported(tmp_path):
    text = "".join(chr(0x4E00 + number) for number in range(600))
    data = Text(write(tmp_path / "a.txt", text), context_length=5)
    assert data.spec.tokens.size == 600
    assert data.spec.tokens.decode(batch_of(data.load().test)["inputs"][-1].tolist()) in text


def test_the_bundled_text_starts_and_ends_at_chapter_boundaries():
    text = BUNDLED.read_text("utf-8")
    assert text.startswith("CHAPTER 1. Loomings.") and "CHAPTER 46." in text and "CHAPTER 47." not in text


def test_encode_rejects_an_unknown_character(tmp_path):
    data = Text(write(tmp_path / "a.txt", "ab" * 100), context_length=4)
    with pytest.raises(ConfigError, match="got 'é'"):
        data.spec.tokens.encode("abé")


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "empty file"), (b"abc" * 9, "data.context_length"), (b"\xff\xfe\xfa", "data.tokens=bytes")],
)
def test_a_file_that_is_too_short_or_not_text_is_rejected(content, part, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Text(str(tmp_path / "a.txt")).load()
    assert part in str(caught.value)


def test_without_validation_there_is_no_validation_split():
    assert Text(validation=0).load().val is None


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_endings_of_inputs_are_normalized_as_in_the_training_data(tmp_path, end):
    data = Text(write(tmp_path / "a.txt", f"ab{end}" * 100), context_length=4)
    (tmp_path / "new.txt").write_bytes(f"ba{end}ab".encode())
    (piece,) = data.inputs(InputFiles((str(tmp_path / "new.txt"),)))
    assert data.spec.tokens.decode(piece.rows["tokens"][0, :-1].tolist()) == "ba\nab"


def test_unprintable_characters_are_escaped_in_the_error(tmp_path):
    data = Text(write(tmp_path / "a.txt", "ab" * 100), context_length=4)
    with pytest.raises(ConfigError, match=r"got '\\x07\\udcff'"):
        data.spec.tokens.encode("a\x07\udcff")
    assert Text(tokens="bytes").spec.tokens.encode("a\udcff") == [97, 255]
