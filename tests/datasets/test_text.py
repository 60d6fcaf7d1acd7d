import json
import shutil

import pytest
import torch

from dltrain.data.fingerprint import fingerprint
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets import long_file, mapped_tokens, subwords, text_vocabulary
from dltrain.datasets.text import BUNDLED, Text
from dltrain.datasets.text_tokenizers import split_pieces
from dltrain.errors import ConfigError


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def batch_of(source):
    return next(iter(Batches(source, len(source))))


def test_targets_are_the_next_tokens_and_training_windows_start_at_every_position(tmp_path):
    text = "abcdefghij" * 20
    data = Text(write(tmp_path / "a.txt", text), context_length=7)
    splits = data.load()
    batch = batch_of(splits.train)
    assert batch["inputs"].shape == (160 - 7, 7) and batch["inputs"].dtype == batch["targets"].dtype == torch.int64
    for row in (0, 1, 152):
        assert data.spec.tokens.decode(batch["inputs"][row].tolist()) == text[row : row + 7]
        assert data.spec.tokens.decode(batch["targets"][row].tolist()) == text[row + 1 : row + 8]


def test_validation_and_test_predict_each_token_of_their_split_after_the_first_once(tmp_path):
    text = "".join(chr(97 + number % 26) for number in range(1000))
    data = Text(write(tmp_path / "a.txt", text), context_length=10)
    splits = data.load()
    for source, part in ((splits.val, text[800:900]), (splits.test, text[900:])):
        batch = batch_of(source)
        targets = batch["targets"].flatten().tolist()
        assert data.spec.tokens.decode(targets[:99]) == part[1:] and targets[99:] == [-1]
        assert data.spec.tokens.decode(batch["inputs"].flatten().tolist()[:99]) == part[:99]


def test_the_fingerprint_equals_that_of_earlier_versions():
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
def test_with_special_tokens_the_last_token_is_the_mask(tokens):
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
def test_line_endings_of_inputs_are_normalized_as_in_training(tmp_path, end):
    data = Text(write(tmp_path / "a.txt", f"ab{end}" * 100), context_length=4)
    (tmp_path / "new.txt").write_bytes(f"ba{end}ab".encode())
    (piece,) = data.inputs(InputFiles((str(tmp_path / "new.txt"),)))
    assert data.spec.tokens.decode(piece.rows["tokens"][0, :-1].tolist()) == "ba\nab"


def test_unprintable_characters_are_escaped_in_the_error(tmp_path):
    data = Text(write(tmp_path / "a.txt", "ab" * 100), context_length=4)
    with pytest.raises(ConfigError, match=r"got '\\x07\\udcff'"):
        data.spec.tokens.encode("a\x07\udcff")
    assert Text(tokens="bytes").spec.tokens.encode("a\udcff") == [97, 255]


SENTENCES = "The  quick brown\tfox don't jump, over_it 12.5 “é”\n\n日本語 x\u00a0y 🐋\n" * 40
UNSEEN = "zyzzyva Zoë\n" * 8


def test_pieces_of_a_text_join_to_the_text():
    assert "".join(split_pieces(SENTENCES)) == SENTENCES
    assert split_pieces("a b, c\n d") == ["a", " b", ",", " c", "\n", " d"]


@pytest.mark.parametrize("tokens", ["words", "bpe"])
def test_words_and_byte_pairs_are_fitted_to_the_training_split_and_decode_to_the_text(tokens, tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path / "a.txt", SENTENCES + UNSEEN)
    data = Text(path, tokens=tokens, context_length=4, max_words=300)
    part = data.tokenizer.encode_content(SENTENCES)
    assert data.spec.tokens.decode(part.tokens.tolist()) == SENTENCES
    assert int(part.sizes.sum()) == len(SENTENCES) and not part.spelling.any()
    unseen = data.tokenizer.encode_content(UNSEEN)
    assert int(unseen.sizes.sum()) == len(UNSEEN)
    if tokens == "words":
        assert (unseen.tokens == data.spec.tokens.unknown).sum() == 16
        assert int(unseen.spelling.sum()) == 8 * (len("zyzzyva") + 1 + len(" Zoë".encode()) + 1)
    else:
        assert data.spec.tokens.decode(unseen.tokens.tolist()) == UNSEEN and not unseen.spelling.any()


@pytest.mark.parametrize("tokens", ["characters", "bytes", "words", "bpe", "wordpiece"])
def test_the_targets_of_a_split_have_all_its_characters_except_those_of_the_first_token(tokens, tmp_path):
    pytest.importorskip("tokenizers")
    data = Text(write(tmp_path / "a.txt", SENTENCES), tokens=tokens, context_length=7)
    splits = data.load()
    content = data.tokenizer.read(tmp_path / "a.txt")
    test = content[len(content) - round(0.1 * len(content)) :]
    test = test if isinstance(test, str) else test.decode(errors="ignore")
    first = data.spec.tokens.decode(data.tokenizer.encode_content(test).tokens[:1].tolist())
    assert abs(int(batch_of(splits.test)["characters"].sum()) - len(test) + len(first)) <= (tokens == "bytes")


def test_a_prompt_may_start_with_a_word_that_is_known_only_after_a_space(tmp_path):
    data = Text(write(tmp_path / "a.txt", "It was the whale\n" * 30), tokens="words", context_length=4)
    assert data.spec.tokens.decode(data.spec.tokens.encode("whale was the whale")) == " whale was the whale"
    with pytest.raises(ConfigError, match="text: expected words of the training text, got 'shark'"):
        data.spec.tokens.encode("the shark was")


@pytest.mark.parametrize("tokens", ["words", "bpe", "wordpiece"])
def test_the_fitted_vocabulary_restores_the_tokens_without_the_file(tokens, tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path / "a.txt", SENTENCES)
    data = Text(path, tokens=tokens, context_length=4)
    fitted = data.fit()
    (tmp_path / "a.txt").unlink()
    again = Text(path, tokens=tokens, context_length=4, fitted=fitted)
    assert again.tokenizer.encode(SENTENCES) == data.tokenizer.encode(SENTENCES)
    assert again.spec.tokens.size == data.spec.tokens.size and again.fit() == fitted


def test_a_tokenizer_of_the_user_is_read_from_its_file_and_kept_with_the_run(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    known = {"[UNK]": 0, "call": 1, "me": 2, "Ishmael": 3}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.add_special_tokens(["[UNK]"])
    own.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "a.txt", "call me Ishmael or\n" * 40)
    data = Text(path, tokenizer=str(tmp_path / "tokenizer.json"), context_length=4)
    assert data.spec.tokens.size == 4 and data.spec.tokens.special == (0,)
    assert data.spec.tokens.encode("me call") == own.encode("me call").ids
    part = data.tokenizer.encode_content("call me or")
    assert (
        part.tokens.tolist() == [1, 2, 0] and part.sizes.tolist() == [4, 3, 3] and part.spelling.tolist() == [0, 0, 4]
    )
    (tmp_path / "tokenizer.json").unlink()
    again = Text(path, tokenizer="gone.json", context_length=4, fitted=data.fit())
    assert again.spec.tokens.encode("me call") == [2, 1]


@pytest.mark.parametrize(("content", "line"), [(None, "got gone.json"), ("{}", "tokenizer.json")])
def test_a_file_that_is_not_a_tokenizer_is_rejected(content, line, tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    if content:
        write(tmp_path / "gone.json", json.dumps(json.loads(content)))
    with pytest.raises(ConfigError, match=f"^data.tokenizer: expected .*{line}"):
        Text(tokenizer="gone.json")


def test_a_tokenizer_of_the_user_replaces_characters_and_is_stored_with_the_run(tmp_path):
    vocabularies = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "[MASK]": 1, "call": 2, "me": 3, "ish": 4, "##mael": 5, ".": 6}
    tokenizer = vocabularies.Tokenizer(vocabularies.models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = vocabularies.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = vocabularies.decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "a.txt", "call me ishmael. " * 40)
    data = Text(path, tokenizer=str(tmp_path / "tokenizer.json"), context_length=10, special_tokens=True)
    assert (data.spec.tokens.size, data.spec.tokens.mask) == (7, 1)  # no second mask token
    row = batch_of(data.load().train)["inputs"][0].tolist()
    assert row == [2, 3, 4, 5, 6, 2, 3, 4, 5, 6] and data.spec.tokens.decode(row[:5]) == "call me ishmael."
    (tmp_path / "tokenizer.json").unlink()
    again = Text("moved.txt", tokenizer="moved.json", context_length=10, fitted=data.fit())
    (given,) = again.inputs(InputFiles(text="call me"))
    assert given.rows["tokens"].tolist() == [[2, 3, -1]]


def test_the_tokens_of_each_split_and_the_share_of_unknown_ones_are_described(tmp_path):
    text = "the whale " * 80 + "the ship " * 20
    data = Text(write(tmp_path / "a.txt", text), tokens="words", context_length=4)
    data.load()
    held_out = [*split_pieces(text[784:882]), *split_pieces(text[882:])]
    share = sum(piece not in (" the", " whale") for piece in held_out) / len(held_out)
    length = len(text) / (len(split_pieces(text[:784])) + len(held_out))
    expected = (
        f"tokens: words, vocabulary of 6, {length:.1f} characters per token, {share:.1%} of the tokens of validation"
    )
    assert data.describe()[1] == f"{expected} and test unknown"


DOCUMENTS = ["the whale", "a ship", "an old man and the sea", "Call me Ishmael", "it was", "no more"]


def documents_of(tmp_path, separator="\n\n", **settings):
    path = write(tmp_path / "a.txt", "\n\n".join(DOCUMENTS * 5) + "\n\n")
    return Text(path, separator=separator, context_length=4, **settings)


@pytest.mark.parametrize("tokens", ["characters", "bytes", "words", "bpe", "wordpiece"])
def test_documents_are_packed_between_end_tokens_and_are_not_divided_between_splits(tokens, tmp_path):
    pytest.importorskip("tokenizers")
    data = documents_of(tmp_path, tokens=tokens, min_count=1, isolate_documents=True)
    end, decode = data.spec.tokens.end, data.spec.tokens.decode
    assert end == data.spec.tokens.size - 1 and end not in data.spec.tokens.special
    splits, texts = data.load(), []
    for source in (splits.train, splits.val, splits.test):
        rows = source.rows["tokens"]
        whole = torch.cat([rows[0], rows[1:, 1:].flatten()])
        kept = whole[whole >= 0].tolist()
        assert kept[0] == end and (source is splits.train or kept[-1] == end)
        texts += decode(kept[1:]).split("\n\n")
    assert texts[:24] == DOCUMENTS * 4 and [text for text in texts if text][-5:] == (DOCUMENTS * 5)[-5:]
    assert "30 documents: 25 training, 2 validation, 3 test" in data.describe()[-1]
    batch = batch_of(splits.train)
    expected = [
        [sum(token == end for token in row[: step + 1]) for step in range(4)] for row in batch["inputs"].tolist()
    ]
    assert batch["documents"].tolist() == expected
    assert "documents" not in batch_of(documents_of(tmp_path, tokens=tokens, min_count=1).load().train)
    assert data.spec.tokens.encode("a ship\n\na ship").count(end) == 1
    again = documents_of(tmp_path, tokens=tokens, min_count=1, isolate_documents=True, fitted=data.fit())
    assert again.spec.tokens.size == data.spec.tokens.size and fingerprint(again.load()) == fingerprint(splits)


def test_the_characters_of_the_targets_include_the_separators(tmp_path):
    data = documents_of(tmp_path, min_count=1, tokens="words")
    assert int(batch_of(data.load().test)["characters"].sum()) == len("\n\n".join(DOCUMENTS[3:])) + 2


@pytest.mark.parametrize(
    ("text", "settings", "line"),
    [
        ("a\n\n\n\nb\n\nc", {"separator": r"\n\n"}, "data.path: .*got an empty document in line 3"),
        (
            "a b c d",
            {"separator": "|"},
            "data.separator: .*'|', which gives 1 document. The validation split has none.",
        ),
        ("a|b", {"separator": ""}, "data.separator: expected a text of at least one character"),
        ("a|b", {"isolate_documents": True}, "data.isolate_documents: expected false without data.separator"),
        (
            "a|b",
            {"separator": "|", "isolate_documents": True, "streams": True},
            "data.isolate_documents: not supported",
        ),
    ],
)
def test_documents_that_cannot_be_read_are_rejected(text, settings, line, tmp_path):
    with pytest.raises(ConfigError, match=line):
        Text(write(tmp_path / "a.txt", text), context_length=4, **settings).load()


def test_a_special_token_of_a_tokenizer_file_may_separate_documents(tmp_path):
    vocabularies = pytest.importorskip("tokenizers")
    own = vocabularies.Tokenizer(vocabularies.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    own.pre_tokenizer = vocabularies.pre_tokenizers.Whitespace()
    own.add_special_tokens(["<|endoftext|>"])
    own.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "a.txt", "a b a<|endoftext|>b b b<|endoftext|>" * 20)
    data = Text(path, tokenizer=str(tmp_path / "tokenizer.json"), separator="<|endoftext|>", context_length=4)
    assert (data.spec.tokens.size, data.spec.tokens.end) == (4, 3)
    assert data.load().train.rows["tokens"][0].tolist() == [3, 1, 2, 1, 3]


def batches_of(data):
    splits = data.load()
    sources = (splits.train, splits.val, splits.test, data.evaluation())
    return [list(Batches(source, 16, training=True)) for source in sources], fingerprint(splits), data.describe()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(long_file, "CHUNK_BYTES", 1_000)
    return tmp_path / "cache"


@pytest.mark.parametrize("separator", [None, ","])
@pytest.mark.parametrize("tokens", ["characters", "bytes", "words", "bpe", "wordpiece"])
def test_a_memory_mapped_text_has_the_batches_and_the_fingerprint_of_a_text_in_memory(
    tokens, separator, tmp_path, cache, monkeypatch
):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(subwords.lines_of, "__defaults__", (500,))
    monkeypatch.setattr(long_file.join_lines, "__defaults__", (500,))
    path = write(tmp_path / "a.txt", (SENTENCES + UNSEEN).replace("\n", "\r\n"))
    settings = {"tokens": tokens, "separator": separator, "context_length": 9, "stride": 5, "max_words": 300}
    kept, mapped = (Text(path, map_above=above, **settings) for above in (None, 0))
    assert kept.fit() == mapped.fit()
    expected, found = batches_of(kept), batches_of(mapped)
    assert found[1:] == expected[1:]
    for ours, own in zip(found[0], expected[0], strict=True):
        for batch, other in zip(ours, own, strict=True):
            assert batch.keys() == other.keys()
            assert all(
                batch[name].dtype == other[name].dtype and torch.equal(batch[name], other[name]) for name in batch
            )
    monkeypatch.setattr(mapped_tokens, "_write", None)  # the cache is read the second time
    monkeypatch.setattr(text_vocabulary, "_fit_pieces", None)
    again = Text(path, map_above=0, **settings)
    assert fingerprint(again.load()) == expected[1] and again.describe() == expected[2]
    (tmp_path / "a.txt").write_bytes((tmp_path / "a.txt").read_bytes() + b"more")
    with pytest.raises(TypeError):  # another file has its own cache
        Text(path, map_above=0, **settings).load()


def test_a_long_text_is_read_three_times_at_first_and_once_from_the_cache(tmp_path, cache, monkeypatch):
    reads, read = [], long_file.LongFile._read
    monkeypatch.setattr(long_file.LongFile, "_read", lambda self, digest: reads.append(1) or read(self, digest))
    path = write(tmp_path / "a.txt", SENTENCES)
    for kind, counts in (("words", (3, 1)), ("characters", (2, 1))):
        for count in counts:
            reads.clear()
            Text(path, tokens=kind, map_above=0, context_length=9).load()
            assert len(reads) == count


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "foreign", "manifest"])
def test_a_damaged_cache_is_computed_again(damage, tmp_path, cache):
    path = write(tmp_path / "a.txt", SENTENCES)
    expected = fingerprint(Text(path, map_above=0, context_length=9).load())
    (folder,) = (cache / "tokens").glob("[!.]*")
    file = folder / "tokens-0.bin"
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "delete":
        file.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("[]")
    else:
        write(tmp_path / "b.txt", SENTENCES.upper())
        Text(str(tmp_path / "b.txt"), map_above=0, context_length=9).load()
        (other,) = set((cache / "tokens").glob("[!.]*")) - {folder}
        shutil.rmtree(folder)
        other.rename(folder)
    assert fingerprint(Text(path, map_above=0, context_length=9).load()) == expected
    assert file.read_bytes() == content


def test_a_long_text_that_is_not_utf8_or_a_cache_that_cannot_be_written_is_rejected(tmp_path, cache):
    (tmp_path / "a.bin").write_bytes(b"ab\xff" * 3000)
    with pytest.raises(ConfigError, match=r"data.path: expected a text in UTF-8 .*data.tokens=bytes"):
        Text(str(tmp_path / "a.bin"), map_above=0)
    cache.write_text("a file")
    with pytest.raises(ConfigError, match=r"data.path: expected to write a cache to .*DLTRAIN_DATA"):
        Text(str(tmp_path / "a.bin"), tokens="bytes", map_above=0).load()
