"""``dltrain inspect``: how a data set reads a file, including a file that training rejects."""

from pathlib import Path

import pytest

from dltrain.cli import main


def inspect(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, list[str], list[str]]:
    """Run ``dltrain inspect``; return its exit code and its lines on standard output and standard error."""
    code = main.main(["inspect", *overrides])
    output = capsys.readouterr()
    return code, output.out.splitlines(), output.err.splitlines()


@pytest.mark.parametrize("data", ["csv", "timeseries"])
def test_a_file_with_missing_values_is_described_before_it_is_rejected(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"csv": [], "timeseries": ["data.window=5", "data.horizon=1", "data.season=1"]}
    path = tmp_path / "sales.csv"
    rows = [f"2024-01-{day:02},{'' if day % 5 == 0 else day * 1.5},{'ab'[day % 2]},{day}" for day in range(1, 29)]
    path.write_text("\n".join(["day,price,shop,units", *rows]))
    code, output, errors = inspect(capsys, f"data={data}", "data.column=price", f"data.path={path}", *sizes[data])
    assert code == 2
    assert output == [
        "sales.csv: 28 rows, 4 columns",
        "dates: day",
        "numbers: price, units",
        "words: shop",
        "missing values: price 5",
    ]
    assert len(errors) == 1 and "expected a value in column price, line 6 of" in errors[0]


def test_a_missing_file_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, errors = inspect(capsys, "data=csv", "data.path=nowhere.csv")
    assert (code, output, len(errors)) == (2, [], 1)


def test_a_table_without_usable_columns_is_rejected_with_the_reason_for_each_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reviews.csv"
    rows = [f"{number},review number {number} of the film,{number % 2}" for number in range(40)]
    path.write_text("\n".join(["id,text,liked", *rows]))
    code, _, errors = inspect(capsys, "data=csv", f"data.path={path}")
    assert code == 2
    assert "Left out: id (identifiers), text (a different text in most rows)" in errors[0]
