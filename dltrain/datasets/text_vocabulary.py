"""Vocabularies of language models: fitted to a text, read from a file, or restored from an earlier run."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from dltrain.data.spec import Fitted
from dltrain.datasets.computed_files import computed
from dltrain.datasets.special_token import MASK, SpecialToken
from dltrain.datasets.subword_training import BYTE_PAIRS, NAMES, WORD_PIECES, fit_byte_pairs, fit_word_pieces
from dltrain.datasets.subwords import Subwords, check_installed, lines_of
from dltrain.datasets.text_parts import TextParts
from dltrain.datasets.text_tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    PieceTokenizer,
    Tokenizer,
    as_text,
    split_pieces,
    words_of,
)
from dltrain.datasets.tokenizer_file import TokenizerFile, read_tokenizer
from dltrain.datasets.vocabularies import SPECIAL
from dltrain.errors import ConfigError, format_error

KINDS = ("characters", "bytes", "words", BYTE_PAIRS, WORD_PIECES)
FILE = "file"  # kind of a user-provided tokenizer


def fit(kind: str, parts: TextParts, min_count: int, max_words: int) -> Tokenizer:
    """Return a tokenizer of bytes, of all characters of a text, or of words or subwords of the training split.

    Args:
        kind: One of `KINDS`.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join.
        max_words: Maximum number of words or subwords; all bytes (``bpe``) or characters (``wordpiece``) are
            always kept.
    """
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "characters":
        return CharacterTokenizer(parts.characters())
    if kind in NAMES:
        check_installed(f"data.tokens={kind}")
    if parts.file is None:
        return _fit_pieces(kind, parts, min_count, max_words)
    key: dict[str, Any] = {
        "file": parts.file.scan.sha256,
        "kind": kind,
        "limits": [min_count, max_words],
        "sizes": parts.sizes,
    }
    key |= {"separator": parts.separator, "tokenizers": _version()}
    folder = computed(
        "vocabularies", key, lambda new: _write(new, kind, _fit_pieces(kind, parts, min_count, max_words))
    )
    return restore(kind, json.loads((folder / "fitted.json").read_text("utf-8")))


def _fit_pieces(kind: str, parts: TextParts, min_count: int, max_words: int) -> Tokenizer:
    """Return a tokenizer of words or subwords of the training split."""

    def texts() -> Iterable[str]:
        return map(as_text, parts.pieces(0))

    def lines() -> Iterable[str]:
        return chain.from_iterable(map(lines_of, texts()))

    if kind == "words":
        return words_of(_frequent(texts(), min_count, max_words))
    limits = min_count, max_words
    if kind == WORD_PIECES:
        content = fit_word_pieces(lines, SPECIAL, limits, lowercase=False, keep_spaces=True)
    else:
        content = fit_byte_pairs(lines(), SPECIAL, limits)
    return PieceTokenizer(Subwords([content]), NAMES[kind])


def _write(folder: Path, kind: str, tokenizer: Tokenizer) -> None:
    (folder / "fitted.json").write_text(json.dumps(state(kind, tokenizer)), "utf-8")


def fingerprint(kind: str, tokenizer: Tokenizer) -> str:
    """Return a hash of the tokenizer, followed by the version of the package tokenizers."""
    content = json.dumps([kind, state(kind, tokenizer), tokenizer.size])
    return f"{hashlib.sha256(content.encode()).hexdigest()} {_version()}"


def _version() -> str | None:
    """Return the version of the package tokenizers; None if it is not installed."""
    try:
        return version("tokenizers")
    except PackageNotFoundError:
        return None


def read(file: str) -> PieceTokenizer:
    """Return the tokenizer of a file ``tokenizer.json``; it encodes each special token in a text as one token."""
    return _of_file(read_tokenizer(file))


def restore(kind: str, fitted: Fitted) -> Tokenizer:
    """Return the tokenizer with the state that `state` returned."""
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "characters":
        return CharacterTokenizer(fitted["characters"])
    if kind == "words":
        return words_of(fitted["pieces"])
    if kind == FILE:
        return _of_file(TokenizerFile(fitted["tokenizer"]))
    check_installed(f"data.tokens={kind}")
    return PieceTokenizer(Subwords(fitted["pieces"]), NAMES[kind])


def state(kind: str, tokenizer: Tokenizer) -> Fitted:
    """Return the vocabulary: characters in Unicode order, words, or a tokenizer as JSON."""
    if isinstance(tokenizer, PieceTokenizer) and kind == FILE:
        return {"characters": "", "tokenizer": tokenizer.vocabulary.content[0]}
    if isinstance(tokenizer, PieceTokenizer):
        return {"characters": "", "pieces": tokenizer.vocabulary.content}
    characters = tokenizer.characters if isinstance(tokenizer, CharacterTokenizer) else []
    return {"characters": "".join(characters)}


def with_special(tokenizer: Tokenizer, separator: str | None, mask: bool) -> Tokenizer:
    """Return a tokenizer with an end token if documents have a separator, and with a mask token if `mask` is set.

    A tokenizer of a file keeps its own mask token. If the separator is one of its special tokens, that token is the
    end token.
    """
    if separator is not None:
        own = None
        if isinstance(tokenizer, PieceTokenizer) and isinstance(tokenizer.vocabulary, Subwords):
            found = tokenizer.vocabulary.encode(separator)
            is_own = len(found) == 1 and found[0] in tokenizer.spec.special and found[0] != tokenizer.spec.unknown
            own = found[0] if is_own else None
        tokenizer = SpecialToken(tokenizer, "end", separator, own, generated=True)
    return SpecialToken(tokenizer, "mask", MASK) if mask and tokenizer.spec.mask is None else tokenizer


def _of_file(file: TokenizerFile) -> PieceTokenizer:
    return PieceTokenizer(Subwords([file.content], literal=False), "tokens", file.tokens)


def _frequent(texts: Iterable[str], min_count: int, max_words: int) -> list[str]:
    """Return at most ``max_words`` pieces that occur at least ``min_count`` times, the most frequent first.

    Raises:
        ConfigError: No piece occurs often enough.
    """
    counts = Counter[str]()
    for text in texts:
        counts.update(split_pieces(text))
    kept = [piece for piece, count in counts.items() if count >= min_count]
    if not kept:
        most = f"at most {max(counts.values(), default=0)}, the count of the most frequent word of the training text"
        raise ConfigError(format_error("data.min_count", most, min_count))
    return sorted(kept, key=lambda piece: (-counts[piece], piece))[:max_words]
