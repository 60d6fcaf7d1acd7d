"""The command line: imports, help, Hydra flags and errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dltrain import __version__
from dltrain.cli import main
from dltrain.cli.args import parse
from dltrain.cli.verbs import VERBS
from dltrain.config import groups

# Run the command as its script does, then print the libraries that it imported.
CHILD = """
import sys
from dltrain.cli.main import main
code = main(sys.argv[1:])
names = ("torch", "numpy", "hydra", "omegaconf", "yaml", "rich", "importlib.metadata")
print("imported:", *(name for name in names if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""
# Run one command per argument; after each, print its output, its exit code and which of three libraries are imported.
CHILD_OF_SEVERAL = """
import contextlib, io, json, sys
from dltrain.cli.main import main
for command in sys.argv[1:]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main(command.split())
    print(json.dumps([output.getvalue(), code, sorted({"torch", "numpy", "rich"} & set(sys.modules))]))
"""


def child(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def imported_libraries(completed: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the libraries that a child imported."""
    return set(completed.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("words", ["--help", *(f"{verb} --help" for verb in VERBS), "--one", "evalute R", "--cfg jbo"])
def test_help_and_unknown_arguments_import_neither_torch_nor_hydra(tmp_path: Path, words: str) -> None:
    completed = child(tmp_path, *words.split())
    assert completed.returncode == (0 if "--help" in words else 2), completed.stderr
    assert imported_libraries(completed) == set()


def test_help_lists_the_options_in_the_config_dir(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "unreadable.yaml").write_text("[")
    completed = child(tmp_path, "--config-dir", "mine", "--help")
    assert "unreadable, vae" in completed.stdout
    assert imported_libraries(completed) == set()


def test_version_imports_only_package_metadata(tmp_path: Path) -> None:
    completed = child(tmp_path, "--version")
    assert completed.stdout.startswith(f"dltrain {__version__} (torch 2.")
    assert imported_libraries(completed) == {"importlib.metadata"}


COMMANDS = {
    "--cfg job": (0, "_target_: dltrain.models.recurrent.Recurrent"),
    "--info searchpath": (0, "/conf"),
    "-sc query=bash": (0, "model=lenet5 model=lstm"),
    "modle=lstm model.hidden_size=-3": (2, "Did you mean model?"),
    "model=lsmt optimizer.lrr=1": (2, "Did you mean lstm?"),
    "optimizer.lr=fast": (2, "optimizer.lr: expected a number above 0, got fast"),
    "hydra.run.dir=/proc/x": (2, "hydra.run.dir: expected a folder that can be written"),
    "-m model=gru,lsmt": (2, "Did you mean lstm?"),
}


def test_commands_that_do_not_train_import_neither_torch_nor_numpy(tmp_path: Path) -> None:
    environment = {**os.environ, "COMP_LINE": "dltrain data=digits model=l", "COMP_POINT": "27"}
    program = [sys.executable, "-c", CHILD_OF_SEVERAL, *COMMANDS]
    completed = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    results = map(json.loads, completed.stdout.splitlines())
    for (output, code, imported), (words, expected) in zip(results, COMMANDS.items(), strict=True):
        assert (code, imported) == (expected[0], []), (words, output)
        assert expected[1] in output and "Traceback" not in output, (words, output)
    assert not completed.stderr
    assert not list(tmp_path.iterdir())


# Remove signals and functions that Windows lacks; keep SIGCHLD, which torch needs on every other platform.
NOT_EVERYWHERE = """
import os, signal, sys
for name in ("SIGUSR1", "SIGALRM", "SIGBUS", "alarm", "sigtimedwait", "pthread_sigmask"):
    delattr(signal, name)
for name in ("setsid", "killpg", "getpgid"):
    delattr(os, name)
from dltrain.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_training_does_not_need_signals_and_functions_that_windows_lacks(
    tmp_path: Path, own_files: dict[str, Path]
) -> None:
    words = ["model=mlp", "model.hidden_size=4", "trainer.max_steps=1", "trainer.log_media=false"]
    words += ["device=cpu", "hydra.run.dir=run"]
    words += ["data=image_folder", f"data.path={own_files['image_folder']}", "data.image_size=8"]
    words += ["data.batch_size=8", "data.workers=1"]
    completed = subprocess.run(
        [sys.executable, "-c", NOT_EVERYWHERE, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert yaml.safe_load((tmp_path / "run" / "result.json").read_text())["steps"] == 1


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder; restore `sys.argv`, which Hydra changes, and ``COMP_LINE`` after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dltrain"])
    monkeypatch.setenv("COMP_LINE", "dltrain ")
    return tmp_path


def test_help_lists_all_verbs_common_keys_and_options_of_groups(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    conf = groups.conf_dir()
    for file in conf.glob("*/**/*.yaml"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {file.parent.relative_to(conf)}: ")]
        assert file.stem in line.split(": ")[1].split(", ")
    names = "trainer.epochs trainer.max_steps trainer.accumulate trainer.log_every trainer.eval_every seed optimizer.lr"
    names += " trainer.checkpoint_every data.batch_size data.workers data.path data.column data.window data.horizon"
    for name in f"{names} data.root hydra.run.dir".split():
        assert name in text
    for verb, found in VERBS.items():
        assert f"    {verb}" in text
        assert main.main([verb, "--help"]) == 0
        own = capsys.readouterr().out
        assert own.startswith(f"usage: {found.usage}\n")
        for part in (found.description, *found.examples.splitlines(), *(name for name, _ in found.arguments)):
            assert part in own


def test_cfg_prints_only_the_composed_configuration_as_yaml(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["model=gru", "optimizer.schedule=cosine", "--cfg", "job", "model.hidden_size=7"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    keys = set(yaml.safe_load((groups.conf_dir() / "config.yaml").read_text())) - {"defaults", "hydra"}
    options = {group.name for group in groups.conf_dir().iterdir() if group.is_dir()} - {"experiment"}
    assert set(config) == keys | options
    assert (config["model"]["cell"], config["model"]["hidden_size"]) == ("gru", 7)
    assert config["optimizer"]["schedule"]["_target_"] == "dltrain.optim.schedules.Cosine"


def test_cfg_can_print_one_group(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["-c", "job", "-p", "trainer", "trainer.epochs=3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["epochs"] == 3


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("dltrain model=ls", "model=lstm"),
        ("dltrain summary model=ls", "model=lstm"),
        ("dltrain -m model=ls", "model=lstm"),
        ("dltrain optimizer/schedule=o", "optimizer/schedule=one_cycle"),
        ("dltrain trainer.max_s", "trainer.max_steps="),
        ("dltrain model=mlp model.no", "model.norm="),
    ],
)
def test_shell_completion_suggests_options_and_keys(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, found: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main.main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == [found]


def test_the_installed_bash_completion_completes_an_option(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("dltrain")
    script = f"""
    PATH="{command.parent}:$PATH"
    eval "$(dltrain -sc install=bash)"
    COMP_LINE="dltrain model=ls" COMP_WORDS=(dltrain model=ls) COMP_CWORD=1 COMP_POINT=16
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
    """
    completed = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert completed.stdout.split() == ["model=lstm"], completed.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--experimental-rerun config.pickle", "--experimental-rerun: not supported because it unpickles"),
        ("--experimental-rerun=config.pickle", "--experimental-rerun: not supported because it unpickles"),
        ("--cfg job --resolve", "--resolve: not supported because values such as"),
        ("--config-name other", "--config-name: unknown flag"),
        ("--config-path /tmp", "--config-path: unknown flag"),
        ("--confg-dir x", "Did you mean --config-dir?"),
        ("--config-dir nowhere", "--config-dir: expected an existing folder"),
        ("--config-dir", "--config-dir: expected one argument"),
        ("--cfg jbo", "--cfg: expected one of job hydra all, got jbo. Did you mean job?"),
        ("--package model", "--package: not supported without --cfg"),
        ("--cfg job -p nothing", ""),
        ("-sc", "expected install=SHELL"),
        ("-sc query=tcsh", "expected install=SHELL"),
        ("-m seed=1,2 --cfg job", "not supported for several jobs"),
        ("seed=1,2 --cfg job", "dltrain -m seed=1,2"),
        ("--config-dir nowhere --help", "--config-dir: expected an existing folder"),
        ("modle=lstm --cfg job", "Did you mean model?"),
        ("summary modle=lstm", "Did you mean model?"),
        ("summary --inptu 3", "--inptu"),
        ("model=lstm summary", "summary: expected KEY=VALUE"),
        ("lstm", "lstm: expected KEY=VALUE"),
        ("evalute R/digits", "evalute: expected a verb or KEY=VALUE, got evalute. Did you mean evaluate?"),
        ("evaluate R -m", "-m: not supported because dltrain evaluate cannot run sweeps. dltrain -m"),
        ("runs -m", "-m: not supported because dltrain runs cannot run sweeps. dltrain -m"),
        ("evaluate R/sed=1", "RUN: expected the folder of a run, or latest, got R/sed=1"),
        ("resume R lr=1", "RUN: expected the folder of a run"),
        ("evaluate ~nosuch/x", "~NAME: expected a user of this machine"),
        ("=lstm", "expected KEY=VALUE"),
        ("model=[lstm", "model=[lstm: cannot be parsed"),
    ],
)
def test_an_invalid_command_is_rejected_with_an_explanation(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    assert main.main(command.split()) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert not shown.out
    assert not list(empty_folder.iterdir())


def test_all_unknown_flags_are_reported(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--one", "--two", "--help"]) == 2
    assert [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines()] == ["--one", "--two"]


def test_control_characters_in_an_argument_do_not_reach_the_terminal(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["data.\x1b[2J\x9b2Jtrap\ndltrain: all is well=1"]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("dltrain: data.") and stderr.count("\n") == 1 and "trap" in stderr
    assert not {"\x1b", "\x9b"} & set(stderr)


def test_a_closed_pipe_ends_the_command_without_a_traceback(tmp_path: Path) -> None:
    script = f"'{sys.executable}' -m dltrain --help | true; echo ${{PIPESTATUS[0]}}"
    completed = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (completed.stdout, completed.stderr) == ("0\n", "")


LONG = "a" * 300


@pytest.mark.parametrize(
    "command",
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
def test_a_path_that_is_too_long_or_names_an_unknown_user_is_rejected_with_a_one_line_error(
    empty_folder: Path, plain_run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main.main(command.format(run=plain_run).split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dltrain: ")]
    assert len(lines) == 1 and ("expected" in lines[0])
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize("command", ["runs {}", "runs {}/run", "--config-dir {}/conf model=mlp"])
def test_a_path_without_permission_is_rejected_with_a_one_line_error(tmp_path: Path, command: str) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    as_user = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if as_user and (shutil.which("setpriv") is None or subprocess.run([*as_user, "true"], check=False).returncode):
        pytest.skip("root may read every folder, and setpriv is not usable")
    argv = [*as_user, sys.executable, "-m", "dltrain", *command.format(locked).split()]
    child = subprocess.run(argv, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert child.returncode == 2 and "Permission denied" in child.stderr
    assert child.stderr.startswith("dltrain: file: expected a path that you may access, got ")
    assert len(child.stderr.splitlines()) == 1


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


DEFAULT = ("callbacks", "sweeper", "env")  # tested by default; one check rejects all plugins


@pytest.mark.parametrize("plugin", [p if p in DEFAULT else pytest.param(p, marks=pytest.mark.slow) for p in PLUGINS])
def test_hydra_plugins_named_in_yaml_never_run(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plugin: str
) -> None:
    (empty_folder / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(empty_folder)
    for name, text in {
        "experiment/evil": f"# @package _global_\n{PLUGINS[plugin]}",
        "hydra/sweeper/evil": "_target_: evil.Evil\n",
    }.items():
        file = empty_folder / "my_conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    before = sorted(empty_folder.rglob("*"))
    for flags in ([], *([["-m"], ["--cfg", "job"], ["--info"]] if plugin == "callbacks" else [])):
        assert main.main(["--config-dir", "my_conf", "experiment=evil", *flags]) == 2
        assert "hydra." in capsys.readouterr().err
    monkeypatch.setenv("COMP_LINE", "dltrain --config-dir my_conf experiment=evil model=")
    main.main(["-sc", "query=bash"])
    assert sorted(empty_folder.rglob("*")) == before


@pytest.mark.parametrize(
    "word", ["data.path=x", "data=csv", "optimizer/schedule=x", "~model", "+model.x=1", "lr=1", "modle=x"]
)
def test_arguments_that_resemble_a_key_are_parsed_as_overrides(word: str) -> None:
    assert groups.is_override(word)


@pytest.mark.parametrize("word", ["R/sed=1", "a=b.png", "~nosuch/x.csv", "~/x=1", "data/x.csv", "x.png", "./seed=1"])
def test_arguments_that_resemble_a_path_are_parsed_as_paths(word: str) -> None:
    assert not groups.is_override(word)


def test_flags_overrides_and_paths_may_be_in_any_order() -> None:
    flags = ["--top", "3", "--format=csv"]
    for words in (["R", "x.png", *flags, "seed=1"], [*flags, "seed=1", "R", "x.png"], ["seed=1", "R", *flags, "x.png"]):
        found = parse(["predict", *words])
        assert (found.names, found.overrides, found.top, found.format) == (["R", "x.png"], ["seed=1"], 3, "csv")


def test_neither_flag_values_nor_arguments_after_two_dashes_are_overrides() -> None:
    found = parse(["predict", "R", "--text", "seed=1", "device=cpu", "--", "seed=2", "--top"])
    assert (found.text, found.overrides, found.names) == ("seed=1", ["device=cpu"], ["R", "seed=2", "--top"])
