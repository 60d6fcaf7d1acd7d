"""``dltrain evaluate`` on other data: whole files, with the normalization, vocabulary and classes of the run."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import run_command
from own_data import LINEAR, table_run, train, write_table
from prediction_examples import TEXT, Predict, Result
from sklearn.compose import ColumnTransformer
from sklearn.metrics import accuracy_score, mean_absolute_error, root_mean_squared_error
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch.nn import functional as F

from dltrain.datasets.time_series import BUNDLED
from dltrain.storage.checkpoints import Checkpoints


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function that runs ``dltrain evaluate --json`` in this process."""
    return lambda *words: run_command(capsys, "evaluate", *words, "--json")


def metrics_of(result: Result) -> dict[str, float]:
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["split"] == "all"
    return found["metrics"]


def inputs_by_sklearn(fitted_on: list[dict[str, str]], lines: list[dict[str, str]]) -> np.ndarray:
    def matrix(rows: list[dict[str, str]]) -> np.ndarray:
        return np.array([[row["api_key"], row["color"], row["weight"]] for row in rows], dtype=object)

    steps = [("a", StandardScaler(), [0]), ("b", OneHotEncoder(sparse_output=False), [1]), ("c", StandardScaler(), [2])]
    return ColumnTransformer(steps).fit(matrix(fitted_on)).transform(matrix(lines))


def linear_outputs(run: Path, inputs: np.ndarray) -> np.ndarray:
    weight, bias = (value.double().numpy() for value in Checkpoints(run).load("best.pt")["model"].values())
    return inputs @ weight.T + bias


def test_regression_on_another_table_uses_the_scale_of_the_run(
    evaluate: Callable[..., Result], predict: Predict, tmp_path: Path
) -> None:
    run, trained = table_run(tmp_path, "price")
    lines = write_table(tmp_path / "other.csv", 25, seed=1, shift=40)
    prices = np.array([float(row["price"]) for row in trained])
    inputs = inputs_by_sklearn(trained, lines)
    expected = linear_outputs(run, inputs)[:, 0] * prices.std() + prices.mean()
    actual = np.array([float(row["price"]) for row in lines])
    result = evaluate(run, f"data.path={tmp_path / 'other.csv'}")
    found = metrics_of(result)
    assert found["mae"] == pytest.approx(mean_absolute_error(actual, expected), rel=1e-4)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(actual, expected), rel=1e-4)
    assert f"all 25 examples of {tmp_path / 'other.csv'} are evaluated" in result.err
    predicted = [line["price"] for line in predict(run, tmp_path / "other.csv").lines]
    np.testing.assert_allclose(predicted, expected, rtol=1e-4)


def test_classification_of_another_table_uses_the_classes_of_the_run(
    evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    run, trained = table_run(tmp_path, "kind")
    lines = [row for row in write_table(tmp_path / "other.csv", 40, seed=1) if row["kind"] == "odd"]
    with (tmp_path / "odd.csv").open("w") as file:
        writer = csv.DictWriter(file, ["kind", "weight", "api_key", "color"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    classes = linear_outputs(run, inputs_by_sklearn(trained, lines)).argmax(1)
    found = metrics_of(evaluate(run, f"data.path={tmp_path / 'odd.csv'}"))
    assert found["accuracy"] == pytest.approx(accuracy_score(np.ones(len(lines)), classes))
    text = (tmp_path / "odd.csv").read_text().replace("odd", "ood", 1)
    (tmp_path / "odd.csv").write_text(text)
    result = evaluate(run, f"data.path={tmp_path / 'odd.csv'}")
    expected = "data.path: expected one of the classes (even, odd) in column kind, line 2 of"
    assert result.code == 2 and expected in result.err and "got ood. Did you mean odd?" in result.err


def test_an_unknown_integer_target_is_rejected_only_in_classification(
    evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    path, other = tmp_path / "train.csv", tmp_path / "other.csv"
    path.write_text("a,grade\n" + "".join(f"{n / 7},{n % 3}\n" for n in range(60)))
    other.write_text("a,grade\n" + "".join(f"{n / 7},{n % 3 + 5 * (n == 9)}\n" for n in range(30)))
    for task, code in (("classification", 2), ("regression", 0)):
        run = train(tmp_path / task, *LINEAR, "data=csv", f"data.path={path}", f"task={task}")
        result = evaluate(run, f"data.path={other}")
        assert result.code == code, result.err
        assert code == 0 or "data: expected classes known to the run: 0 1 2, got another class" in result.err


def test_a_split_of_other_data_is_rejected(evaluate: Callable[..., Result], tmp_path: Path) -> None:
    run, _ = table_run(tmp_path, "price")
    write_table(tmp_path / "other.csv", 25, seed=1, shift=40)
    result = evaluate(run, f"data.path={tmp_path / 'other.csv'}", "--split", "test")
    assert result.code == 2 and "--split: not supported for other data, because all of their examples" in result.err


def test_forecasting_another_series_uses_the_scale_of_the_run(evaluate: Callable[..., Result], tmp_path: Path) -> None:
    path, other = tmp_path / "train.csv", tmp_path / "other.csv"
    values = np.random.default_rng(0).normal(100, 5, 200).round(3)
    later = np.random.default_rng(1).normal(900, 20, 80).round(3)
    for file, numbers in ((path, values), (other, later)):
        days = np.datetime64("2020-01-01") + np.arange(len(numbers))
        file.write_text("date,sold\n" + "".join(f"{day},{number}\n" for day, number in zip(days, numbers, strict=True)))
    data = [f"data.path={path}", "data.window=12", "data.horizon=3", "data.normalize=train", "data.season=7"]
    run = train(tmp_path, *LINEAR, "data=timeseries", *data, "optimizer/schedule=constant")
    path.unlink()
    fitted_on = values[:140]
    mean, deviation = fitted_on.mean(), fitted_on.std()
    starts = range(14, len(later) - 3 + 1)  # the first forecast needs two seasons of earlier values
    inputs = np.array([(later[start - 12 : start] - mean) / deviation for start in starts])
    expected = linear_outputs(run, inputs) * deviation + mean
    errors = np.abs(expected - np.array([later[start : start + 3] for start in starts]))
    found = metrics_of(evaluate(run, f"data.path={other}"))
    assert found["mae"] == pytest.approx(errors.mean(), rel=1e-4)
    naive = np.abs(fitted_on[7:] - fitted_on[:-7]).mean()
    assert found["mase"] == pytest.approx(errors.mean() / naive, rel=1e-4)


def test_a_series_absent_from_the_training_data_is_rejected(evaluate: Callable[..., Result], tmp_path: Path) -> None:
    def write(path: Path, names: str, factor: int = 3) -> None:
        lines = [f"2020-01-{day:02},{name},{day * factor % 7}" for name in names for day in range(1, 31)]
        path.write_text("\n".join(["date,store,sold", *lines]) + "\n")

    write(tmp_path / "train.csv", "ab")
    data = ["data.group=store", "data.window=4", "data.horizon=2", "data.season=1", "data.validation=0.2"]
    run = train(tmp_path, *LINEAR, "data=timeseries", f"data.path={tmp_path / 'train.csv'}", *data, "data.test=0.2")
    write(tmp_path / "other.csv", "b", 2)
    assert json.loads(evaluate(run, f"data.path={tmp_path / 'other.csv'}").out)["split"] == "all"
    write(tmp_path / "other.csv", "bc", 2)
    result = evaluate(run, f"data.path={tmp_path / 'other.csv'}")
    assert result.code == 2 and "expected a value of column store in the training data (a, b), got c" in result.err
    (tmp_path / "other.csv").write_text("date,store,sold\n2020-01-01,b,1\n2020-01-02,b,2\n2020-01-03,b,3\n")
    result = evaluate(run, f"data.path={tmp_path / 'other.csv'}")
    assert result.code == 2 and "rows of series b in" in result.err


def test_another_text_is_evaluated_with_the_vocabulary_of_the_run(
    evaluate: Callable[..., Result], predict: Predict, tmp_path: Path
) -> None:
    bundled = (BUNDLED / "moby_dick.txt").read_text()
    text, later = bundled[:4000], "".join(c for c in bundled[9000:9500] if c in bundled[:4000])
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "other.txt").write_text(later)
    data = ["data=text", f"data.path={tmp_path / 'train.txt'}", "data.context_length=16", "data.stride=8"]
    run = train(tmp_path, *TEXT, *data)
    (tmp_path / "train.txt").unlink()
    characters = sorted(set(text))
    tokens = torch.tensor([characters.index(c) for c in later])
    from dltrain.models.gpt import GPT

    model = GPT(len(characters), 16, len(characters), hidden_size=16, num_layers=1, num_heads=2).eval()
    model.load_state_dict(Checkpoints(run).load("best.pt")["model"])
    nats = torch.cat(
        [
            F.cross_entropy(
                model(tokens[None, at : at + 16][:, : len(tokens) - 1 - at])[0],
                tokens[at + 1 : at + 17],
                reduction="none",
            )
            for at in range(0, len(tokens) - 1, 16)
        ]
    )
    assert metrics_of(evaluate(run, f"data.path={tmp_path / 'other.txt'}"))["loss"] == pytest.approx(
        nats.mean().item(), rel=1e-4
    )
    assert predict(run, "--text", later[:50]).lines[0]["characters"] == 50
    (tmp_path / "other.txt").write_text(later + "\u2603")
    result = evaluate(run, f"data.path={tmp_path / 'other.txt'}")
    assert result.code == 2 and "expected characters of the training text" in result.err and "\u2603" in result.err


def test_all_examples_of_other_arrays_are_evaluated_with_the_labels_of_the_run(
    evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)

    def write(name: str, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
        x, y = random.random((30, 5)).astype(np.float32), np.array(labels * 30)[:30]
        np.savez(tmp_path / name, x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
        return x, y

    write("train.npz", [3, 5, 9])
    x, y = write("other.npz", [9, 9, 3])
    run = train(tmp_path, *LINEAR, "data=npz", f"data.path={tmp_path / 'train.npz'}")
    (tmp_path / "train.npz").unlink()
    classes = np.array([3, 5, 9])[linear_outputs(run, x).argmax(1)]
    found = metrics_of(evaluate(run, f"data.path={tmp_path / 'other.npz'}"))
    assert found["accuracy"] == pytest.approx(accuracy_score(y, classes))
    write("other.npz", [3, 4])
    result = evaluate(run, f"data.path={tmp_path / 'other.npz'}")
    assert result.code == 2 and "data: expected classes known to the run: 3 5 9, got another class" in result.err


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_other_texts_are_evaluated_and_predicted_with_the_vocabulary_of_the_run(
    task: str, evaluate: Callable[..., Result], predict: Predict, tmp_path: Path
) -> None:
    path = tmp_path / "train.tsv"
    rows = [(n % 5 - 2 + n / 100, f"a {('bad', 'slow', 'plain', 'good', 'great')[n % 5]} film") for n in range(60)]
    path.write_text("stars\ttext\n" + "".join(f"{stars}\t{text}\n" for stars, text in rows))
    model = ["model=lstm", "model.hidden_size=4", "data=text_table", "data.threshold=0"]
    run = train(tmp_path, *model, f"data.path={path}", f"task={task}")
    path.unlink()
    (tmp_path / "other.csv").write_text("text,stars\na good film,1.5\nan unheard of word,-1.25\nbad,-3\n")
    lines = predict(run, tmp_path / "other.csv").lines
    stars = np.array([1.5, -1.25, -3])
    found = metrics_of(evaluate(run, f"data.path={tmp_path / 'other.csv'}"))
    if task == "classification":
        assert {line["class_name"] for line in lines} <= {"up to 0", "above 0"}
        assert found["accuracy"] == pytest.approx(
            np.mean([(stars > 0)[n] == line["class"] for n, line in enumerate(lines)])
        )
    else:
        predicted = np.array([line["stars"] for line in lines])
        assert found["mae"] == pytest.approx(np.abs(predicted - stars).mean(), rel=1e-5)
    assert predict(run, "--text", "a good film").lines[0]["unread_words"] == 0
