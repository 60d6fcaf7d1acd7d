"""Generators and critics, compared with PyTorch's DCGAN example; spectral norms, compared with torch.linalg."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.gan import DCGAN, GAN, GANBase
from dltrain.optim.ema import EMA


def image_gan(height: int = 28, width: int = 28, channels: int = 1, hidden_size: int = 4, **rest: object) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(channels, height, width, 1, latent=6, hidden_size=hidden_size, **rest)  # type: ignore[arg-type]


def point_gan(**rest: object) -> GAN:
    torch.manual_seed(0)
    return GAN([2], 2, 1, latent=6, hidden_size=16, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [(28, 28), (32, 32), (64, 64), (16, 20), (9, 31), (4, 7), (2, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_are_generated_and_have_one_critic_output(side: tuple[int, int], channels: int) -> None:
    model = image_gan(*side, channels=channels)
    images = model.generator(torch.randn(3, 6), None)
    assert images.shape == (3, channels, *side)
    assert model.critic(images, None).shape == (3, 1)


def test_images_of_28_pixels_are_upsampled_from_7_and_images_of_64_from_4() -> None:
    for side, expected in ((28, [7, 14, 28]), (32, [4, 8, 16, 32]), (64, [4, 8, 16, 32, 64])):
        x, sides = torch.randn(2, 6), []
        for layer in image_gan(side, side).generator.layers:
            x = layer(x)
            sides += [x.shape[-1]] if isinstance(layer, nn.Unflatten | nn.ConvTranspose2d) else []
        assert sides == expected


def pytorch_dcgan(latent: int, hidden: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return both networks of pytorch/examples/dcgan without tanh and sigmoid, with biases in layers without norm."""
    generator: list[nn.Module] = [nn.ConvTranspose2d(latent, 8 * hidden, 4, 1, 0, bias=False)]
    critic: list[nn.Module] = [nn.Conv2d(3, hidden, 4, 2, 1), nn.LeakyReLU(0.2)]
    for times in (8, 4, 2):
        generator += [nn.BatchNorm2d(times * hidden), nn.ReLU()]
        generator += [nn.ConvTranspose2d(times * hidden, times * hidden // 2, 4, 2, 1, bias=False)]
    generator += [nn.BatchNorm2d(hidden), nn.ReLU(), nn.ConvTranspose2d(hidden, 3, 4, 2, 1)]
    for times in (1, 2, 4):
        critic += [nn.Conv2d(times * hidden, 2 * times * hidden, 4, 2, 1, bias=False)]
        critic += [nn.BatchNorm2d(2 * times * hidden), nn.LeakyReLU(0.2)]
    return nn.Sequential(*generator), nn.Sequential(*critic, nn.Conv2d(8 * hidden, 1, 4, 1, 0))


def test_the_networks_for_64_pixels_equal_the_pytorch_example_with_biases_in_layers_without_norm() -> None:
    model = DCGAN(3, 64, 64, 1, latent=10, hidden_size=4)
    generator, critic = pytorch_dcgan(10, 4)
    ours, theirs = list(model.generator.parameters()), list(generator.parameters())
    with torch.no_grad():
        theirs[0].copy_(ours[0].T.view(10, 32, 4, 4))
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            other.copy_(mine)
        for mine, other in zip(model.critic.parameters(), critic.parameters(), strict=True):
            other.copy_(mine.view_as(other))
    noise = torch.randn(5, 10)
    images = model.generator(noise, None)
    torch.testing.assert_close(images, generator(noise[:, :, None, None]))
    torch.testing.assert_close(model.critic(images, None), critic(images).flatten(1))


def test_initial_weights_are_distributed_as_in_the_pytorch_example() -> None:
    model = DCGAN(3, 32, 32, 1, hidden_size=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.02)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)


def spectral_norms(model: GANBase) -> list[float]:
    """Return the largest singular value of each weight of the critic."""
    found = [m.weight for m in model.critic.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [torch.linalg.svdvals(weight.detach().flatten(1).double())[0].item() for weight in found]


def with_large_weights(model: GANBase, x: Tensor) -> GANBase:
    """Give the critic large weights and update its spectral norms; return the model in evaluation mode."""
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=3.0)
    model.train()
    for _ in range(100):
        model.critic(x, None)
    return model.eval()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_spectral_norm_keeps_the_largest_singular_value_of_every_layer_at_one(precision: torch.dtype) -> None:
    for model, x in (
        (image_gan(critic_norm="none", spectral=True), torch.randn(4, 1, 28, 28)),
        (point_gan(spectral=True), torch.randn(4, 2)),
    ):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            assert spectral_norms(with_large_weights(model, x)) == pytest.approx(
                [1.0] * len(spectral_norms(model)), abs=0.01
            )


def test_without_spectral_norm_the_largest_singular_values_exceed_two() -> None:
    assert min(spectral_norms(with_large_weights(point_gan(), torch.randn(4, 2)))) > 2


def test_a_critic_with_spectral_norm_is_1_lipschitz() -> None:
    model = with_large_weights(point_gan(spectral=True), torch.randn(4, 2))
    one, other = torch.randn(2, 500, 2)
    rise = (model.critic(one, None) - model.critic(other, None)).abs().squeeze(1)
    assert (rise <= 1.02 * (one - other).norm(dim=1)).all()


def test_a_critic_with_spectral_norm_can_be_copied_averaged_saved_and_loaded() -> None:
    model, x = image_gan(critic_norm="none", spectral=True), torch.randn(4, 1, 28, 28)
    model.critic(x, None).sum().backward()
    average, other = EMA(model, 0.9), image_gan(critic_norm="none", spectral=True)
    average.update(deepcopy(model))
    with_large_weights(model, x)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.eval().critic(x, None), model.critic(x, None))
    average.load_state_dict({**average.state_dict(), "model": model.state_dict()})
    assert torch.equal(average.module.eval().critic(x, None), model.critic(x, None))


def test_a_critic_with_spectral_norm_supports_two_passes_before_backward() -> None:
    model = point_gan(spectral=True)
    real, fake = torch.randn(2, 4, 2)
    (model.critic(real, None) - model.critic(fake, None)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.critic.parameters())


@pytest.mark.parametrize("make", [image_gan, point_gan])
def test_only_a_conditional_model_depends_on_the_class(make: type[GANBase]) -> None:
    for conditional in (True, False):
        model = make(conditional=conditional, classes=3).eval()
        noise, one, other = torch.randn(2, 6), torch.tensor([0, 1]), torch.tensor([2, 1])
        generated = model.generator(noise, one)
        assert torch.equal(generated[0], model.generator(noise, other)[0]) is not conditional
        assert torch.equal(model.critic(generated, one)[0], model.critic(generated, other)[0]) is not conditional
        torch.testing.assert_close(generated[1], model.generator(noise, other)[1])


def test_a_conditional_model_needs_data_with_classes() -> None:
    with pytest.raises(ConfigError, match=r"model\.conditional.*no classes"):
        point_gan(conditional=True)


def test_batch_norm_with_spectral_norm_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model\.critic_norm: expected none"):
        image_gan(spectral=True)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"hidden_size": [8, 8], "num_layers": 3}, "num_layers"), ({"critic_norm": "bach"}, "critic_norm")],
)
def test_the_error_for_an_invalid_value_names_its_key(wrong: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        GAN([2], 2, 1, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width", "key"), [(1, 8, "height"), (8, 1, "width"), (0, 8, "height")])
def test_images_less_than_two_pixels_high_or_wide_are_rejected(height: int, width: int, key: str) -> None:
    wrong = min(height, width)
    with pytest.raises(ConfigError, match=rf"^model\.{key}: expected a whole number of at least 2, got {wrong}$"):
        DCGAN(1, height, width, 1)
    assert DCGAN(1, 2, 2, 1).generator(torch.zeros(3, 100), None).shape == (3, 1, 2, 2)


@pytest.mark.slow
def test_a_compiled_critic_with_spectral_norm_gives_the_same_outputs_and_buffers() -> None:
    eager, x = image_gan(critic_norm="none", spectral=True), torch.randn(4, 1, 28, 28)
    compiled = deepcopy(eager)
    compiled.critic.compile()
    for _ in range(3):
        torch.testing.assert_close(compiled.critic(x, None), eager.critic(x, None))
    for one, other in zip(compiled.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(one, other)
