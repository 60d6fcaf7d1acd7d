import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.cli import main
from dltrain.errors import ConfigError
from dltrain.models.airbench import Airbench, ShiftedNorm, Whitening
from dltrain.storage.checkpoints import Checkpoints


def normalized(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return GELU(norm(x)) in evaluation mode, computed from the parameters and running statistics of the norm."""
    mean, variance, bias = (state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "bias"))
    return F.gelu((x - mean) / (variance + 1e-5).sqrt() + 8 * bias)


def test_airbench_equals_the_published_layers_with_the_same_weights() -> None:
    torch.manual_seed(0)
    model = Airbench(3, 16, 24, 5, [26, 28, 30])
    for norm in (module for module in model.modules() if isinstance(module, ShiftedNorm)):
        nn.init.normal_(norm.bias)
    model(torch.randn(32, 3, 16, 24))  # updates the running statistics
    state, x = model.eval().state_dict(), torch.randn(2, 3, 16, 24)
    y = F.gelu(F.conv2d(x, state["whitening.filters"], state["whitening.bias"]))
    for stage in range(1, 4):
        y = F.max_pool2d(F.conv2d(y, state[f"features.{stage}.0.weight"], padding=1), 2)
        y = normalized(state, f"features.{stage}.2", y)
        y = normalized(state, f"features.{stage}.5", F.conv2d(y, state[f"features.{stage}.4.weight"], padding=1))
    expected = F.max_pool2d(y, y.shape[2:]).flatten(1) @ state["head.weight"].T / 9
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_airbench_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Airbench(3, 32, 32, 10, [64, 256, 256])
    count = sum(parameter.numel() for parameter in model.parameters()) + model.whitening.filters.numel()
    assert round(count / 1e6, 2) == 1.97


def test_airbench_reads_images_with_a_height_of_three_pixels() -> None:
    assert Airbench(1, 3, 5, 7, [8, 8, 8])(torch.randn(2, 1, 3, 5)).shape == (2, 7)


def test_each_convolution_starts_as_the_identity_on_its_first_channels() -> None:
    model, x = Airbench(1, 16, 16, 5, [8, 12, 12]), torch.randn(2, 8, 16, 16)
    first, second = model.features[1][0], model.features[1][4]
    torch.testing.assert_close(first(x)[:, :8], x)
    torch.testing.assert_close(second(x)[:, :8], x)


def test_whitened_patches_are_uncorrelated_and_have_a_variance_of_one() -> None:
    torch.manual_seed(0)
    images = F.avg_pool2d(10 * torch.randn(40, 3, 20, 20), 3, 1)  # neighboring pixels are correlated
    images = images + images.roll(1, 1)  # channels are correlated too
    whitening = Whitening(3)
    whitening.fit(images.split(16))
    outputs = whitening(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs[:12] @ outputs[:12].T / outputs.shape[1], torch.eye(12), atol=1e-2, rtol=0)
    torch.testing.assert_close(outputs[12:], -outputs[:12])


def test_the_bias_factor_of_a_norm_multiplies_the_learning_rate_by_its_square() -> None:
    torch.manual_seed(0)
    shifted, reference = ShiftedNorm(4, 8.0, 0.1), nn.BatchNorm2d(4)
    for norm, rate in ((shifted, 0.01), (reference, 0.64)):
        optimizer = torch.optim.SGD([norm.bias], rate, momentum=0.9, nesterov=True)
        for step in range(3):
            optimizer.zero_grad()
            x = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(step))
            (norm(x) * torch.linspace(-1, 1, 6)).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(shifted.bias * 8, reference.bias)


def test_a_run_whitens_the_patches_of_its_training_images_and_saves_the_filters(
    finished_run: Callable[..., Path], data_root: Path
) -> None:
    pixels = np.load(data_root / "cifar10" / "cifar10.npz")["x_train"]
    model = ["model=airbench", "model.hidden_size=[24,24,24]", "optimizer.weight_decay=0.1"]
    data = ["data=cifar10", f"data.root={data_root}", "data.batch_size=16", "data.validation=0"]
    run = finished_run(*model, *data, "trainer.epochs=2")
    expected = Whitening(3)
    expected.fit([torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1])
    filters = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]["whitening.filters"]
    torch.testing.assert_close(
        filters.abs(), expected.filters.abs(), atol=1e-3, rtol=1e-3
    )  # the sign of a component is arbitrary
    assert "whitening filters: from 60 training images" in (run / "train.log").read_text()


def test_a_resumed_run_keeps_the_whitening_filters_and_equals_an_uninterrupted_one(
    finished_run: Callable[..., Path], data_root: Path, tmp_path: Path
) -> None:
    data = ["data=cifar10", f"data.root={data_root}", "data.batch_size=16", "augment=cutout"]
    steps = ["trainer.max_steps=5", "trainer.checkpoint_every=2 steps", "trainer.keep_last=9"]
    average = "regularization.ema_decay=0.9"
    whole = finished_run("model=airbench", "model.hidden_size=[24,24,24]", *data, *steps, average)
    part = tmp_path / "part"
    shutil.copytree(whole, part, symlinks=True)
    for file in (part / "checkpoints").iterdir():
        if file.name != "step-00000002.pt":
            file.unlink()
    (part / "result.json").unlink()
    assert main.main(["resume", str(part)]) == 0
    one, other = (Checkpoints(folder).read_entry("last.pt")["sha256"] for folder in (whole, part))
    assert one == other


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": [4, 8]}, r"model\.hidden_size: expected three numbers, one for each stage, got \[4, 8\]"),
        ({"height": 2}, r"data: expected images of at least 3x3 pixels for airbench, got 2x16"),
    ],
)
def test_the_error_for_a_wrong_argument_of_airbench_names_its_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Airbench(**{"channels": 3, "height": 16, "width": 16, "outputs": 5, "hidden_size": [24, 24, 24], **wrong})
