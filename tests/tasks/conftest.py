"""Fixtures of the tests of tasks."""

import pytest
import torch
from bigram import Table


@pytest.fixture
def table() -> Table:
    """Return a bigram model with random weights."""
    torch.manual_seed(0)
    return Table()
