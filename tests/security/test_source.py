"""Checks of the source: no calls that can run untrusted code, safe YAML files, and a local TensorBoard."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


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


def test_the_source_has_no_calls_that_can_run_untrusted_code() -> None:
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


def test_yaml_files_in_conf_have_no_plugins_and_only_allowed_targets() -> None:
    for file in (ROOT / "conf").rglob("*.yaml"):
        text = file.read_text()
        assert "callbacks" not in text and "launcher" not in text and "sweeper" not in text
        for target in re.findall(r"_target_: *(\S+)", text):
            assert target.startswith(("dltrain.", "torch.nn.", "torch.optim.")), f"{file.name}: {target}"


def test_tensorboard_listens_only_on_localhost() -> None:
    dry_run = subprocess.run(["make", "-n", "tensorboard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in dry_run.splitlines() if "tensorboard --logdir" in line]
    assert " --host localhost " in line
    for file in [ROOT / "Makefile", *(ROOT / "dltrain").rglob("*.py"), ROOT / "README.md"]:
        assert "bind_all" not in file.read_text()
        assert "0.0.0.0" not in file.read_text()
