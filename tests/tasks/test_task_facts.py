"""The YAML file of every task lists the spec values that its class provides."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from dltrain.config import compose, instantiate, interpolation
from dltrain.config.facts import fill_facts
from dltrain.data.notes import Notes
from dltrain.data.spec import Audio, Clip, Spec
from dltrain.data.tokens import Tokens
from dltrain.runs.compatibility import task_facts

NAMES = sorted(path.stem for path in (compose.conf_dir() / "task").glob("*.yaml"))
TOKENS = Tokens(11, pad=0, begin=1, end=2, mask=3, blank=4, sentinels=(8, 9, 10))
VALUES = {
    **{bool: True, int: 4, str: "", Tokens: TOKENS, Clip: Clip(1, 2, 8, 8)},
    Audio: Audio(20, 1, 0.01),
    Tensor: torch.ones(11),
    Notes: Notes(4),
    **{tuple[int, ...]: (1, 8, 8), tuple[float, ...]: (0.0,), tuple[str, ...]: tuple("abcd")},
}
# Values of all fields of `Spec`, by name.
DATA: dict[str, Any] = {field.name: VALUES[get_args(field.type)[0]] for field in fields(Spec)}


def facts_of(node: Mapping[str, Any]) -> set[str]:
    return set(instantiate.build(fill_facts(node, DATA, "task"), "task").facts())


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    """Return a configuration whose task the tests replace, because composing one for each task takes longer."""
    return compose.compose(["model=mlp", "data=digits"]).config


@pytest.mark.parametrize("name", NAMES)
def test_a_task_provides_the_spec_values_that_its_yaml_lists(name: str, base: dict[str, Any]) -> None:
    written = interpolation.from_yaml((compose.conf_dir() / "task" / f"{name}.yaml").read_text())
    node = interpolation.resolve({**base, "task": written})["task"]
    assert facts_of(node) == set(node.get("_provides_", []))


def test_spec_values_of_a_user_task_are_recognized(tmp_path: Path) -> None:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "mine.yaml").write_text("_provides_: [boxes]\n_target_: mine.Task\n")
    job = compose.compose(["model=mlp", "data=digits"], (str(tmp_path / "conf"),))
    assert task_facts(job) >= {"boxes", "outputs"} and "classes" not in task_facts(job)
