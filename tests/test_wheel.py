"""The installed wheel trains bundled and user-provided models in an empty folder, without the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = ["data.series=sunspots", "data.window=12", "data.horizon=3", "trainer.max_steps=3"]
MODEL = """
from torch import Tensor, nn

class Mine(nn.Module):
    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))
"""
YAML = """# A model of my own.
_target_: their_module.Mine
size: ${spec.size}
outputs: ${spec.outputs}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `dltrain` script of the wheel, installed in a new environment with the packages of the current one."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; it builds the wheel without network access")
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True, timeout=300
    )
    (wheel,) = folder.glob("dltrain-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([*pip, "--python", python, "install", *quiet, wheel], check=True, timeout=300)
    (packages,) = folder.glob("venv/**/site-packages")
    # Python ignores the .pth files in a folder added by a .pth file, so the checkout itself is not importable.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python.with_name("dltrain")


def run(command: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [command, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def result_of(folder: Path) -> dict[str, int]:
    (file,) = folder.glob("outputs/*/*/result.json")
    return json.loads(file.read_text())


@pytest.mark.slow
def test_the_installed_wheel_can_train_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    shown = run(command, tmp_path, "--info", "searchpath")
    assert f"{command.parent.parent}" in shown.stdout
    assert str(ROOT) not in shown.stdout
    completed = run(command, tmp_path, "model=lstm", "data=timeseries", *SMALL)
    assert completed.returncode == 0, completed.stderr
    assert result_of(tmp_path)["steps"] == 3


@pytest.mark.slow
def test_a_user_model_is_trained_if_its_module_is_allowed(command: Path, tmp_path: Path) -> None:
    (tmp_path / "their_module.py").write_text(MODEL)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mine.yaml").write_text(YAML)
    arguments = ["--config-dir", "my_conf", "model=mine", "data=timeseries", *SMALL]
    rejected = run(command, tmp_path, *arguments)
    assert rejected.returncode == 2
    assert "add allow_targets=[their_module] to the command" in rejected.stderr
    assert "Traceback" not in rejected.stderr
    assert not (tmp_path / "outputs").exists()
    completed = run(command, tmp_path, *arguments, "allow_targets=[their_module]")
    assert completed.returncode == 0, completed.stderr
    result = result_of(tmp_path)
    assert (result["steps"], result["parameters"]) == (3, 12 * 3 + 3)
    # The stored command has the options needed to repeat the run.
    (command_file,) = tmp_path.glob("outputs/*/*/command.txt")
    assert command_file.read_text().split()[1:3] == ["--config-dir", "my_conf"]
    assert "'allow_targets=[their_module]'" in command_file.read_text()
