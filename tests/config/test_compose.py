"""From words on a command line to composed runs, and to all mistakes at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from dltrain.config import compose, groups
from dltrain.errors import ConfigError

Write = Callable[..., tuple[str, ...]]


@pytest.fixture
def own(tmp_path: Path) -> Write:
    """Return a function that writes YAML files of a user and returns the folders for ``--config-dir``."""

    def write(**files: str) -> tuple[str, ...]:
        for name, text in files.items():
            file = tmp_path / "my_conf" / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return (str(tmp_path / "my_conf"),)

    return write


def mistakes(*overrides: str, dirs: tuple[str, ...] = (), sweep: bool = False) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compose.expand(list(overrides), dirs, sweep)
    return caught.value.problems


def value(job: compose.Job, key: str) -> Any:
    return OmegaConf.select(OmegaConf.create(job.config), key)


def test_nothing_typed_is_an_lstm_on_a_series() -> None:
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
def test_data_pick_their_natural_task(data: str, task: str) -> None:
    assert compose.compose([f"data={data}"]).choices["task"] == task


def test_a_task_on_the_command_line_wins_over_that_of_the_data() -> None:
    assert compose.compose(["data=csv", "task=regression"]).choices["task"] == "regression"


def test_the_command_line_wins_over_an_experiment() -> None:
    job = compose.compose(["experiment=lenet5_mnist", "model=cnn", "trainer.epochs=1"])
    assert (job.choices["data"], job.choices["model"], value(job, "trainer.epochs")) == ("mnist", "cnn", 1)


def test_a_nested_group_may_be_typed_with_a_dot() -> None:
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
def test_values_arrive_as_they_were_typed(override: str, key: str, expected: Any) -> None:
    assert value(compose.compose([override]), key) == expected


def test_an_entry_of_a_list_can_be_changed() -> None:
    job = compose.compose(["model=cnn", "data=digits", "model.blocks.1.channels=7"])
    assert [block["channels"] for block in value(job, "model.blocks")][:3] == [32, 7, 128]


def test_a_key_may_be_taken_away_where_a_constructor_has_its_own_idea() -> None:
    assert "hidden_size" not in compose.compose(["~model.hidden_size"]).config["model"]


def test_a_key_of_ones_own_is_welcome_when_something_pulls_it() -> None:
    job = compose.compose(["+wide=9", "model.hidden_size=${wide}"])
    assert value(job, "model.hidden_size") == 9


def test_a_sweep_is_every_combination_the_last_changing_fastest() -> None:
    jobs = compose.expand(["model=gru,lstm", "optimizer.schedule=cosine", "seed=range(0,3)"])
    assert [job.overrides for job in jobs] == [
        (f"model={model}", "optimizer/schedule=cosine", f"seed={seed}")
        for model in ("gru", "lstm")
        for seed in range(3)
    ]
    assert [job.config["seed"] for job in jobs] == [0, 1, 2, 0, 1, 2]
    assert [job.choices["model"] for job in jobs] == ["gru"] * 3 + ["lstm"] * 3


def test_jobs_of_a_sweep_share_nothing() -> None:
    first, second = compose.expand(["seed=0,1"])
    first.config["model"]["hidden_size"] = 1
    assert second.config["model"]["hidden_size"] == 64


def test_a_pattern_sweeps_the_options_that_match() -> None:
    jobs = compose.expand(["regularization=glob(l*)", "optimizer.schedule=glob(co*)"])
    chosen = [(job.choices["regularization"], job.choices["optimizer/schedule"]) for job in jobs]
    assert chosen == [("l1", "constant"), ("l1", "cosine"), ("l2", "constant"), ("l2", "cosine")]


def test_a_mistake_in_any_job_of_a_sweep_is_found_before_the_first() -> None:
    found = mistakes("model=gru,lsmt", "seed=0,1", "optimizer.lr=0.1,-1", sweep=True)
    assert sorted(line.split(":")[0] for line in found) == ["model", "optimizer.lr"]


@pytest.mark.parametrize("override", ["seed=range(0,0)", "model=glob(z*)", "optimizer.lr=interval(0.1,1)"])
def test_a_sweep_over_nothing_is_refused(override: str) -> None:
    assert override in mistakes(override, sweep=True)[0]


@pytest.mark.parametrize("sweep", [False, True])
def test_of_hydras_own_keys_only_the_folder_may_be_set(sweep: bool) -> None:
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
    found = mistakes(*overrides, sweep=sweep)
    assert [line.split(":")[0] for line in found] == [text.lstrip("+~").split("=")[0] for text in overrides]


def test_where_a_run_goes_is_not_part_of_what_it_is() -> None:
    job = compose.compose(["hydra.run.dir=here", "seed=1"])
    assert (job.run_dir, job.overrides) == ("here", ("seed=1",))
    assert compose.expand(["hydra.sweep.dir=there"])[0].sweep_dir == "there"


def test_what_every_run_needs_cannot_be_taken_away() -> None:
    needed = ["task", "model", "data", "optimizer", "regularization", "augment", "device", "trainer", "seed"]
    found = mistakes(*(f"~{name}" for name in needed[1:]), "task=null", "~device.precision")
    assert {f"{name}: expected a value, got nothing" for name in needed} <= set(found)


def test_an_experiment_may_be_none() -> None:
    assert compose.compose(["experiment=null"]).choices == compose.compose([]).choices


def test_options_and_experiments_of_ones_own_are_found_but_do_not_replace_ours(own: Write) -> None:
    dirs = own(
        model__mine="_target_: theirs.Mine\nwidth: wide\n",
        model__lstm="_target_: theirs.Mine\n",
        experiment__quick="# @package _global_\ndefaults:\n  - override /model: mine\ntrainer:\n  epochs: 1\n",
    )
    job = compose.compose(["experiment=quick"], dirs)
    assert (job.choices["model"], value(job, "trainer.epochs"), job.config_dirs) == ("mine", 1, dirs)
    assert value(compose.compose([], dirs), "model._target_").startswith("dltrain.")
    assert "mine" in mistakes("model=mien", dirs=dirs)[0]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("# @package _global_\ntrainer:\n  epoch: 3\n", "trainer.epoch: unknown key. Did you mean epochs?"),
        ("# @package _global_\nlearning_rate: 3\n", "learning_rate: unknown key."),
        ("# @package _global_\nseed: -1\n", "seed: expected a whole number of at least 0, got -1"),
        ("trainer:\n  epochs: 3\n", "# @package _global_"),
        ("# @package _global_\nallow_targets: [os]\n", "allow_targets: expected this key on the command line only"),
        ("# @package _global_\ndefaults:\n  - override /model: lsmt\n", "lsmt"),
        ("# @package _global_\nseed: [\n", "expected the node content"),
    ],
)
def test_mistakes_in_yaml_of_ones_own_are_explained(own: Write, text: str, mistake: str) -> None:
    assert mistake in "\n".join(mistakes("experiment=mine", dirs=own(experiment__mine=text)))


def test_modules_are_allowed_by_the_command_line_alone(own: Write) -> None:
    assert compose.compose(["allow_targets=[a,b.c]"]).allow == ("a", "b.c")
    dirs = own(experiment__mine="# @package _global_\nallow_targets: [evil]\n")
    assert "evil" in mistakes("experiment=mine", "seed=3", dirs=dirs)[0]
    assert compose.compose(["experiment=mine", "allow_targets=[mine]"], dirs).allow == ("mine",)


def test_a_folder_of_groups_must_be_there() -> None:
    assert mistakes(dirs=("nowhere",)) == ("--config-dir: expected an existing folder of YAML groups, got nowhere",)


def test_outputs_lie_in_the_checkout_or_else_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose.default_root() == tmp_path / "outputs"
    checkout = groups.conf_dir().parent
    monkeypatch.chdir(checkout / "tests")
    assert compose.default_root() == checkout / "outputs"


def test_a_sweep_calls_hydra_once_per_combination_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compose_once = [], hydra.compose

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return compose_once(*arguments, **options)

    monkeypatch.setattr(hydra, "compose", counted)
    assert len(compose.expand(["model=gru,lstm", "seed=range(0,10)"])) == 20
    assert len(calls) == 2


def test_a_path_in_a_home_is_taken_as_it_is_typed() -> None:
    overrides = ["model=mlp", "data=csv"]
    assert compose.compose([*overrides, "data.path=~/my data/x.csv"]).config["data"]["path"] == "~/my data/x.csv"
    jobs = compose.expand([*overrides, "data.path=~/a.csv,b.csv"])
    assert [job.config["data"]["path"] for job in jobs] == ["~/a.csv", "b.csv"]
