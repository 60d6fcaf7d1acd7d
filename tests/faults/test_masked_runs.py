"""Runs whose secrets are ordinary words, short, in brackets, in addresses or asked for by a hostile folder."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dltrain import redaction
from dltrain.cli import main

SMALL = ["data=digits", "device=cpu", "trainer.max_steps=2"]
OWN = ["--config-dir", "my_conf", "allow_targets=[pooled]", "model=pooled"]
YAML = "_target_: pooled.Pooled\nsize: ${spec.size}\noutputs: ${spec.outputs}\n"
YAML += "token: ''\nauth: ''\napi_key: ''\ndb: null\nfails: ''\n"
MODEL = """
from dltrain.models.feedforward import MLP

class Pooled(MLP):
    def __init__(self, size, outputs, token, auth, api_key, db, fails):
        super().__init__(size, outputs, {"mean": 8, "last": 4}.get(token, 6))
        self.fails, self.said, self.calls = fails, (api_key, db), 0
        self.fail("early")

    def forward(self, *inputs):
        self.calls += 1
        if self.calls > 9:
            self.fail("late")
        return super().forward(*inputs)

    def fail(self, when):
        if self.fails == when:
            raise LookupError(f"no entry for {self.said[0]!r} in {self.said}")
"""


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """What one test taught is no secret of the next."""
    redaction.forget()
    yield
    redaction.forget()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model whose arguments have the names of secrets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "pooled", raising=False)
    (tmp_path / "pooled.py").write_text(MODEL)
    file = tmp_path / "my_conf" / "model" / "pooled.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(YAML)
    return tmp_path


def run(*typed: str) -> int:
    """A command as a shell calls it."""
    before, sys.argv = sys.argv, ["dltrain", *typed]
    try:
        return main.main()
    finally:
        sys.argv = before


def read(path: Path) -> Any:
    """A YAML or JSON file."""
    return yaml.safe_load(path.read_text())


def found(secret: str, folder: Path) -> list[str]:
    """The files below a folder, and the names of files, that have a secret in them."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if secret in str(file) or secret.encode() in file.read_bytes()]


WORDS = ["token=mean", "auth=adam", "api_key=data", "token=regularization"]


@pytest.mark.parametrize("word", [WORDS[0], *(pytest.param(word, marks=pytest.mark.faults) for word in WORDS[1:])])
def test_an_argument_that_is_named_like_a_secret_leaves_the_run_readable(
    here: Path, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name, path = word.partition("=")[0], here / "run"
    assert run(*OWN, f"model.{word}", *SMALL, "optimizer/schedule=constant", f"hydra.run.dir={path}") == 0
    trained = capfd.readouterr().out
    for file in ("job.yaml", "config.yaml"):
        text = (path / file).read_text()
        assert text.count("***") == text.count(f"{name}: '***'") + text.count(f"{name}=***"), text
        config = read(path / file)
        config = config.get("config", config)
        assert config["model"][name] == "***" and config["trainer"]["keep_last"] and "regularization" in config
    assert read(path / "status.json")["state"] == "finished"
    assert read(path / "environment.json")["choices"]["optimizer"] == "adam"
    assert run("evaluate", str(path), "allow_targets=[pooled]") == 2
    assert f"model.{name}: expected its value" in capfd.readouterr().err
    again = ["allow_targets=[pooled]", f"model.{word}"]
    assert run("evaluate", str(path), *again) == 0
    assert capfd.readouterr().out == trained
    assert run("resume", str(path), *again, "trainer.max_steps=4") == 0
    longer = [*SMALL[:2], "optimizer/schedule=constant", "trainer.max_steps=4", f"hydra.run.dir={here / 'whole'}"]
    assert run(*OWN, f"model.{word}", *longer) == 0
    capfd.readouterr()
    for run_folder in (path, here / "whole"):
        assert run("evaluate", str(run_folder), *again, "--checkpoint", "last") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert read(path / "result.json")["steps"] == 4


IN_BRACKETS = [
    (r"{password:'hunter2 it\'s zorro',host:h}", ("hunter2", "zorro")),
    (r'{password:"hunter2 \"it, zorro",host:h}', ("hunter2", "zorro")),
    ("{password:zq9,host:h}", ("zq9",)),
    ("{url:'postgres://me:zorro-7@h/db'}", ("zorro",)),
]


@pytest.mark.parametrize(
    ("typed", "secrets"),
    [
        ("{password:hunter2 with spaces,host:h}", ("hunter2", "spaces")),
        *(pytest.param(*case, marks=pytest.mark.faults) for case in IN_BRACKETS),
    ],
)
def test_a_secret_in_brackets_is_in_nothing_that_is_written(
    here: Path, typed: str, secrets: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    word = f"model.db={typed}"
    assert run(*OWN, word, *SMALL, "hydra.run.dir=runs/one") == 0
    assert run(*OWN, *SMALL, "-m", "hydra.sweep.dir=runs/two", f"{word},{{host:other}}") == 0
    plain = [*OWN, *SMALL]
    assert run(*plain, "hydra.run.dir=runs/plain") == 0
    assert run("rerun", "runs/plain", "allow_targets=[pooled]", word, "hydra.run.dir=runs/three") == 0
    assert run("resume", "runs/plain", "allow_targets=[pooled]", word) == 2
    said = "".join(capfd.readouterr())
    assert "a resumed run keeps None, got {'" in said
    for secret in secrets:
        assert secret not in said
        assert not found(secret, here / "runs"), secret
    words = shlex.split((here / "runs" / "one" / "command.txt").read_text())
    assert any(word.startswith("model.db={") and "***" in word for word in words)
    assert (here / "runs" / "two" / "summary.csv").is_file()


@pytest.mark.parametrize("when", ["early", pytest.param("late", marks=pytest.mark.faults)])
@pytest.mark.parametrize("secret", ["zorro'7 \"x", "zorro\\7\nmadrid-8", "zorro'7\\x"])
def test_a_secret_in_an_exception_is_masked_however_python_spells_it(
    here: Path, secret: str, when: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONE_KEY", secret)
    typed = [*OWN, *SMALL[:2], "trainer.max_steps=9", f"model.fails={when}"]
    typed += ["model.api_key=${oc.env:ONE_KEY}", "model.db={a:${oc.env:ONE_KEY}}"]
    assert run(*typed, "hydra.run.dir=runs/one") == 1
    assert (here / "runs" / "one" / "status.json").exists() == (when == "late")
    assert run(*typed, "-m", "seed=0,1", "hydra.sweep.dir=runs/two") == 1
    said = "".join(capfd.readouterr())
    assert "Traceback" in said and "LookupError: no entry for '***'" in said.replace('"', "'")
    for part in ("zorro", "madrid"):
        assert part not in said
        assert not found(part, here / "runs")


def test_an_address_from_the_environment_keeps_its_password_to_itself(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE", "postgres://me:zorro-7@host/db")
    typed = [*OWN, *SMALL, "model.db={url:${oc.env:DATABASE}}", "hydra.run.dir=runs/one"]
    assert run(*typed) == 0
    assert not found("zorro-7", here / "runs")
    assert read(here / "runs/one/config.yaml")["model"]["db"]["url"] == "postgres://me:***@host/db"
    assert run("resume", "runs/one", "allow_targets=[pooled]", "trainer.max_steps=3") == 0
    assert "zorro-7" not in "".join(capfd.readouterr())


def test_a_short_secret_of_the_environment_is_masked_where_it_stands(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter")
    assert run(*OWN, *SMALL, "model.db={header:${oc.env:MY_TOKEN}}", "hydra.run.dir=runs/one") == 0
    assert not found("hunter", here / "runs")
    assert "hunter" not in "".join(capfd.readouterr())


HOSTILE = [
    "${oc.env:AWS_SECR${oc.decode:ET}_ACC${oc.decode:ESS}_KEY}",
    "${oc.${model.part}:AWS_SECRET_ACCESS_KEY}",
    "${oc.env:NOT_THERE,${oc.env:AWS_SECR${oc.decode:ET}_ACCESS_KEY}}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_folder_cannot_ask_for_a_variable_whose_name_it_puts_together(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "zorro/7+madrid")
    assert run(*SMALL, "hydra.run.dir=runs/one") == 0
    path = here / "runs" / "one"
    job = read(path / "job.yaml")
    job["config"]["model"] |= {"_note_": text, "part": "env"}
    (path / "job.yaml").write_text(yaml.safe_dump(job))
    capfd.readouterr()
    for verb in ("resume", "rerun", "evaluate"):
        assert run(verb, "runs/one") == 2
        said = capfd.readouterr().err
        assert said.startswith("dltrain: model._note_: expected ${oc.env:NAME}") and said.count("\n") == 1
    assert not found("zorro", here / "runs")


def test_a_variable_is_known_in_whichever_way_its_name_came_about(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_KEY", "zorro/7+madrid")
    pieces = "model.db={a:'$',b:'{oc.env:OPENAI_K',c:'EY}',d:'${oc.decode:${.a}${.b}${.c}}'}"
    assert run(*OWN, *SMALL, pieces, "hydra.run.dir=runs/one") == 0
    assert read(here / "runs/one/config.yaml")["model"]["db"]["d"] == "***"
    assert not found("zorro", here / "runs")


def test_a_refusal_moves_no_cursor_and_is_one_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "hydra.run.dir=runs/one") == 0
    job = read(here / "runs/one/job.yaml")
    job["config"]["trainer"] |= {"\x1b[2J\x9b2Jtrap\ndltrain: all is well": 1}
    (here / "runs/one/job.yaml").write_text(yaml.safe_dump(job, allow_unicode=True))
    capfd.readouterr()
    assert run("resume", "runs/one") == 2
    said = capfd.readouterr().err
    assert said.startswith("dltrain: trainer.") and said.count("\n") == 1 and "trap" in said
    assert not {"\x1b", "\x9b"} & set(said)


def test_a_value_with_stars_in_it_is_asked_for_once(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    typed = "model.db={mark:'*** x'}"
    assert run(*OWN, *SMALL, typed, "hydra.run.dir=runs/one") == 0
    longer = ["resume", "runs/one", "allow_targets=[pooled]", "trainer.max_steps=3"]
    assert run(*longer) == 2
    assert "model.db.mark: expected its value" in capfd.readouterr().err
    assert run(*longer, typed) == 0
    assert json.loads((here / "runs/one/result.json").read_text())["steps"] == 3
