"""Standard streams that are closed, full or in a poor alphabet: one line says so, and nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MORE = ["--version", "runs {run}", "evaluate {run}", "predict {run} {run}/x.npy"]


@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.faults)])
@pytest.mark.parametrize("words", ["--help", *(pytest.param(words, marks=pytest.mark.faults) for words in MORE)])
def test_standard_output_that_is_full_is_said_in_one_line(
    plain_run: Path, tmp_path: Path, words: str, unbuffered: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), np.uint8))
    typed = words.replace("{run}/x.npy", str(tmp_path / "x.npy")).format(run=plain_run)
    ended = shell(f"{typed} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if not line.startswith(str(plain_run))]
    assert lines == ["dltrain: standard output cannot be written: No space left on device"]


@pytest.mark.faults
def test_a_run_whose_table_cannot_be_printed_says_so_and_can_go_on(tmp_path: Path) -> None:
    said = shell(f"model=mlp data=digits device=cpu trainer.max_steps=2 hydra.run.dir={tmp_path}/run >/dev/full")
    assert said.returncode == 1 and "Traceback" not in said.stderr
    assert "standard output cannot be written: No space left on device" in said.stderr
    said = shell(f"resume {tmp_path}/run")
    assert said.returncode == 0 and "accuracy" in said.stdout


@pytest.mark.faults
def test_streams_that_are_closed_end_in_one_line_or_are_not_missed(plain_run: Path) -> None:
    said = shell(f"evaluate {plain_run} >&-")
    assert (said.returncode, said.stderr) == (
        1,
        "dltrain: standard output is closed; >/dev/null discards the output\n",
    )
    said = shell(f"predict {plain_run} - <&-")
    assert (said.returncode, said.stderr) == (2, "dltrain: INPUT 1: expected standard input, got a closed one\n")
    for closed in ("2>&-", "<&-"):
        said = shell(f"evaluate {plain_run} {closed}")
        assert said.returncode == 0 and "accuracy" in said.stdout
    assert shell("--version 2>&- >&-").returncode == 1


@pytest.mark.faults
def test_letters_that_standard_output_has_not_are_written_as_numbers(plain_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "é.npy", np.zeros((1, 8, 8), np.uint8))
    said = shell(f"predict {plain_run} {tmp_path}/é.npy", PYTHONIOENCODING="ascii")
    assert json.loads(said.stdout)["input"] == f"{tmp_path}/é.npy[0]"
    said = shell(f"predict {plain_run} {tmp_path}/é.npy --format csv", PYTHONIOENCODING="ascii")
    assert said.stdout.splitlines()[1].startswith(f"{tmp_path}/\\xe9.npy[0],")
    shutil.copy(tmp_path / "é.npy", tmp_path / "\udcff.npy")
    said = shell(f"predict {plain_run} {tmp_path}/$'\\xff'.npy")
    assert json.loads(said.stdout)["input"] == f"{tmp_path}/\udcff.npy[0]"


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of dltrain as a shell runs it, with its redirections."""
    return subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m dltrain {words}"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
