"""The YAML of every task lists the facts that its class provides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dltrain.config import compose, instantiate
from dltrain.config.facts import Fact, fill_facts
from dltrain.data.tokens import Tokens
from dltrain.runs.compatibility import task_facts

NAMES = sorted(path.stem for path in (compose.conf_dir() / "task").glob("*.yaml"))
# Facts of data of any kind.
DATA: dict[str, Any] = {
    **{"shape": (1, 8, 8), "size": 64, "features": 8, "length": 8, "channels": 1, "height": 8, "width": 8},
    **{"low": (0.0,), "high": (1.0,), "classes": 4, "class_names": tuple("abcd"), "targets": 1, "target_names": ("y",)},
    **{"columns": 1, "horizon": 3, "season": 1, "lags": 8, "tokens": Tokens(11)},
}


def facts_of(node: Mapping[str, Any]) -> set[str]:
    wanted = {value.name.partition(".")[0] for value in node.values() if isinstance(value, Fact)}
    filled = fill_facts(node, {**dict.fromkeys(wanted), **DATA}, "task")
    return set(instantiate.build(filled, "task").facts())


@pytest.mark.parametrize("name", NAMES)
def test_a_task_provides_the_facts_that_its_yaml_lists(name: str) -> None:
    job = compose.compose([f"task={name}", "model=mlp", "data=digits"])
    assert facts_of(job.resolved["task"]) == set(job.resolved["task"].get("_provides_", []))


def test_the_facts_of_a_users_own_task_are_facts_of_tasks(tmp_path: Path) -> None:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "mine.yaml").write_text("_provides_: [boxes]\n_target_: mine.Task\n")
    job = compose.compose(["model=mlp", "data=digits"], (str(tmp_path / "conf"),))
    assert task_facts(job) >= {"boxes", "outputs"} and "classes" not in task_facts(job)
