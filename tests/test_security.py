"""Configuration, run folders and checkpoints are data: whatever is put into them, nothing of it runs."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate

from dltrain.cli import main
from dltrain.storage import run_dir

ROOT = Path(__file__).parent.parent
TOUCH = "touch canary"
SMALL = ["data.series=sunspots", "data.window=12", "data.horizon=3", "trainer.max_steps=2", "device=cpu"]
# What Hydra's own list lets pass, what it stops, and what hides behind a name of ours: each touches a file if it runs.
PAYLOADS: dict[str, dict[str, Any]] = {
    "torch.load": {"f": "evil.pt", "weights_only": False},
    "numpy.load": {"file": "evil.npy", "allow_pickle": True},
    "torch.utils.collect_env.run": {"command": TOUCH},
    "os.system": {"command": TOUCH},
    "posix.system": {"command": TOUCH},
    "subprocess.run": {"args": ["touch", "canary"]},
    "subprocess.getoutput": {"cmd": TOUCH},
    "builtins.eval": {"_args_": ["open('canary', 'w')"]},
    "builtins.exec": {"_args_": ["open('canary', 'w')"]},
    "pickle.loads": {"_args_": [{"_target_": "pathlib.Path.read_bytes", "self": "evil.pt"}]},
    "shutil.rmtree": {"path": "victim"},
    "logging.os.system": {"command": TOUCH},
    "timeit.timeit": {"stmt": "open('canary', 'w')", "number": 1},
    "importlib.import_module": {"name": "evil"},
    "runpy.run_path": {"path_name": "evil.py"},
    "evil.Model": {},
    "torch.hub.load": {"repo_or_dir": ".", "model": "evil", "source": "local", "trust_repo": True},
    "torch.nn.modules.module.torch.load": {"f": "evil.pt", "weights_only": False},
    "torch.utils.data.datapipes.os.system": {"command": TOUCH},
    "dltrain.storage.run_dir.subprocess.getoutput": {"cmd": TOUCH},
    "dltrain.models.recurrent.nn.modules.module.torch.load": {"f": "evil.pt", "weights_only": False},
    "hydra.utils.instantiate": {"config": {"_target_": "os.system", "command": TOUCH}},
    "hydra._internal.utils._run_hydra": {},
}
FEW = ("torch.load", "os.system", "evil.Model")
# Where a node may stand: in a run's configuration, and in words.
PLACES = ["model", "data", "task", "optimizer", "optimizer.schedule", "model.inner", "optimizer.schedule.inner"]
EVIL = "open('canary', 'w').close()\nclass Model:\n    def __init__(self, *args, **kwargs): open('canary', 'w')\n"


class Pickled:
    """Touches a file when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (TOUCH,)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder full of things that must not be read as code; afterwards nothing has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "hubconf.py").write_text(f"{EVIL}def evil(): pass\n")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Pickled()))
    np.save(tmp_path / "evil.npy", np.array([Pickled()], dtype=object), allow_pickle=True)
    (tmp_path / "victim").mkdir()
    yield tmp_path
    assert not (tmp_path / "canary").exists()
    assert (tmp_path / "victim").exists()
    assert "evil" not in sys.modules


def node(target: str) -> dict[str, Any]:
    return {"_target_": target, **PAYLOADS[target]}


def inserted(config: dict[str, Any], place: str, value: Any) -> None:
    """Put a value into a configuration."""
    *parents, name = place.split(".")
    for parent in parents:
        config = config[parent]
    config[name] = value


def typed(place: str, value: dict[str, Any]) -> list[str]:
    """A node as a command line says it."""
    if "." in place:
        return [f"++{place}={as_words(value)}"]
    return [f"++{place}.{name}={as_words(item)}" for name, item in value.items()]


def as_words(value: Any) -> str:
    """A value as an override has it, whose keys have no quotes."""
    return re.sub(r'"(\w+)":', r"\1:", json.dumps(value, separators=(",", ":")))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that is refused with a message; returns the message."""
    assert main.main(list(argv)) == 2, argv
    said = capsys.readouterr().err
    assert said.startswith("dltrain: ") or "\ndltrain: " in said
    assert "Traceback" not in said
    return said


def test_three_payloads_do_run_where_only_hydra_looks(trap: Path) -> None:
    # A test of refusals is worth something only if what is refused would have run.
    for target in ("torch.load", "numpy.load", "torch.utils.collect_env.run"):
        with contextlib.suppress(Exception):
            instantiate(node(target))
        (trap / "canary").unlink()


@pytest.mark.parametrize("target", PAYLOADS)
def test_a_payload_on_the_command_line_is_refused(trap: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    assert f"got {target}" in refused(capsys, *typed("model", node(target)), *SMALL)


@pytest.mark.parametrize("place", PLACES)
def test_a_payload_is_refused_wherever_it_stands(trap: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    refused(capsys, *typed(place, node("evil.Model")), *SMALL)


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
def test_a_payload_deep_inside_is_refused(trap: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    refused(capsys, *words, "trainer.max_steps=2", "device=cpu")


@pytest.mark.parametrize("target", PAYLOADS)
def test_a_payload_in_yaml_that_somebody_sent_is_refused(
    trap: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    sent = {
        "model/evil": node(target),
        "experiment/evil": {"allow_targets": [target.split(".", maxsplit=1)[0]], "model": node(target)},
    }
    for name, content in sent.items():
        file = trap / "sent" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{yaml.safe_dump(content)}" if "exp" in name else yaml.safe_dump(content))
    assert f"got {target}" in refused(capsys, "--config-dir", "sent", "model=evil", *SMALL)
    if target in FEW:
        said = refused(capsys, "--config-dir", "sent", "experiment=evil", *SMALL)
        assert "allow_targets: expected this key on the command line only" in said


@pytest.mark.parametrize("target", ["torch.load"])
@pytest.mark.parametrize(
    "key",
    ["callbacks.x", "launcher", "sweeper", "job_logging.handlers.x", "hydra_logging.formatters.simple", "verbose.x"],
)
def test_a_payload_for_hydra_itself_is_refused(
    trap: Path, capsys: pytest.CaptureFixture[str], key: str, target: str
) -> None:
    content: dict[str, Any] = node(target) if "logging" not in key else {"()": target, **PAYLOADS[target]}
    for part in reversed(f"hydra.{key}".split(".")):
        content = {part: content}
    file = trap / "sent" / "experiment" / "evil.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
    refused(capsys, "--config-dir", "sent", "experiment=evil", *SMALL)
    refused(capsys, "--config-dir", "sent", "experiment=evil", "-m", "seed=0,1", *SMALL)
    refused(capsys, *(f"+hydra.{key}.{name}={json.dumps(value)}" for name, value in node(target).items()), *SMALL)


def test_a_stored_run_of_hydra_is_not_unpickled(trap: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--experimental-rerun", "evil.pt"], ["--experimental-rerun=evil.pt"]):
        assert "--experimental-rerun: not supported because it runs whatever the file says" in refused(capsys, *flags)
        refused(capsys, "resume", "latest", *flags)


def test_what_is_refused_is_not_even_imported(trap: Path) -> None:
    script = f"""
import sys
from dltrain.cli import main as cli
from dltrain.storage import run_dir
import dltrain.runs.launch, dltrain.sweeps.sweep
names = ["evil.Model", "timeit.timeit", "runpy.run_path", "torch.utils.collect_env.run", "hydra.utils.instantiate"]
modules = {{name.rpartition(".")[0] for name in names}} | {{name.split(".")[0] for name in names}}
absent = modules - sys.modules.keys()
codes = [cli.main([f"model._target_={{name}}", *{SMALL!r}]) for name in names]
print(sorted(absent & sys.modules.keys()), set(codes), sorted(absent))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=trap, capture_output=True, text=True, timeout=120, check=True
    )
    imported, codes, absent = re.fullmatch(r"(\[.*?\]) (\{.*?\}) (\[.*\])\n", ended.stdout).groups()  # type: ignore[union-attr]
    assert (imported, codes) == ("[]", "{2}")
    assert {"evil", "timeit", "runpy"} & set(re.findall(r"'(.*?)'", absent)), "nothing was there to be imported"


# --- run folders ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("good")
    assert main.main(["model=lstm", "model.hidden_size=4", *SMALL, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def sent_run(good_run: Path, trap: Path) -> Path:
    """A copy of the folder, as a stranger may send it."""
    return Path(shutil.copytree(good_run, trap / "sent"))


# What reads a run's folder and builds what it says.
READERS = [
    ["resume", "sent", "trainer.max_steps=4"],
    ["predict", "sent"],
    ["evaluate", "sent"],
    ["rerun", "sent"],
]


def test_the_verbs_do_work_on_the_folder_that_nobody_touched(sent_run: Path) -> None:
    for words in READERS:
        assert main.main(words) == 0


@pytest.mark.parametrize("target", PAYLOADS)
def test_a_payload_in_a_run_folder_is_refused(sent_run: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    for file in ("job.yaml", "config.yaml"):
        content = yaml.safe_load((sent_run / file).read_text())
        config = content["config"] if file == "job.yaml" else content
        config["model"] = node(target)
        config["allow_targets"] = [target.split(".", maxsplit=1)[0], "evil"]
        (sent_run / file).write_text(yaml.safe_dump(content))
    for words in READERS if target in FEW else READERS[:1]:
        assert f"got {target}" in refused(capsys, *words)


@pytest.mark.parametrize("place", [*PLACES, "trainer", "device", "regularization", "seed"])
def test_a_payload_anywhere_in_a_run_folder_does_not_run(
    sent_run: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    content = yaml.safe_load((sent_run / "job.yaml").read_text())
    inserted(content["config"], place, node("evil.Model"))
    (sent_run / "job.yaml").write_text(yaml.safe_dump(content))
    for words in READERS:
        # Who only reads weights need not build an optimizer.
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
def test_a_job_that_is_none_is_refused(sent_run: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (sent_run / "job.yaml").write_text(text)
    for words in READERS:
        refused(capsys, *words)


def forged(run: Path, content: bytes) -> None:
    """Put a file in the place of every checkpoint, with a manifest that vouches for it."""
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
    """A zip file as TorchScript writes one, with a pickle in it."""
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
def test_a_checkpoint_that_would_run_code_is_refused(
    sent_run: Path, capsys: pytest.CaptureFixture[str], content: Any
) -> None:
    forged(sent_run, content())
    for words in READERS:
        if words[0] != "rerun":
            assert main.main(words) == 5, words
            said = capsys.readouterr().err
            assert "refused" in said
            assert "Traceback" not in said
            assert "weights_only" not in said, "the message must not explain how to load it anyway"
            assert "safe_globals" not in said


def test_names_in_a_run_folder_do_not_lead_out_of_it(sent_run: Path, trap: Path) -> None:
    (trap / "mine.txt").write_text("mine")
    manifest_file = sent_run / "checkpoints" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    entry = {**next(iter(manifest.values())), "step": 0, "best": False}
    manifest_file.write_text(json.dumps({"../../mine.txt": entry, str(trap / "mine.txt"): entry, **manifest}))
    content = yaml.safe_load((sent_run / "job.yaml").read_text())
    content["choices"] |= {"model": "../../out", "data": "/x/../../.."}
    (sent_run / "job.yaml").write_text(yaml.safe_dump(content))
    before = set(trap.parent.rglob("*"))
    for words in READERS:
        main.main(words)
    assert (trap / "mine.txt").read_text() == "mine"
    new = set(trap.parent.rglob("*")) - before
    assert all(path.is_relative_to(sent_run) or path.is_relative_to(trap / "outputs") for path in new), new


@pytest.mark.parametrize("name", ["../../x-y", "/etc-x", "..-..", "a\x00b-\n", "x" * 500, "\U00020000" * 200])
def test_a_name_is_never_a_path(trap: Path, name: str) -> None:
    with contextlib.closing(run_dir.create(None, trap / "outputs", name)) as made:
        assert made.path.parent.parent == trap / "outputs"
        assert made.path.is_dir()


# --- the source -------------------------------------------------------------------------------------------------------

FORBIDDEN = (
    r"weights_only\s*=\s*False",
    r"\bpickle\.loads?\(",
    r"\bimport pickle\b",
    r"\bimport marshal\b|\bimport shelve\b|\bimport dill\b|\bimport joblib\b",
    r"torch\.jit\.load",
    r"torch\.hub\.",
    r"allow_pickle\s*=\s*True",
    r"(?<![.\w])eval\(",
    r"(?<![.\w])exec\(",
    r"yaml\.(unsafe_|full_)?load\(",
    r"shell\s*=\s*True",
    r"os\.system\(",
    r"os\.popen\(",
    r"instantiate\(",
)


def test_nothing_in_the_source_loads_code() -> None:
    for file in (ROOT / "dltrain").rglob("*.py"):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for pattern in FORBIDDEN:
                assert not re.search(pattern, line), f"{file.name}:{number}: {line.strip()}"


def test_checkpoints_are_loaded_by_one_function() -> None:
    calls = [
        (file.name, line.strip())
        for file in (ROOT / "dltrain").rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"\btorch\.load\(|\bfrom torch import .*\bload\b|\bfrom torch\.serialization\b", line)
    ]
    assert [name for name, _ in calls] == ["checkpoint_format.py"]
    assert "weights_only=True" in calls[0][1]


def test_our_own_yaml_names_no_plugins_and_only_our_own_targets() -> None:
    for file in (ROOT / "conf").rglob("*.yaml"):
        text = file.read_text()
        assert "callbacks" not in text and "launcher" not in text and "sweeper" not in text
        for target in re.findall(r"_target_: *(\S+)", text):
            assert target.startswith(("dltrain.", "torch.nn.", "torch.optim.")), f"{file.name}: {target}"


def test_tensorboard_listens_to_this_machine_only() -> None:
    dry_run = subprocess.run(["make", "-n", "tensorboard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in dry_run.splitlines() if "tensorboard --logdir" in line]
    assert " --host localhost " in line
    for file in [ROOT / "Makefile", *(ROOT / "dltrain").rglob("*.py"), ROOT / "README.md"]:
        assert "bind_all" not in file.read_text()
        assert "0.0.0.0" not in file.read_text()
