"""Attention maps of images: scaling, enlargement and drawing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.models.vision_transformer import ViT
from dltrain.plots import heat
from dltrain.tasks.attention_heat import attention_heat, draw_attention
from dltrain.tasks.classification import Classification

WEIGHTS = torch.tensor([[0.1, 0.3, 0.2], [0.1, 0.1, 0.1]])


class Attentive(nn.Module):
    """Model that attends to the patches of each image with fixed weights."""

    def attention_map(self, images: Tensor) -> Tensor:
        return WEIGHTS.expand(len(images), -1, -1)


def test_attention_is_scaled_to_the_range_0_to_1_and_uniform_attention_becomes_0() -> None:
    images = torch.zeros(2, 1, 4, 6)
    found = attention_heat(Attentive(), images)
    expected = F.interpolate((WEIGHTS[None, None] - 0.1) / 0.2, (4, 6), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, expected.expand(2, -1, -1))
    equal = Attentive()
    equal.attention_map = lambda images: torch.full((2, 2, 3), 1 / 6)  # type: ignore[method-assign]
    assert not attention_heat(equal, images).any()


def test_the_attention_of_a_vision_transformer_explains_its_predictions_and_is_drawn_in_evaluation() -> None:
    torch.manual_seed(0)
    model = ViT(1, 8, 8, 3, patch_size=2, num_layers=1, hidden_size=8).eval()
    task, batch = Classification(3), {"inputs": torch.randn(4, 1, 8, 8), "targets": torch.tensor([0, 1, 2, 0])}
    with torch.inference_mode():
        assert torch.equal(task.explain(model, batch), attention_heat(model, batch["inputs"]))
        evaluation = task.evaluate(model, [batch, batch])
        (drawn,) = [media.image for media in task.show(model, evaluation) if media.tag == "attention"]
    lines = enumerate(task.predict(model, batch)[:3])
    captions = [f"{true}, predicted {line['class_name']} ({line['probability']:.2f})" for true, line in lines]
    assert torch.equal(drawn, draw_attention(model, batch["inputs"][:3], captions))


def test_heat_of_0_leaves_the_image_unchanged() -> None:
    image = torch.rand(1, 3, heat.MIN_SIDE, 8)
    drawn = heat.overlay(image, torch.zeros(1, heat.MIN_SIDE, 8))
    assert torch.equal(drawn, image.mul(255).round().byte())
