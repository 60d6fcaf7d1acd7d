import operator

import pytest
import torch

from dltrain.data.loader import Batches
from dltrain.datasets.gates import Gates
from dltrain.errors import ConfigError

OPERATORS = {
    "and": operator.and_,
    "or": operator.or_,
    "nand": lambda a, b: 1 - (a & b),
    "nor": lambda a, b: 1 - (a | b),
    "xor": operator.xor,
    "xnor": lambda a, b: 1 - (a ^ b),
}


@pytest.mark.parametrize("gate", OPERATORS)
def test_a_gate_is_its_truth_table_in_every_split(gate):
    splits = Gates(gate).load()
    for source in (splits.train, splits.val, splits.test):
        batch = next(iter(Batches(source, 4)))
        assert batch["inputs"].shape == (4, 2) and len(torch.unique(batch["inputs"], dim=0)) == 4
        pairs = zip(batch["inputs"].int().tolist(), batch["targets"].tolist(), strict=True)
        assert all(OPERATORS[gate](*inputs) == target for inputs, target in pairs)


def test_an_unknown_gate_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"data\.gate: expected one of .*got xr\. Did you mean xor"):
        Gates("xr")
