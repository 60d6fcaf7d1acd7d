"""The content of a text file."""

from pathlib import Path

from dltrain.errors import ConfigError, format_error


def read_utf8(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        ConfigError: The file is empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    if not text:
        raise ConfigError(format_error("data.path", f"a text at {path}", "an empty file"))
    return text


def not_utf8(path: Path, error: UnicodeDecodeError) -> ConfigError:
    """Return the error for a file that is not text."""
    hint = "Use data.tokens=bytes for other files"
    return ConfigError(format_error("data.path", f"a text in UTF-8 at {path}", str(error), hint))
