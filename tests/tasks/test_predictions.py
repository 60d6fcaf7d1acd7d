"""Predictions of tasks, compared with calculations from the outputs of the model."""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.tasks.base import Batch, Line, Task
from dltrain.tasks.classification import Classification
from dltrain.tasks.forecasting import Forecasting
from dltrain.tasks.language_modeling import LanguageModeling
from dltrain.tasks.regression import Regression


class TokenModel(nn.Module):
    """Language model whose logits depend only on the current token and its position."""

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(0)))
        self.positions = nn.Parameter(torch.randn(length, vocabulary, generator=torch.Generator().manual_seed(1)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens] + self.positions[: tokens.shape[1]]


def test_classes_are_named_and_their_probabilities_sum_to_one() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    lines = Classification(3, ["a", "b", "c"]).predict(nn.Identity(), {"inputs": logits})
    for line, row in zip(lines, logits.double().exp(), strict=True):
        assert list(line["probabilities"].values()) == pytest.approx((row / row.sum()).tolist(), rel=1e-5)
        assert line["class_name"] == "abc"[line["class"]] and line["class"] == int(row.argmax())
        assert line["probability"] == line["probabilities"][line["class_name"]]
    assert Classification(3).predict(nn.Identity(), {"inputs": logits})[0]["class_name"] in ("0", "1", "2")


def test_numbers_are_predicted_in_data_units() -> None:
    batch = {"inputs": torch.tensor([[1.0], [2.0]]), "shift": torch.full((2, 1), 10.0), "scale": torch.full((2, 1), 3)}
    assert Regression(1, ["price"]).predict(nn.Identity(), batch) == [{"price": 13.0}, {"price": 16.0}]
    assert Regression(2).predict(nn.Identity(), {"inputs": torch.tensor([[1.0, 2.0]])}) == [
        {"value_1": 1.0, "value_2": 2.0}
    ]


def test_a_forecast_has_a_line_for_each_step_of_each_window() -> None:
    outputs = torch.arange(12.0).reshape(2, 6)
    scale, shift = torch.tensor([[[1.0, 10.0]], [[2.0, 20.0]]]), torch.tensor([[[0.5, 0.0]], [[0.0, 0.0]]])
    batch = {"inputs": outputs, "scale": scale, "shift": shift}
    lines = Forecasting(3, 2, target_names=["a", "b"]).predict(nn.Identity(), batch)
    expected = [(1, 0.5, 10), (2, 2.5, 30), (3, 4.5, 50), (1, 12, 140), (2, 16, 180), (3, 20, 220)]
    assert [tuple(line.values()) for line in lines] == expected and list(lines[0]) == ["step", "a", "b"]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 24, 25, 500])
def test_every_token_after_the_first_is_scored_once_in_windows_of_the_model_length(count: int) -> None:
    vocabulary, length = 7, 6
    model = TokenModel(vocabulary, length)
    task = LanguageModeling(vocabulary, length, decode=lambda tokens: "".join(map(str, tokens)))
    tokens = torch.randint(vocabulary, (2, count), generator=torch.Generator().manual_seed(count))
    targets = torch.cat([tokens[:, 1:], torch.full((2, 1), -1)], dim=1)
    with torch.no_grad():
        lines = task.predict(model, {"inputs": tokens, "targets": targets})
        for line, text in zip(lines, tokens, strict=True):
            nats = [
                F.cross_entropy(model.table[text[n]] + model.positions[n % length], text[n + 1]).item()
                for n in range(count - 1)
            ]
            assert line["characters"] == count
            expected = pytest.approx(sum(nats) / len(nats), rel=1e-5) if nats else None
            assert line["nats_per_character"] == expected


def test_predict_is_rejected_for_tasks_that_cannot_predict() -> None:
    class Unpredictive(Regression):
        predict = Task.predict

    with pytest.raises(ConfigError, match="predict: not supported for the task Unpredictive"):
        Unpredictive(1).predict(nn.Identity(), {"inputs": torch.zeros(1, 1)})
    with pytest.raises(ConfigError, match="the data cannot turn tokens into text"):
        LanguageModeling(5, 4).predict(nn.Identity(), {"inputs": torch.zeros(1, 1), "targets": torch.zeros(1, 1)})


def test_predictions_are_computed_lazily_batch_by_batch() -> None:
    read = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            read.append(number)
            yield {"inputs": torch.full((2, 1), float(number))}

    lines = Regression(1, ["price"]).predictions(nn.Identity(), batches())
    assert [(next(lines)["price"], len(read)) for _ in range(6)] == [(0, 1), (0, 1), (1, 2), (1, 2), (2, 3), (2, 3)]
    assert next(lines, None) is None


def test_a_task_can_combine_several_batches_into_one_prediction() -> None:
    class Total(Regression):
        def predictions(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[Line]:
            yield {"total": sum(line["value_1"] for line in super().predictions(model, batches))}

    batches = [{"inputs": torch.full((size, 1), 2.0)} for size in (3, 1)]
    assert list(Total(1).predictions(nn.Identity(), batches)) == [{"total": 8}]
