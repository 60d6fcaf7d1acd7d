"""Real-world tables: missing values, dates, identifiers, texts, rare classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dltrain.data.inputs import InputFiles
from dltrain.datasets.table import CsvTable
from dltrain.errors import ConfigError

RNG = np.random.default_rng(0)
ROWS = 200
DAYS = pd.Timestamp("2020-01-01") + pd.to_timedelta(RNG.integers(0, 700, ROWS), unit="D")
FRAME = pd.DataFrame(
    {
        "size": RNG.normal(5000, 3000, ROWS).round(2),
        "color": RNG.choice(["red", "green", "blue"], ROWS),
        "sold": DAYS,
        "rooms": RNG.integers(1, 9, ROWS).astype(float),
        "price": RNG.normal(0, 1, ROWS).round(4),
    }
)
FRAME.loc[::7, "size"] = np.nan
FRAME.loc[3::11, "rooms"] = np.nan
FRAME.loc[5::13, "color"] = np.nan


def write(path: Path, frame: pd.DataFrame, **options: Any) -> str:
    """Write a table to a CSV file, by default with NULL for missing values; return its path."""
    frame.to_csv(path / "a.csv", index=False, **{"na_rep": "NULL", **options})
    return str(path / "a.csv")


@pytest.mark.parametrize(
    "options",
    [{}, {"sep": ";", "decimal": ",", "na_rep": "-", "date_format": "%d.%m.%Y"}, {"sep": "\t", "na_rep": "N/A"}],
)
def test_inputs_equal_the_matrix_of_a_scikit_learn_pipeline(options: dict[str, Any], tmp_path: Path) -> None:
    frame = FRAME.fillna({"color": "none"}) if options.get("na_rep") == "-" else FRAME
    data = CsvTable(write(tmp_path, frame, **options), missing="mean")
    train = data.parts[0].numpy()
    numbers = make_pipeline(StandardScaler(), SimpleImputer())  # the scaler ignores missing values
    pipeline = make_column_transformer(
        (numbers, ["size"]), (OneHotEncoder(sparse_output=False), ["color"]), (numbers, ["rooms"])
    )
    matrix = pipeline.fit(frame.iloc[train]).transform(frame)
    known = [name for name in pipeline.get_feature_names_out() if not name.endswith("_nan")]
    matrix = pd.DataFrame(matrix, columns=pipeline.get_feature_names_out())[known].to_numpy()
    days = (frame["sold"] - frame["sold"].iloc[train].mean()) / pd.Timedelta(days=1)
    time = days / days.iloc[train].std(ddof=0)
    sold = frame["sold"].dt
    year, week = (2 * np.pi * turn for turn in (sold.day_of_year / 365.25, sold.day_of_week / 7))
    dates = np.stack([time, np.sin(year), np.cos(year), np.sin(week), np.cos(week)], axis=1)
    found = data.rows["inputs"].numpy()
    np.testing.assert_allclose(np.delete(found, slice(-6, -1), axis=1), matrix, atol=2e-5)
    np.testing.assert_allclose(found[:, -6:-1], dates, atol=2e-5)


def test_dates_in_prediction_inputs_are_read_in_the_format_of_the_training_data(tmp_path: Path) -> None:
    data = CsvTable(write(tmp_path, FRAME.drop(columns="color"), date_format="%d/%m/%Y"), missing="mean")
    (tmp_path / "new.csv").write_text("size,sold,rooms\n100,03/04/2020,2\n")
    (piece,) = data.inputs(InputFiles((str(tmp_path / "new.csv"),)))
    april = 2 * np.pi * pd.Timestamp("2020-04-03").day_of_year / 365.25
    assert piece.rows["inputs"][0, 2].item() == pytest.approx(np.sin(april), abs=1e-6)
    (tmp_path / "new.csv").write_text("size,sold,rooms\n100,soon,2\n")
    with pytest.raises(ConfigError, match=r"INPUT 1: expected a date in the training format, in column sold, line 2"):
        list(data.inputs(InputFiles((str(tmp_path / "new.csv"),))))


@pytest.mark.parametrize("name", ["id", "PassengerId", "customer_id", "Unnamed: 0", "", "index", "ID"])
def test_identifiers_are_not_used_as_inputs(name: str, tmp_path: Path) -> None:
    frame = FRAME[["rooms", "price"]].dropna()
    frame.insert(0, name, RNG.permutation(len(frame)) + 7)
    data = CsvTable(write(tmp_path, frame))
    assert data.spec.size == 1 and data.left_out == {name: "identifier"}


@pytest.mark.parametrize(
    "words",
    [
        [f"Ms {number}, of {number % 3}" for number in range(ROWS)],
        [f"{number:032x}" for number in range(ROWS)],
        [f"mail{number}@example.org" for number in range(ROWS)],
    ],
)
def test_free_text_is_not_used_as_input_and_is_rejected_as_target(words: list[str], tmp_path: Path) -> None:
    frame = FRAME[["size", "price"]].fillna(0.0).assign(note=words)[["note", "size", "price"]]
    data = CsvTable(write(tmp_path, frame))
    assert data.spec.size == 1 and data.left_out == {"note": "texts"}
    assert any("left out: note" in line for line in data.describe())
    with pytest.raises(ConfigError, match=r"data.column: expected a column of classes or numbers to predict, got note"):
        CsvTable(write(tmp_path, frame), column="note")


def test_columns_can_be_excluded_by_name(tmp_path: Path) -> None:
    data = CsvTable(write(tmp_path, FRAME), ignore=["color", "sold"], missing="mean")
    assert data.spec.size == 2
    with pytest.raises(
        ConfigError, match=r"^data.ignore: expected one of the columns of .*color.*, got colour. Did you mean color"
    ):
        CsvTable(write(tmp_path, FRAME), ignore=["colour"], missing="mean")
    with pytest.raises(
        ConfigError, match=r"^data.ignore: expected auto, null or a list of columns, got color. data.ignore=\[color\]"
    ):
        CsvTable(write(tmp_path, FRAME), ignore="color", missing="mean")


def test_the_column_to_predict_is_not_reported_as_ignored(tmp_path: Path) -> None:
    data = CsvTable(write(tmp_path, FRAME), ignore=["color", "price"], missing="mean")
    assert data.left_out == {"color": "ignore"} and data.target.name == "price"


@pytest.mark.parametrize("word", ["broken", "not measured"])
def test_a_numeric_column_with_many_words_is_rejected_with_a_hint_to_set_missing_words(
    word: str, tmp_path: Path
) -> None:
    sizes = [word if row % 5 == 0 else str(row + 0.5) for row in range(ROWS)]
    path = write(tmp_path, FRAME[["price"]].assign(size=sizes)[["size", "price"]])
    with pytest.raises(ConfigError, match=rf"column size, line 2 .*got {word}.* data.missing_words=\[{word}\]"):
        CsvTable(path)
    assert CsvTable(path, missing_words=[word], missing="mean").spec.size == 1


def test_every_split_has_examples_of_a_rare_class(tmp_path: Path) -> None:
    kinds = np.where(np.arange(ROWS) % 29 == 0, "rare", "usual")
    data = CsvTable(write(tmp_path, FRAME[["price"]].assign(kind=kinds)))
    counts = [int((data.rows["targets"][part] == 0).sum()) for part in data.parts]
    assert data.spec.class_names == ("rare", "usual")
    assert counts == [5, 1, 1]
    assert sum(map(len, data.parts)) == ROWS


def test_a_class_missing_from_a_split_is_reported(tmp_path: Path) -> None:
    kinds = np.where(np.arange(ROWS) == 5, "single", "usual")
    lines = CsvTable(write(tmp_path, FRAME[["price"]].assign(kind=kinds))).describe()
    assert [line for line in lines if line.startswith("warning: no example of single in the")]


def test_missing_values_in_the_target_column_are_rejected_with_line_and_count(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a value in column size, line 2 of .*, got a missing value \(29 in this"):
        CsvTable(write(tmp_path, FRAME), column="size", missing="mean")
