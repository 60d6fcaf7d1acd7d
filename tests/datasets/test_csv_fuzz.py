"""Random tables in many notations: each is read correctly or rejected, never misread."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dltrain.datasets.csv_file import read_csv
from dltrain.errors import ConfigError

MISSING_WORDS = ["", "NA", "n/a", "NULL", "None", "?", "-", "NaN", "#N/A", "null"]
DECIMALS = {".": [",", " ", "'", "\u00a0", ""], ",": [".", " ", "'", "\u202f", ""]}


class RandomFile(NamedTuple):
    """The content of a file, the numbers and words in it, and a description of its notation for messages."""

    content: bytes
    numbers: dict[str, np.ndarray]
    words: dict[str, list[str]]
    notation: str


def write_number(value: float, digits: int, decimal: str, thousands: str) -> str:
    """Format a number with the given separators; return an empty string for NaN."""
    if np.isnan(value):
        return ""
    text = f"{value:,.{digits}f}"
    return text.replace(",", "T").replace(".", decimal).replace("T", thousands)


def random_file(random: np.random.Generator) -> RandomFile:
    """Return a CSV file with random numbers and words in a random notation."""
    rows = int(random.integers(5, 60))
    decimal = random.choice(list(DECIMALS))
    thousands = random.choice(DECIMALS[decimal])
    delimiter = random.choice([",", ";", "\t", "|"])
    numbers: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    words: dict[str, list[str]] = {}
    kinds = random.choice(["count", "price", "share", "word", "thousandth"], size=int(random.integers(2, 6)))
    for column, kind in enumerate(kinds):
        name = f"{kind}{column}" + random.choice(["", " (m²)", ", net"])
        if kind == "word":
            words[name] = texts[name] = random.choice(["red", "green, dark", "blue", 'five" wide'], rows).tolist()
            continue
        size = 10.0 ** random.integers(0, 6)
        digits = {"count": 0, "price": 2, "share": 4, "thousandth": 3}[kind]
        values = random.uniform(-size, size, rows).round(digits) + 0.0
        if random.random() < 0.3:
            values[random.random(rows) < 0.2] = np.nan
        if np.isnan(values).all():
            values[0] = 1.0
        numbers[name] = values
        word = random.choice(MISSING_WORDS)
        cells = [write_number(value, digits, decimal, thousands) or word for value in values]
        texts[name] = cells
    buffer = io.StringIO()
    quoting = random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.writer(buffer, delimiter=delimiter, quoting=int(quoting), lineterminator=random.choice(["\n", "\r\n"]))
    names = list(random.permutation(list(texts)))
    writer.writerow(names)
    writer.writerows(zip(*(texts[name] for name in names), strict=True))
    text = random.choice(["", f"sep={delimiter}\n"]) + buffer.getvalue()
    encoding = random.choice(["utf-8", "utf-8-sig", "utf-16"])
    return RandomFile(
        text.encode(encoding), numbers, words, f"{decimal!r} {thousands!r} {delimiter!r} {encoding}\n{text}"
    )


def check(path: Path, seed: int) -> bool:
    """Check that a random file is read correctly or rejected; return whether it was accepted."""
    written = random_file(np.random.default_rng(seed))
    path.write_bytes(written.content)
    try:
        table = read_csv(path)
    except ConfigError as error:
        assert str(path) in str(error), f"seed {seed}: the error does not name the file: {error}\n{written.notation}"
        return False
    for name, values in written.numbers.items():
        found = table.numbers(table.index_of(name))
        same = np.array_equal(found, values, equal_nan=True)
        assert same, f"seed {seed}, {name}: {found} instead of {values}\n{written.notation}"
    for name, words in written.words.items():
        cells = table.columns[table.index_of(name)]
        assert [cells[row] for row in range(len(table))] == words, f"seed {seed}, {name}\n{written.notation}"
    return True


def test_random_tables_are_read_correctly_or_rejected(tmp_path: Path) -> None:
    accepted = [check(tmp_path / "a.csv", seed) for seed in range(100)]
    assert np.mean(accepted) > 0.8


@pytest.mark.slow
def test_many_more_random_tables_are_read_correctly_or_rejected(tmp_path: Path) -> None:
    accepted = [check(tmp_path / "a.csv", seed) for seed in range(100, 10_000)]
    assert np.mean(accepted) > 0.8
