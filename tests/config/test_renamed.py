"""Old names are rejected on the command line with a hint, and replaced in configurations of old runs."""

import pytest

from dltrain.cli.main import main
from dltrain.config import compose, renamed, validation

OPTIONS = {
    "model.ffn_ratio": ["model=transformer"],
    "model.num_heads": ["model=transformer"],
    "data.context_length": ["model=gpt", "data=text"],
    "data.image_size": ["model=cnn", "data=image_folder", "data.path=."],
    "data.num_labels": ["model=mlp", "data=digits"],
    "data.normalize": ["data=timeseries"],
    "task.normalize": ["data=timeseries"],
    "task.n_critic": ["model=gan", "data=ring"],
    "task.latent_l1": ["model=autoencoder", "data=digits"],
    "task.binarize": ["model=vae", "data=digits"],
    "task.sparsity_target": ["model=autoencoder", "data=digits"],
    "optimizer.schedule.pct_start": ["optimizer/schedule=one_cycle"],
    "optimizer.schedule.start_factor": ["optimizer/schedule=one_cycle"],
    "optimizer.schedule.end_factor": ["optimizer/schedule=cosine"],
    "optimizer.schedule.step_size": ["optimizer/schedule=step"],
    "optimizer.schedule.gamma": ["optimizer/schedule=step"],
}
KEYS = [(f"{group}.{old}", f"{group}.{new}") for group, names in renamed.KEYS.items() for old, new in names.items()]


@pytest.mark.parametrize(("old", "new"), KEYS)
def test_an_old_key_is_rejected_with_its_new_name(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    choices = OPTIONS.get(new, [])
    assert main([*choices, f"{old}=1"]) == 2
    assert f"dltrain: {old}: unknown key. It is called {new} now." in capsys.readouterr().err
    validation.lookup(new, compose.compose(choices).config)  # raises if the key does not exist


@pytest.mark.parametrize("old", renamed.MODULES)
def test_the_old_path_of_a_moved_class_is_rejected_with_the_new_path(
    old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"model._target_={old}.Thing"]) == 2
    assert f"model._target_: expected {renamed.MODULES[old]}.Thing, got {old}.Thing" in capsys.readouterr().err


def test_spec_values_of_renamed_keys_are_renamed() -> None:
    node = {"_target_": "dltrain.models.gpt.GPT", "hidden": "${spec.vocabulary}"}
    upgraded = renamed.upgrade({"config": {"model": node}, "overrides": [], "choices": {}})
    assert upgraded["config"]["model"]["hidden_size"] == "${spec.tokens.size}"


def test_keys_of_user_classes_are_not_renamed() -> None:
    node = {"_target_": "mine.Model", "hidden": 3, "inner": {"_target_": "dltrain.models.boltzmann.RBM", "hidden": 3}}
    stored = {
        "config": {"model": node, "task": {"_target_": "theirs.Task", "activity": 1}},
        "overrides": ["model.hidden=3"],
        "choices": {},
    }
    assert renamed.upgrade(stored) == {
        "config": {
            "model": {**node, "inner": {"_target_": "dltrain.models.rbm.RBM", "hidden": 3}},
            "task": {"_target_": "theirs.Task", "activity": 1},
        },
        "overrides": ["model.hidden=3"],
        "choices": {},
    }


def test_keys_are_renamed_in_the_configuration_and_the_overrides() -> None:
    schedule = {"_target_": "dltrain.schedule.Step", "every": 0.5, "factor": 0.1}
    stored = {
        "config": {
            "optimizer": {"schedule": schedule},
            "data": {"_facts_": ["shape"]},
            "regularization": {"biases": True},
        },
        "overrides": ["++optimizer.schedule.every=0.5", "regularization.biases=true", "seed=1"],
        "choices": {},
    }
    upgraded = renamed.upgrade(stored)
    assert upgraded["config"] == {
        "optimizer": {"schedule": {"_target_": "dltrain.optim.schedules.Step", "step_size": 0.5, "gamma": 0.1}},
        "data": {"_provides_": ["shape"]},
        "regularization": {"decay_biases": True},
    }
    assert upgraded["overrides"] == [
        "++optimizer.schedule.step_size=0.5",
        "regularization.decay_biases=true",
        "seed=1",
    ]
    assert renamed.upgrade(upgraded) == upgraded


def test_the_old_name_of_an_experiment_is_replaced_in_overrides_and_choices() -> None:
    stored = {
        "config": {},
        "overrides": ["experiment=transformer_memorise", "seed=1"],
        "choices": {"experiment": "transformer_memorise", "model": "transformer_seq2seq"},
    }
    upgraded = renamed.upgrade(stored)
    assert upgraded == {
        "config": {},
        "overrides": ["experiment=transformer_memorize", "seed=1"],
        "choices": {"experiment": "transformer_memorize", "model": "transformer_seq2seq"},
    }
    assert renamed.upgrade(upgraded) == upgraded


def test_the_old_name_of_an_experiment_is_rejected_with_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=transformer_memorise"]) == 2
    assert "got transformer_memorise. Did you mean transformer_memorize?" in capsys.readouterr().err


def test_old_spec_values_of_the_vocabulary_become_attributes_of_tokens() -> None:
    node = {"vocabulary": "${spec.vocabulary}", "encode": "${spec.encode}", "outputs": "${spec.outputs}"}
    data = {"_provides_": ["shape", "vocabulary", "decode", "encode"]}
    upgraded = renamed.upgrade({"config": {"model": node, "data": data}, "overrides": [], "choices": {}})
    assert upgraded["config"] == {
        "model": {
            "vocabulary": "${spec.tokens.size}",
            "encode": "${spec.tokens.encode}",
            "outputs": "${spec.outputs}",
        },
        "data": {"_provides_": ["shape", "tokens"]},
    }
    assert renamed.upgrade(upgraded) == upgraded


def test_the_old_name_of_a_spec_value_is_rejected_with_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=lstm", "data=text", "model.vocabulary=${spec.vocabulary}"]) == 2
    expected = "model.vocabulary: expected ${spec.tokens.size}, got ${spec.vocabulary}. It was renamed."
    assert expected in capsys.readouterr().err


def test_the_factor_of_the_plateau_schedule_is_not_renamed() -> None:
    node = {"_target_": "dltrain.schedule.Plateau", "factor": 0.1}
    stored = {"config": {"optimizer": {"schedule": node}}, "overrides": [], "choices": {}}
    assert renamed.upgrade(stored)["config"]["optimizer"]["schedule"] == {
        "_target_": "dltrain.optim.schedules.Plateau",
        "factor": 0.1,
    }
