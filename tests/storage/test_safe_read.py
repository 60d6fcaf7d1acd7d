"""Small untrusted files are read if they are valid. Otherwise the result is empty or an error."""

import os
from pathlib import Path

import pytest

from dltrain.storage import safe_read


def test_valid_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, {"b": null}], "ü": 0.5}')
    assert safe_read.read_mapping(tmp_path / "a.json") == {"a": [1, {"b": None}], "ü": 0.5}
    (tmp_path / "a.yaml").write_text("a: [1, {b: c}]\n")
    assert safe_read.read_yaml_text(tmp_path / "a.yaml") == "a: [1, {b: c}]\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"3", b'"a"', b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"],
)
def test_invalid_json_and_values_other_than_objects_are_read_as_an_empty_mapping(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert safe_read.read_mapping(tmp_path / "a.json") == {}


def test_json_is_read_up_to_the_nesting_limit() -> None:
    deep = ['{"a": ' + "[" * n + "]" * n + "}" for n in (safe_read.MAX_DEPTH - 1, safe_read.MAX_DEPTH)]
    assert [bool(safe_read.parse_mapping(text)) for text in deep] == [True, False]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "gone"):
        assert safe_read.read_mapping(path) == {}
    with pytest.raises(ValueError, match="it is not a regular file"):
        safe_read.read_yaml_text(tmp_path / "pipe")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)  # a sparse file of 1 TiB
    assert safe_read.read_mapping(tmp_path / "a.json") == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (0.5, True), (10**400, False), (float("nan"), False), (True, False), ("1", False), (None, False)],
)
def test_is_number_accepts_only_numbers_with_a_finite_float_value(value: object, expected: bool) -> None:
    assert safe_read.is_number(value) == expected
