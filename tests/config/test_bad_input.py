"""Bad input ends with exit code 2, one clear line per error and no traceback, and leaves nothing on disk."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dltrain.cli import main

ROWS = 300
UNAVAILABLE = "cuda" if torch.backends.mps.is_available() else "mps"  # a device that this machine does not have
FILES = {
    "gap.csv": "value\n" + "\n".join("" if row == 30 else f"{row}.5" for row in range(ROWS)),
    "words.csv": "name,value\n" + "\n".join(f"row {row},{row}.5" for row in range(ROWS)),
    "few.csv": "value\n1\n2\n3\n",
    "table.csv": "a,b,kind\n" + "\n".join(f"{row},{row * 2 % 7},{'cat' if row % 2 else 'dog'}" for row in range(80)),
    "a,b.csv": "a,b\n1,2\n",
    "file": "a file, not a folder",
    "old/status.json": "{}",
}

# For each command and each of its errors, the key and the words that the error line must contain.
TABLE: dict[str, list[list[str]]] = {
    # Keys, options, types and ranges are checked before torch is imported.
    "modle=lstm": [["modle", "Did you mean model?"]],
    "model=lsmt": [["model", "lsmt", "one of the", "options of model", "Did you mean lstm?"]],
    "optimizer.lrr=1": [["optimizer.lrr", "Did you mean optimizer.lr?"]],
    "file": [["file", "KEY=VALUE or GROUP=OPTION", "Did you mean data.path=file?"]],
    "lr=1": [["lr", "Did you mean optimizer.lr?"]],
    "~optimizer.betas.0": [["~optimizer.betas.0", "Set optimizer.betas itself."]],
    "data.colour=red": [["data.colour", "Did you mean data.column?"]],
    "model.blocks.0.kernl=3 model=cnn data=digits": [
        ["model.blocks.0.kernl", "channels", "To add it: +model.blocks.0.kernl=..."]
    ],
    "trainer.epochs.x=3": [["trainer.epochs.x", "Set trainer.epochs itself."]],
    "optimizer.lr=fast": [["optimizer.lr", "a number above 0", "fast"]],
    "optimizer.lr=0": [["optimizer.lr", "a number above 0", "0"]],
    "optimizer.lr=nan": [["optimizer.lr", "a number above 0", "nan"]],
    "model.hidden_size=-3": [["model.hidden_size", "a whole number of at least 1", "-3"]],
    "model.hidden_size=64.5": [["model.hidden_size", "a whole number of at least 1", "64.5"]],
    "model.bidirectional=maybe": [["model.bidirectional", "true or false", "maybe"]],
    "regularization.dropout=1.5": [["regularization.dropout", "at least 0 and below 1", "1.5"]],
    "data.batch_size=0": [["data.batch_size", "a whole number of at least 1", "0"]],
    "seed=-1": [["seed", "a whole number of at least 0", "-1"]],
    "~": [["~", "KEY=VALUE or GROUP=OPTION"]],
    "optimizer.betas=0.9,0.99": [["optimizer.betas", "one value", "'optimizer.betas=[0.9,0.99]'"]],
    "seed=1,2": [["seed", "one value", "1,2", "dltrain -m seed=1,2"]],
    "'data.path=a (1).csv'": [["data.path=a (1).csv", "cannot be parsed", """Quote it: "data.path='a (1).csv'\""""]],
    "data=csv data.column=units,price": [["data.column", "one value", "'data.column=[units,price]'"]],
    "data=midi 'task.prompt=60 64, 67'": [
        ["task.prompt", "one value", """To pass one text, quote it: 'task.prompt="60 64, 67"'"""]
    ],
    "data=csv data.path=a,b.csv": [["data.path", "one value", """Quote it: "data.path='a,b.csv'\""""]],
    "model=[gru,lstm]": [["model", "one option", "gru,lstm", "dltrain -m model=gru,lstm"]],
    "trainer.eval_every=often": [["trainer.eval_every", '"1 epoch"', "often"]],
    "trainer.epochs=null": [["trainer.epochs", "a whole number", "null", "trainer.max_steps"]],
    "device.precision=fp8": [["device.precision", "auto fp32 tf32 bf16 fp16", "fp8"]],
    "device=gpu": [["device", "auto cpu cuda mps", "gpu"]],
    "optimizer.schedule=cosin": [["optimizer/schedule", "Did you mean cosine?"]],
    "optimizer.schedule.step_size=-1 optimizer.schedule=step": [["optimizer.schedule.step_size", "above 0", "-1"]],
    "trainer={epoch: 3}": [["trainer.epoch", "Did you mean trainer.epochs?"]],
    "+trainer.epoch=3": [["trainer.epoch", "Did you mean epochs?"]],
    "~model": [["model", "expected a value"]],
    # One line per error, also for errors of Hydra, with and without --cfg.
    "~model=gru +model=gru ++data=digits model@foo=gru seed=-1": [
        ["~model=gru", "No match in the defaults list"],
        ["+model=gru", "Multiple values for model"],
        ["++data=digits", "not supported"],
        ["model@foo=gru", "Could not override"],
        ["seed", "at least 0"],
    ],
    "--cfg job +seed=3 ~model.hidden_size=3 optimizer.lr=-1": [
        ["+seed", "not supported because seed exists", "seed=3"],
        ["~model.hidden_size", "its value, 64", "got 3"],
        ["optimizer.lr", "above 0"],
    ],
    "hydra.callbacks.x._target_=os.system": [["hydra.callbacks.x._target_", "hydra.run.dir"]],
    "hydra.run.dir=file/run": [["hydra.run.dir", "can be written", "file/run"]],
    "hydra.run.dir=old": [["hydra.run.dir", "holds no run yet", "old"]],
    "-m hydra.sweep.dir=file/sweep": [["hydra.sweep.dir", "can be written", "file/sweep"]],
    "modle=lstm optimizer.lrr=1 data=digts regularization.dropout=1.5 seed=1,2 bogus": [
        ["bogus", "KEY=VALUE"],
        ["seed", "one value"],
        ["data", "Did you mean digits?"],
        ["modle", "Did you mean model?"],
        ["optimizer.lrr", "Did you mean optimizer.lr?"],
        ["regularization.dropout", "below 1"],
    ],
    "'model.hidden_size=${nothing}'": [["model.hidden_size", "a value", "${nothing}", "'nothing' not found"]],
    "'seed=${seed}'": [["seed", "a value", "${seed}", "Recursive"]],
    "'device.name=${x}' 'optimizer.lr=${y}'": [["optimizer.lr", "${y}"], ["device.name", "${x}"]],
    "'hydra.run.dir=${nothing}'": [["Interpolation key 'nothing' not found", "hydra.run.dir"]],
    "'model.activation=${oc.env:DLTRAIN_NOPE}'": [["model.activation", "'DLTRAIN_NOPE' not found"]],
    # The resolved values of interpolations are checked.
    "'data.batch_size=${spec.size}'": [["data.batch_size", "known before the data are read", "${spec.size}"]],
    "'seed=${data}'": [["seed", "a whole number of at least 0", "a group of keys"]],
    "'device.name=${trainer}'": [["device.name", "a value", "a group of keys"]],
    "'++trainer=${device}'": [["trainer", "a group of keys", "${device}"]],
    "'trainer.eval_every=${data}'": [["trainer.eval_every", '"1 epoch"', "a group of keys"]],
    "'trainer.epochs=${trainer}'": [["trainer.epochs", "a value", "${trainer}"]],
    "'model.hidden_size=${spec.tokenz.size}'": [["model.hidden_size", "a spec value", "Did you mean tokens?"]],
    "'model.hidden_size=${spec.hidden}'": [["model.hidden_size", "a spec value", "hidden"]],
    "'model.activation=a${spec.size}'": [
        ["model.activation", "${spec.NAME} alone, without other text", "a${spec.size}"]
    ],
    "'hydra.run.dir=${data}'": [["hydra.run.dir", "a folder", "${data}"]],
    # Numbers too large for a tensor, a timer or an integer.
    "regularization.l2=1e39": [["regularization.l2", "a number below 3.4e+38", "1e+39"]],
    "optimizer.weight_decay=1e300 optimizer=adamw": [["optimizer.weight_decay", "below 3.4e+38", "1e+300"]],
    "trainer.max_minutes=1e300": [["trainer.max_minutes", "at most 1e+08", "1e+300"]],
    "data.batch_size=9223372036854775807": [["data.batch_size", "a whole number", "9223372036854775807"]],
    f"seed={'9' * 5000}": [["seed", "cannot be parsed", "5000 digits"]],
    # Errors that are found only when the components are built.
    "data.path=nowhere.csv": [["data.path", "an existing CSV file", "nowhere.csv"]],
    "data.path=tabel.csv": [["data.path", "an existing CSV file", "tabel.csv", "Did you mean table.csv?"]],
    "data.path=./tabel.csv": [["data.path", "./tabel.csv", "Did you mean ./table.csv?"]],
    "data.path=.": [["data.path", "an existing CSV file", "got the folder ."]],
    "data.path='~/nowhere.csv'": [["data.path", "an existing CSV file", "got ~/nowhere.csv"]],
    "data.path=fiel.csv": [["data.path", "an existing CSV file", "fiel.csv"]],
    "data.path=gap.csv": [["gap.csv", "line 32", "data.missing=interpolate"]],
    "data.path=words.csv data.column=name": [["data.column", "number", "row 0"]],
    "data.path=words.csv data.column=valeu": [["data.column", "name, value", "valeu"]],
    "data.path=few.csv": [["data.path", "at least", "3 rows", "data.window"]],
    "data.series=co3": [["data.series", "co2", "co3", "Did you mean co2?"]],
    "data=mnist data.root=.": [["data.root", "mnist", "Add data.download=true"]],
    "data=cifar10 data.root=.": [["data.root", "cifar10", "Add data.download=true"]],
    "model=lstm data=csv data.path=table.csv": [["model=lstm", "data=csv", "Data that fit model=lstm", "timeseries"]],
    "model=gpt data=digits": [
        ["model=gpt", "data=digits", "does not provide target_tokens", "Data that fit model=gpt:", "text"]
    ],
    "task=classification": [["task=classification", "data=timeseries", "Data that fit", "digits"]],
    "model=gpt data=text model.length=32": [["model.length", "at least 64 (the length of the input), got 32"]],
    r"data=text 'data.separator=\n\n'": [["data.path", "text between separators", "an empty document in line"]],
    "data=text data.separator=ccc data.isolate_documents=true data.streams=true": [
        ["data.isolate_documents", "not supported with data.streams=true"]
    ],
    "model=transformer data=reversal": [
        ["Models that fit task=translation: seq2seq t5 transformer_seq2seq. Use a task"]
    ],
    "model=mlp data=digits task=contrastive_divergence": [
        ["Models that fit task=contrastive_divergence: rbm. Use a task such as classification ctc"]
    ],
    "model=mlp data=csv data.path=table.csv data.column=a": [["task=classification", "numbers: add task=regression"]],
    "model=mlp data=csv data.path=table.csv task=regression": [["task=regression", "classes: add task=classification"]],
    "data=npz": [["data.path", "expected a value", "data.path=..."]],
    "model=transformer model.num_heads=5": [["model.num_heads", "64", "5"]],
    "model=rnn model.activation=rleu": [["model.activation", "rleu"]],
    "device.name=abacus": [["device.name", "one of auto cpu cuda mps", "abacus"]],
    f"device={UNAVAILABLE} data.path=nowhere.csv": [["device", "cpu", UNAVAILABLE], ["data.path", "nowhere.csv"]],
    "device=cpu device.precision=tf32": [["device.precision", "bf16", "tf32"]],
    "+model.num_heads=5": [["model.num_heads", "unknown argument", "num_layers"]],
    "model._target_=os.system": [["model._target_", "a class of dltrain", "os.system"]],
    "task._target_=torch.nn.Identity": [["task._target_", "a task", "torch.nn.Identity"]],
    "model._target_=mine.Model": [["model._target_", "mine.Model", "allow_targets=[mine]"]],
    "model._target_=mine.Model allow_targets=[mine]": [
        ["model._target_", "an importable class", "No module named 'mine'", "PYTHONPATH"]
    ],
    "optimizer._target_=torch.optim.ASGD": [["optimizer.betas optimizer.eps", "ASGD takes lr", "~optimizer.betas"]],
    "~optimizer.betas ~optimizer.eps ~optimizer.amsgrad ~optimizer.weight_decay optimizer._target_=torch.optim.LBFGS": [
        ["optimizer._target_", "LBFGS cannot take a step", "closure"]
    ],
}


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder that contains `FILES`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_lines(stderr: str) -> list[str]:
    """Return the error lines of `stderr`, without their prefix."""
    return [line.removeprefix("dltrain: ") for line in stderr.splitlines() if line.startswith("dltrain: ")]


def check_errors(stderr: str, expected: list[list[str]]) -> None:
    lines = error_lines(stderr)
    assert len(lines) == len(expected), lines
    for line, (key, *words) in zip(lines, expected, strict=True):
        assert line.startswith(key) or key in line.split(": ", 1)[1], line
        assert all(word in line for word in words), line


@pytest.mark.parametrize("command", TABLE)
def test_bad_input_is_explained_and_leaves_no_files(
    workdir: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = sorted(workdir.rglob("*"))
    assert main.main(split(command)) == 2
    shown = capsys.readouterr()
    check_errors(shown.err, TABLE[command])
    assert not shown.out
    assert "Traceback" not in shown.err
    assert sorted(workdir.rglob("*")) == before


def split(command: str) -> list[str]:
    """Split a command like a shell; a command with a dictionary (``{`` but no ``$``) stays one word."""
    return shlex.split(command) if "{" not in command or "$" in command else [command]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_unavailable_device_is_rejected(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["device=cuda"]) == 2
    check_errors(capsys.readouterr().err, [["device", "a device of this machine", "cuda", "Usable here:", "cpu"]])


def test_an_incompatible_model_is_reported_together_with_a_missing_path(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["model=lstm", "data=csv"]) == 2
    pair = ["model=lstm data=csv", "Data that fit model=lstm", "timeseries"]
    check_errors(capsys.readouterr().err, [["data.path", "expected a value"], pair])


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_an_output_folder_that_cannot_be_created_is_rejected(
    workdir: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    (workdir / "outputs").write_text("a file, not a folder")
    assert main.main(flags) == 2
    check_errors(capsys.readouterr().err, [["dir", "can be written", str(workdir / "outputs")]])


def test_invalid_optimizer_arguments_leave_no_files(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(workdir.rglob("*"))
    assert main.main(["optimizer=nesterov", "+optimizer.dampening=0.5", "data.series=sunspots", "data.window=12"]) == 2
    check_errors(capsys.readouterr().err, [["optimizer", "Nesterov", "zero dampening"]])
    assert sorted(workdir.rglob("*")) == before


def test_existing_files_in_the_run_folder_survive_an_error(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "mine").mkdir()
    (workdir / "mine" / "thesis.tex").write_text("all my work")
    command = ["optimizer=nesterov", "+optimizer.dampening=0.5", "data.series=sunspots", "data.window=12"]
    assert main.main([*command, "hydra.run.dir=mine"]) == 2
    assert [file.name for file in (workdir / "mine").rglob("*")] == ["thesis.tex"]


def test_an_error_for_a_key_below_a_list_does_not_suggest_adding_it(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["model=cnn", "data=digits", "model.blocks.7.channels=3"]) == 2
    assert capsys.readouterr().err.endswith("unknown key. The keys of model.blocks are: 0 1 2 3 4 5.\n")


def test_the_installed_script_exits_with_code_2_on_bad_input(workdir: Path) -> None:
    script = Path(sys.executable).with_name("dltrain")
    completed = subprocess.run(
        [script, "optimizer.lr=fast", "modle=lstm"],
        env={**os.environ, "HYDRA_FULL_ERROR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 2
    check_errors(completed.stderr, [["modle", "Did you mean model?"], ["optimizer.lr", "fast"]])
    assert "Traceback" not in completed.stderr
    assert not completed.stdout
    assert not (workdir / "outputs").exists()
