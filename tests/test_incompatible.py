"""Options that do not fit together are rejected with a list of options that fit."""

import functools
import itertools
from collections.abc import Callable, Iterator

import pytest
from combinations import FITS, INCOMPATIBLE, LARGER, OPTIONS, WITH_MASK

from dltrain.config import compose, instantiate
from dltrain.config.compose import Job
from dltrain.data.spec import Spec
from dltrain.errors import ConfigError
from dltrain.runs import assemble, compatibility

# Messages that may name only one of model, data and task contain one of these words.
ONE_WRONG = ("use another model", "special_tokens", "sentinels")
SHARE = 24  # the default tests take every 24th incompatible combination of digits, text and timeseries


@pytest.mark.parametrize("model", ["gpt", "t5", "lstm", "unet", "vae", "dbn", "timm"])
def test_matching_data_lists_exactly_the_data_that_fit_a_model(model: str) -> None:
    job = compose.compose([f"model={model}"])
    needed = instantiate.required_facts(job.resolved["model"], "model", job.allow)
    assert set(compatibility.matching_data(job, "model", needed).split()) == FITS[model]


def incompatible_jobs(
    data: str, small_data: Callable[[str], list[str]]
) -> Iterator[tuple[Callable[[], Job], Spec, str]]:
    """Yield a triple for each incompatible combination: a function that makes the job, the data's spec, and a name.

    Only one model per family is used. The configuration is composed once, because replacing its model and task is
    faster than composing each combination.
    """
    yaml = {(group, name): node for group in ("model", "task") for name, node in compose.options(group, ()).items()}
    yaml = {key: {k: v for k, v in node.items() if k != "defaults"} for key, node in yaml.items()}
    job = compose.compose(["model=mlp", *small_data(data), *WITH_MASK.get(data, [])])
    spec = instantiate.build(job.resolved["data"], "data", job.allow).spec
    for model, task in itertools.product(OPTIONS["model"], OPTIONS["task"]):
        if (model, data, task) in INCOMPATIBLE and model not in LARGER:
            config = {**job.config, "model": yaml["model", model], "task": yaml["task", task]}
            choices = {**job.choices, "model": model, "task": task}
            yield functools.partial(Job, config, choices, job.overrides, None, None), spec, f"{model} {data} {task}"


@pytest.mark.parametrize("share", [SHARE, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "data",
    [
        data if data in ("digits", "text", "timeseries") else pytest.param(data, marks=pytest.mark.slow)
        for data in OPTIONS["data"]
    ],
)
def test_every_incompatible_combination_is_rejected_with_compatible_options(
    data: str, share: int, small_data: Callable[[str], list[str]]
) -> None:
    jobs = list(incompatible_jobs(data, small_data))
    assert len(jobs) == sum(triple[1] == data and triple[0] not in LARGER for triple in INCOMPATIBLE)
    for make_job, spec, name in jobs[OPTIONS["data"].index(data) % share :: share]:
        job = make_job()
        with pytest.raises(ConfigError) as caught:
            assemble.build_model(job, assemble.build_task(job, spec)[1])
        message = "\n".join(caught.value.problems)
        chosen = [f"{group}={option} " for group, option in zip(("model", "data", "task"), name.split(), strict=True)]
        if not any(words in message for words in ONE_WRONG):
            assert sum(choice in message for choice in chosen) >= 2, message
            assert "Data that fit" in message or "Use task=" in message or "Use a task" in message, message


@pytest.mark.parametrize(
    ("command", "notes"),
    [
        ("model=mlp data=digits regularization.dropout=0.5", []),
        ("model=autoencoder data=digits regularization.label_smoothing=0.1", ["regularization.label_smoothing"]),
        ("model=mlp data=digits augment=mixup", []),
        ("model=mlp data=ring augment.shift=2", ["augment.shift"]),
        ("model=mlp data=timeseries task.quantiles=[0.2,0.5,0.8]", ["task.quantiles"]),
        ("model=mlp data=timeseries task.loss_name=l1", []),
        (
            "model=mlp data=timeseries task.output=quantile task.quantiles=[0.2,0.5,0.8] task.loss_name=l1",
            ["task.loss_name"],
        ),
    ],
)
def test_settings_that_a_run_does_not_use_are_named(command: str, notes: list[str]) -> None:
    found = list(compatibility.unused_settings(compose.compose(command.split())))
    assert len(found) == len(notes)
    assert all("not used" in line and note in line for line, note in zip(found, notes, strict=True))
