"""Configuration is data: code named on the command line, in YAML or in Hydra's own keys is never run."""

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import instantiate
from payloads import FEW, FEW_BY_DEFAULT, KEYS, PAYLOADS, SMALL, node, rejected


def as_overrides(key: str, value: dict[str, Any]) -> list[str]:
    """Return a node as overrides."""
    if "." in key:
        return [f"++{key}={as_words(value)}"]
    return [f"++{key}.{name}={as_words(item)}" for name, item in value.items()]


def as_words(value: Any) -> str:
    """Return a value in the syntax of overrides, where keys have no quotes."""
    return re.sub(r'"(\w+)":', r"\1:", json.dumps(value, separators=(",", ":")))


def test_hydra_itself_runs_three_of_the_payloads(payload_folder: Path) -> None:
    # The other tests prove something only if the payloads work.
    for target in ("torch.load", "numpy.load", "torch.utils.collect_env.run"):
        with contextlib.suppress(Exception):
            instantiate(node(target))
        (payload_folder / "canary").unlink()


@pytest.mark.parametrize("target", PAYLOADS)
def test_a_payload_on_the_command_line_is_rejected(
    payload_folder: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert f"got {target}" in rejected(capsys, *as_overrides("model", node(target)), *SMALL)


@pytest.mark.parametrize("key", KEYS)
def test_a_payload_is_rejected_at_group_keys_and_nested_keys(
    payload_folder: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    rejected(capsys, *as_overrides(key, node("evil.Model")), *SMALL)


@pytest.mark.parametrize(
    "words",
    [
        ["model=cnn", "data=digits", "model.blocks=[{_target_:os.system,command:touch canary}]"],
        ["model=cnn", "data=digits", "model.blocks=[{channels:{_target_:os.system,command:touch canary}}]"],
        ["model=mlp", "model.hidden_size=[{_target_:os.system,command:touch canary}]"],
        ["model=mlp", "model.hidden_size={_target_:os.system,command:touch canary}"],
        ["data=image_folder", "data.path=.", "data.augment=[{_target_:os.system,command:touch canary}]"],
        ["optimizer.betas=[{_target_:evil.Model},{_target_:evil.Model}]"],
        ["seed={_target_:evil.Model}"],
        ["trainer={_target_:evil.Model}"],
        ["device._target_=evil.Model"],
        ["++regularization._target_=evil.Model"],
        ["++trainer.log_every._target_=evil.Model"],
        ["+extra={_target_:evil.Model}", "model.hidden_size=${extra}"],
        ["model._target_=${oc.env:HOME}"],
        ["model._target_=[evil.Model]"],
        ["model._target_={_target_:evil.Model}"],
    ],
)
def test_a_nested_payload_is_rejected(
    payload_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    rejected(capsys, *words, "trainer.max_steps=2", "device=cpu")


@pytest.mark.parametrize("target", FEW_BY_DEFAULT)
def test_a_payload_in_a_yaml_file_of_the_user_is_rejected(
    payload_folder: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    sent = {
        "model/evil": node(target),
        "experiment/evil": {"allow_targets": [target.split(".", maxsplit=1)[0]], "model": node(target)},
    }
    for name, content in sent.items():
        file = payload_folder / "sent" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{yaml.safe_dump(content)}" if "exp" in name else yaml.safe_dump(content))
    assert f"got {target}" in rejected(capsys, "--config-dir", "sent", "model=evil", *SMALL)
    if target in FEW:
        message = rejected(capsys, "--config-dir", "sent", "experiment=evil", *SMALL)
        assert "allow_targets: not supported in YAML" in message


@pytest.mark.parametrize("target", ["torch.load"])
@pytest.mark.parametrize(
    "key",
    [
        *["callbacks.x", "job_logging.handlers.x", "verbose.x"],
        *(
            pytest.param(key, marks=pytest.mark.slow)
            for key in ("launcher", "sweeper", "hydra_logging.formatters.simple")
        ),
    ],
)
def test_a_payload_in_a_hydra_key_is_rejected(
    payload_folder: Path, capsys: pytest.CaptureFixture[str], key: str, target: str
) -> None:
    content: dict[str, Any] = node(target) if "logging" not in key else {"()": target, **PAYLOADS[target]}
    for part in reversed(f"hydra.{key}".split(".")):
        content = {part: content}
    file = payload_folder / "sent" / "experiment" / "evil.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
    rejected(capsys, "--config-dir", "sent", "experiment=evil", *SMALL)
    rejected(capsys, "--config-dir", "sent", "experiment=evil", "-m", "seed=0,1", *SMALL)
    rejected(capsys, *(f"+hydra.{key}.{name}={json.dumps(value)}" for name, value in node(target).items()), *SMALL)


def test_a_hydra_config_pickle_is_never_unpickled(payload_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--experimental-rerun", "evil.pt"], ["--experimental-rerun=evil.pt"]):
        assert "--experimental-rerun: not supported because it unpickles a file" in rejected(capsys, *flags)
        rejected(capsys, "resume", "latest", *flags)


@pytest.mark.parametrize("target", ["evil.Model", "timeit.timeit", "runpy.run_path", "torch.utils.collect_env.run"])
def test_the_module_of_a_rejected_target_is_not_imported(
    payload_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    module = target.rpartition(".")[0]
    monkeypatch.delitem(sys.modules, module, raising=False)
    rejected(capsys, f"model._target_={target}", *SMALL)
    assert module not in sys.modules
