"""Random overrides compose or give an error message and exit code 2; they create no files."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dltrain.cli.main import main
from dltrain.config.compose import compose
from dltrain.config.validation import leaves

CHOICES = [
    ["model=mlp", "data=digits"],
    ["model=lstm", "data=timeseries"],
    ["model=gan", "data=ring"],
    ["model=gpt", "data=text"],
]
VALUES = [
    "-1",
    "0",
    "1e999",
    "1e39",
    "1" * 5000,
    "nan",
    "inf",
    "null",
    "true",
    "''",
    "[]",
    "{}",
    "[1,2]",
    "{a: 1}",
    "-",
]
VALUES += ["${data}", "${spec.size}", "${spec.sise}", "${nope}", "${oc.env:HOME}", "${trainer}", "${", "a,b", "1 epoch"]
VALUES += ["glob(*)", "range(1,3)", "'", '"', "\\", "a=b", "#", "é", "0x10", "1_0", "???", "~", "2**3", "none", "auto"]


def misspell(random: np.random.Generator, word: str) -> str:
    """Change, drop or double one letter of a word."""
    position = int(random.integers(len(word)))
    return word[:position] + random.choice(["", "x", word[position] * 2]) + word[position + 1 :]


def random_words(random: np.random.Generator, keys: list[str]) -> list[str]:
    """Return one to three overrides with random keys and values, many of them invalid."""
    words = []
    for _ in range(random.integers(1, 4)):
        key = str(random.choice(keys))
        key = misspell(random, key) if random.random() < 0.2 else key
        sign = random.choice(["", "", "", "", "+", "++", "~"])
        words.append(sign + key + ("" if sign == "~" and random.random() < 0.5 else f"={random.choice(VALUES)}"))
    return words


@functools.cache
def keys_of(*choices: str) -> list[str]:
    """Return every key of a composed configuration, including groups."""
    config: Any = compose(list(choices)).config
    dotted = [key for key, _ in leaves(config)]
    return sorted({*dotted, *(key.rpartition(".")[0] or key for key in dotted), *config})


def check_composition(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Compose a configuration with random overrides; the exit code must be 0 or 2, without a traceback."""
    random = np.random.default_rng(seed)
    choices = CHOICES[seed % len(CHOICES)]
    words = random_words(random, keys_of(*choices))
    code = main([*choices, *words, "--cfg", "job"])
    error = capfd.readouterr().err
    assert code in (0, 2), (seed, words, code, error)
    assert "Traceback" not in error, (seed, words, error)
    assert code == 0 or error.startswith("dltrain: "), (seed, words, error)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_random_overrides_compose_or_give_an_error_message(
    empty_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*CHOICES[0], "--cfg", "job"]) == 0
    for seed in range(12):
        check_composition(seed, capfd)
    assert not list(empty_folder.iterdir())


@pytest.mark.slow
def test_many_more_random_overrides_compose_or_give_an_error_message(
    empty_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(12, 400):
        check_composition(seed, capfd)
    assert not list(empty_folder.iterdir())
