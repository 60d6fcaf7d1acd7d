"""``dltrain predict``: predictions for files equal those of the model for the tensors they were made from."""

import csv
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import child, imported
from torch.nn import functional as F

from dltrain.cli import main
from dltrain.config import compose, groups
from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.datasets.time_series import BUNDLED
from dltrain.loggers.console import Console
from dltrain.runs import assemble, dry_run, inference, launch
from dltrain.runs.inference import json_values
from dltrain.storage.checkpoints import Checkpoints

OPTIONS = sorted(file.stem for file in (groups.conf_dir() / "data").glob("*.yaml"))
SHORT = ["trainer.epochs=null", "trainer.max_steps=2", "device=cpu"]
TEXT = ["model=gpt", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1"]
COLUMNS = ["b", "a"]

Small = Callable[[str], list[str]]
Train = Callable[..., Path]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """The folder of a short run; the same command is run once."""
    known: dict[tuple[str, ...], Path] = {}

    def once(*typed: str) -> Path:
        if typed not in known:
            folder = tmp_path_factory.mktemp("predict") / "run"
            job = compose.compose([*SHORT, *typed, f"hydra.run.dir={folder}"])
            assert launch.train(job, Console(io.StringIO()), 0.0).exit_code == 0
            known[typed] = folder
        return known[typed]

    return once


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in this process, with something on standard input."""

    def call(*words: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main.main(["predict", *map(str, words)])
        return Result(code, *capsys.readouterr())

    return call


class Known(NamedTuple):
    """A trained model as these tests build it, and the batches of its test split."""

    made: assemble.Components
    batches: Batches


def rebuilt(folder: Path, *typed: str, weights: str = "model") -> Known:
    from dltrain.config.revise import revise_job
    from dltrain.runs import job as stored

    made = assemble.build_components(revise_job(stored.load_job(folder), list(typed))[0])
    state = Checkpoints(folder).load("best.pt")
    made.model.load_state_dict(state["model"] if weights == "model" else state[weights]["model"])
    made.model.eval()
    return Known(made, dry_run.build_batches(made, made.data.load())["test"])


def outputs_of(known: Known) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([known.made.model(batch["inputs"]) for batch in known.batches])


# --- every data option ------------------------------------------------------------------------------------------------


def two_series(folder: Path, rows: int = 260) -> Path:
    """Days and two series, one large and hardly moving."""
    random, path = np.random.default_rng(3), folder / "two.csv"
    values = 1e6 + np.cumsum(random.normal(size=rows)), np.sin(np.arange(rows) / 5) + 0.1 * random.normal(size=rows)
    days = np.datetime64("2024-01-01") + np.arange(rows)
    path.write_text("date,a,b\n" + "".join(f"{d},{x:.3f},{y:.4f}\n" for d, x, y in zip(days, *values, strict=True)))
    return path


def brought(option: str, folder: Path, own_files: dict[str, Path]) -> Path:
    """What a user of this data option has: extend this when a data option is added."""
    pictures = {"digits", "mnist", "fashion_mnist", "cifar10", "npz", "image_folder"}
    if option in pictures:
        Image.new("RGB", (40, 31), (200, 30, 90)).save(folder / "mine.jpg")
        return folder / "mine.jpg"
    if option in ("ring", "gates"):
        np.save(folder / "mine.npy", np.eye(2, dtype=np.float32))
        return folder / "mine.npy"
    if option == "text":
        (folder / "mine.txt").write_text("Call me Ishmael.")
    return {"csv": own_files["csv"], "timeseries": BUNDLED / "elnino.csv", "text": folder / "mine.txt"}[option]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_data_option_predicts_for_the_files_of_its_users(
    option: str, train: Train, predict: Callable[..., Result], small: Small, own_files: dict[str, Path], tmp_path: Path
) -> None:
    model = TEXT if option == "text" else ["model=mlp"]
    said = predict(train(*model, *small(option)), brought(option, tmp_path, own_files))
    assert said.lines and "best checkpoint, of step 2" in said.err
    for line in said.lines:
        assert line["input"].startswith(str(tmp_path)) or Path(line["input"]).is_file()
        numbers = [value for value in line.values() if isinstance(value, float)]
        assert numbers and np.isfinite(numbers).all()


# --- pictures ---------------------------------------------------------------------------------------------------------

# Data option -> what its stored numbers are multiplied by to fill a byte.
PNG = {"digits": 255 / 16, "mnist": 1, "fashion_mnist": 1, "cifar10": 1, "npz": 1}


@pytest.mark.parametrize("option", PNG)
def test_picture_files_of_test_examples_are_classified_as_the_examples_themselves(
    option: str, train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small(option))
    known = rebuilt(folder)
    rows = known.made.data.load().test.rows
    for number, pixels in enumerate(rows["pixels"][:12]):
        bytes_ = (pixels.double() * PNG[option]).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(bytes_.squeeze()).save(tmp_path / f"{number:02}.png")
    said = predict(folder, tmp_path).lines
    assert [Path(line["input"]).name for line in said] == [f"{number:02}.png" for number in range(12)]
    shares = outputs_of(known)[:12].softmax(1)
    names = known.made.data.spec.class_names
    for line, wanted in zip(said, shares, strict=True):
        assert list(line["probabilities"]) == list(names)
        assert list(line["probabilities"].values()) == pytest.approx(wanted.tolist(), rel=1e-5)
        assert line["class"] == int(wanted.argmax()) and line["class_name"] == names[line["class"]]
        assert line["probability"] == max(line["probabilities"].values())


def test_files_of_a_folder_per_class_are_classified_as_in_the_test(
    train: Train, predict: Callable[..., Result], tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    for number in range(24):
        folder = tmp_path / ("test" if number % 3 else "train") / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    typed = [f"data.path={tmp_path}", "data.image_size=16", "data.workers=0", "data.batch_size=4"]
    run_folder = train("model=mlp", "data=image_folder", *typed)
    said = predict(run_folder, tmp_path / "test").lines
    assert len(said) == 16
    assert [line["input"] for line in said] == sorted(map(str, (tmp_path / "test").rglob("*.png")))
    found = torch.tensor([list(line["probabilities"].values()) for line in said])
    assert torch.allclose(found, outputs_of(rebuilt(run_folder)).softmax(1), rtol=1e-5)
    assert {line["class_name"] for line in said} <= {"blue", "red"}


def test_arrays_are_classified_as_picture_files_are(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("mnist"))
    known = rebuilt(folder)
    pixels = known.made.data.load().test.rows["pixels"].numpy()
    np.save(tmp_path / "four_axes.npy", pixels)
    np.savez(tmp_path / "three_axes.npz", x_test=pixels[:, 0], y_test=np.zeros(len(pixels)))
    np.save(tmp_path / "one.npy", pixels[3, 0])
    wanted = outputs_of(known).softmax(1).max(1).values.tolist()
    for name in ("four_axes.npy", "three_axes.npz"):
        lines = predict(folder, tmp_path / name, "--batch", 7).lines
        assert [line["probability"] for line in lines] == pytest.approx(wanted, rel=1e-5)
        assert lines[2]["input"] == f"{tmp_path / name}[2]"
    (line,) = predict(folder, "-", stdin=(tmp_path / "one.npy").read_bytes()).lines
    assert line["probability"] == pytest.approx(wanted[3], rel=1e-5) and line["input"] == "-[0]"


def test_top_names_the_likeliest_classes_only_also_in_csv(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("cifar10"))
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (50, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    whole = predict(folder, tmp_path).lines
    top = predict(folder, tmp_path, "--top", 3).lines
    table = list(csv.DictReader(io.StringIO(predict(folder, tmp_path, "--top", 3, "--format", "csv").out)))
    for line, short, row in zip(whole, top, table, strict=True):
        wanted = sorted(line["probabilities"].items(), key=lambda item: -item[1])[:3]
        assert list(short["probabilities"].items()) == wanted
        cells = {name: row[f"probabilities.{name}"] for name in line["probabilities"]}
        assert {name: float(cell) for name, cell in cells.items() if cell} == dict(wanted)
        assert row["class_name"] == line["class_name"] == wanted[0][0]


def test_averaged_weights_are_those_that_predict(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("digits"), "regularization.ema_decay=0.5", "optimizer.lr=0.05")
    averaged, live = (rebuilt(folder, weights=name) for name in ("average", "model"))
    np.save(tmp_path / "x.npy", averaged.made.data.load().test.rows["pixels"].numpy())
    said = [line["probability"] for line in predict(folder, tmp_path / "x.npy").lines]
    assert said == pytest.approx(outputs_of(averaged).softmax(1).max(1).values.tolist(), rel=1e-5)
    assert said != pytest.approx(outputs_of(live).softmax(1).max(1).values.tolist(), rel=1e-2)


def test_last_and_best_are_different_checkpoints(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    # A learning rate that destroys what the first step learned: the best is not the last.
    spans = ["trainer.max_steps=3", "trainer.eval_every=1 steps", "trainer.checkpoint_every=1 steps"]
    folder = train("model=mlp", *small("timeseries"), *spans, "optimizer=sgd", "optimizer.lr=10")
    steps = {name: Checkpoints(folder).load(f"{name}.pt")["loop"]["step"] for name in ("best", "last")}
    assert steps["best"] < steps["last"]
    said = {name: predict(folder, "--checkpoint", name) for name in steps}
    assert said["best"].out != said["last"].out
    assert all(f"of step {step}" in said[name].err for name, step in steps.items())


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def held_out(own_files: dict[str, Path], train: Train, small: Small) -> Callable[[str], tuple[Path, Known, list[dict]]]:
    """The folder of a run on the table, the model, and the rows of its test part as the file has them."""

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


def test_rows_of_the_test_split_are_classified_as_in_evaluation_in_any_file(
    held_out: Callable, predict: Callable[..., Result]
) -> None:
    folder, known, rows = held_out("kind")
    wanted = outputs_of(known).softmax(1)
    for names in ("a,b,c,d,e,f,price,kind", "price,f,e,d,note,c,b,a"):
        for batch in (5, 500):
            content = as_csv(rows, names.split(",")).encode()
            said = predict(folder, "-", "--batch", batch, stdin=content).lines
            found = torch.tensor([[line["probabilities"][name] for name in ("cat", "dog")] for line in said])
            assert torch.allclose(found, wanted, rtol=1e-5)
            assert [line["line"] for line in said] == list(range(2, 2 + len(rows)))


def test_numbers_are_predicted_in_the_units_of_their_column_also_from_decimal_commas(
    held_out: Callable, predict: Callable[..., Result], tmp_path: Path, own_files: dict[str, Path]
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
    change: Callable[[str], str], message: str, held_out: Callable, predict: Callable[..., Result], own_files: dict
) -> None:
    folder, _, _ = held_out("kind")
    said = predict(folder, "-", stdin=change(own_files["csv"].read_text()).encode())
    assert said.code == 2 and message in said.err and "Traceback" not in said.err


# --- series -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["last", "window", "train"])
def test_a_file_that_ends_where_a_test_window_does_is_forecast_as_in_evaluation(
    normalise: str,
    train: Train,
    predict: Callable[..., Result],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = two_series(tmp_path_factory.getbasetemp())
    typed = [f"data.path={path}", f"data.column=[{','.join(COLUMNS)}]", f"data.normalise={normalise}"]
    folder = train("model=mlp", "data=timeseries", "data.window=20", "data.horizon=5", *typed)
    known = rebuilt(folder)
    lines = path.read_text().splitlines(keepends=True)
    first = len(lines) - known.batches.examples - 4  # of the file's lines: the first that is predicted in the test
    for window in (0, 17, known.batches.examples - 1):
        rows = known.made.data.load().test.rows["values"][window : window + 1]
        (batch,) = Batches(Source({"values": rows}, known.batches.prepare), 1)
        with torch.inference_mode():
            forecast = known.made.task.forecast(known.made.model, batch).double()
        wanted = forecast * batch["scale"] + batch["shift"] + batch["shift_rest"].double()
        cut = tmp_path / "cut.csv"
        cut.write_text("".join(lines[: first + window]))
        said = predict(folder, cut).lines
        found = torch.tensor([[line[name] for name in COLUMNS] for line in said], dtype=torch.float64)
        torch.testing.assert_close(found, wanted[0], rtol=1e-8, atol=1e-8)
        assert [line["time"] for line in said] == [line.split(",")[0] for line in lines[first + window :][:5]]
        assert [line["step"] for line in said] == [1, 2, 3, 4, 5]
        error = np.abs([[line["a"] - float(lines[first + window].split(",")[1])] for line in said]).max()
        assert error < 1000  # it is in the units of the file, near a million


def test_without_input_the_series_of_the_run_goes_on(
    train: Train, predict: Callable[..., Result], small: Small
) -> None:
    folder = train("model=mlp", *small("timeseries"))
    alone, named = predict(folder).lines, predict(folder, BUNDLED / "elnino.csv").lines
    assert [line["temperature"] for line in alone] == [line["temperature"] for line in named]
    last = (BUNDLED / "elnino.csv").read_text().split()[-1].split(",")[0]
    assert last == "2010-12" and [line["time"] for line in alone] == [f"2011-0{month}" for month in range(1, 7)]


def test_series_that_cannot_be_forecast_are_refused(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("timeseries"))
    short, other, back, hole = (tmp_path / f"{name}.csv" for name in ("short", "other", "back", "hole"))
    lines = (BUNDLED / "elnino.csv").read_text().splitlines()
    short.write_text("\n".join(lines[:24]))
    other.write_text("\n".join(["date,heat", *lines[1:]]))
    back.write_text("\n".join([lines[0], *lines[:0:-1]]))
    hole.write_text("\n".join([*lines[:-3], lines[-3].split(",")[0] + ",", *lines[-2:]]))
    for path, message in (
        (short, "at least data.window=24 rows"),
        (other, "the column temperature in"),
        (back, "rows in the order of time"),
        (hole, "data.missing=interpolate or data.missing=last fills them"),
        (tmp_path, "got a folder: "),
    ):
        said = predict(folder, path)
        assert said.code == 2 and "INPUT 1: expected " in said.err and message in said.err
    assert len(predict(folder, hole, "data.missing=last").lines) == 6


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("characters", [16 * 9 + 1, 150, 2, 16])
def test_nats_per_character_equal_the_loss_of_evaluation(
    characters: int, train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train(*TEXT, *small("text"))
    known = rebuilt(folder)
    text = (BUNDLED / "moby_dick.txt").read_text()[5000 : 5000 + characters]
    (tmp_path / "mine.txt").write_text(text)
    (line,) = predict(folder, tmp_path / "mine.txt", "--length", 1).lines
    tokens = torch.tensor(known.made.data.spec.encode(text))
    nats = []
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, 16):
            read, wanted = tokens[start : start + 16], tokens[start + 1 : start + 17]
            logits = known.made.model(read[None])[0, : len(wanted)]
            nats += F.cross_entropy(logits, wanted, reduction="none").tolist()
    assert len(nats) == characters - 1 and line["characters"] == characters
    assert line["nats_per_character"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    if characters == 16 * 9 + 1:
        windows = tokens.unfold(0, 17, 16)
        batch = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}
        with torch.inference_mode():
            loss = known.made.task.evaluate(known.made.model, [batch]).metrics["loss"]
        assert line["nats_per_character"] == pytest.approx(loss, rel=1e-5)


def test_a_text_is_continued_by_length_seed_and_temperature(
    train: Train, predict: Callable[..., Result], small: Small
) -> None:
    folder = train(*TEXT, *small("text"))
    model = rebuilt(folder).made

    def goes_on(*flags: object) -> str:
        (line,) = predict(folder, "--text", "It was  ", "--length", 50, *flags).lines
        assert line["input"] == "--text" and len(line["continuation"]) == 50
        return line["continuation"]

    assert goes_on() == goes_on("--seed", 0) != goes_on("--seed", 1)
    tokens = model.data.spec.encode("It was  ")
    with torch.inference_mode():
        for _ in range(50):
            tokens.append(int(model.model(torch.tensor([tokens[-16:]]))[0, -1].argmax()))
    assert goes_on("--temperature", "1e-4") == model.data.spec.decode(tokens[8:])


def test_text_comes_from_standard_input_and_bytes_need_no_alphabet(
    train: Train, predict: Callable[..., Result], small: Small
) -> None:
    folder = train(*TEXT, *small("text"), "data.tokens=bytes")
    (line,) = predict(folder, "-", "--length", 5, stdin="Grüße €".encode()).lines
    assert line["characters"] == 7 and line["nats_per_character"] > 0
    characters = train(*TEXT, *small("text"))
    for words, stdin, message in (
        (["-"], "Grüße €".encode(), "INPUT 1: expected characters of the training text"),
        (["-"], b"\xff", "INPUT 1: expected a text in UTF-8"),
        (["-"], b"", "expected a text of at least one character"),
        (["--text", "€"], b"", "expected characters of the training text"),
        ([], b"", "INPUT: expected a text file, or - for standard input, got nothing"),
    ):
        said = predict(characters, *words, stdin=stdin)
        assert said.code == 2 and message in said.err


# --- numbers that JSON cannot say, and lists --------------------------------------------------------------------------


def test_a_number_that_json_cannot_say_is_null_wherever_it_stands() -> None:
    line = {"outputs": [float("inf"), 1.0, [float("nan")]], "probabilities": {"cat": float("-inf")}, "class": 1}
    assert json_values(line) == {"outputs": [None, 1.0, [None]], "probabilities": {"cat": None}, "class": 1}


def test_a_list_is_several_cells_of_csv(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=perceptron", "data=ring", "task=perceptron_rule")
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    for line, row in both_formats(predict, folder, tmp_path / "x.npy"):
        assert [row[f"outputs.{number}"] for number in range(8)] == [str(value) for value in line["outputs"]]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_inputs_that_are_missing_are_all_named_before_anything_is_read(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("digits"))
    Image.new("L", (8, 8)).save(tmp_path / "there.png")
    said = predict(folder, tmp_path / "there.png", tmp_path / "their.png", "gone/x.png")
    assert said.code == 2 and said.out == ""
    hint = f"Did you mean {tmp_path / 'there.png'}?"
    assert said.err.splitlines() == [
        f"dltrain: INPUT 2: expected an existing file or folder, got {tmp_path / 'their.png'}. {hint}",
        "dltrain: INPUT 3: expected an existing file or folder, got gone/x.png",
    ]
    assert predict(folder, "-", "-").code == 2


def test_a_picture_that_cannot_be_read_is_named_and_those_before_it_are_out(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("digits"))
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    (tmp_path / "c.png").write_text("no picture")
    for bad in ("b.png", "c.png"):
        said = predict(folder, tmp_path / "a.png", tmp_path / bad, tmp_path / "a.png")
        assert said.code == 2
        assert [json.loads(line)["input"] for line in said.out.splitlines()] == [str(tmp_path / "a.png")]
        assert f"INPUT 2: expected a readable image at {tmp_path / bad}" in said.err
    (tmp_path / "empty").mkdir()
    said = predict(folder, tmp_path / "empty")
    assert said.code == 2 and "got a folder without .bmp" in said.err


def test_arrays_that_run_code_are_refused(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    folder = train("model=mlp", *small("digits"))
    np.save(tmp_path / "x.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Payload()))
    for name in ("x.npy", "y.npy"):
        said = predict(folder, tmp_path / name)
        assert said.code == 2 and "INPUT 1: expected readable arrays" in said.err and "pickle" not in said.err
    assert not (tmp_path / "pwned").exists()


def test_missing_data_are_reported_and_may_have_moved(
    train: Train, predict: Callable[..., Result], small: Small, own_files: dict[str, Path], tmp_path: Path
) -> None:
    content = own_files["csv"].read_bytes()
    (tmp_path / "here.csv").write_bytes(content)
    folder = train("model=mlp", *small("csv"), f"data.path={tmp_path}/here.csv")
    before = predict(folder, own_files["csv"]).out
    (tmp_path / "here.csv").rename(tmp_path / "there.csv")
    said = predict(folder, own_files["csv"])
    assert said.code == 2 and "data.path: expected an existing CSV file" in said.err
    assert "The run's own data are needed, because normalization and names are fitted on them" in said.err
    said = predict(folder, own_files["csv"], f"data.path={tmp_path}/there.csv")
    assert said.out == before and "warning" not in said.err
    (tmp_path / "here.csv").write_bytes(content.replace(b"1", b"2"))
    said = predict(folder, own_files["csv"])
    assert said.code == 0 and "not those it was trained on" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=1"], "optimizer.lr: a trained model keeps 0.001, got 1"),
        (["model=lenet5"], "model."),
        (["data=csv"], "data._target_: a trained model keeps dltrain.datasets.digits.Digits"),
        (["data.batchsize=3"], "Did you mean data.batch_size?"),
        (["--tpo", "3"], "--tpo: unknown flag. Did you mean --top?"),
        (["--top", "0"], "expected a whole number of at least 1, got 0"),
        (["--temperature", "0"], "expected a number above 0, got 0"),
        (["--format", "jsonn"], "--format: expected one of jsonl csv, got jsonn. Did you mean jsonl?"),
        (["--batch", "1" * 30], "expected a whole number of at least 1 and at most 2,147,483,647"),
        (["--seed", "9" * 5000], "expected a whole number of at least 0 and at most"),
        (["--length", "3", "-"], "--length: not supported for the task Classification"),
        (["--text", "hello"], "--text: not supported because this run was not trained on text. Pass image files"),
        ([], "INPUT: expected image files, folders of them, or .npy and .npz files of images, or -"),
    ],
)
def test_unsupported_flags_and_overrides_are_refused(
    words: list[str], message: str, train: Train, predict: Callable[..., Result], small: Small
) -> None:
    said = predict(train("model=mlp", *small("digits")), *words)
    assert said.code == 2 and message in said.err and said.out == ""


def test_a_run_that_predicts_nothing_is_sent_to_generate_before_its_data_are_read(
    train: Train, predict: Callable[..., Result], own_files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "here.npz").write_bytes(own_files["npz"].read_bytes())
    folder = train("model=vae", "data=npz", f"data.path={tmp_path}/here.npz", "data.batch_size=16")
    with np.load(tmp_path / "here.npz") as arrays:
        wrong = {name: arrays[name] for name in arrays.files}
    wrong["y_train"] = wrong["y_train"][:-1]  # found when the data are read
    np.savez(tmp_path / "here.npz", **wrong)
    said = predict(folder, tmp_path / "here.npz")
    assert said.code == 2 and "dltrain generate RUN" in said.err and len(said.err.splitlines()) == 1


def test_a_damaged_checkpoint_is_refused_and_the_other_proposed(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small("digits"), "trainer.log_every=1")
    file = folder / "checkpoints" / "best.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    said = predict(folder, tmp_path / "a.png")
    assert said.code == 5 and "it is damaged" in said.err and "--checkpoint last" in said.err


def test_overrides_of_the_models_inputs_are_refused(train: Train, predict: Callable[..., Result], small: Small) -> None:
    folder = train("model=mlp", *small("timeseries"))
    for typed in ("data.window=30", "data.normalise=train", "data.column=[temperature]"):
        said = predict(folder, typed)
        assert said.code == 2 and f"{typed.split('=')[0]}: a trained model keeps" in said.err


# --- the command itself -----------------------------------------------------------------------------------------------


def test_a_missing_input_is_answered_without_torch(train: Train, small: Small, tmp_path: Path) -> None:
    ended = child(tmp_path, "predict", str(train("model=mlp", *small("digits"))), "nowhere.png")
    assert ended.returncode == 2 and "torch" not in imported(ended)


def test_lines_come_while_standard_input_is_still_open(train: Train, small: Small, own_files: dict[str, Path]) -> None:
    folder = train("model=mlp", *small("csv"))
    rows = own_files["csv"].read_bytes().splitlines(keepends=True)
    words = [sys.executable, "-m", "dltrain", "predict", str(folder), "-", "--batch", "1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for number, (header, row) in enumerate(zip([rows[0], b""], rows[1:3], strict=True), 2):
            process.stdin.write(header + row)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_file_may_have_an_equals_sign_in_its_name(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("model=mlp", *small("digits"))
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("data.x=1.png")
    assert [line["input"] for line in predict(folder, "data.x=1.png", "data.batch_size=3").lines] == ["data.x=1.png"]


def test_behind_two_dashes_every_word_is_a_file(
    train: Train, predict: Callable[..., Result], small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("model=mlp", *small("digits"))
    monkeypatch.chdir(tmp_path)
    names = ["-m", "-x.png", "--top", "data.x=1"]
    for name in names:
        Image.new("L", (8, 8)).save(name, format="png")
    assert [line["input"] for line in predict(folder, "--top", 1, "--", *names).lines] == names
    said = predict(folder, "--", "data.batch_size=3", "--tpo")
    assert said.code == 2 and "INPUT 1: expected an existing file or folder, got data.batch_size=3" in said.err


def both_formats(predict: Callable[..., Result], *words: object) -> Iterator[tuple[dict, dict]]:
    rows = csv.DictReader(io.StringIO(predict(*words, "--format", "csv").out))
    yield from itertools.zip_longest(predict(*words).lines, rows)


def test_csv_and_json_lines_agree(train: Train, predict: Callable[..., Result], small: Small) -> None:
    for line, row in both_formats(predict, train("model=mlp", *small("timeseries"))):
        assert row == {name: str(value) for name, value in line.items()}
    for line, row in both_formats(predict, train(*TEXT, *small("text")), "--text", "It was"):
        assert row == {name: str(value) for name, value in line.items()}


def test_large_numbers_keep_the_digits_that_tell_them_apart() -> None:
    assert inference.json_values({"far": [2000000510.125, 0.1 + 0.2], "lost": float("inf")}) == {
        "far": [2000000510.125, 0.3],
        "lost": None,
    }
