"""Autoencoders: layer sizes as in PyTorch's example, images of any size, and conditioning on classes."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.autoencoders import ConvAutoencoder, DenseAutoencoder
from dltrain.models.conditional import Conditional


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_default_sizes_equal_those_of_the_pytorch_example() -> None:
    model = DenseAutoencoder([1, 28, 28], statistics=2)
    example = [784 * 400 + 400, 2 * (400 * 20 + 20), 20 * 400 + 400, 400 * 784 + 784]
    assert sum(p.numel() for p in model.parameters()) == sum(example) == 652_824
    assert model.encoder(randn(3, 1, 28, 28)).shape == (3, 40)
    assert model.decoder(randn(3, 20)).shape == (3, 1, 28, 28)


def test_the_decoder_mirrors_the_encoder() -> None:
    model = DenseAutoencoder([7], statistics=1, hidden_size=[5, 4], latent=3)
    widths = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert widths == [(7, 5), (5, 4), (4, 3), (3, 4), (4, 5), (5, 7)]


def test_without_hidden_layers_encoder_and_decoder_are_linear() -> None:
    model, x = DenseAutoencoder([6], statistics=1, hidden_size=[], latent=2), randn(4, 6)
    torch.testing.assert_close(model(2 * x) - model(x), model(x) - model(torch.zeros_like(x)))


@pytest.mark.parametrize("sides", [(28, 28), (16, 20), (13, 9), (8, 8), (9, 31)])
@pytest.mark.parametrize("hidden", [[4], [4, 8], [4, 8, 8]])
def test_the_output_has_the_size_of_the_image(sides: tuple[int, int], hidden: list[int]) -> None:
    model = ConvAutoencoder(3, *sides, statistics=2, hidden_size=hidden, latent=5)
    assert model.encoder(randn(2, 3, *sides)).shape == (2, 10)
    assert model(randn(2, 3, *sides)).shape == (2, 3, *sides)


def test_an_empty_list_of_channels_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden_size: expected a list of at least one number, got \[\]"):
        ConvAutoencoder(1, 8, 12, statistics=1, hidden_size=[])


def test_too_many_convolutions_for_the_image_size_are_rejected() -> None:
    ConvAutoencoder(1, 8, 12, statistics=1, hidden_size=[2, 2, 2])
    with pytest.raises(
        ConfigError, match=r"model\.hidden_size: expected at most 3 convolutions for images of 8x12 pixels, got 4"
    ):
        ConvAutoencoder(1, 8, 12, statistics=1, hidden_size=[2, 2, 2, 2])


def test_a_class_is_appended_to_vectors_as_a_one_hot_vector() -> None:
    x, labels = randn(4, 2, 3), torch.tensor([2, 0, 1, 2])
    joined = Conditional(nn.Identity(), num_classes=3)(x, labels)
    assert torch.equal(joined, torch.cat([x.flatten(1), F.one_hot(labels, 3).float()], 1))


def test_a_class_is_appended_to_images_as_one_hot_channels() -> None:
    x, labels = randn(2, 1, 4, 5), torch.tensor([1, 0])
    joined = Conditional(nn.Identity(), num_classes=2, as_channels=True)(x, labels)
    assert torch.equal(joined[:, :1], x)
    assert joined[:, 1:].mean((2, 3)).tolist() == [[0, 1], [1, 0]] and set(joined[:, 1:].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("labels", [None, torch.tensor([-1, -1])])
def test_an_unknown_class_is_encoded_as_zeros(labels: Tensor | None) -> None:
    assert torch.equal(Conditional(nn.Identity(), num_classes=3)(randn(2, 4), labels)[:, 4:], torch.zeros(2, 3))


def make_autoencoder(kind: str, conditional: bool) -> nn.Module:
    if kind == "dense":
        return DenseAutoencoder([1, 8, 8], 2, hidden_size=16, latent=4, conditional=conditional, classes=5)
    return ConvAutoencoder(1, 8, 8, 2, hidden_size=[4], latent=4, conditional=conditional, classes=5)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_only_a_conditional_model_depends_on_the_class(kind: str) -> None:
    x, code, one, other = randn(3, 1, 8, 8), randn(3, 4), torch.tensor([0, 1, 2]), torch.tensor([3, 1, 4])
    for conditional in (True, False):
        model = make_autoencoder(kind, conditional)
        for module, inputs in ((model.encoder, x), (model.decoder, code)):
            differs = (module(inputs, one) - module(inputs, other)).flatten(1).abs().amax(1) > 1e-6
            assert differs.tolist() == ([True, False, True] if conditional else [False] * 3)


def test_a_conditional_model_needs_data_with_classes() -> None:
    with pytest.raises(ConfigError, match=r"model\.conditional: not supported because the data have no classes"):
        DenseAutoencoder([4], statistics=1, conditional=True)


@pytest.mark.parametrize("changes", [{"latent": 0}, {"hidden_size": [3, 0]}, {"activation": "rleu"}])
def test_the_error_for_an_invalid_value_names_its_key(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(changes))}"):
        DenseAutoencoder([4], **{"statistics": 1, **changes})
