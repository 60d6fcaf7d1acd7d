"""Run folders and checkpoints are data: no code in them is run, and no files outside the folder are changed."""

import contextlib
import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from payloads import COMMANDS, FEW, FEW_BY_DEFAULT, KEYS, Pickled, node, rejected

from dltrain.cli import main
from dltrain.storage import run_dir


def insert(config: dict[str, Any], key: str, value: Any) -> None:
    """Insert a value into a configuration."""
    *parents, name = key.split(".")
    for parent in parents:
        config = config[parent]
    config[name] = value


def test_every_command_accepts_the_unmodified_run_folder(run_copy: Path) -> None:
    for words in COMMANDS:
        assert main.main(words) == 0


@pytest.mark.parametrize("target", FEW_BY_DEFAULT)
def test_a_payload_in_a_run_folder_is_rejected(run_copy: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    for file in ("job.yaml", "config.yaml"):
        content = yaml.safe_load((run_copy / file).read_text())
        config = content["config"] if file == "job.yaml" else content
        config["model"] = node(target)
        config["allow_targets"] = [target.split(".", maxsplit=1)[0], "evil"]
        (run_copy / file).write_text(yaml.safe_dump(content))
    for words in COMMANDS if target in FEW else COMMANDS[:1]:
        assert f"got {target}" in rejected(capsys, *words)


@pytest.mark.parametrize(
    "key",
    [
        *("model", "optimizer.schedule.inner", "trainer"),
        *(
            pytest.param(key, marks=pytest.mark.slow)
            for key in (*KEYS, "device", "regularization", "seed")
            if key not in ("model", "optimizer.schedule.inner")
        ),
    ],
)
def test_a_payload_at_any_key_of_a_stored_configuration_is_not_run(
    run_copy: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    content = yaml.safe_load((run_copy / "job.yaml").read_text())
    insert(content["config"], key, node("evil.Model"))
    (run_copy / "job.yaml").write_text(yaml.safe_dump(content))
    for words in COMMANDS:
        # Commands that only read weights need not build an optimizer.
        assert main.main(words) == 2 or words[0] in ("predict", "evaluate"), words
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']\n",
        "config: !!python/object/apply:os.system ['touch canary']\n",
        "config: !!python/name:os.system\n",
        "choices: {}\n",
        "config: 3\nchoices: []\noverrides: 1\nconfig_dirs: 2\n",
        "- a\n",
        "\x00",
        "config: {model: ${evil:x}}\nchoices: {}\noverrides: []\nconfig_dirs: []\n",
        "",
    ],
)
def test_an_invalid_job_is_rejected(run_copy: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (run_copy / "job.yaml").write_text(text)
    for words in COMMANDS:
        rejected(capsys, *words)


def forge_checkpoints(run: Path, content: bytes) -> None:
    """Replace the content of every checkpoint, and update hash and size in the manifest."""
    manifest = json.loads((run / "checkpoints" / "manifest.json").read_text())
    for name, entry in manifest.items():
        (run / "checkpoints" / name).write_bytes(content)
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (run / "checkpoints" / "manifest.json").write_text(json.dumps(manifest))


def as_torch_writes(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def as_zip(name: str) -> bytes:
    """Return a zip file that contains a pickle with the given name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"archive/{name}", pickle.dumps(Pickled()))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: pickle.dumps(Pickled()), id="a pickle"),
        pytest.param(lambda: as_torch_writes(Pickled()), id="a pickle as torch writes it"),
        pytest.param(lambda: as_torch_writes({"format": 1, "model": {"w": Pickled()}}), id="a pickle inside a state"),
        pytest.param(lambda: as_torch_writes({"format": 1, "model": torch.nn.Linear(1, 1)}), id="a whole module"),
        pytest.param(lambda: as_zip("data.pkl"), id="a zip file"),
        pytest.param(lambda: as_zip("constants.pkl"), id="a TorchScript file"),
    ],
)
def test_a_checkpoint_that_would_run_code_is_rejected(
    run_copy: Path, capsys: pytest.CaptureFixture[str], content: Any
) -> None:
    forge_checkpoints(run_copy, content())
    for words in COMMANDS:
        if words[0] != "rerun":
            assert main.main(words) == 5, words
            stderr = capsys.readouterr().err
            assert "rejected" in stderr
            assert "Traceback" not in stderr
            assert "weights_only" not in stderr, "the message must not explain how to load the file anyway"
            assert "safe_globals" not in stderr


def test_names_in_a_run_folder_cannot_refer_to_files_outside(run_copy: Path, payload_folder: Path) -> None:
    (payload_folder / "mine.txt").write_text("mine")
    manifest_file = run_copy / "checkpoints" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    entry = {**next(iter(manifest.values())), "step": 0, "best": False}
    manifest_file.write_text(json.dumps({"../../mine.txt": entry, str(payload_folder / "mine.txt"): entry, **manifest}))
    content = yaml.safe_load((run_copy / "job.yaml").read_text())
    content["choices"] |= {"model": "../../out", "data": "/x/../../.."}
    (run_copy / "job.yaml").write_text(yaml.safe_dump(content))
    before = set(payload_folder.parent.rglob("*"))
    for words in COMMANDS:
        main.main(words)
    assert (payload_folder / "mine.txt").read_text() == "mine"
    new = set(payload_folder.parent.rglob("*")) - before
    assert all(path.is_relative_to(run_copy) or path.is_relative_to(payload_folder / "outputs") for path in new), new


@pytest.mark.parametrize("name", ["../../x-y", "/etc-x", "..-..", "a\x00b-\n", "x" * 500, "\U00020000" * 200])
def test_a_run_name_is_never_used_as_a_path(payload_folder: Path, name: str) -> None:
    with contextlib.closing(run_dir.create(None, payload_folder / "outputs", name)) as folder:
        assert folder.path.parent.parent == payload_folder / "outputs"
        assert folder.path.is_dir()
