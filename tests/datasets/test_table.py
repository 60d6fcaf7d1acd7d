"""Tables: inputs (compared with scikit-learn), targets, splits, missing values and rejected tables."""

import csv

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.table import CsvTable
from dltrain.errors import ConfigError

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(5, 3, (100, 2)).round(6)
WORDS = RNG.choice(["low", "mid", "high"], 100)


def write(path, header, *columns):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *zip(*columns, strict=True)])
    return str(path)


def table(folder, answers, **arguments):
    file = write(folder / "a.csv", ["x", "word", "y", "answer"], NUMBERS[:, 0], WORDS, NUMBERS[:, 1], answers)
    return CsvTable(file, **arguments)


def batch_of(source):
    return next(iter(Batches(source, len(source))))


def test_inputs_equal_scikit_learn_fitted_on_the_training_rows(tmp_path):
    data = table(tmp_path, WORDS)
    assert data.spec.shape == (5,) and data.spec.size == 5
    train = data.parts[0].numpy()
    scaled = StandardScaler().fit(NUMBERS[train]).transform(NUMBERS)
    words = OneHotEncoder(sparse_output=False).fit(WORDS[train, None]).transform(WORDS[:, None])
    expected = np.concatenate([scaled[:, :1], words, scaled[:, 1:]], axis=1)
    splits = data.load()
    for source, rows in zip((splits.train, splits.val, splits.test), data.parts, strict=True):
        np.testing.assert_allclose(batch_of(source)["inputs"], expected[rows.numpy()], atol=1e-5)


def test_the_splits_are_random_disjoint_and_reproducible(tmp_path):
    one, other = table(tmp_path, WORDS), table(tmp_path, WORDS)
    assert [len(part) for part in one.parts] == [70, 15, 15]
    assert sorted(torch.cat(one.parts).tolist()) == list(range(100))
    assert one.parts[0].tolist() != sorted(one.parts[0].tolist())
    assert all(torch.equal(*pair) for pair in zip(one.parts, other.parts, strict=True))


def test_the_words_of_a_target_column_are_classes(tmp_path):
    data = table(tmp_path, WORDS)
    assert (data.spec.classes, data.spec.class_names) == (3, ("high", "low", "mid"))
    assert (data.spec.targets, data.spec.target_names) == (None, ("answer",))
    batch = batch_of(data.load().test)
    assert [data.spec.class_names[label] for label in batch["targets"]] == WORDS[data.parts[2].numpy()].tolist()


def test_a_numeric_target_is_normalized_and_restored_to_its_units(tmp_path):
    answers = NUMBERS[:, 0] * 1000
    data = table(tmp_path, answers)
    assert (data.spec.targets, data.spec.classes) == (1, None)
    train, test = (batch_of(source) for source in (data.load().train, data.load().test))
    assert float(train["targets"].mean()) == pytest.approx(0, abs=1e-5)
    assert float(train["targets"].std(correction=0)) == pytest.approx(1, rel=1e-5)
    restored = test["targets"] * test["scale"] + test["shift"]
    np.testing.assert_allclose(restored[:, 0], answers[data.parts[2].numpy()], rtol=1e-4)


def test_large_targets_are_restored_without_loss_of_precision(tmp_path):
    answers = 2e9 + NUMBERS[:, 0]
    test = batch_of((data := table(tmp_path, answers)).load().test)
    values = [test[name].double().numpy() for name in ("targets", "scale", "shift", "shift_rest")]
    restored = values[0] * values[1] + values[2] + values[3]
    np.testing.assert_allclose(restored[:, 0], answers[data.parts[2].numpy()], rtol=0, atol=1e-5)


def test_a_constant_column_is_not_scaled(tmp_path):
    assert np.std([0.1] * 70) > 0  # because of rounding errors
    path = write(tmp_path / "a.csv", ["x", "y"], [0.1] * 100, [0.3] * 100)
    data = CsvTable(path)
    assert data.columns[0].scale == 1 and data.rows["scale"].unique().tolist() == [1]
    (tmp_path / "new.csv").write_text("x\n0.2\n")
    (piece,) = data.inputs(InputFiles((str(tmp_path / "new.csv"),)))
    assert piece.rows["inputs"].item() == pytest.approx(0.1)


def test_a_target_with_few_distinct_integers_provides_both_classes_and_numbers(tmp_path):
    answers = np.arange(100) % 4 + 3
    data = table(tmp_path, answers)
    assert (data.spec.classes, data.spec.class_names, data.spec.targets) == (4, ("3", "4", "5", "6"), 1)
    batch = batch_of(data.load().test)
    expected = answers[data.parts[2].numpy()]
    assert batch["targets"].dtype == torch.int64 and (batch["targets"].numpy() + 3 == expected).all()
    np.testing.assert_allclose((batch["values"] * batch["scale"] + batch["shift"])[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("different", "classes"), [(20, 20), (21, None)])
def test_more_than_20_different_integers_are_not_classes(different, classes, tmp_path):
    assert table(tmp_path, np.arange(100) % different).spec.classes == classes


def test_data_column_selects_the_target(tmp_path):
    data = table(tmp_path, WORDS, column="x")
    assert data.spec.target_names == ("x",) and data.spec.size == 1 + 2 * 3


def test_a_missing_value_is_rejected_with_its_position_or_filled_with_the_mean(tmp_path):
    with_missing = [str(number) for number in NUMBERS[:, 0]]
    with_missing[10] = with_missing[20] = ""
    path = write(tmp_path / "h.csv", ["a", "b"], with_missing, WORDS)
    with pytest.raises(ConfigError) as caught:
        CsvTable(path)
    assert all(part in str(caught.value) for part in ("column a", "line 12", "2 in this column", "data.missing=mean"))
    inputs = CsvTable(path, missing="mean").rows["inputs"]
    assert inputs[10].item() == inputs[20].item() == 0
    assert inputs.isfinite().all()


def test_a_missing_word_is_encoded_as_zeros(tmp_path):
    path = write(tmp_path / "h.csv", ["a", "b"], ["", *WORDS[1:]], WORDS)
    inputs = CsvTable(path, missing="mean").rows["inputs"]
    assert inputs.sum(1).tolist() == [0.0] + [1.0] * 99


@pytest.mark.parametrize(
    ("columns", "arguments", "part"),
    [
        ((NUMBERS[:, 0], ["", *WORDS[1:]]), {"missing": "mean"}, "column b, line 2"),
        ((NUMBERS[:, 0], ["same"] * 100), {}, "two different values"),
        ((NUMBERS[:, 0], WORDS), {"column": "c"}, "data.column"),
        ((NUMBERS[:, 0], WORDS), {"missing": "mena"}, "Did you mean mean?"),
        ((NUMBERS[:2, 0], WORDS[:2]), {}, "at least 3 rows"),
        (
            ([f"name {number}" for number in range(2000)], ["a", "b"] * 1000),
            {"ignore": []},
            "at most 1,000 different words",
        ),
    ],
)
def test_an_unusable_table_is_rejected(columns, arguments, part, tmp_path):
    path = write(tmp_path / "a.csv", ["a", "b"], *columns)
    with pytest.raises(ConfigError) as caught:
        CsvTable(path, **arguments)
    assert part in str(caught.value)


@pytest.mark.parametrize(("value", "kind"), [("2021-03-04", "date"), ("1.5", "number"), ("low", "word")])
def test_a_column_without_a_value_in_the_training_rows_is_rejected(value, kind, tmp_path):
    held_out = torch.cat(table(tmp_path, WORDS).parts[1:]).tolist()
    path = write(tmp_path / "a.csv", ["a", "b"], [value if row in held_out else "" for row in range(100)], WORDS)
    with pytest.raises(
        ConfigError, match=f"a {kind} in the training rows of column a, got only missing values. data.ignore"
    ):
        CsvTable(path, missing="mean")


def test_a_table_of_one_column_is_rejected(tmp_path):
    with pytest.raises(ConfigError, match="in addition to the predicted one"):
        CsvTable(write(tmp_path / "a.csv", ["a"], WORDS))
