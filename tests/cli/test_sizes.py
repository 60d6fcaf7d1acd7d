"""Commands on models that exceed the memory end with exit code 4."""

from pathlib import Path

import pytest

from dltrain.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=mlp", "data=digits", "model.hidden_size=1000000000000"],
        ["model=lstm", "model.hidden_size=9007199254740991"],
        ["summary", "model=mlp", "data=digits", "model.hidden_size=1000000000000"],
    ],
    ids=" ".join,
)
def test_commands_on_a_model_too_large_for_memory_exit_with_code_4_and_print_the_reason_in_the_last_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(arguments) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dltrain: out of memory: ") and last.endswith("Use a smaller model or less data.")
    assert not any(tmp_path.iterdir())
