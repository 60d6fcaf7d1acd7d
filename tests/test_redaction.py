"""What looks like a secret is in nothing that a run writes, and nothing else is hidden."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dltrain import redaction
from dltrain.cli import main
from dltrain.config import compose
from dltrain.errors import format_error

SECRET, FROM_OUTSIDE, SPOKEN = "s3cr3t-Value+1/2=", "fr0m-the-environment", "b34rer-of-news"
SMALL = ["data=digits", "device=cpu", "trainer.max_steps=2"]
MODEL = f"""
from dltrain.models.feedforward import MLP

class Online(MLP):
    def __init__(self, size: int, outputs: int, api_key: str, header: str, logins: list[dict[str, str]]) -> None:
        super().__init__(size, outputs, 8)
        if header == "Bearer wrong":
            raise OSError(f"the service refuses {{api_key}}")
        assert api_key == {SECRET!r} and header == {FROM_OUTSIDE!r} and logins[0]["password"] == {SPOKEN!r}
"""
OWN = ["--config-dir", "my_conf", "allow_targets=[online]", "model=online"]
GIVEN = [f"model.api_key='{SECRET}'", f"model.logins=[{{user:me,password:{SPOKEN}}}]"]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """What one test taught is no secret of the next."""
    redaction.forget()
    yield
    redaction.forget()


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        *((name, True) for name in ("token", "hf_token", "model.api_key", "apiKey", "API_KEY", "apikey", "api-keys")),
        *((name, True) for name in ("secret", "client_secret", "db.passwd", "password", "access_key", "accessKeyId")),
        *((name, True) for name in ("private_key", "credentials", "auth", "auth.user", "secret_access_key")),
        *((name, False) for name in ("tokens", "data.tokens", "tokenizer", "pad", "author", "authors", "passes")),
        *(
            (name, True)
            for name in ("secretkey", "authtoken", "accesstoken", "accesskey", "apitoken", "pwd", "passcode")
        ),
        *((name, True) for name in ("bearer", "ssh_key", "encryption_key", "session_cookie", "dbPassword", "sshkey")),
        *((name, False) for name in ("key", "keys", "monkey", "accessory", "secretary", "compass", "api", "private")),
        *((name, False) for name in ("pass_through", "pin_memory", "pad_token", "session", "encryption", "bear")),
    ],
)
def test_secrets_are_told_by_the_words_of_their_key(key: str, secret: bool) -> None:
    assert redaction.is_secret(key) == secret


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"api_key": "abc", "lr": 0.1}, {"api_key": "***", "lr": 0.1}),
        ({"password": 1234, "auth": True, "token": ""}, {"password": "***", "auth": True, "token": ""}),
        ({"pad_token": 0, "token": None}, {"pad_token": 0, "token": None}),
        ({"logins": [{"user": "me", "password": "x"}]}, {"logins": [{"user": "me", "password": "***"}]}),
        ({"credentials": {"user": "me", "list": ["a", "b"]}}, {"credentials": {"user": "***", "list": ["***", "***"]}}),
        ({"auth": {"_target_": "mine.Login", "name": "x"}}, {"auth": {"_target_": "mine.Login", "name": "***"}}),
        ({"api_key": "${oc.env:KEY}"}, {"api_key": "${oc.env:KEY}"}),
        ({"api_key": "${oc.decode:${oc.env:KEY}}"}, {"api_key": "${oc.decode:${oc.env:KEY}}"}),
        ({"api_key": "${oc.env:KEY,fallback}"}, {"api_key": "***"}),
        ({"api_key": "${seed}literal${seed}"}, {"api_key": "***"}),
        ({"url": "postgres://me:p@ss@host/db"}, {"url": "postgres://me:***@host/db"}),
        ({"url": "http://host:80/a@b ssh://git@host"}, {"url": "http://host:80/a@b ssh://git@host"}),
        ({"url": "ftp://me:${oc.env:SECRET}@host"}, {"url": "ftp://me:${oc.env:SECRET}@host"}),
    ],
)
def test_values_are_masked_and_references_stay(content: dict[str, Any], expected: dict[str, Any]) -> None:
    assert redaction.masked(content) == expected
    assert redaction.masked(redaction.masked(content)) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("model.api_key=abc", "model.api_key=***"),
        ("+model.api_key='a b,c'", "+model.api_key=***"),
        ("model.api_key=a,b", "model.api_key=***"),
        ("model.api_key=${oc.env:KEY}", "model.api_key=${oc.env:KEY}"),
        ("model={api_key:abc,width:3}", "model={api_key:***,width:3}"),
        ("model={api_key: 'a b', logins: [{password: x}]}", "model={api_key: ***, logins: [{password: ***}]}"),
        ("model.db={password:two words,host:h}", "model.db={password:***,host:h}"),
        (r"model.db={password:'it\'s, two words',host:h}", "model.db={password:***,host:h}"),
        (r"model.db={password:one\, two,host:h}", "model.db={password:***,host:h}"),
        ("model.db={password:{a:b,c:[d,e]},host:h}", "model.db={password:***,host:h}"),
        ("model.db={password:a b},{password:c d,host:h}", "model.db={password:***},{password:***,host:h}"),
        ("model.db={password:it's, two words", "model.db={password:***"),
        ('{"password": "two words", "host": "h"}', '{"password": ***, "host": "h"}'),
        ("model.url=postgres://me:word@host/db", "model.url=postgres://me:***@host/db"),
        ("data.tokens=bytes", "data.tokens=bytes"),
        ("model.pad_token=0", "model.pad_token=0"),
        ("data.path='a=b, c.csv'", "data.path='a=b, c.csv'"),
        ("--config-dir", "--config-dir"),
    ],
)
def test_a_command_line_is_masked_word_by_word(word: str, expected: str) -> None:
    assert redaction.masked_word(word) == expected


def test_a_secret_that_is_known_is_hidden_wherever_it_turns_up() -> None:
    redaction.learn_words(["model.api_key='abc def'", "x={token: ticK}", "model.password=pw,long-one", "seed=12345"])
    said = "abc def, ticK, pw and long-one in 12345"
    assert redaction.hidden(said) == "***, ***, pw and *** in 12345"
    assert format_error("model.api_key", "text", "pw") == "model.api_key: expected text, got ***"
    redaction.forget()
    assert redaction.hidden(said) == said


WORDS = [
    "mean",
    "last",
    "adam",
    "none",
    "data",
    "regularization",
    "accuracy",
    "out_of_memory",
    "12",
    "0.05",
    "zq9",
    "hunter",
]


@pytest.mark.parametrize("word", WORDS)
def test_an_ordinary_word_is_masked_only_after_the_name_of_its_key(word: str) -> None:
    redaction.learn({"token": word, "password": word})
    text = f"keep_{word} {word}: 0.305 {word}, accuracy/{word}"
    assert redaction.hidden(text) == text
    assert redaction.hidden(f"password={word}, x.token: '{word}' {word}s") == f"password=***, x.token: '***' {word}s"
    assert redaction.masked({word: [word], "password": word}) == {word: [word], "password": "***"}


def test_other_values_are_masked_as_words_of_their_own_and_long_ones_anywhere() -> None:
    redaction.learn({"token": ["hunter2", "hunterhunter", "hunter-Zorro"]})
    said = "hunter2, thunter2 hunter23 _hunter2_ hunterhunter hunterhunters xhunter-Zorros"
    assert redaction.hidden(said) == "***, thunter2 hunter23 _***_ *** hunterhunters x***s"


@pytest.mark.parametrize(
    "secret", ["it's 7 o'clock", 'say "7"', "both ' and \"", "back\\slash", "li-1\nne-2", "ümläut-7 &"]
)
def test_a_secret_is_masked_however_it_is_spelled(secret: str) -> None:
    redaction.learn({"token": secret})
    spelled = [repr(secret), repr({"k": [secret]}), repr(f"'{secret}\""), json.dumps(secret), shlex.quote(secret)]
    for text in (secret, *spelled, json.dumps(secret, ensure_ascii=False), f"https://h/{quote(secret, safe='')}"):
        said = redaction.hidden(text)
        assert "***" in said and not any(part in said for part in ("clock", "7", "both", "back", "ne-2", "ml"))


def test_long_words_are_masked_in_no_time() -> None:
    words = ["a" * 60_000, "A" * 60_000, "a=" * 30_000, "a " * 30_000, "${" * 30_000, "token='" * 9_000]
    begun = time.perf_counter()
    for word in words:
        redaction.masked_word(word)
        redaction.hidden(word)
    assert time.perf_counter() - begun < 0.1 * len(words)


def test_a_folder_of_the_shell_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/where/we/are-7")
    compose.compose(["data=csv", "data.column=a", "data.path=${oc.env:PWD}"])
    assert redaction.hidden("/where/we/are-7") == "/where/we/are-7"


def test_what_the_environment_says_is_known_as_soon_as_a_job_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", FROM_OUTSIDE)
    monkeypatch.setenv("PLACE", "nowhere-secret")
    compose.compose(["data=csv", "data.column=${oc.env:MY_TOKEN}", "data.path=${oc.env:PLACE}"])
    assert redaction.hidden(f"{FROM_OUTSIDE} nowhere-secret") == "*** nowhere-secret"


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model that needs secrets to be built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "online", raising=False)
    monkeypatch.setenv("MY_TOKEN", FROM_OUTSIDE)
    (tmp_path / "online.py").write_text(MODEL)
    file = tmp_path / "my_conf" / "model" / "online.yaml"
    file.parent.mkdir(parents=True)
    text = "_target_: online.Online\nsize: ${spec.size}\noutputs: ${spec.outputs}\n"
    file.write_text(text + "api_key: ???\nheader: ${oc.env:MY_TOKEN}\nlogins: []\n")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *typed: str) -> int:
    """A command as a shell calls it."""
    monkeypatch.setattr(sys, "argv", ["dltrain", *typed])
    return main.main()


def refuse_secrets(folder: Path, said: str) -> None:
    """No file below a folder has one, nor has the output."""
    for secret in (SECRET, FROM_OUTSIDE, SPOKEN):
        assert secret not in said
        for file in folder.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_no_secret_is_in_anything_that_a_run_writes(
    online: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *OWN, *GIVEN, *SMALL, "hydra.run.dir=runs/one") == 0
    path = online / "runs" / "one"
    refuse_secrets(path, "".join(capfd.readouterr()))
    # The files are there, they can be read, and they say where a secret was.
    assert compose.OmegaConf.load(path / "config.yaml").model.api_key == "***"
    assert compose.OmegaConf.load(path / "config.yaml").model.header == "***"
    stored = compose.OmegaConf.to_container(compose.OmegaConf.load(path / "job.yaml"))
    assert stored["config"]["model"]["header"] == "${oc.env:MY_TOKEN}"
    assert stored["config"]["model"]["logins"] == [{"user": "me", "password": "***"}]
    assert "model.api_key=***" in shlex.split((path / "command.txt").read_text())
    assert "model.api_key=***" in json.loads((path / "environment.json").read_text())["argv"]
    events = b"".join(file.read_bytes() for file in path.glob("events*"))
    assert b"api_key: '***'" in events  # the configuration in the Text tab


def test_no_secret_is_in_a_traceback_or_a_message(
    online: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = [*OWN, *GIVEN, *SMALL, "model.header='Bearer wrong'"]
    assert run(monkeypatch, *typed, "-m", "seed=0,1", "hydra.sweep.dir=runs/two") == 1
    said = "".join(capfd.readouterr())
    assert "the service refuses ***" in said
    refuse_secrets(online / "runs", said)
    for wrong in ("model.api_key=[1,2]", f"model.apikey={SECRET}", f"model.api_key={SECRET}=}}{{"):
        assert run(monkeypatch, *OWN, *GIVEN, *SMALL, wrong, "model.header=a") == 2
        refuse_secrets(online / "runs", "".join(capfd.readouterr()))


def test_a_swept_secret_is_in_no_name_and_no_table(
    online: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = [*OWN, *GIVEN[1:], *SMALL, f"model.api_key='{SECRET}','wrong-one'", "hydra.sweep.dir=runs/three"]
    assert run(monkeypatch, *typed, "-m") == 1  # the second is not what the service wants
    said = "".join(capfd.readouterr())
    refuse_secrets(online / "runs", said)
    assert "wrong-one" not in said
    assert not [path for path in (online / "runs").rglob("*") if "s3cr3t" in path.name or "wrong" in path.name]
    # Who goes on with the sweep types the whole command, and with it the secrets.
    assert run(monkeypatch, *typed, "-m", "sweep.resume=runs/three") == 1
    assert "job 1 of 2: model.api_key=*** (finished, not run again)" in capfd.readouterr().err


def test_a_run_that_goes_on_asks_for_its_secrets_again(
    online: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *OWN, *GIVEN, *SMALL, "hydra.run.dir=runs/four") == 0
    longer = ["resume", "runs/four", "allow_targets=[online]", "trainer.max_steps=4"]
    capfd.readouterr()
    assert run(monkeypatch, *longer) == 2
    said = capfd.readouterr().err
    assert "model.api_key: expected its value, got nothing. No run keeps a secret: give it again" in said
    assert "model.logins.0.password" in said
    assert run(monkeypatch, *longer, GIVEN[0], f"model.logins.0.password={SPOKEN}") == 0
    refuse_secrets(online / "runs", "".join(capfd.readouterr()))
