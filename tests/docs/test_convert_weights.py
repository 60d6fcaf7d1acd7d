"""The script examples/convert_weights.py renames weights for networks of timm."""

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dltrain.models.timm_networks import TimmNetwork

ROOT = Path(__file__).parents[2]
LITE0 = Path("~/.cache/dltrain/weights/efficientnet_lite0.pth").expanduser()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.delitem(sys.modules, "convert_weights", raising=False)
    return importlib.import_module("convert_weights")


@pytest.fixture
def renamed(tmp_path: Path, script: ModuleType) -> Callable[[Path, str, int], TimmNetwork]:
    """Return a function that renames the weights in a file for a network of timm and returns the network."""

    def load(source: Path, name: str, outputs: int) -> TimmNetwork:
        script.main(str(source), name, str(tmp_path / "renamed.pt"))
        model = TimmNetwork(3, 64, 64, outputs, name)
        model.load_state_dict(torch.load(tmp_path / "renamed.pt", weights_only=True))
        return model.eval()

    return load


@pytest.mark.slow
def test_a_network_with_renamed_weights_has_the_outputs_of_the_original(
    tmp_path: Path, renamed: Callable[[Path, str, int], TimmNetwork]
) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    original = timm.create_model("test_efficientnet").eval()
    state = {f"_layer{n}.{name.split('.')[-1]}": value for n, (name, value) in enumerate(original.state_dict().items())}
    torch.save(state, tmp_path / "original.pt")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(renamed(tmp_path / "original.pt", "test_efficientnet", 1000)(x), original(x))


def test_a_different_shape_kind_or_number_of_tensors_is_rejected(script: ModuleType) -> None:
    source = {"_fc.weight": torch.ones(2, 3), "_fc.bias": torch.ones(2)}
    for target, message in (
        ({"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(2)}, r"fc.weight \(3, 2\), got _fc.weight \(2, 3\)"),
        ({"fc.weight": torch.ones(2, 3), "bn.weight": torch.ones(2)}, r"bn.weight \(2,\), got _fc.bias \(2,\)"),
        ({"fc.weight": torch.ones(2, 3)}, "expected 1 tensors, as in the network, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            script.rename(source, target)


@pytest.mark.parametrize("content", [b"hello", b""])
def test_a_file_that_torch_save_did_not_write_is_rejected(content: bytes, script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: expected tensors written by torch\.save, got \w+"):
        script.load(str(tmp_path / "weights.pth"))


def test_the_error_for_an_unknown_network_does_not_name_the_file_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(name: str) -> None:
        raise RuntimeError(f"Unknown model ({name})")

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=reject))
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", "weights.pth", "nosuch", "out.pt"])
    with pytest.raises(SystemExit, match=r"^convert_weights\.py: Unknown model \(nosuch\)$"):
        runpy.run_path(str(ROOT / "examples" / "convert_weights.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.skipif(not LITE0.is_file(), reason="needs the weights of EfficientNet-Lite0")
def test_efficientnet_lite0_has_the_logits_of_efficientnet_lite_pytorch(
    renamed: Callable[[Path, str, int], TimmNetwork],
) -> None:
    pytest.importorskip("timm")
    x = torch.sin(torch.arange(3 * 64 * 64) / 7).reshape(1, 3, 64, 64)
    with torch.no_grad():
        logits = renamed(LITE0, "tf_efficientnet_lite0", 1000)(x)[0]
    # computed by efficientnet_lite_pytorch 0.1.0
    package = torch.tensor([0.677923, 2.374987, -0.770694, -4.834482, -0.579168, -0.555820])
    torch.testing.assert_close(logits[:6], package, atol=1e-4, rtol=0)
    assert logits.topk(3).indices.tolist() == [904, 905, 828]
