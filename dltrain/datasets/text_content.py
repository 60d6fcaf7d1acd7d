"""The content of a text file."""

from pathlib import Path

from dltrain.errors import ConfigError, format_error

HINT = "Use data.tokens=bytes for other files"


def read_utf8(path: Path, hint: str = HINT) -> str:
    """Return the text of a UTF-8 file.

    Args:
        hint: Hint in the error for a file that is not UTF-8.

    Raises:
        ConfigError: The file is empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, hint) from error
    if not text:
        raise ConfigError(format_error("data.path", f"text at {path}", "an empty file"))
    return text


def not_utf8(path: Path, error: UnicodeDecodeError, hint: str = HINT) -> ConfigError:
    """Return the error for a file that is not UTF-8."""
    return ConfigError(format_error("data.path", f"UTF-8 text at {path}", str(error), hint))
