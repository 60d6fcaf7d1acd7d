"""WordPiece tokenizers fitted to training texts, compared with BERT's algorithm and with the package `tokenizers`."""

import unicodedata
from pathlib import Path

import pytest

from dltrain.data.loader import Batches
from dltrain.datasets import vocabularies
from dltrain.datasets.subword_training import fit_word_pieces
from dltrain.datasets.text import BUNDLED, Text
from dltrain.datasets.vocabularies import BEGIN, END, PAD, SPECIAL, UNKNOWN
from dltrain.errors import ConfigError

tokenizers = pytest.importorskip("tokenizers")

BOOK = BUNDLED.read_text("utf-8")
PIECES = [line for line in BOOK[:30_000].splitlines() if line.strip()]
HARD = [
    "Café naïve — don't_stop (12.5%)!",
    "東京 x\u00a0y 🐋 zyzzyva",
    "  a\tb  ",
    "a\u200db",
    "$5 + ^_^ ~ `q` “é”",
    "##a b#c",
]


def split_as_bert(text: str) -> list[str]:
    """Return words and punctuation marks, by the rules of BERT's basic tokenizer."""
    spaced = ""
    for character in text:
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cf") and character not in "\t\n\r":
            continue
        alone = kind[0] == "P" or character in "$+<=>^`|~" or "\u4e00" <= character <= "\u9fff"
        spaced += f" {character} " if alone else " " if kind == "Zs" or character.isspace() else character
    return spaced.split()


def longest_match_first(word: str, known: dict[str, int]) -> list[int]:
    """Return the tokens of a word, by the algorithm of BERT's WordPiece tokenizer."""
    found, start = list[int](), 0
    while start < len(word):
        ends = (end for end in range(len(word), start, -1) if "##" * (start > 0) + word[start:end] in known)
        if len(word) > 100 or (end := next(ends, None)) is None:
            return [UNKNOWN]
        found.append(known["##" * (start > 0) + word[start:end]])
        start = end
    return found


def known_tokens(content: str) -> dict[str, int]:
    known: dict[str, int] = tokenizers.Tokenizer.from_str(content).get_vocab()
    return known


def test_words_are_split_into_pieces_as_in_bert() -> None:
    vocabulary = vocabularies.fit("wordpiece", PIECES, lowercase=False, min_count=2, max_words=1500)
    known = known_tokens(vocabulary.content[0])
    assert vocabulary.size == len(known) == 1500 and [known[name] for name in SPECIAL] == [0, 1, 2, 3]
    for text in [*PIECES[::7], *HARD, "a" * 100, "a" * 101]:
        expected = [token for word in split_as_bert(text) for token in longest_match_first(word, known)]
        assert vocabulary.encode(text) == expected, text
    assert vocabulary.encode("a" * 101) == [UNKNOWN] != vocabulary.encode("a" * 100)


def test_continuation_tokens_are_added_to_the_vocabulary_of_the_tokenizers_trainer() -> None:
    words = ["hug"] * 10 + ["pug"] * 5 + ["pun"] * 12 + ["bun"] * 4 + ["hugs"] * 5 + ["Hugs,pun"] * 3
    own = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=500, min_frequency=3, show_progress=False)
    own.train_from_iterator(words, trainer)
    vocabulary = vocabularies.fit("wordpiece", words, lowercase=False, min_count=3, max_words=500)
    found = set(known_tokens(vocabulary.content[0])) - set(SPECIAL)
    assert {"hug", "##ug", "##un", "hugs", "Hugs", ","} <= found
    others = found - set(own.get_vocab())
    assert set(own.get_vocab()) <= found and others <= {"##h", "##p", "##b", "##H"}, (
        "each additional token is ## followed by a character that never continues a word"
    )


def test_decoded_texts_equal_the_output_of_the_tokenizers_decoder() -> None:
    vocabulary = vocabularies.fit("wordpiece", PIECES, lowercase=True, min_count=2, max_words=1500)
    names = {number: name for name, number in known_tokens(vocabulary.content[0]).items()}
    decoder = tokenizers.decoders.WordPiece()
    for text in PIECES[::7]:
        tokens = vocabulary.encode(text)
        assert vocabulary.decode([BEGIN, *tokens, END, PAD]) == decoder.decode([names[token] for token in tokens])
        assert "".join(vocabulary.decode(tokens).split()) == "".join(text.lower().split())
    assert vocabulary.decode(vocabulary.encode("Call me Ishmael, whale.")) == "call me ishmael, whale."


def test_lowercasing_keeps_accents() -> None:
    vocabulary = vocabularies.fit("wordpiece", ["Él está AQUÍ"] * 3, lowercase=True, min_count=1, max_words=100)
    assert vocabulary.decode(vocabulary.encode("ÉL ESTÁ aquí")) == "él está aquí"


def test_tokens_of_a_language_model_preserve_case_and_white_space(tmp_path: Path) -> None:
    text = "".join(f"{line}\n" for line in HARD) * 5 + BOOK[:25_000]
    (tmp_path / "a.txt").write_text(text, "utf-8")
    data = Text(str(tmp_path / "a.txt"), tokens="wordpiece", context_length=8, max_words=1000)
    assert data.spec.tokens.unknown == UNKNOWN and data.spec.tokens.size == 1000
    text = text[:20_000]  # within the training split
    part = data.tokenizer.encode_content(text)
    assert data.spec.tokens.decode(part.tokens.tolist()) == text
    assert int(part.sizes.sum()) == len(text) and not part.spelling.any()
    known = known_tokens(data.fit()["pieces"][0])
    words = [" Ishmael", "—", "Ishmael", " the", ".", " “", "\n", " whale"]
    expected = [token for word in words for token in longest_match_first(word, known)]
    assert data.spec.tokens.encode("".join(words)) == expected


def test_a_word_without_pieces_is_one_unknown_token_and_its_bytes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the whale and the ship\n" * 50 + "the whäle and\n" * 20, "utf-8")
    data = Text(str(tmp_path / "a.txt"), tokens="wordpiece", context_length=8, validation=0.1, test=0.1)
    part = data.tokenizer.encode_content("the whäle and " + "a" * 101)
    assert (part.tokens == UNKNOWN).sum() == 2
    assert part.spelling[part.tokens == UNKNOWN].tolist() == [len(" whäle".encode()) + 1, len(" " + "a" * 101) + 1]
    assert int(part.sizes.sum()) == len("the whäle and " + "a" * 101)
    splits = data.load()
    spelled = sum(int(batch["spelling"].sum()) for batch in Batches(splits.test, 64))
    count = sum(int((batch["targets"] == UNKNOWN).sum()) for batch in Batches(splits.test, 64))
    assert count > 5 and spelled == count * (len(" whäle".encode()) + 1)
    with pytest.raises(ConfigError, match="text: expected word pieces of the training text, got 'whäle'"):
        data.spec.tokens.encode("the whäle")


def test_fitting_is_deterministic_although_the_tokenizers_trainer_is_not() -> None:
    def own() -> dict[str, int]:
        trained = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        trained.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=400, show_progress=False)
        trained.train_from_iterator(PIECES[:100], trainer)
        vocabulary: dict[str, int] = trained.get_vocab()
        return vocabulary

    assert own() != own(), "tokenizers is deterministic: a fixed order of characters is no longer needed"
    for keep_spaces in (True, False):
        one, other = (fit_word_pieces(lambda: PIECES, SPECIAL, (2, 400), False, keep_spaces) for _ in range(2))
        assert one == other


def test_a_separator_that_the_training_documents_do_not_contain_is_not_the_unknown_token(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the whale|a ship|" * 50, "utf-8")
    data = Text(str(tmp_path / "a.txt"), tokens="wordpiece", separator="|", context_length=4)
    assert data.spec.tokens.end == data.spec.tokens.size - 1 != data.spec.tokens.unknown
