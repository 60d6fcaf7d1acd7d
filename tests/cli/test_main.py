"""The command line: what shows something is quick and trains nothing; what does not exist is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dltrain.cli import main
from dltrain.config import compose

# Runs the command as its script does, then says what it cost and whether torch was imported.
CHILD = """
import resource, sys
from dltrain.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"cpu={used.ru_utime + used.ru_stime} torch={'torch' in sys.modules}", file=sys.stderr)
sys.exit(code)
"""


def child(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("--help", 0, "gpt, gru, lenet5, lstm"),
        ("--cfg job", 0, "_target_: dltrain.models.recurrent.Recurrent"),
        ("--info searchpath", 0, "/conf"),
        ("--version", 0, "dltrain "),
        ("-sc query=bash", 0, "model=lenet5 model=lstm"),
        ("modle=lstm model.hidden_size=-3", 2, "Did you mean model?"),
        ("model=lsmt optimizer.lrr=1", 2, "Did you mean lstm?"),
        ("optimizer.lr=fast", 2, "optimizer.lr: expected a number above 0, got fast"),
        ("hydra.run.dir=/proc/x", 2, "hydra.run.dir: expected a folder that can be written"),
        ("-m model=gru,lsmt", 2, "Did you mean lstm?"),
    ],
)
def test_what_trains_nothing_answers_within_a_second_and_without_torch(
    tmp_path: Path, typed: str, code: int, said: str
) -> None:
    ended = child(tmp_path, *typed.split(), COMP_LINE="dltrain data=digits model=l", COMP_POINT="27")
    assert ended.returncode == code, ended.stderr
    assert said in (ended.stderr if code else ended.stdout)
    assert "Traceback" not in ended.stderr
    cost = dict(part.split("=") for part in ended.stderr.splitlines()[-1].split())
    assert cost["torch"] == "False"
    assert float(cost["cpu"]) < 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which nothing may appear; Hydra reads and changes what `sys.argv` holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dltrain"])
    monkeypatch.setenv("COMP_LINE", "dltrain ")
    return tmp_path


def test_help_lists_every_option_of_every_group_and_the_names_that_scripts_rely_on(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    conf = compose.conf_dir()
    for file in conf.glob("*/**/*.yaml"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{file.parent.relative_to(conf)}: ")]
        assert file.stem in line.split(": ")[1].split(", ")
    names = "trainer.epochs trainer.max_steps trainer.accumulate trainer.log_every trainer.eval_every seed optimizer.lr"
    names += " trainer.checkpoint_every data.batch_size data.workers data.path data.column data.window data.horizon"
    for name in f"{names} data.root hydra.run.dir".split():
        assert name in text
    for verb in main.VERBS:
        assert f"dltrain {verb}" in text or verb == "train"


def test_cfg_prints_nothing_but_yaml_that_composes_what_was_typed(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["model=gru", "optimizer.schedule=cosine", "--cfg", "job", "model.hidden_size=7"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert set(config) == set(yaml.safe_load((compose.conf_dir() / "config.yaml").read_text())) - {
        "defaults",
        "hydra",
    } | {"model", "data", "task", "optimizer", "regularization", "device"}
    assert (config["model"]["cell"], config["model"]["hidden_size"]) == ("gru", 7)
    assert config["optimizer"]["schedule"]["_target_"] == "dltrain.optim.schedules.Cosine"


def test_cfg_shows_a_part(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["-c", "job", "-p", "trainer", "trainer.epochs=3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["epochs"] == 3


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("dltrain model=t", "model=transformer"),
        ("dltrain summary model=t", "model=transformer"),
        ("dltrain -m model=t", "model=transformer"),
        ("dltrain optimizer/schedule=o", "optimizer/schedule=one_cycle"),
        ("dltrain trainer.max_s", "trainer.max_steps="),
        ("dltrain model=mlp model.no", "model.norm="),
    ],
)
def test_words_are_completed(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, found: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main.main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == [found]


def test_bash_completes_through_the_script_that_is_installed(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("dltrain")
    script = f"""
    PATH="{command.parent}:$PATH"
    eval "$(dltrain -sc install=bash)"
    COMP_LINE="dltrain model=ls" COMP_WORDS=(dltrain model=ls) COMP_CWORD=1 COMP_POINT=16
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
    """
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.split() == ["model=lstm"], ended.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--experimental-rerun config.pickle", "--experimental-rerun: refused"),
        ("--experimental-rerun=config.pickle", "--experimental-rerun: refused"),
        ("--cfg job --resolve", "--resolve: refused"),
        ("--config-name other", "--config-name: unknown flag"),
        ("--config-path /tmp", "--config-path: unknown flag"),
        ("--confg-dir x", "Did you mean --config-dir?"),
        ("--config-dir nowhere", "--config-dir: expected an existing folder"),
        ("--config-dir", "--config-dir: expected one argument"),
        ("--cfg jbo", "--cfg: expected one of job hydra all, got jbo. Did you mean job?"),
        ("--package model", "--package: expected --cfg job"),
        ("--cfg job -p nothing", ""),
        ("-sc", "expected install=SHELL"),
        ("-sc query=tcsh", "expected install=SHELL"),
        ("-m seed=1,2 --cfg job", "expected one job, got a sweep"),
        ("seed=1,2 --help", "dltrain -m seed=1,2"),
        ("modle=lstm --cfg job", "Did you mean model?"),
        ("summary modle=lstm", "Did you mean model?"),
        ("summary --inptu 3", "--inptu"),
        ("model=lstm summary", "summary: expected KEY=VALUE"),
        ("lstm", "lstm: expected KEY=VALUE"),
        ("evalute R/digits", "evalute: expected a verb or KEY=VALUE, got evalute. Did you mean evaluate?"),
        ("evaluate R -m", "-m: refused, dltrain evaluate sweeps nothing. dltrain -m"),
        ("runs -m", "-m: refused, dltrain runs sweeps nothing. dltrain -m"),
        ("evaluate R/sed=1", "RUN: expected the folder of a run, or latest, got R/sed=1"),
        ("resume R lr=1", "RUN: expected the folder of a run"),
        ("evaluate ~nosuch/x", "~NAME: expected a user who has a home on this machine"),
        ("=lstm", "expected KEY=VALUE"),
        ("model=[lstm", "model=[lstm: cannot be parsed"),
    ],
)
def test_what_makes_no_sense_is_refused(
    nowhere: Path, capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    assert main.main(typed.split()) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out
    assert not list(nowhere.iterdir())


def test_all_unknown_flags_are_named(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--one", "--two", "--help"]) == 2
    assert [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines()] == ["--one", "--two"]


def test_a_message_moves_no_cursor_and_is_one_line(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["data.\x1b[2J\x9b2Jtrap\ndltrain: all is well=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dltrain: data.") and said.count("\n") == 1 and "trap" in said
    assert not {"\x1b", "\x9b"} & set(said)


def test_a_reader_who_leaves_early_sees_no_traceback(tmp_path: Path) -> None:
    script = f"'{sys.executable}' -m dltrain --help | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


LONG = "a" * 300


@pytest.mark.parametrize(
    "typed",
    [
        *(
            f"{verb} {name}"
            for verb in ("evaluate", "predict", "generate", "resume", "rerun", "runs")
            for name in (LONG,)
        ),
        *(f"model=mlp data=csv data.path={name}" for name in (LONG, "'~nosuch/x.csv'")),
        f"model=mlp data=image_folder data.path={LONG}",
        f"hydra.run.dir={LONG}",
        f"predict {{run}} {LONG}.png",
        f"evaluate {{run}} --checkpoint {LONG}",
        f"generate {{run}} --out {LONG}/x.png",
        "hydra.run.dir='~nosuch/x'",
    ],
)
def test_a_name_that_no_file_can_have_is_refused_in_one_line(
    nowhere: Path, plain_run: Path, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    assert main.main(typed.format(run=plain_run).split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dltrain: ")]
    assert len(lines) == 1 and ("expected" in lines[0])
    assert not list(nowhere.iterdir())


EVIL = """
import pathlib
pathlib.Path("canary").touch()
class Evil:
    def __init__(self, *args, **kwargs):
        pathlib.Path("canary").touch()
"""
PLUGINS = {
    "callbacks": "hydra:\n  callbacks:\n    evil:\n      _target_: evil.Evil\n",
    "launcher": "hydra:\n  launcher:\n    _target_: evil.Evil\n",
    "sweeper": "defaults:\n  - override /hydra/sweeper: evil\n",
    "logging": "hydra:\n  hydra_logging:\n    formatters:\n      simple:\n        (): evil.Evil\n",
    "job_logging": "hydra:\n  job_logging:\n    handlers:\n      evil:\n        (): evil.Evil\n",
    "env": "hydra:\n  job:\n    env_set:\n      PYTHONSTARTUP: evil.py\n  mode: MULTIRUN\n",
}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_of_hydra_that_yaml_brings_never_run(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plugin: str
) -> None:
    (nowhere / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(nowhere)
    for name, text in {
        "experiment/evil": f"# @package _global_\n{PLUGINS[plugin]}",
        "hydra/sweeper/evil": "_target_: evil.Evil\n",
    }.items():
        file = nowhere / "my_conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    before = sorted(nowhere.rglob("*"))
    for flags in ([], *([["-m"], ["--cfg", "job"], ["--help"], ["--info"]] if plugin == "callbacks" else [])):
        assert main.main(["--config-dir", "my_conf", "experiment=evil", *flags]) == 2
        assert "hydra." in capsys.readouterr().err
    monkeypatch.setenv("COMP_LINE", "dltrain --config-dir my_conf experiment=evil model=")
    main.main(["-sc", "query=bash"])
    assert sorted(nowhere.rglob("*")) == before


@pytest.mark.parametrize(
    "word", ["data.path=x", "data=csv", "optimizer/schedule=x", "~model", "+model.x=1", "lr=1", "modle=x"]
)
def test_what_names_a_key_or_nearly_does_sets_something(word: str) -> None:
    assert main.is_override(word)


@pytest.mark.parametrize("word", ["R/sed=1", "a=b.png", "~nosuch/x.csv", "~/x=1", "data/x.csv", "x.png", "./seed=1"])
def test_any_other_word_is_a_path(word: str) -> None:
    assert not main.is_override(word)
