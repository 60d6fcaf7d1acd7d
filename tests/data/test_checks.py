"""Checks of arguments that several data sets share."""

import pytest

from dltrain.data.checks import existing_file
from dltrain.errors import ConfigError


@pytest.mark.parametrize(("path", "got"), [("", "an empty path"), ("a\0/b", "a\0/b"), (".", "the folder .")])
def test_a_path_that_is_not_a_file_is_rejected(path: str, got: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.path: expected an existing file, got {got}$"):
        existing_file(path, "an existing file")
