"""Tagging: the loss over words, F1 scores of entities, the baseline, and predicted tags."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.tasks.tagging import UNTAGGED, Tagging

NAMES = ["B-LOC", "B-PER", "I-PER", "O"]


class Logits(nn.Module):
    """Model that predicts for each token the tag with the token's index."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return 5.0 * F.one_hot(x, 4).float()


def task(**options: Any) -> Tagging:
    return Tagging(**{"tags": 4, "tag_names": NAMES, "vocabulary": 4, **options})


def batch() -> dict[str, Tensor]:
    """Return sentences whose tokens are the tags that `Logits` predicts."""
    found = torch.tensor([[1, 2, 3, 0, 3], [1, 3, 0, 0, 0]])
    targets = torch.tensor([[1, 2, 3, 3, UNTAGGED], [1, 2, 0, UNTAGGED, UNTAGGED]])
    return {
        "inputs": found,
        "lengths": torch.tensor([5, 3]),
        "targets": targets,
        "starts": targets != UNTAGGED,
    }


def test_the_loss_is_the_mean_over_the_words() -> None:
    whole = batch()
    known = whole["targets"] != UNTAGGED
    logits = Logits()(whole["inputs"], whole["lengths"])
    loss = task().loss(Logits(), whole, 0.0)
    assert int(loss.weight) == 7
    torch.testing.assert_close(loss.total, F.cross_entropy(logits[known], whole["targets"][known]))


def test_an_entity_counts_only_if_all_of_its_tags_are_predicted() -> None:
    pytest.importorskip("seqeval")
    evaluation = task().evaluate(Logits(), [batch()])
    # Ground truth: PER(2 words); PER(2 words), LOC. Predicted: PER(2 words), LOC; PER(1 word), LOC.
    assert evaluation.metrics["precision"] == pytest.approx(2 / 4)
    assert evaluation.metrics["recall"] == pytest.approx(2 / 3)
    assert evaluation.metrics["f1"] == pytest.approx(4 / 7) and task().goal.metric == "f1"
    assert evaluation.metrics["token_accuracy"] == pytest.approx(5 / 7)
    assert evaluation.per_class["PER"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}


def test_tags_without_entity_prefixes_have_no_f1_score() -> None:
    found = task(tag_names=["NN", "VB", "DT", "IN"])
    evaluation = found.evaluate(Logits(), [batch()])
    assert found.goal.metric == "token_accuracy"
    assert set(evaluation.metrics) == {"loss", "token_accuracy"}


def test_the_baseline_is_the_most_frequent_tag_of_each_token() -> None:
    found = task(vocabulary=5)
    inputs, targets = torch.tensor([[0, 0, 0, 1, 2, 2]]), torch.tensor([[3, 3, 2, 0, 1, UNTAGGED]])
    found.fit_baselines([{"inputs": inputs, "targets": targets}], None)
    assert found.frequent is not None and found.frequent.tolist() == [3, 0, 1, 3, 3]  # tokens 3 and 4 do not occur
    baseline = found.evaluate(Logits(), [batch()]).baselines["most frequent tag of each word"]
    assert baseline["token_accuracy"] == pytest.approx(2 / 7)  # one token 0 and one token 3 with the tag 3


def test_the_baseline_of_a_token_does_not_depend_on_the_number_of_other_tokens() -> None:
    found = task()
    inputs, targets = torch.zeros(1, 2_000_000, dtype=torch.int64), torch.full((1, 2_000_000), 3)
    inputs[0, 0], targets[0, 0] = 1, 0
    found.fit_baselines([{"inputs": inputs, "targets": targets}], None)
    assert found.frequent is not None and found.frequent.tolist() == [3, 0, 3, 3]


def test_predictions_have_one_tag_per_word() -> None:
    lines = task().predict(Logits(), batch())
    assert [line["tags"] for line in lines] == [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "B-LOC"]]


def test_a_model_without_an_output_at_every_step_is_rejected() -> None:
    class Last(Logits):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return super().forward(x, lengths)[:, -1]

    with pytest.raises(ConfigError, match="an output at every step"):
        task().loss(Last(), batch(), 0.0)
