"""Description of CSV files."""

from pathlib import Path

from dltrain.datasets.csv_report import describe_csv


def test_each_column_is_described_by_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("day,number,word,mixed,empty\n2024-01-01,1,x,y,\n2024-01-02,,z,2,\n")
    assert describe_csv(str(path)) == [
        "a.csv: 2 rows, 5 columns",
        "dates: day",
        "numbers: number",
        "words: word",
        "words and numbers: mixed",
        "no values: empty",
        "missing values: number 1, empty 2",
    ]
