"""Closed and full standard streams, and streams with a limited encoding: no output is lost silently."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COMMANDS = ["--version", "runs {run}", "evaluate {run}", "predict {run} {run}/x.npy"]


@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    "command", ["--help", *(pytest.param(command, marks=pytest.mark.faults) for command in COMMANDS)]
)
def test_a_full_standard_output_is_reported_in_one_line(
    plain_run: Path, tmp_path: Path, command: str, unbuffered: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), np.uint8))
    arguments = command.replace("{run}/x.npy", str(tmp_path / "x.npy")).format(run=plain_run)
    completed = shell(f"{arguments} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert completed.returncode == 1
    lines = [line for line in completed.stderr.splitlines() if not line.startswith(str(plain_run))]
    assert lines == ["dltrain: standard output cannot be written: No space left on device"]


@pytest.mark.faults
def test_a_run_that_cannot_print_its_result_reports_the_reason_and_can_be_resumed(tmp_path: Path) -> None:
    completed = shell(f"model=mlp data=digits device=cpu trainer.max_steps=2 hydra.run.dir={tmp_path}/run >/dev/full")
    assert completed.returncode == 1 and "Traceback" not in completed.stderr
    assert "standard output cannot be written: No space left on device" in completed.stderr
    completed = shell(f"resume {tmp_path}/run")
    assert completed.returncode == 0 and "accuracy" in completed.stdout


@pytest.mark.faults
def test_a_closed_stream_is_reported_in_one_line_if_the_command_needs_it(plain_run: Path) -> None:
    completed = shell(f"evaluate {plain_run} >&-")
    assert (completed.returncode, completed.stderr) == (
        1,
        "dltrain: standard output is closed; >/dev/null discards the output\n",
    )
    completed = shell(f"predict {plain_run} - <&-")
    assert (completed.returncode, completed.stderr) == (
        2,
        "dltrain: INPUT 1: standard input is closed\n",
    )
    for closed in ("2>&-", "<&-"):
        completed = shell(f"evaluate {plain_run} {closed}")
        assert completed.returncode == 0 and "accuracy" in completed.stdout
    assert shell("--version 2>&- >&-").returncode == 1


@pytest.mark.faults
def test_characters_outside_the_encoding_are_escaped(plain_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "é.npy", np.zeros((1, 8, 8), np.uint8))
    completed = shell(f"predict {plain_run} {tmp_path}/é.npy", PYTHONIOENCODING="ascii")
    assert json.loads(completed.stdout)["input"] == f"{tmp_path}/é.npy[0]"
    completed = shell(f"predict {plain_run} {tmp_path}/é.npy --format csv", PYTHONIOENCODING="ascii")
    assert completed.stdout.splitlines()[1].startswith(f"{tmp_path}/\\xe9.npy[0],")
    shutil.copy(tmp_path / "é.npy", tmp_path / "\udcff.npy")
    completed = shell(f"predict {plain_run} {tmp_path}/$'\\xff'.npy")
    assert json.loads(completed.stdout)["input"] == f"{tmp_path}/\udcff.npy[0]"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a dltrain command in a shell, with its redirections."""
    return subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m dltrain {command}"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
