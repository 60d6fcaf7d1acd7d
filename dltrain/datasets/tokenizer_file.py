"""Read tokenizers, such as those of pretrained models, from ``tokenizer.json`` files of the package tokenizers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dltrain.data.checks import existing_file
from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError, format_error

KEY = "data.tokenizer"
# Names of special tokens in published tokenizers, and in tokenizers that are fitted to texts.
NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "begin": ("[CLS]", "<s>", "<cls>", "<begin>"),
    "end": ("[SEP]", "</s>", "<sep>", "<end>"),
    "mask": ("[MASK]", "<mask>"),
    "unknown": ("[UNK]", "<unk>", "<unknown>"),
}


class TokenizerFile:
    """Tokenizer from a ``tokenizer.json`` file, with truncation and padding disabled.

    Args:
        content: The JSON text of the file.

    Raises:
        ConfigError: The package tokenizers is not installed, or cannot read the content.
    """

    def __init__(self, content: str) -> None:
        if find_spec("tokenizers") is None:
            reason = "the package tokenizers, which reads it, is not installed"
            raise ConfigError(f"{KEY}: not supported because {reason}. Run pip install 'dltrain[text]'.")
        from tokenizers import Tokenizer

        self.content = content
        try:
            self.tokenizer: Any = Tokenizer.from_str(content)
        except Exception as error:  # tokenizers raises a bare Exception
            raise ConfigError(format_error(KEY, "a file tokenizer.json of the package tokenizers", error)) from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        numbers = self.tokenizer.get_vocab(with_added_tokens=True).values()
        self.size: int = 1 + max(numbers, default=-1)  # not the number of tokens: indices may have gaps

    @property
    def tokens(self) -> Tokens:
        """The vocabulary as `Tokens`; special tokens are found by their usual names."""
        special: dict[str, Any] = {part: self._find(names) for part, names in NAMES.items()}
        return Tokens(self.size, **special, encode=self.encode, decode=self.decode)

    def _find(self, names: tuple[str, ...]) -> int | None:
        numbers = (self.tokenizer.token_to_id(name) for name in names)
        return next((number for number in numbers if number is not None), None)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without begin and end tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of a text, and the character span (start, end) of each token, end exclusive."""
        found = self.tokenizer.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, including special tokens."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=False)
        return text


def read_tokenizer(path: str) -> TokenizerFile:
    """Read a tokenizer from a file.

    Raises:
        ConfigError: The file does not exist or is not a tokenizer, or the package tokenizers is not installed.
    """
    file = existing_file(path, "an existing file tokenizer.json", KEY)
    try:
        return TokenizerFile(Path(file).read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(format_error(KEY, f"a file in UTF-8 at {file}", str(error))) from None
