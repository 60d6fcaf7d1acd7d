"""Field specs of the configuration: accepted values and error messages."""

import math
from typing import Any

import pytest

from dltrain.config import compose, schema
from dltrain.errors import ConfigError


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "text"),
    [
        ("[0, 1)", [0, 0.0, 0.999], [-1e-9, 1, 1.0], "a number of at least 0 and below 1"),
        ("(0, 1]", [1e-300, 1], [0, 1.0000001], "a number above 0 and at most 1"),
        ("(0, inf)", [1e-300, 1e300], [0, -1, math.inf], "a number above 0"),
        ("(-inf, inf)", [-1e300, 0, 3], [math.inf, -math.inf], "a number"),
    ],
)
def test_a_number_may_equal_a_closed_limit_but_not_an_open_limit_of_its_range(
    interval: str, inside: list[float], outside: list[float], text: str
) -> None:
    spec = schema.real(interval)
    assert all(spec.accepts(value) for value in inside)
    assert not any(spec.accepts(value) for value in outside)
    assert not any(spec.accepts(value) for value in (math.nan, True, "0.5", None, [0.5]))
    assert spec.text == text


def test_integer_fields_reject_booleans_floats_and_strings() -> None:
    spec = schema.integer(1)
    assert spec.accepts(1)
    assert not any(spec.accepts(value) for value in (0, True, 1.0, "1", None))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (50, (50.0, "step")),
        ("50", (50.0, "step")),
        ("1 epoch", (1.0, "epoch")),
        ("2 epochs", (2.0, "epoch")),
        ("0.5 minutes", (0.5, "minute")),
        ("3minutes", (3.0, "minute")),
        ("0 steps", None),
        ("1.5 epochs", None),
        ("-1 steps", None),
        ("often", None),
        ("1 hour", None),
        ("1 epoch 2", None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_an_interval_is_a_number_of_steps_epochs_or_minutes(value: Any, expected: tuple[float, str] | None) -> None:
    assert schema.parse_interval(value) == expected


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("seed", 2**63 - 1, None),
        ("seed", 2**63, "seed: expected a whole number below 9,223,372,036,854,775,808"),
        ("model.num_heads", 2**60, "model.num_heads: expected a whole number below 9,007,199,254,740,992, got 1152"),
        ("data.mean", -1e39, "data.mean: expected a number above -3.4e+38 (float32), got -1e+39"),
        ("optimizer.lr", 1, None),
        ("optimizer.lr", "fast", "optimizer.lr: expected a number above 0, got fast"),
        ("optimizer.betas", [0.9, 0.999], None),
        ("optimizer.betas", [0.9, 1.0], "optimizer.betas: expected a number of at least 0 and below 1, got 1.0"),
        ("model.blocks.3.padding", "smae", "one of same valid, got smae. Did you mean same?"),
        ("model.dropout", "${regularization.dropout}", None),
        ("data.season", None, None),
        ("data.path", -3, None),
        ("data.threshold", -1.5, None),
        (
            "optimizer.schedule.threshold",
            -1.5,
            "optimizer.schedule.threshold: expected a number of at least 0, got -1.5",
        ),
    ],
)
def test_a_value_is_checked_against_the_spec_of_its_key_at_any_depth(key: str, value: Any, error: str | None) -> None:
    found = schema.check_range(key, value)
    assert found is None if error is None else error in str(found)


@pytest.mark.parametrize(
    ("key", "value", "default", "valid"),
    [
        ("model.bidirectional", True, False, True),
        ("model.bidirectional", 1, False, False),
        ("model.bidirectional", "yes", False, False),
        ("optimizer.threshold", 1, 1e-4, True),
        ("data.series", 3, "co2", False),
        ("data.source", ["text", "body"], "text", True),
        ("data.source", {"a": "text"}, "text", False),
        ("data.path", 3, None, True),
        ("data.path", "x.csv", "???", True),
        ("device.channels_last", True, "auto", True),
        ("data.augment", ["flip"], "${augment}", True),
        ("trainer", 3, {"epochs": 1}, False),
        ("trainer.epochs", None, 20, True),
        ("trainer.eval_every", None, "1 epoch", False),
        ("optimizer.lr", None, 1e-3, False),
        ("optimizer.lr", [0.1], 1e-3, False),
        ("optimizer.lr", "${seed}", 1e-3, True),
        ("model.hidden_size", [64, 32], 128, True),
        ("model.dropout", 0.5, "${regularization.dropout}", True),
        ("optimizer.schedule.warmup", 0.1, 0, True),
    ],
)
def test_an_override_must_have_a_type_that_the_key_accepts(key: str, value: Any, default: Any, valid: bool) -> None:
    found = schema.check_type(key, value, default)
    assert (found is None) is valid
    assert valid or str(found).startswith(f"{key}: expected ")


def test_data_target_may_be_a_list_of_names_and_nulls_but_data_column_may_not_be_a_list() -> None:
    assert schema.may_be_list("data.target", "summary") and not schema.may_be_list("data.column", "kind")
    assert schema.check_range("data.target", ["summary", None]) is None
    assert schema.check_range("data.target", ["summary", 3]) == "data.target: expected text, got 3"


def test_every_value_out_of_range_is_reported_with_its_full_key() -> None:
    content = {
        "model": {"_target_": "dltrain.models.x", "blocks": [{"channels": 0}, {"channels": 3}], "hidden_size": [4, 0]}
    }
    assert [line.split(":")[0] for line in schema.out_of_range(content)] == [
        "model.blocks.0.channels",
        "model.hidden_size",
    ]


def test_arguments_of_user_classes_are_not_checked() -> None:
    assert not list(schema.out_of_range({"model": {"_target_": "user.Model", "depth": "deep", "dropout": 3}}))


@pytest.mark.parametrize(
    ("key", "value", "default", "expected"),
    [
        ("task.quantiles", 0.5, [0.1, 0.5, 0.9], "a list whose elements are each a number above 0 and below 1"),
        ("optimizer.lr", [0.5], 0.1, "a number above 0"),
    ],
)
def test_a_scalar_for_a_list_and_a_list_for_a_scalar_are_rejected(
    key: str, value: object, default: object, expected: str
) -> None:
    assert (schema.check_type(key, value, default) or "").startswith(f"{key}: expected {expected}, got ")


def test_an_unknown_device_name_is_rejected_with_the_nearest_name() -> None:
    expected = "device.name: expected one of auto cpu cuda mps, got cud. Did you mean cuda?"
    assert schema.check_range("device.name", "cud") == expected
    assert schema.check_range("hydra.job.name", "cud") is None


@pytest.mark.parametrize("value", ["task.loss_name=[hinge]", "task.loss_name=null"])
def test_an_override_of_a_wrong_type_is_reported_with_the_values_that_the_class_accepts(value: str) -> None:
    with pytest.raises(ConfigError, match="expected one of non_saturating least_squares hinge wasserstein, got"):
        compose.compose(["model=gan", "data=ring", value])


@pytest.mark.parametrize("value", ["foo", 1])
def test_channels_last_is_auto_true_or_false(value: object) -> None:
    expected = f"device.channels_last: expected auto, true or false, got {value}"
    assert schema.check_range("device.channels_last", value) == expected
    assert all(schema.check_range("device.channels_last", each) is None for each in ("auto", True, False))
