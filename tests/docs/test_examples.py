"""The examples of docs/extending.md train in a sweep, resume, predict, and reject invalid input."""

import csv
import json
import sys
from pathlib import Path

import pytest

from dltrain.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
CONF = ["--config-dir", str(EXAMPLES / "conf")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    (tmp_path / "table.csv").write_text("a,b,y\n" + "".join(f"{n},{n % 7},{2 * n + n % 7}\n" for n in range(200)))
    (tmp_path / "points.csv").write_text("0.5,0.1\n-0.2,0.3\n")
    yield tmp_path
    for name in ("my_model", "my_data", "my_task", "my_optimizer"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("module", "choices", "given", "keys"),
    [
        (
            "my_model",
            ["model=moving_average", "data.series=sunspots", "data.window=24", "optimizer/schedule=constant"],
            [],
            {"time", "step"},
        ),
        ("my_data", ["model=mlp", "data=spirals"], ["points.csv"], {"class", "class_name", "probability"}),
        ("my_task", ["model=mlp", "data=csv", "data.path=table.csv", "task=quantiles"], ["table.csv"], {"0.1", "0.9"}),
        pytest.param(
            *("my_optimizer", ["optimizer=lion", "data.series=sunspots", "data.window=24"], [], {"time", "step"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_example_works_in_a_sweep_and_with_resume_and_predict(
    module: str, choices: list[str], given: list[str], keys: set[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = f"allow_targets=[{module}]"
    short = ["seed=0,1", "device=cpu", "trainer.max_steps=3", "trainer.log_media=false", "hydra.sweep.dir=sweep"]
    assert main(["-m", *CONF, *choices, trust, *short]) == 0
    first, second = (row["folder"] for row in json.loads((here / "sweep" / "summary.json").read_text())["jobs"])
    assert main(["resume", first, trust, "trainer.max_steps=6"]) == 0
    assert json.loads((Path(first) / "result.json").read_text())["steps"] == 6
    capsys.readouterr()
    assert main(["predict", second, *given, trust]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines and all(keys <= set(line) for line in lines)


def test_invalid_input_of_the_examples_is_rejected_with_the_reason(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = "allow_targets=[my_data,my_task]"
    (here / "words.csv").write_text("x,y\n")
    overrides = ["model=mlp", "data=spirals", trust, "device=cpu", "trainer.max_steps=1", "hydra.run.dir=run"]
    assert main([*CONF, *overrides, "trainer.log_media=false"]) == 0
    (here / "long.csv").write_text(f"{'1' * 200_000},2\n")
    csv.field_size_limit(131_072)  # Python's default; reading tables of pixels raises it for the process
    assert main(["predict", "run", "words.csv", trust]) == 2
    assert main(["predict", "run", "long.csv", trust]) == 2
    assert main([*CONF, "data=csv", "data.path=table.csv", "model=mlp", "task=quantiles", "task.targets=2", trust]) == 2
    stderr = capsys.readouterr().err
    assert "INPUT 1: expected CSV files with two numbers per line, got words.csv" in stderr
    assert "got long.csv. field larger than field limit" in stderr
    assert "task.targets: expected 1" in stderr


OWN = {
    "mine.py": """
import my_data


class Bare:
    spec, batch_size, load = my_data.Spirals().spec, 4, my_data.Spirals.load


class Pair(my_data.Spirals):
    def load(self):
        return super().load().train, None


class Flat:
    def factor(self, step, steps):
        return 1.0
""",
    "own/data/bare.yaml": "_target_: mine.Bare",
    "own/data/pair.yaml": "_target_: mine.Pair",
    "own/model/untargeted.yaml": "size: 3",
    "own/optimizer/unscheduled.yaml": "_target_: torch.optim.SGD",
    "own/optimizer/schedule/flat.yaml": "_target_: mine.Flat",
}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("data=bare", "data._target_: expected a class with the attributes spec, batch_size and workers, got Bare"),
        ("data=pair", "data._target_: expected Splits from load(), got tuple"),
        ("data=digits model=untargeted", "model._target_: expected a class, got nothing"),
        (
            "data=digits optimizer=unscheduled",
            "optimizer.schedule: expected a value, got nothing. Add this line to the defaults list",
        ),
        (
            "data=digits optimizer/schedule=flat",
            "expected a subclass of dltrain.optim.schedules.Schedule, got mine.Flat",
        ),
        (
            "resume latest",
            "resume: expected KEY=VALUE or GROUP=OPTION, got resume. Put the verb first: dltrain resume ...",
        ),
    ],
)
def test_an_incomplete_class_or_yaml_or_a_misplaced_verb_is_rejected(
    command: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in OWN.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    choices = [] if "latest" in command else ["model=mlp", "task=classification", "device=cpu", "allow_targets=[mine]"]
    assert main(["--config-dir", "own", *choices, *command.split()]) == 2
    assert message in capsys.readouterr().err
    sys.modules.pop("mine", None)


@pytest.mark.slow
def test_an_mlp_learns_the_spirals_of_the_example_data(here: Path) -> None:
    overrides = ["model=mlp", "data=spirals", "optimizer.lr=0.01", "trainer.epochs=20", "allow_targets=[my_data]"]
    assert main([*CONF, *overrides, "device=cpu", "hydra.run.dir=run"]) == 0
    assert json.loads((here / "run" / "result.json").read_text())["test"]["accuracy"] > 0.9
