"""Overrides are composed into jobs, and all errors are reported together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from dltrain.config import compose, composer, groups
from dltrain.errors import ConfigError

Write = Callable[..., tuple[str, ...]]


@pytest.fixture
def write_config(tmp_path: Path) -> Write:
    """Return a function that writes user YAML files and returns the folders for ``--config-dir``."""

    def write(**files: str) -> tuple[str, ...]:
        for name, text in files.items():
            file = tmp_path / "my_conf" / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return (str(tmp_path / "my_conf"),)

    return write


def errors_of(*overrides: str, dirs: tuple[str, ...] = (), sweep: bool = False) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compose.expand(list(overrides), dirs, sweep)
    return caught.value.problems


def value(job: compose.Job, key: str) -> Any:
    return OmegaConf.select(OmegaConf.create(job.config), key)


def test_the_default_run_is_an_lstm_on_a_time_series() -> None:
    job = compose.compose([])
    assert job.title().startswith("dltrain model=lstm data=timeseries task=forecasting")
    assert (job.run_dir, job.sweep_dir, job.allow, job.overrides) == (None, None, (), ())


@pytest.mark.parametrize(
    ("data", "task"),
    [
        ("timeseries", "forecasting"),
        ("digits", "classification"),
        ("csv", "classification"),
        ("text", "language_modeling"),
    ],
)
def test_a_data_option_selects_its_default_task(data: str, task: str) -> None:
    assert compose.compose([f"data={data}"]).choices["task"] == task


def test_options_of_dltrain_take_precedence_over_user_options_of_the_same_name(write_config: Write) -> None:
    dirs = write_config(data__digits="mean: 0.9", data__mine="mean: 0.9")
    found = compose.options("data", dirs)
    assert found["mine"] == {"mean": 0.9}
    assert found["digits"]["mean"] == compose.compose(["data=digits"], dirs).config["data"]["mean"] == 0.305


def test_a_task_on_the_command_line_overrides_the_default_task_of_the_data() -> None:
    assert compose.compose(["data=csv", "task=regression"]).choices["task"] == "regression"


def test_the_command_line_takes_precedence_over_an_experiment() -> None:
    job = compose.compose(["experiment=lenet5_mnist", "model=cnn", "trainer.epochs=1"])
    assert (job.choices["data"], job.choices["model"], value(job, "trainer.epochs")) == ("mnist", "cnn", 1)


def test_a_nested_group_may_be_written_with_a_dot() -> None:
    dotted, slashed = (compose.compose([f"optimizer{c}schedule=cosine"]) for c in "./")
    assert dotted == slashed
    assert value(dotted, "optimizer.schedule._target_") == "dltrain.optim.schedules.Cosine"


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("optimizer.lr=1", "optimizer.lr", 1),
        ("trainer.eval_every='2 epochs'", "trainer.eval_every", "2 epochs"),
        ("trainer={epochs: 3}", "trainer.epochs", 3),
        ("++model.hidden_size=5", "model.hidden_size", 5),
        ("+optimizer.maximize=true", "optimizer.maximize", True),
        ("data.path='a=b, c.csv'", "data.path", "a=b, c.csv"),
        ("data.column=[a,b]", "data.column", ["a", "b"]),
        ("trainer.epochs=${data.window}", "trainer.epochs", 104),
        ("optimizer.schedule.pct_start=0.1", "optimizer.schedule.pct_start", 0.1),
    ],
)
def test_an_override_sets_its_key_to_a_value_of_the_right_type(override: str, key: str, expected: Any) -> None:
    assert value(compose.compose([override]), key) == expected


def test_an_entry_of_a_list_can_be_changed() -> None:
    job = compose.compose(["model=cnn", "data=digits", "model.blocks.1.channels=7"])
    assert [block["channels"] for block in value(job, "model.blocks")][:3] == [32, 7, 128]


def test_a_key_can_be_removed_if_the_constructor_has_a_default() -> None:
    assert "hidden_size" not in compose.compose(["~model.hidden_size"]).config["model"]


def test_a_new_key_is_accepted_if_an_interpolation_uses_it() -> None:
    job = compose.compose(["+wide=9", "model.hidden_size=${wide}"])
    assert value(job, "model.hidden_size") == 9


def test_a_sweep_expands_to_every_combination_with_the_last_key_changing_fastest() -> None:
    jobs = compose.expand(["model=gru,lstm", "optimizer.schedule=cosine", "seed=range(0,3)"])
    assert [job.overrides for job in jobs] == [
        (f"model={model}", "optimizer/schedule=cosine", f"seed={seed}")
        for model in ("gru", "lstm")
        for seed in range(3)
    ]
    assert [job.config["seed"] for job in jobs] == [0, 1, 2, 0, 1, 2]
    assert [job.choices["model"] for job in jobs] == ["gru"] * 3 + ["lstm"] * 3


def test_sweep_jobs_share_no_mutable_configuration() -> None:
    first, second = compose.expand(["seed=0,1"])
    first.config["model"]["hidden_size"] = 1
    assert second.config["model"]["hidden_size"] == 64


def test_a_glob_pattern_sweeps_the_matching_options() -> None:
    jobs = compose.expand(["regularization=glob(l*)", "optimizer.schedule=glob(co*)"])
    chosen = [(job.choices["regularization"], job.choices["optimizer/schedule"]) for job in jobs]
    assert chosen == [("l1", "constant"), ("l1", "cosine"), ("l2", "constant"), ("l2", "cosine")]


def test_errors_in_all_sweep_jobs_are_reported_when_the_sweep_is_composed() -> None:
    found = errors_of("model=gru,lsmt", "seed=0,1", "optimizer.lr=0.1,-1", sweep=True)
    assert sorted(line.split(":")[0] for line in found) == ["model", "optimizer.lr"]


@pytest.mark.parametrize("override", ["seed=range(0,0)", "model=glob(z*)", "optimizer.lr=interval(0.1,1)"])
def test_an_empty_or_continuous_sweep_is_rejected(override: str) -> None:
    assert override in errors_of(override, sweep=True)[0]


@pytest.mark.parametrize("sweep", [False, True])
def test_the_output_folder_is_the_only_hydra_key_that_can_be_set(sweep: bool) -> None:
    overrides = [
        "hydra.run.dir=x" if sweep else "hydra.sweep.dir=x",
        "hydra.mode=MULTIRUN",
        "hydra.searchpath=[pkg://antigravity]",
        "hydra.callbacks.x._target_=os.system",
        "+hydra.callbacks.y._target_=os.system",
        "++hydra.callbacks.z._target_=os.system",
        "hydra.launcher._target_=os.system",
        "hydra/launcher=basic",
        "+hydra/sweeper=basic",
        "hydra.job_logging.version=2",
        "~hydra.run",
        "hydra=config",
    ]
    found = errors_of(*overrides, sweep=sweep)
    assert [line.split(":")[0] for line in found] == [text.lstrip("+~").split("=")[0] for text in overrides]


def test_the_output_folder_is_not_part_of_the_configuration() -> None:
    job = compose.compose(["hydra.run.dir=here", "seed=1"])
    assert (job.run_dir, job.overrides) == ("here", ("seed=1",))
    assert compose.expand(["hydra.sweep.dir=there"])[0].sweep_dir == "there"


def test_required_keys_cannot_be_removed() -> None:
    needed = ["task", "model", "data", "optimizer", "regularization", "augment", "device", "trainer", "seed"]
    found = errors_of(*(f"~{name}" for name in needed[1:]), "task=null", "~device.precision")
    assert {f"{name}: expected a value, got nothing" for name in needed} <= set(found)


def test_experiment_may_be_null() -> None:
    assert compose.compose(["experiment=null"]).choices == compose.compose([]).choices


def test_user_options_and_experiments_are_found_but_do_not_replace_built_in_ones(write_config: Write) -> None:
    dirs = write_config(
        model__mine="_target_: theirs.Mine\nwidth: wide\n",
        model__lstm="_target_: theirs.Mine\n",
        experiment__quick="# @package _global_\ndefaults:\n  - override /model: mine\ntrainer:\n  epochs: 1\n",
    )
    job = compose.compose(["experiment=quick"], dirs)
    assert (job.choices["model"], value(job, "trainer.epochs"), job.config_dirs) == ("mine", 1, dirs)
    assert value(compose.compose([], dirs), "model._target_").startswith("dltrain.")
    assert "mine" in errors_of("model=mien", dirs=dirs)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\ntrainer:\n  epoch: 3\n", "trainer.epoch: unknown key. Did you mean epochs?"),
        ("# @package _global_\nlearning_rate: 3\n", "learning_rate: unknown key."),
        ("# @package _global_\nseed: -1\n", "seed: expected a whole number of at least 0, got -1"),
        ("trainer:\n  epochs: 3\n", "# @package _global_"),
        ("# @package _global_\nallow_targets: [os]\n", "allow_targets: not supported in YAML"),
        ("# @package _global_\ndefaults:\n  - override /model: lsmt\n", "lsmt"),
        ("# @package _global_\nseed: [\n", "expected the node content"),
    ],
)
def test_errors_in_user_yaml_are_explained(write_config: Write, text: str, message: str) -> None:
    assert message in "\n".join(errors_of("experiment=mine", dirs=write_config(experiment__mine=text)))


def test_only_the_command_line_can_set_allow_targets(write_config: Write) -> None:
    assert compose.compose(["allow_targets=[a,b.c]"]).allow == ("a", "b.c")
    dirs = write_config(experiment__mine="# @package _global_\nallow_targets: [evil]\n")
    assert "evil" in errors_of("experiment=mine", "seed=3", dirs=dirs)[0]
    assert compose.compose(["experiment=mine", "allow_targets=[mine]"], dirs).allow == ("mine",)


def test_a_missing_config_dir_is_rejected() -> None:
    assert errors_of(dirs=("nowhere",)) == ("--config-dir: expected an existing folder of YAML groups, got nowhere",)


def test_outputs_are_written_to_the_current_folder_or_to_the_checkout_that_contains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose.default_root() == tmp_path / "outputs"
    checkout = groups.conf_dir().parent
    monkeypatch.chdir(checkout / "tests")
    assert compose.default_root() == checkout / "outputs"


def test_composing_a_sweep_calls_hydra_once_per_combination_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compose_once = [], hydra.compose

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return compose_once(*arguments, **options)

    composer.packaged.cache_clear()  # earlier tests may have composed the same options
    monkeypatch.setattr(hydra, "compose", counted)
    assert len(compose.expand(["model=gru,lstm", "seed=range(0,10)"])) == 20
    assert len(calls) == 2


def test_paths_that_begin_with_a_tilde_need_no_quotes() -> None:
    overrides = ["model=mlp", "data=csv"]
    assert compose.compose([*overrides, "data.path=~/my data/x.csv"]).config["data"]["path"] == "~/my data/x.csv"
    jobs = compose.expand([*overrides, "data.path=~/a.csv,b.csv"])
    assert [job.config["data"]["path"] for job in jobs] == ["~/a.csv", "b.csv"]
