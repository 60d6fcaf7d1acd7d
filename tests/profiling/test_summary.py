"""Summaries, compared with closed forms, and receptive fields, compared with gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dltrain.cli import main
from dltrain.cli.summary import format_bytes
from dltrain.profiling.summary import Row, Summary, summarize
from dltrain.tasks.model_call import call_model


def summary_of(make: Callable[[], nn.Module], *shape: int, batch_size: int = 4, states: int = 2) -> Summary:
    return summarize(make, {"inputs": torch.empty(batch_size, *shape, device="meta")}, states, call_model)


def only(summary: Summary) -> Row:
    (row,) = summary.rows
    return row


def test_the_summary_of_a_linear_layer_equals_the_closed_form() -> None:
    row = only(summary_of(lambda: nn.Linear(10, 3), 7, 10))
    assert (row.kind, row.shape, row.parameters) == ("Linear", (4, 7, 3), 33)
    assert row.multiply_adds == 4 * 7 * 10 * 3
    assert row.receptive_field is None


def test_the_summary_of_a_grouped_strided_convolution_equals_the_closed_form() -> None:
    row = only(summary_of(lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), 4, 9, 9))
    assert (row.shape, row.parameters) == ((4, 8, 5, 5), 8 * 2 * 9 + 8)
    assert row.multiply_adds == 4 * 8 * 5 * 5 * 2 * 9
    assert row.receptive_field == (3, 3)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_the_summary_of_a_recurrent_layer_equals_the_closed_form(kind: Callable[..., nn.Module], gates: int) -> None:
    row = only(summary_of(lambda: kind(6, 5, num_layers=2, batch_first=True), 11, 6))
    assert row.shape == (4, 11, 5)
    assert row.parameters == gates * (6 * 5 + 5 * 5 + 10 + 2 * 5 * 5 + 10)
    assert row.multiply_adds == gates * 4 * 11 * (6 * 5 + 3 * 5 * 5)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def test_attention_multiply_adds_equal_the_closed_form_and_activations_exclude_the_attention_matrix() -> None:
    length, width = 256, 16
    summary = summary_of(lambda: Attention(width, 2), length, width)
    own, qkv, mix = summary.rows
    assert (own.kind, own.multiply_adds) == ("Attention", 4 * 2 * length * length * width)
    assert qkv.multiply_adds == 4 * length * 3 * width * width
    assert mix.multiply_adds == 4 * length * width * width
    assert summary.multiply_adds == sum(row.multiply_adds for row in summary.rows)
    # The attention matrices alone would take 4 examples x 2 heads x 256 x 256 floats of 4 bytes.
    assert summary.memory.activations < 4 * 2 * length * length * 4


def test_the_summary_of_torch_attention_includes_its_output_projection() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    row = only(summary_of(Own, 10, 16))
    assert row.parameters == 4 * (16 * 16 + 16)
    assert row.multiply_adds == 4 * (10 * 4 * 16 * 16 + 2 * 10 * 10 * 16)


def test_the_memory_of_a_small_network_equals_the_closed_form() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))

    memory = summary_of(make, 10).memory
    parameters = 4 * (10 * 20 + 20 + 20 * 3 + 3)
    assert (memory.parameters, memory.gradients, memory.optimizer) == (parameters, parameters, 2 * parameters)
    # Autograd saves the batch and the output of the ReLU. The ReLU and the second layer share the saved output.
    assert memory.activations == 4 * 4 * (10 + 20)
    assert memory.total == 4 * parameters + memory.activations


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2)), (3, 12, 12)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8), nn.Softmax(-1)), (5, 8)),
    ],
    ids=["convolutional", "normalized"],
)
def test_activation_memory_equals_what_autograd_saves_on_the_cpu(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = make()
    inputs = torch.randn(4, *shape)
    persistent = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved = {inputs.untyped_storage().data_ptr(): inputs}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in persistent:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(inputs)
    assert output.requires_grad
    expected = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert summary_of(make, *shape).memory.activations == expected


def test_shared_parameters_are_counted_once_and_frozen_parameters_have_no_gradients() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False))
        model[1].weight = model[0].weight
        model[2].weight.requires_grad_(False)
        return model

    summary = summary_of(make, 8)
    assert [row.parameters for row in summary.rows] == [64, 0, 16]
    assert (summary.parameters, summary.trainable) == (80, 64)
    assert (summary.memory.parameters, summary.memory.gradients) == (4 * 80, 4 * 64)


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Causal(nn.Module):
    """Causal convolutions with explicit padding and residual connections: (B, T, 1) -> (B, 1, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(1, 1, 3, dilation=d) for d in (1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = x + layer(F.pad(x, (2 * layer.dilation[0], 0)))
        return x


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(1, 1, 1)
        self.wide = nn.Conv2d(1, 1, 5, padding=2)
        self.after = nn.Conv2d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.cat([self.narrow(x), self.wide(x)], dim=1))


FIELDS: list[tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = [
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 1, 3)), (1, 32, 32), (2, 3)),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.Conv2d(2, 1, 3, dilation=3)), (1, 32, 32), (2, 3)),
    (lambda: nn.Sequential(nn.Conv1d(1, 2, 5), nn.AvgPool1d(3, 2), nn.Conv1d(2, 1, 3)), (1, 40), (2,)),
    (lambda: nn.Sequential(nn.Conv2d(1, 1, 5, 2, 2), Residual(1, 2), Residual(1, 1)), (1, 64, 64), (2, 3)),
    (Causal, (40, 1), (1,)),
    (Inception, (1, 16, 16), (2, 3)),
]


@pytest.mark.parametrize(
    ("make", "shape", "axes"), FIELDS, ids=["pooled", "dilated", "sequence", "residual", "causal", "branches"]
)
def test_the_receptive_field_equals_the_extent_of_the_nonzero_gradients_of_one_output(
    make: Callable[[], nn.Module], shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    model = make().double()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)  # positive, so that no gradients cancel and every ReLU is active
    inputs = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    output = model(inputs)
    middle = tuple(size - 1 if isinstance(model, Causal) else size // 2 for size in output.shape[2:])
    output[(0, 0, *middle)].backward()
    touched = inputs.grad.nonzero()
    expected = tuple(int(touched[:, axis].max() - touched[:, axis].min()) + 1 for axis in axes)
    rows = summary_of(make, *shape, batch_size=1).rows
    # The last row may be a shortcut with a smaller receptive field than the output.
    found = max(row.receptive_field for row in rows if row.receptive_field is not None)
    assert found == expected


def test_there_is_no_receptive_field_after_layers_that_mix_positions() -> None:
    rows = summary_of(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 2)), 1, 5, 5).rows
    assert [row.receptive_field for row in rows] == [(3, 3), None, None]


class Gpt(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50_000, width)
        self.blocks = nn.ModuleList(nn.ModuleList([Attention(width, 16), self._mlp(width)]) for _ in range(depth))

    @staticmethod
    def _mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for attention, mlp in self.blocks:
            x = x + attention(x)
            x = x + mlp(x)
        return F.linear(x, self.embedding.weight)


class Scaled(nn.Linear):
    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        return super().forward(x) * factor


def test_a_model_with_two_inputs_can_be_summarized() -> None:
    batch = {"inputs": torch.empty(4, 10, device="meta"), "factor": torch.empty(4, 3, device="meta")}
    summary = summarize(lambda: Scaled(10, 3), batch, 2, call_model)
    assert only(summary).shape == (4, 3)
    assert summary.memory.activations == 4 * (4 * 10 + 4 * 3)  # autograd saves both inputs


class LargestTensor(TorchDispatchMode):
    """Dispatch mode that records the size in bytes of the largest tensor computed outside the meta device."""

    largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operation(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self.largest = max(self.largest, value.nbytes)
        return result


def test_summarizing_a_model_of_a_billion_parameters_computes_no_large_tensor() -> None:
    with LargestTensor() as computed:
        tokens = torch.empty(8, 1024, dtype=torch.int64, device="meta")
        summary = summarize(lambda: Gpt(2048, 20), {"inputs": tokens}, 2, call_model)
    assert computed.largest < 100_000
    assert summary.parameters > 1e9
    assert sum(row.parameters for row in summary.rows) == summary.parameters
    # The multiply-adds of the tied output layer are counted in the row of the model.
    assert summary.rows[0].multiply_adds == 8 * 1024 * 2048 * 50_000


def test_summary_needs_only_the_flags_input_and_outputs_if_the_task_provides_the_other_spec_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["summary", "model=vae", "--input", "1x28x28", "--outputs", "10"]) == 0
    assert "652,824 parameters" in capsys.readouterr().out


def test_without_data_batch_size_the_default_of_the_constructor_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["summary", "model=perceptron", "data=digits", "~data.batch_size"]) == 0
    assert "a training step with batch size 64 needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "shape", "line"),
    [
        ("resnet18", "10", "it needs channels, height and width, which this shape does not have. Use another"),
        ("unet", "3x32x32", "its task needs spec values that only data provide. Use data that fit: image_masks"),
    ],
)
def test_a_shape_that_does_not_determine_a_model_is_rejected_with_the_name_of_the_model(
    model: str, shape: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["summary", f"model={model}", "--input", shape, "--outputs", "10"]) == 2
    assert capsys.readouterr().err.startswith(
        f"dltrain: --input {shape}: not supported for model={model} because {line}"
    )


@pytest.mark.parametrize("shape", ["3x32x32", "96x7"])
def test_a_shape_of_several_sizes_is_rejected_for_a_model_of_tokens(
    shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["summary", "model=gpt", "--input", shape, "--outputs", "10"]) == 2
    expected = f"dltrain: --input: expected a number of tokens for model=gpt, such as 64, got {shape}"
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.parametrize("shape", ["0x3", "3x", "1x2x3x4x5", "2147483648x3", "9" * 5000])
def test_an_invalid_shape_is_rejected(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["summary", "model=mlp", "--input", shape, "--outputs", "10"]) == 2
    assert "--input: expected one to four sizes from 1 to 2,147,483,647, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "line"), [(999, "999 B"), (1500, "1.5 kB"), (999_600, "1 MB"), (4.2e10, "42 GB"), (4.04e13, "40.4 TB")]
)
def test_bytes_are_printed_with_at_most_three_digits_and_a_unit(count: float, line: str) -> None:
    assert format_bytes(count) == line
