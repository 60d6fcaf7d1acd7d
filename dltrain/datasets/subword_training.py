"""Tokenizers of the package tokenizers, fitted to texts: byte pair encoding and WordPiece."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Texts = Callable[[], Iterable[str]]  # returns the texts; may be called several times

BYTE_PAIRS, WORD_PIECES = "bpe", "wordpiece"
NAMES = {BYTE_PAIRS: "byte pairs", WORD_PIECES: "word pieces"}  # kind -> name of its tokens, for messages

MARK = "##"  # prefix of tokens that continue a word
MAX_CHARACTERS = 100  # maximum length of a word; longer words are unknown
# Characters that are words by themselves: BERT's punctuation marks, and ideographs.
ALONE = r"!-/:-@\[-`{-~\p{P}\p{Han}"


def fit_subwords(
    kind: str, texts: Texts, special: Sequence[str], limits: tuple[int, int], lowercase: bool = False
) -> str:
    """Return a tokenizer that is fitted to texts, as JSON.

    ``bpe`` keeps whitespace; ``wordpiece`` does not, as in BERT.

    Args:
        kind: ``bpe`` or ``wordpiece``.
        special: Special tokens, numbered from 0; the second one is the unknown token of ``wordpiece``.
        limits: Minimum frequency of the pairs of tokens that are joined, and maximum vocabulary size. Special tokens
            and all bytes or characters count toward the size but are always kept.
        lowercase: Whether the tokenizer converts texts to lower case.
    """
    if kind == WORD_PIECES:
        return fit_word_pieces(texts, special, limits, lowercase, keep_spaces=False)
    return fit_byte_pairs(texts(), special, limits, lowercase)


def fit_byte_pairs(
    texts: Iterable[str], special: Sequence[str], limits: tuple[int, int], lowercase: bool = False
) -> str:
    """Return a tokenizer of byte pairs as JSON; see `fit_subwords`.

    Source: Sennrich, Haddow and Birch 2016; on bytes, Radford et al. 2019 (GPT-2), section 2.2.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"special_tokens": list(special), "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=limits[1], min_frequency=limits[0], show_progress=False, **options)
    tokenizer.train_from_iterator(texts, trainer)
    content: str = tokenizer.to_str()
    return content


def fit_word_pieces(
    texts: Texts, special: Sequence[str], limits: tuple[int, int], lowercase: bool, keep_spaces: bool
) -> str:
    """Return a WordPiece tokenizer as JSON; see `fit_subwords`.

    A word is split into the longest token that it starts with, the longest token that continues it, and so on. A word
    that cannot be split in this way, because it has an unknown character or is too long, is one unknown token.

    Args:
        keep_spaces: Whether decoded texts have the whitespace of the original, for language models: a word includes
            the space before it, and each other whitespace character is a token. Otherwise, whitespace and control
            characters are removed, and decoded texts have a space between words, except before . ? ! and commas, as in
            BERT.

    Source: Devlin et al. 2019, "BERT", and its code.
    Differs: lowercasing keeps accents; training joins the most frequent pair, as the package does.
    """
    from tokenizers import models, trainers

    unknown: dict[str, Any] = {"unk_token": special[1], "max_input_chars_per_word": MAX_CHARACTERS}
    trained = _word_tokenizer(models.WordPiece(**unknown), lowercase, keep_spaces)
    # Pass continuing characters in a fixed order: the trainer's random order would change which pairs are joined.
    continuing = [f"{MARK}{character}" for character in _continuing_characters(trained, texts())]
    options: dict[str, Any] = {"special_tokens": [*special, *continuing], "show_progress": False}
    trainer = trainers.WordPieceTrainer(vocab_size=limits[1], min_frequency=limits[0], **options)
    trained.train_from_iterator(texts(), trainer)
    vocabulary = trained.get_vocab(with_added_tokens=False)
    tokenizer = _word_tokenizer(models.WordPiece(vocabulary, **unknown), lowercase, keep_spaces)
    tokenizer.add_special_tokens(list(special))
    content: str = tokenizer.to_str()
    return content


def _word_tokenizer(model: Any, lowercase: bool, keep_spaces: bool) -> "Tokenizer":
    """Return a tokenizer that splits a text into words, and the words into tokens of `model`."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer: Any = Tokenizer(model)
    if keep_spaces:
        words = Regex(rf" ?(?:[{ALONE}]|[^\s{ALONE}]+)|\s")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex(f"^{MARK}"), ""), decoders.Fuse()])
    else:
        tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix=MARK)
    return tokenizer


def _continuing_characters(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Return the characters of texts that may follow another character in a word, in Unicode order."""
    found = set[str]()
    for text in texts:
        found.update(text)
    if tokenizer.normalizer is not None:
        found = {each for character in found for each in tokenizer.normalizer.normalize_str(character)}
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    return sorted(each for each in found if any(split(word) == [(word, (0, 2))] for word in (f"a{each}", f" {each}")))
