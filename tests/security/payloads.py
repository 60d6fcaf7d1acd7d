"""Malicious targets; most create the file ``canary``, delete the folder ``victim`` or import the module ``evil``."""

import os
from typing import Any

import pytest

from dltrain.cli import main

TOUCH = "touch canary"
SMALL = ["data.series=sunspots", "data.window=12", "data.horizon=3", "trainer.max_steps=2", "device=cpu"]
SMALL += ["trainer.log_media=false"]
# Targets that Hydra allows by default, targets that it rejects, and targets reachable through dltrain's modules.
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
# Payloads for tests that run many commands: one that Hydra allows, one that it rejects, and a user-defined class.
FEW = ("torch.load", "os.system", "evil.Model")
# All payloads; payloads that are not in `FEW` are marked `slow`.
FEW_BY_DEFAULT = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in PAYLOADS]
# Keys of a run's configuration at which a node is inserted.
KEYS = ["model", "data", "task", "optimizer", "optimizer.schedule", "model.inner", "optimizer.schedule.inner"]
# Commands that read the run folder ``sent``.
COMMANDS = [
    ["resume", "sent", "trainer.max_steps=4"],
    ["predict", "sent"],
    ["evaluate", "sent"],
    ["rerun", "sent"],
]


class Pickled:
    """Object that creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (TOUCH,)


def node(target: str) -> dict[str, Any]:
    return {"_target_": target, **PAYLOADS[target]}


def rejected(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must be rejected, and return its error message."""
    assert main.main(list(argv)) == 2, argv
    message = capsys.readouterr().err
    assert message.startswith("dltrain: ") or "\ndltrain: " in message
    assert "Traceback" not in message
    return message
