"""CSV files: delimiters, number formats, and errors with column and line."""

import csv
from pathlib import Path

import numpy as np
import pytest

from dltrain.data.inputs import InputFiles
from dltrain.datasets import csv_file
from dltrain.datasets.table import CsvTable
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError


def write_table(folder: Path, name: str, header: str, rows: int = 60) -> str:
    """Write a CSV file of numbers; return its path."""
    columns = header.count(",") + 1
    lines = [",".join(f"{row * (column + 1) % 37}.25" for column in range(columns)) for row in range(rows)]
    (folder / name).write_text("\n".join([header, *lines]))
    return str(folder / name)


@pytest.mark.parametrize(
    ("header", "message"),
    [("x,x,y", "column called x"), ("x,y,y", "column called y"), (",,y", "column without a name")],
)
def test_duplicate_column_names_are_rejected(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data.column: expected one {message} in .*, got 2 of them"):
        CsvTable(write_table(tmp_path, "a.csv", header))


def test_only_unused_columns_of_an_input_file_may_have_duplicate_names(tmp_path: Path) -> None:
    data = CsvTable(write_table(tmp_path, "a.csv", "a,b,y"))
    (piece,) = data.inputs(InputFiles((write_table(tmp_path, "others.csv", "note,a,note,b"),)))
    assert piece.rows["inputs"].shape == (60, 2)
    with pytest.raises(ConfigError, match=r"INPUT 1: expected one column called a in .*, got 2 of them"):
        next(data.inputs(InputFiles((write_table(tmp_path, "twice.csv", "a,a,b"),))))


def test_duplicate_series_names_and_repeated_entries_of_data_column_are_rejected(tmp_path: Path) -> None:
    path = write_table(tmp_path, "a.csv", "a,a,b")
    for column in (None, "a", ["b", "a"]):
        with pytest.raises(ConfigError, match=r"expected one column called a in .*, got 2 of them"):
            TimeSeries(path=path, column=column, window=3, horizon=1)
    assert TimeSeries(path=path, column="b", window=3, horizon=1).spec.columns == 1
    with pytest.raises(ConfigError, match=r"data.column: expected each column once, got b, b"):
        TimeSeries(path=path, column=["b", "b"], window=3, horizon=1)


def test_digits_with_underscores_are_text() -> None:
    (table,) = csv_file.iterate_tables(["a;b\n", "1_0;1,5\n"], Path("a.csv"), None)
    assert table.text_mask(0).all() and table.numbers(1).tolist() == [1.5]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_inferred_from_the_rows(delimiter: str, tmp_path: Path) -> None:
    names = ["area, m²", "price; net", "a|b"]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *([row, row + 0.5, f"w{row}"] for row in range(9))])
    table = csv_file.read_csv(tmp_path / "a.csv")
    assert table.header == names
    assert table.numbers(1).tolist() == [row + 0.5 for row in range(9)]


def test_the_delimiter_may_be_declared_in_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=;\na,b;c\n1;2\n3;4\n")
    table = csv_file.read_csv(tmp_path / "a.csv")
    assert table.header == ["a,b", "c"] and table.lines.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.234,5", "2,25"], [1234.5, 2.25]),
        (["1,234.5", "2.25"], [1234.5, 2.25]),
        (["1'234.5", "2.25"], [1234.5, 2.25]),
        (["1 234,5", "2,25"], [1234.5, 2.25]),
        (["1\u202f234,5", "2,25"], [1234.5, 2.25]),
        (["12,34,567", "3.5"], [1234567, 3.5]),
        (["1.234.567", "3"], [1234567, 3]),
        (["−1,5", "2"], [-1.5, 2]),
        (["4.136", "1234"], [4.136, 1234]),
        (["12 %", "7.5 %"], [12, 7.5]),
        (["$1,234.50", "$3.00"], [1234.5, 3]),
    ],
)
def test_decimal_and_thousands_separators_are_inferred(cells: list[str], expected: list[float], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n" + "".join(f"{cell};x\n" for cell in cells))
    assert csv_file.read_csv(tmp_path / "a.csv").numbers(0).tolist() == expected


@pytest.mark.parametrize("missing", ["-", "none", "NA"])
def test_a_unit_is_removed_from_numbers_in_a_column_with_missing_values(missing: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"a;b\n5 %;x\n{missing};x\n7.5 %;x\n")
    table = csv_file.read_csv(tmp_path / "a.csv")
    assert table.is_numeric(0)
    np.testing.assert_array_equal(table.numbers(0), [5, np.nan, 7.5])


@pytest.mark.parametrize("cells", [["4.136", "249"], ["4,136", "2,500"], ["4.136", "12.500"]])
def test_ambiguous_numbers_are_rejected_unless_data_decimal_is_set(cells: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n" + "".join(f"{cell};x\n" for cell in cells))
    message = r"^data.decimal: expected .* in column a, line 2 of .*, got 4.136, which may be 4136 or 4.136. Set"
    with pytest.raises(ConfigError, match=message):
        csv_file.read_csv(tmp_path / "a.csv")
    grouped = csv_file.read_csv(tmp_path / "a.csv", csv_file.Notation(decimal="comma" if "." in cells[0] else "point"))
    assert grouped.numbers(0)[0] == 4136


def test_two_decimal_marks_in_one_file_are_rejected_with_an_example_of_each(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n1.5;2,5\n2.5;3,5\n")
    with pytest.raises(ConfigError, match=r"one decimal mark in .*, got 1.5 in column a and 2,5 in column b"):
        csv_file.read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("word", ["NULL", "None", "?", "N/A", "-", "#N/A", "n.a."])
def test_a_numeric_column_with_words_for_missing_values_stays_numeric(word: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"a,b\n1.5,x\n{word},y\n")
    table = csv_file.read_csv(tmp_path / "a.csv")
    assert table.is_numeric(0) and table.missing_mask(0).tolist() == [False, True]


def test_additional_words_for_missing_values_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1.5,x\nbroken,y\n")
    table = csv_file.read_csv(tmp_path / "a.csv", csv_file.Notation(missing_words=["Broken"]))
    assert table.is_numeric(0) and table.missing_mask(0).tolist() == [False, True]


@pytest.mark.parametrize("first", ["4.6,3.1,rosa", "2020-01-01,5.2,rosa", "1,2,3"])
def test_a_file_without_column_names_is_rejected_with_a_hint_to_data_header(first: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{first}\n" * 5)
    with pytest.raises(ConfigError, match=r"expected column names in the first line.*data.header=false"):
        csv_file.read_csv(tmp_path / "a.csv")
    table = csv_file.read_csv(tmp_path / "a.csv", csv_file.Notation(header=False))
    assert len(table) == 5 and table.header == ["column_1", "column_2", "column_3"]


def test_years_in_the_first_line_are_column_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("country,2019,2020\nChile,1.5,2.5\nPeru,3.5,4.5\n")
    assert csv_file.read_csv(tmp_path / "a.csv").numbers(1).tolist() == [1.5, 3.5]


def test_utf16_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("größe\tb\n1,5\tx\n2,5\ty\n", encoding="utf-16")
    table = csv_file.read_csv(tmp_path / "a.csv")
    assert table.header == ["größe", "b"] and table.numbers(0).tolist() == [1.5, 2.5]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_rejected_if_data_header_is_false(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"^data.path: expected at least one row in .*a.csv, got no rows$"):
        CsvTable(str(tmp_path / "a.csv"), header=False)


def test_a_line_that_is_not_utf8_is_rejected_with_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,x\n2,\xff\n")
    with pytest.raises(ConfigError, match=r"^data.path: expected UTF-8 text in line 3 of .*a.csv, got \\xff"):
        csv_file.read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("cell", ["1e300", "-4e38"])
def test_numbers_outside_the_range_of_float32_are_rejected_with_column_and_line(cell: str, tmp_path: Path) -> None:
    data = CsvTable(path := write_table(tmp_path, "a.csv", "a,y"))
    text = Path(path).read_text().replace("\n5.25,", f"\n{cell},")
    (tmp_path / "large.csv").write_text(text)
    message = rf"expected a number between -3.4e\+38 and 3.4e\+38 in column a, line 7 of .*, got {cell}"
    for key, read in {
        "data.path": lambda: CsvTable(str(tmp_path / "large.csv")),
        "data.column": lambda: TimeSeries(path=str(tmp_path / "large.csv"), window=3, horizon=1),
        "INPUT 1": lambda: next(data.inputs(InputFiles((str(tmp_path / "large.csv"),)))),
    }.items():
        with pytest.raises(ConfigError, match=f"^{key}: {message}"):
            read()


def test_a_number_far_outside_the_training_range_is_rejected_with_column_and_line(tmp_path: Path) -> None:
    rows = "".join(f"{row}e-20,{row}\n" for row in range(60))
    (tmp_path / "a.csv").write_text("a,y\n" + rows)
    (tmp_path / "new.csv").write_text("a\n1e-20\n1e30\n")
    message = "a number within the range of float32 after standardization, in column a, line 3 of .*, got 1e30"
    with pytest.raises(ConfigError, match=message):
        next(CsvTable(str(tmp_path / "a.csv")).inputs(InputFiles((str(tmp_path / "new.csv"),))))
