"""Empty files, and files whose documents are empty, are rejected with a one-line message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dltrain.datasets.conll import Conll
from dltrain.datasets.parallel import Parallel
from dltrain.datasets.speech import Speech
from dltrain.datasets.squad import Squad
from dltrain.datasets.text import Text
from dltrain.datasets.text_table import TextTable
from dltrain.errors import ConfigError

NO_ROWS = "expected a header line and at least one row in a.csv, got no rows"
NO_ARTICLES = "expected at least 3 articles with questions in a.json, got 0"
NO_CONTEXT = '{"data": [{"paragraphs": [{"context": "", "qas": [{"question": "Who?", "answers": [{"text": "x", '
NO_CONTEXT += '"answer_start": 0}]}]}]}]}'


@pytest.mark.parametrize(
    ("data", "name", "content", "message"),
    [
        (Text, "a.txt", "", "expected text at a.txt, got an empty file"),
        (Text, "a.txt", "\n \n", "expected fewer tokens than each split of a.txt has, got 64. One split has 1. "),
        (TextTable, "a.csv", "", NO_ROWS),
        (TextTable, "a.csv", "text,kind\n", NO_ROWS),
        (Parallel, "a.csv", "\n\n", NO_ROWS),
        (Speech, "a.csv", "path,transcript\n", NO_ROWS),
        (Conll, "a.conll", "\n\n\n", "expected at least 3 sentences in a.conll, separated by empty lines, got 0"),
        (Squad, "a.json", "", "expected JSON in a.json, got invalid JSON in line 1, column 1 (Expecting value)"),
        (Squad, "a.json", '{"data": []}', NO_ARTICLES),
        (Squad, "a.json", NO_CONTEXT, "expected a context that holds the answer 'x' at character 0 in question Who?"),
    ],
)
def test_empty_files_and_empty_documents_are_rejected_with_a_one_line_message(
    data: Callable[..., Any],
    name: str,
    content: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        data(name).load()
    (line,) = caught.value.problems
    assert line.startswith("data.") and f": {message}" in line
