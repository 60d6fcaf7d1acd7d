"""Tokens of language models: characters, bytes, words, subwords and user-provided tokenizers."""

import json

import pytest
from text_examples import SENTENCES, UNSEEN, batch_of, write

from dltrain.data.inputs import InputFiles
from dltrain.datasets.text import Text
from dltrain.datasets.text_tokenizers import split_pieces
from dltrain.errors import ConfigError


def test_the_joined_pieces_of_a_text_equal_the_text():
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
def test_the_targets_of_a_split_have_all_characters_after_its_first_token(tokens, tmp_path):
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
def test_the_fitted_state_restores_the_tokenizer_without_the_text_file(tokens, tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path / "a.txt", SENTENCES)
    data = Text(path, tokens=tokens, context_length=4)
    fitted = data.fit()
    (tmp_path / "a.txt").unlink()
    again = Text(path, tokens=tokens, context_length=4, fitted=fitted)
    assert again.tokenizer.encode(SENTENCES) == data.tokenizer.encode(SENTENCES)
    assert again.spec.tokens.size == data.spec.tokens.size and again.fit() == fitted


def test_a_user_tokenizer_is_read_from_its_file_and_restored_without_the_file(tmp_path):
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
def test_a_missing_file_and_a_file_that_is_not_a_tokenizer_are_rejected(content, line, tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    if content:
        write(tmp_path / "gone.json", json.dumps(json.loads(content)))
    with pytest.raises(ConfigError, match=f"^data.tokenizer: expected .*{line}"):
        Text(tokenizer="gone.json")


def test_a_user_tokenizer_keeps_its_mask_token_and_is_restored_without_its_file(tmp_path):
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


def test_describe_reports_the_vocabulary_size_and_statistics_of_the_tokens(tmp_path):
    text = "the whale " * 80 + "the ship " * 20
    data = Text(write(tmp_path / "a.txt", text), tokens="words", context_length=4)
    data.load()
    held_out = [*split_pieces(text[784:882]), *split_pieces(text[882:])]
    share = sum(piece not in (" the", " whale") for piece in held_out) / len(held_out)
    length = len(text) / (len(split_pieces(text[:784])) + len(held_out))
    expected = f"tokens: words, vocabulary of 6, {length:.1f} characters per token, {share:.1%} unknown"
    assert data.describe()[1] == f"{expected} tokens in the validation and test splits"
