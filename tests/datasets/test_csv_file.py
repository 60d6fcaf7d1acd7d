"""CSV files: what is no table, no name and no number is refused, and said by column and line."""

from pathlib import Path

import pytest

from dltrain.data.inputs import InputFiles
from dltrain.datasets import csv_file
from dltrain.datasets.table import CsvTable
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError


def written(folder: Path, name: str, header: str, rows: int = 60) -> str:
    """A file of as many numbers per row as there are names."""
    columns = header.count(",") + 1
    lines = [",".join(f"{row * (place + 1) % 37}.25" for place in range(columns)) for row in range(rows)]
    (folder / name).write_text("\n".join([header, *lines]))
    return str(folder / name)


@pytest.mark.parametrize(
    ("header", "said"), [("x,x,y", "column called x"), ("x,y,y", "column called y"), (",,y", "column without a name")]
)
def test_a_table_in_which_columns_share_a_name_is_refused(header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"data.column: expected one {said} in .*, got 2 of them"):
        CsvTable(written(tmp_path, "a.csv", header))


def test_rows_to_predict_may_repeat_names_only_of_what_the_model_does_not_see(tmp_path: Path) -> None:
    data = CsvTable(written(tmp_path, "a.csv", "a,b,y"))
    (piece,) = data.inputs(InputFiles((written(tmp_path, "others.csv", "note,a,note,b"),)))
    assert piece.rows["inputs"].shape == (60, 2)
    with pytest.raises(ConfigError, match=r"INPUT 1: expected one column called a in .*, got 2 of them"):
        next(data.inputs(InputFiles((written(tmp_path, "twice.csv", "a,a,b"),))))


def test_series_that_share_a_name_are_refused_and_so_is_one_asked_for_twice(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "a,a,b")
    for column in (None, "a", ["b", "a"]):
        with pytest.raises(ConfigError, match=r"expected one column called a in .*, got 2 of them"):
            TimeSeries(path=path, column=column, window=3, horizon=1)
    assert TimeSeries(path=path, column="b", window=3, horizon=1).spec.columns == 1
    with pytest.raises(ConfigError, match=r"data.column: expected each column once, got b, b"):
        TimeSeries(path=path, column=["b", "b"], window=3, horizon=1)


def test_digits_parted_by_underscores_are_no_number() -> None:
    (table,) = csv_file.iterate_tables(["a;b\n", "1_0;1,5\n"], Path("a.csv"), None)
    assert [table.parse_number(cell) for cell in table.rows[0]] == [None, 1.5]


def test_cells_between_tabs_are_refused_with_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\tb\n1,5\t2\n")
    with pytest.raises(ConfigError, match=r"data.path: expected cells between commas or semicolons in .*, got tabs"):
        csv_file.read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("cell", ["1e300", "-4e38"])
def test_numbers_that_no_float32_holds_are_refused_with_their_place(cell: str, tmp_path: Path) -> None:
    data = CsvTable(path := written(tmp_path, "a.csv", "a,y"))
    text = Path(path).read_text().replace("\n5.25,", f"\n{cell},")
    (tmp_path / "large.csv").write_text(text)
    said = rf"a number between -3.4e\+38 and 3.4e\+38 in column a, line 7 of .*, got {cell}"
    for read in (
        lambda: CsvTable(str(tmp_path / "large.csv")),
        TimeSeries(path=str(tmp_path / "large.csv"), window=3, horizon=1).load,
        lambda: next(data.inputs(InputFiles((str(tmp_path / "large.csv"),)))),
    ):
        with pytest.raises(ConfigError, match=said):
            read()


def test_a_number_too_far_from_those_of_training_is_refused_with_its_place(tmp_path: Path) -> None:
    rows = "".join(f"{row}e-20,{row}\n" for row in range(60))
    (tmp_path / "a.csv").write_text("a,y\n" + rows)
    (tmp_path / "new.csv").write_text("a\n1e-20\n1e30\n")
    with pytest.raises(ConfigError, match=r"a number like those in training in column a, line 3 of .*, got 1e30"):
        next(CsvTable(str(tmp_path / "a.csv")).inputs(InputFiles((str(tmp_path / "new.csv"),))))
