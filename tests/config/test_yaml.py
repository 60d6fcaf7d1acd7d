"""YAML that dltrain writes and reads."""

import pytest
from omegaconf import OmegaConf

from dltrain.config import compose, interpolation

STRINGS = ["1e3", "1_000", "0x1f", "1.", "inf", "-.inf", "nan", "on", "No", "y", "null", "~", "", " a", "a: b", "# a"]
STRINGS += ["${a.b}", "2020-01-01", "1:30", "[1, 2]", "{a: 1}", "'a'", '"', "a\nb", "\ta", "é\u2028", "\x07", "*a"]
STRINGS += ["- a", "word " * 50, "ｆ" * 200, "!tag", "%", "@", "`", "<<", "=", "日本"]


@pytest.mark.parametrize(
    "overrides", [["experiment=gpt_shakespeare_cpu"], ["model=gan", "data=ring", "data.batch_size=7"]]
)
def test_a_configuration_is_written_as_omegaconf_writes_it(overrides: list[str]) -> None:
    config = compose.compose(overrides).config
    assert interpolation.to_yaml(config) == OmegaConf.to_yaml(OmegaConf.create(config))


def test_strings_and_numbers_are_read_as_they_were_written() -> None:
    content = {"strings": STRINGS, "keys": {key: 1 for key in STRINGS if key}, "numbers": [1, 1e3, 1e-9, 0.1, -0.0]}
    content |= {"nested": [[], {}, [{"a": None, "b": True}]]}
    assert interpolation.from_yaml(interpolation.to_yaml(content)) == content


def test_a_list_used_twice_is_written_twice() -> None:
    shared = [1, 2]
    assert interpolation.to_yaml({"a": shared, "b": shared}) == "a:\n- 1\n- 2\nb:\n- 1\n- 2\n"
