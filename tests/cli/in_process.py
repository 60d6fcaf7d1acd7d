"""Run `dltrain` in the test process."""

import json
from typing import Any, NamedTuple

import pytest

from dltrain.cli import main


class Result(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines on standard output of a successful command."""
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def run_command(capsys: pytest.CaptureFixture[str], *words: object) -> Result:
    """Run ``dltrain`` with arguments and return its exit code and output."""
    capsys.readouterr()
    code = main.main([str(word) for word in words])
    return Result(code, *capsys.readouterr())
