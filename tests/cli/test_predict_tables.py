"""``dltrain predict`` on tables: columns are found by name, and outputs equal those of evaluation."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from prediction_examples import Known, Predict, SmallData, Train, outputs_of, rebuilt


@pytest.fixture
def held_out(
    own_files: dict[str, Path], train: Train, small_data: SmallData
) -> Callable[[str], tuple[Path, Known, list[dict]]]:
    """Return a function that trains a model to predict a column and returns run folder, model and test rows."""

    def train_on(column: str) -> tuple[Path, Known, list[dict]]:
        task = [] if column == "kind" else ["task=regression"]
        folder = train("model=mlp", *small_data("csv"), f"data.column={column}", *task)
        known = rebuilt(folder)
        with open(own_files["csv"], newline="") as lines:
            rows = list(csv.DictReader(lines))
        return folder, known, [rows[number] for number in known.components.data.parts[2].tolist()]

    return train_on


def as_csv(rows: list[dict], names: list[str], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, delimiter=delimiter, extrasaction="ignore", restval="?")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def test_rows_with_columns_in_any_order_are_classified_as_in_evaluation(held_out: Callable, predict: Predict) -> None:
    folder, known, rows = held_out("kind")
    expected = outputs_of(known).softmax(1)
    for names in ("a,b,c,d,e,f,price,kind", "price,f,e,d,note,c,b,a"):
        for batch in (5, 500):
            content = as_csv(rows, names.split(",")).encode()
            output = predict(folder, "-", "--batch", batch, stdin=content).lines
            found = torch.tensor([[line["probabilities"][name] for name in ("cat", "dog")] for line in output])
            assert torch.allclose(found, expected, rtol=1e-5)
            assert [line["line"] for line in output] == list(range(2, 2 + len(rows)))


def test_predicted_numbers_have_the_unit_of_their_column_and_decimal_commas_are_read(
    held_out: Callable, predict: Predict, tmp_path: Path, own_files: dict[str, Path]
) -> None:
    folder, known, rows = held_out("price")
    table = np.genfromtxt(own_files["csv"], delimiter=",", names=True, dtype=None, encoding="utf-8")
    prices = table["price"][known.components.data.parts[0].numpy()]
    expected = outputs_of(known)[:, 0].double() * prices.std() + prices.mean()
    commas = [{name: cell.replace(".", ",") for name, cell in row.items()} for row in rows]
    (tmp_path / "new.csv").write_text(as_csv(commas, [*"abcdef", "kind"], delimiter=";"))
    output = predict(folder, tmp_path / "new.csv").lines
    assert [line["price"] for line in output] == pytest.approx(expected.tolist(), rel=1e-5)
    assert set(output[0]) == {"input", "line", "price"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("e,f", "e,ff"),
            "INPUT 1: expected the column f in standard input, got the columns a, b, c, d",
        ),
        (lambda text: text.replace(",cat", ",cat,1"), "as in its first line, got 9"),
        (lambda text: text.replace("1", "one"), "This column holds numbers in the training data"),
        (lambda text: text.replace("\n-", "\n,-").replace(",-", ",", 1), "INPUT 1: expected "),
        (lambda text: text.split("\n")[0], "INPUT 1: expected a header line and at least one row"),
        (lambda text: "", "INPUT 1: expected a header line and at least one row"),
    ],
)
def test_a_table_that_cannot_be_read_is_rejected_with_the_reason(
    change: Callable[[str], str], message: str, held_out: Callable, predict: Predict, own_files: dict
) -> None:
    folder, _, _ = held_out("kind")
    output = predict(folder, "-", stdin=change(own_files["csv"].read_text()).encode())
    assert output.code == 2 and message in output.err and "Traceback" not in output.err


def test_quotes_in_tab_separated_files_are_read_as_in_training(train: Train, predict: Predict, tmp_path: Path) -> None:
    rows = [f'{number / 10}\t"{number % 7} wide\t{("low", "high")[number % 2]}' for number in range(60)]
    (tmp_path / "sizes.tsv").write_text("\n".join(["weight\tsize\tkind", *rows]) + "\n")
    folder = train("model=mlp", "data=csv", f"data.path={tmp_path / 'sizes.tsv'}", "trainer.max_steps=3")
    (tmp_path / "new.tsv").write_text('weight\tsize\n1.5\t"3 wide\n1.5\t"3 wide\n')
    first, second = predict(folder, tmp_path / "new.tsv").lines
    assert (first["line"], second["line"]) == (2, 3)
    assert first["probabilities"] == second["probabilities"]
