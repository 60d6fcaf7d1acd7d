"""``dltrain predict`` on tables: rows are read by the names of their columns, as in evaluation."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from prediction_examples import Known, Predict, Small, Train, outputs_of, rebuilt


@pytest.fixture
def held_out(own_files: dict[str, Path], train: Train, small: Small) -> Callable[[str], tuple[Path, Known, list[dict]]]:
    """Return a function for the run on a column, its model, and the rows of its test split as in the file."""

    def made(column: str) -> tuple[Path, Known, list[dict]]:
        task = [] if column == "kind" else ["task=regression"]
        folder = train("model=mlp", *small("csv"), f"data.column={column}", *task)
        known = rebuilt(folder)
        with open(own_files["csv"], newline="") as lines:
            rows = list(csv.DictReader(lines))
        return folder, known, [rows[number] for number in known.made.data.parts[2].tolist()]

    return made


def as_csv(rows: list[dict], names: list[str], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, delimiter=delimiter, extrasaction="ignore", restval="?")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def test_rows_are_classified_as_in_evaluation_in_any_order_of_columns(held_out: Callable, predict: Predict) -> None:
    folder, known, rows = held_out("kind")
    wanted = outputs_of(known).softmax(1)
    for names in ("a,b,c,d,e,f,price,kind", "price,f,e,d,note,c,b,a"):
        for batch in (5, 500):
            content = as_csv(rows, names.split(",")).encode()
            said = predict(folder, "-", "--batch", batch, stdin=content).lines
            found = torch.tensor([[line["probabilities"][name] for name in ("cat", "dog")] for line in said])
            assert torch.allclose(found, wanted, rtol=1e-5)
            assert [line["line"] for line in said] == list(range(2, 2 + len(rows)))


def test_numbers_are_predicted_in_the_units_of_their_column_also_from_files_with_decimal_commas(
    held_out: Callable, predict: Predict, tmp_path: Path, own_files: dict[str, Path]
) -> None:
    folder, known, rows = held_out("price")
    table = np.genfromtxt(own_files["csv"], delimiter=",", names=True, dtype=None, encoding="utf-8")
    prices = table["price"][known.made.data.parts[0].numpy()]
    wanted = outputs_of(known)[:, 0].double() * prices.std() + prices.mean()
    commas = [{name: cell.replace(".", ",") for name, cell in row.items()} for row in rows]
    (tmp_path / "new.csv").write_text(as_csv(commas, [*"abcdef", "kind"], delimiter=";"))
    said = predict(folder, tmp_path / "new.csv").lines
    assert [line["price"] for line in said] == pytest.approx(wanted.tolist(), rel=1e-5)
    assert set(said[0]) == {"input", "line", "price"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("e,f", "e,ff"), "INPUT 1: expected the column f in standard input, got a, b, c, d"),
        (lambda text: text.replace(",cat", ",cat,1"), "as in its first line, got 9"),
        (lambda text: text.replace("1", "one"), "This column holds numbers in training"),
        (lambda text: text.replace("\n-", "\n,-").replace(",-", ",", 1), "INPUT 1: expected "),
        (lambda text: text.split("\n")[0], "INPUT 1: expected a line of names and rows of numbers"),
        (lambda text: "", "INPUT 1: expected a line of names and rows of numbers"),
    ],
)
def test_an_error_in_a_table_names_its_input_and_place(
    change: Callable[[str], str], message: str, held_out: Callable, predict: Predict, own_files: dict
) -> None:
    folder, _, _ = held_out("kind")
    said = predict(folder, "-", stdin=change(own_files["csv"].read_text()).encode())
    assert said.code == 2 and message in said.err and "Traceback" not in said.err
