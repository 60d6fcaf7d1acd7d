"""Secrets are redacted in files, messages and tracebacks of a run; ordinary words stay readable."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from dltrain import redaction
from dltrain.cli import main
from dltrain.config import compose
from dltrain.errors import format_error

SECRET, FROM_ENV, PASSWORD = "s3cr3t-Value+1/2=", "fr0m-the-environment", "p4ssw0rd, 'quoted'"
MODEL = f"""
from dltrain.models.feedforward import MLP

class Online(MLP):
    def __init__(self, size, outputs, api_key: str, header, logins, token, fails):
        super().__init__(size, outputs, {{"mean": 8}}.get(token, 6))
        self.login, self.fails, self.calls = (api_key, header, logins), fails, 0
        if fails == "early":
            raise LookupError(f"rejected {{api_key!r}} with {{self.login}}")
        assert self.login == ({SECRET!r}, {FROM_ENV!r}, [dict(user="me", password={PASSWORD!r})])

    def forward(self, *inputs):
        self.calls += 1
        if self.fails == "late" and self.calls > 9:
            raise LookupError(f"rejected {{self.login[0]!r}} with {{self.login}}")
        return super().forward(*inputs)
"""
YAML = "_target_: online.Online\nsize: ${spec.size}\noutputs: ${spec.outputs}\napi_key: ???\n"
YAML += "header: ${oc.env:MY_TOKEN}\nlogins: []\ntoken: ''\nfails: ''\n"
SMALL = ["data=digits", "device=cpu", "trainer.max_steps=2", "trainer.log_media=false"]
OWN = ["--config-dir", "my_conf", "allow_targets=[online]", "model=online", *SMALL]
QUOTED = PASSWORD.replace("'", r"\'")
KEY, LOGINS = f"model.api_key='{SECRET}'", f"model.logins=[{{user:me,password:'{QUOTED}'}}]"
LOGIN = f"model.logins.0.password='{QUOTED}'"


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    redaction.clear()
    yield
    redaction.clear()


@pytest.mark.parametrize(
    ("names", "secret"),
    [
        ("token hf_token authtoken secret client_secret password db.passwd dbPassword passcode credentials", True),
        ("model.api_key apiKey API_KEY apikey api-keys access_key accessKeyId private_key sshkey auth.user", True),
        ("oauth authorization bearer jwt pwd session_cookie encryption_key", True),
        ("tokens data.tokens tokenizer pad pad_token author authors passes pass_through key keys monkey api", False),
        ("accessory secretary compass private session encryption bear", False),
    ],
)
def test_secret_keys_are_recognized_by_words_in_their_names(names: str, secret: bool) -> None:
    assert {name: redaction.is_secret(name) for name in names.split()} == dict.fromkeys(names.split(), secret)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"api_key": "abc", "lr": 0.1, "abc": "abc"}, {"api_key": "***", "lr": 0.1, "abc": "abc"}),
        ({"password": 1234, "auth": True, "token": ""}, {"password": "***", "auth": True, "token": ""}),
        ({"token": 5, "secret": None}, {"token": 5, "secret": None}),
        ({"credentials": {"user": "me", "list": ["a"]}}, {"credentials": {"user": "***", "list": ["***"]}}),
        ({"auth": {"_target_": "mine.Login", "name": "x"}}, {"auth": {"_target_": "mine.Login", "name": "***"}}),
        ({"api_key": "${oc.decode:${oc.env:KEY}}"}, {"api_key": "${oc.decode:${oc.env:KEY}}"}),
        ({"api_key": "${oc.env:KEY,fallback}"}, {"api_key": "***"}),
        ({"api_key": "${seed}literal${seed}"}, {"api_key": "***"}),
        ({"url": "postgres://me:p@ss@host/db"}, {"url": "postgres://me:***@host/db"}),
        ({"url": "http://host:80/a@b ssh://git@host"}, {"url": "http://host:80/a@b ssh://git@host"}),
        ({"url": "ftp://me:${oc.env:SECRET}@host"}, {"url": "ftp://me:${oc.env:SECRET}@host"}),
    ],
)
def test_literal_secrets_in_a_configuration_are_masked(content: Any, expected: Any) -> None:
    assert redaction.mask(content) == expected
    assert redaction.mask(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+model.api_key='a b',c", "+model.api_key=***"),
        ("model.api_key=${oc.env:KEY}", "model.api_key=${oc.env:KEY}"),
        ("model={'api_key' : abc,width:3}", "model=***"),
        ("model.db=[{password: {a:b,c:[d,e]}}]", "model.db=***"),
        ("model.db={password:it's, two words", "model.db=***"),
        ("model.db={password:${oc.env:A}b,host:h}", "model.db=***"),
        ("model.db={password:'${oc.env:A}',token:${oc.env:B}}", "model.db={password:'${oc.env:A}',token:${oc.env:B}}"),
        ("model.url=postgres://me:word@host/db", "model.url=postgres://me:***@host/db"),
        ("model.max_token=128", "model.max_token=128"),
        ("data.path='a=b, c.csv'", "data.path='a=b, c.csv'"),
        ("--config-dir", "--config-dir"),
    ],
)
def test_literal_secrets_in_an_override_are_masked(text: str, expected: str) -> None:
    assert redaction.mask_override(text) == expected


def test_registered_secrets_are_redacted_in_text_until_they_are_cleared() -> None:
    redaction.register_overrides(["model.api_key='abc def-1',x", "x={a:1,token: tick-Tock}", "seed=1234567890123456"])
    text = "abc def-1, xtick-Tocks, 1234567890123456"
    assert redaction.redact(text) == "***, x***s, 1234567890123456"
    assert format_error("model.api_key", "text", "pw") == "model.api_key: expected text, got ***"
    redaction.clear()
    assert redaction.redact(text) == text


def test_short_values_and_ordinary_words_and_numbers_are_not_redacted() -> None:
    words = ["mean", "12", "0.05", "1e-3", "Zq9-+!?", "out_of_memory", "regularization"]
    redaction.register_secrets({"token": words, "password": 123456}, "")
    assert redaction.redact(f"{words} 123456") == f"{words} 123456"


@pytest.mark.parametrize("secret", ["it's 7 o'clock", 'say "seven"', "both ' and \"", "back\\slash", "ümläut-7 &"])
def test_a_secret_is_redacted_in_quoted_and_escaped_forms(secret: str) -> None:
    redaction.register_secrets(secret, "token")
    spelled = [secret, repr(secret), repr({"k": [secret]}), json.dumps(secret), f"https://h/{quote(secret, safe='')}"]
    for text in spelled:
        assert redaction.redact(text).strip("{}[]'\"k: ") in ("***", "https://h/***")


def test_a_secret_of_several_lines_is_redacted_line_by_line() -> None:
    redaction.register_secrets("first Line\nsecond Line", "token")
    assert redaction.redact("a first Line\nb second Line") == "a ***\nb ***"


def test_environment_variables_with_secret_names_are_registered_when_a_job_is_composed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"MY_TOKEN": FROM_ENV, "OPENAI_KEY": SECRET, "PWD": "/where/we/Are-7", "PLACE": "/some/Where-7"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    path = ":".join(f"${{oc.env:{name}}}" for name in values)
    compose.compose(["data=csv", "data.column=a", f"data.path='{path}'"])
    assert redaction.redact(" ".join(values.values())) == "*** *** /where/we/Are-7 /some/Where-7"


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a model that requires secrets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "online", raising=False)
    monkeypatch.setenv("MY_TOKEN", FROM_ENV)
    (tmp_path / "online.py").write_text(MODEL)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "online.yaml").write_text(YAML)
    return tmp_path


def run(*arguments: str) -> int:
    before, sys.argv = sys.argv, ["dltrain", *arguments]
    try:
        return main.main()
    finally:
        sys.argv = before


def assert_no_secrets(output: str, *more: str) -> None:
    """Assert that the output, and the names and contents of run files, contain no secret."""
    for secret in (SECRET, FROM_ENV, "p4ssw0rd", *more):
        assert secret not in output
        for file in Path("runs").rglob("*"):
            assert secret not in str(file) and (file.is_dir() or secret.encode() not in file.read_bytes()), file


def test_a_run_stores_no_secret_and_resume_requires_it_again(
    user_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*OWN, KEY, LOGINS, "hydra.run.dir=runs/one") == 0
    path = user_folder / "runs" / "one"
    config = yaml.safe_load((path / "config.yaml").read_text())["model"]
    job = yaml.safe_load((path / "job.yaml").read_text())["config"]["model"]
    assert (config["api_key"], config["header"], job["header"]) == ("***", "***", "${oc.env:MY_TOKEN}")
    assert config["logins"] == job["logins"] == [{"user": "me", "password": "***"}]
    assert "model.api_key=***" in shlex.split((path / "command.txt").read_text())
    assert "model.api_key=***" in json.loads((path / "environment.json").read_text())["argv"]
    assert b"api_key: '***'" in next(path.glob("events*")).read_bytes()  # the configuration in TensorBoard's Text tab
    longer = ["resume", "runs/one", "allow_targets=[online]", "trainer.max_steps=4"]
    assert_no_secrets("".join(capfd.readouterr()))
    assert run(*longer) == 2
    stderr = capfd.readouterr().err
    assert "model.api_key: expected its value, got nothing. Secrets are not stored. Set it with" in stderr
    assert "model.logins.0.password" in stderr and "header" not in stderr
    assert run(*longer, KEY, LOGIN) == 0
    assert_no_secrets("".join(capfd.readouterr()))


@pytest.mark.parametrize("when", ["early", "late"])
def test_tracebacks_contain_no_secret(user_folder: Path, when: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*OWN, KEY, LOGINS, f"model.fails={when}", "trainer.max_steps=9", "hydra.run.dir=runs/one") == 1
    output = "".join(capfd.readouterr())
    assert "Traceback" in output and "LookupError: rejected '***' with ('***', '***', [{" in output
    assert_no_secrets(output)


def test_error_messages_contain_no_secret(user_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for wrong in ("model.api_key=[zorro]", "model.apikey=zorro", "model.api_key=zorro}{", "model.api_key=zorro,x"):
        assert run(*OWN, LOGINS, "model.header=a", wrong) == 2
        assert_no_secrets("".join(capfd.readouterr()), "zorro")


def test_a_swept_secret_appears_in_no_folder_name_or_summary(
    user_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [*OWN, "-m", f"model.api_key='{SECRET}',wrong", LOGINS, "hydra.sweep.dir=runs/two"]
    assert run(*arguments) == 1  # the model rejects the second value
    assert_no_secrets("".join(capfd.readouterr()), "wrong")
    assert run(*arguments, "sweep.resume=runs/two") == 1  # resuming a sweep requires its secrets again
    assert "job 0 (1 of 2): model.api_key=*** (finished, not run again)" in capfd.readouterr().err


def test_a_secret_that_is_an_ordinary_word_is_masked_only_as_the_value_of_its_key(
    user_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = [KEY, LOGINS, "model.token=mean"]
    assert run(*OWN, *secrets, "hydra.run.dir=runs/one") == 0
    trained = capfd.readouterr().out
    for file in ("job.yaml", "config.yaml"):
        text = Path("runs/one", file).read_text()
        masked = re.findall(r"(api_key|header|logins|password|token)(?:=|: ')\*\*\*", text)
        assert len(masked) == text.count("***") and "token" in masked, text
        config = yaml.safe_load(text)
        assert config.get("config", config)["model"]["token"] == "***"
    again = ["runs/one", "allow_targets=[online]", KEY, LOGIN]
    assert run("evaluate", *again) == 2
    assert "model.token: expected its value" in capfd.readouterr().err
    assert run("evaluate", *again, "model.token=mean") == 0
    assert capfd.readouterr().out == trained


def test_a_password_in_a_url_of_an_environment_variable_is_redacted(
    user_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE", "postgres://me:zorro@host/db")
    assert run(*OWN, KEY, LOGINS, "model.fails=${oc.env:DATABASE}", "hydra.run.dir=runs/one") == 0
    assert yaml.safe_load(Path("runs/one/config.yaml").read_text())["model"]["fails"] == "postgres://me:***@host/db"
    assert run("resume", "runs/one", "allow_targets=[online]", KEY, LOGIN, "trainer.max_steps=3") == 0
    assert_no_secrets("".join(capfd.readouterr()), "zorro")


COMPUTED_NAMES = [
    "${oc.env:AWS_SECR${oc.decode:ET}_ACC${oc.decode:ESS}_KEY}",
    "${oc.${model.part}:AWS_SECRET_ACCESS_KEY}",
    "${oc.env:NOT_THERE,${oc.env:AWS_SECR${oc.decode:ET}_ACCESS_KEY}}",
]


def test_interpolations_in_a_run_folder_cannot_compute_the_name_of_an_environment_variable(
    user_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "zorro/7+madrid")
    assert run(*SMALL, "hydra.run.dir=runs/one") == 0
    job = yaml.safe_load(Path("runs/one/job.yaml").read_text())
    capfd.readouterr()
    for text in COMPUTED_NAMES:
        job["config"]["model"] |= {"_note_": text, "part": "env"}
        Path("runs/one/job.yaml").write_text(yaml.safe_dump(job))
        for verb in ("resume", "rerun", "evaluate"):
            assert run(verb, "runs/one") == 2
            stderr = capfd.readouterr().err
            assert stderr.startswith("dltrain: model._note_: expected ${oc.env:NAME}") and stderr.count("\n") == 1
    assert_no_secrets("", "zorro")


def test_the_error_about_a_deleted_key_hides_the_secret_in_the_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "online.yaml").write_text(YAML.replace("???", SECRET))
    assert main.main(["--config-dir", str(tmp_path), "model=online", "~model.api_key=wrong"]) == 2
    error = capsys.readouterr().err
    assert "~model.api_key: expected its value, ***, got ***" in error and SECRET not in error
