"""Overrides change a configuration in place, as OmegaConf would change it."""

import copy
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf, open_dict

from dltrain.config import compose, composer
from dltrain.config.overrides import apply, parse_override
from dltrain.errors import ConfigError

CONTENT: dict[str, Any] = {
    "seed": 0,
    "empty": None,
    "trainer": {"epochs": 2, "limits": {"steps": 3, "minutes": None}},
    "blocks": [{"channels": 4}, {"channels": 8}],
}
SET = ["seed=3", "trainer.epochs=null", "trainer.limits.steps=[1,2]", "blocks.1.channels=9", "blocks=[]", "blocks.0=5"]
SET += ["trainer={epochs: 7}", "trainer={limits: {minutes: 4}}", "trainer.limits={steps: {a: 1}}", "seed={a: 1}"]
SET += ["+trainer.new=1", "+a.b.c={d: e}", "+empty.a.b=1", "++blocks.0.kernel=3", "++trainer.limits.more.deep=x"]


@pytest.mark.parametrize("text", SET)
def test_an_override_sets_a_value_or_merges_a_mapping_as_omegaconf_does(text: str) -> None:
    override, content, expected = parse_override(text), copy.deepcopy(CONTENT), OmegaConf.create(CONTENT)
    OmegaConf.update(expected, override.key_or_group, override.value(), force_add=True)
    assert apply(override, content) is None
    assert content == OmegaConf.to_container(expected)


@pytest.mark.parametrize("text", ["trainer={epochs: 7}", "trainer.limits={steps: {a: 1}}", "seed={a: 1}", "blocks.0=5"])
def test_the_new_value_replaces_the_old_value_if_mappings_are_not_merged(text: str) -> None:
    override, content, expected = parse_override(text), copy.deepcopy(CONTENT), OmegaConf.create(CONTENT)
    OmegaConf.update(expected, override.key_or_group, override.value(), merge=False)
    assert apply(override, content, merge=False) is None
    assert content == OmegaConf.to_container(expected)


@pytest.mark.parametrize("key", ["seed", "trainer", "trainer.limits.steps", "blocks.1.channels"])
def test_an_override_deletes_a_key_as_omegaconf_does(key: str) -> None:
    content, expected = copy.deepcopy(CONTENT), OmegaConf.create(CONTENT)
    parent, _, name = key.rpartition(".")
    with open_dict(expected):
        del (OmegaConf.select(expected, parent) if parent else expected)[name]
    assert apply(parse_override(f"~{key}"), content) is None
    assert content == OmegaConf.to_container(expected)


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("+seed.x=1", "seed"),
        ("+blocks.2=1", "blocks"),
        ("+blocks.x.y=1", "blocks"),
        ("~seed.x", "seed"),
        ("~blocks.0", "blocks"),
        ("+trainer.epochs.x=1", "trainer.epochs"),
    ],
)
def test_adding_or_deleting_a_key_whose_parent_is_not_a_mapping_is_an_error(text: str, parent: str) -> None:
    error = apply(parse_override(text), copy.deepcopy(CONTENT))
    assert error is not None
    assert error.endswith(f"not supported because {parent} is not a mapping. Set {parent} itself.")


def test_adding_a_key_to_a_number_is_reported_together_with_other_errors() -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose(["+seed.x=1", "optimizer.lr=-1"])
    assert [error.partition(":")[0] for error in caught.value.problems] == ["seed.x", "optimizer.lr"]


def test_the_run_folder_may_refer_to_other_keys_and_to_keys_of_hydra() -> None:
    folder = "runs/${model.hidden_size}/${hydra.job.name}/${seed}"
    assert compose.compose(["model=mlp", "data=digits", "seed=7", f"hydra.run.dir={folder}"]).run_dir == (
        "runs/128/dltrain/7"
    )
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: expected a folder, got \['a', 'b'\]"):
        compose.compose(["hydra.run.dir=[a,b]"])


def test_composing_without_the_unused_groups_of_hydra_changes_no_key_of_dltrain() -> None:
    options = ("model=gpt", "data=text", "optimizer=adamw")
    with compose.session((), sweep=False):
        short = composer.packaged(*options)
        full = hydra.compose("config", list(options), return_hydra_config=True)
    assert composer.plain(short) == composer.plain(full)
    own = {name: option for name, option in full.hydra.runtime.choices.items() if not name.startswith("hydra/")}
    assert own == {name: option for name, option in short.hydra.runtime.choices.items() if name in own}
    assert (short.hydra.run.dir, short.hydra.sweep.dir) == (full.hydra.run.dir, full.hydra.sweep.dir)
