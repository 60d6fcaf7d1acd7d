"""Made-up pictures are judged through a trained classifier of the same pictures, and the result says which."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dltrain.cli import main
from dltrain.data.spec import Spec
from dltrain.datasets.digits import Digits
from dltrain.metrics.sample_quality import Quality
from dltrain.runs import classifier_features, job
from dltrain.runs.inference import eval_batches, load_trained, rebuild_components
from dltrain.tasks.pixel_range import PixelRange

JUDGE = ("model=mlp", "model.hidden_size=[48,12]", "data=digits", "trainer.epochs=8", "optimizer.lr=5e-3")
AVERAGED = "regularization.ema_decay=0.9"
GAN = ("model=gan", "model.hidden_size=8", "data=digits", "trainer.max_steps=2", "device=cpu")


@pytest.fixture
def judge(kept: Callable[..., Path]) -> Path:
    """The folder of a trained classifier of digits, with averaged weights."""
    return kept(*JUDGE, AVERAGED)


@pytest.fixture
def digits() -> Spec:
    return Digits(validation=0.1).spec


def test_features_are_what_the_last_layer_of_the_trained_classifier_reads(judge: Path, digits: Spec) -> None:
    network = classifier_features.load_features(str(judge), digits)
    trained = load_trained(rebuild_components(job.load_job(judge)), judge, "best.pt")
    batch = next(iter(eval_batches(trained.components, trained.splits, "test")))
    low, high = (torch.tensor(bound)[:, None, None] for bound in (digits.low, digits.high))
    found, logits = network((batch["inputs"] - low) / (high - low))
    seen: list[Tensor] = []
    last = [module for module in trained.components.model.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        wanted = trained.components.model(batch["inputs"])
    assert found.shape == (len(batch["inputs"]), 12)
    assert torch.allclose(found, seen[0], atol=1e-4)
    assert torch.allclose(logits, wanted, atol=1e-3)
    assert float((logits.argmax(1) == batch["targets"]).double().mean()) > 0.7


def test_a_classifier_that_was_pretrained_layer_by_layer_reads_pixels_as_it_was_trained(
    kept: Callable[..., Path], digits: Spec
) -> None:
    words = ("model=dbn", "model.hidden_size=[48,12]", "task=layerwise", "data=digits")
    dbn = kept(*words, "task.pretrain_epochs=1", "trainer.epochs=2")
    trained = load_trained(rebuild_components(job.load_job(dbn)), dbn, "best.pt")
    pixels = torch.rand(9, 1, 8, 8)  # what its layers read
    _, logits = classifier_features.load_features(str(dbn), digits)(pixels)
    with torch.no_grad():
        assert torch.allclose(logits, trained.components.model(pixels), atol=1e-5)


def test_the_network_is_frozen_and_named_by_its_run_and_accuracy(judge: Path, digits: Spec) -> None:
    network = classifier_features.load_features(str(judge), digits)
    accuracy = json.loads((judge / "result.json").read_text())["test"]["accuracy"]
    assert network.name == f"mlp-digits/{judge.name} (accuracy {accuracy:.3g})"
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_better_pictures_score_better_through_it(judge: Path, digits: Spec) -> None:
    pixels = Digits(validation=0.1).load().train.rows["pixels"].float() / 16
    real, others = pixels[::2], pixels[1::2]
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    quality = Quality(classifier_features.load_features(str(judge), digits))
    good, fair, bad = (quality.measure(real, fake) for fake in (others, (real + noise) / 2, noise))
    assert good["frechet"] < fair["frechet"] < bad["frechet"]
    assert good["classifier_score"] > fair["classifier_score"] > 1
    assert good["precision"] > 0.6 > bad["precision"]
    assert good["recall"] > 0.6 > bad["recall"]


def run(folder: Path, *words: str) -> Path:
    assert main.main([*GAN, f"hydra.run.dir={folder}", *words]) == 0
    return folder


def test_the_result_names_the_network_and_the_console_says_what_cannot_be_compared(
    judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((run(tmp_path / "gan", f"task.features={judge}") / "result.json").read_text())
    assert result["features"].startswith(f"mlp-digits/{judge.name} (accuracy 0.")
    assert set(Quality.figures) <= set(result["test"])
    said = capsys.readouterr().err
    assert f"by {result['features']}; not comparable with FID" in said


def test_without_one_the_result_says_that_pixels_were_compared(tmp_path: Path) -> None:
    result = json.loads((run(tmp_path / "gan") / "result.json").read_text())
    assert result["features"] == "pixels, 8x8"
    assert "classifier_score" not in result["test"]


def test_a_classifiers_result_names_no_features(judge: Path) -> None:
    assert "features" not in json.loads((judge / "result.json").read_text())


def test_the_network_leaves_the_training_as_it_is(judge: Path, tmp_path: Path) -> None:
    plain, seen = run(tmp_path / "plain"), run(tmp_path / "seen", f"task.features={judge}")
    weights = [torch.load(path / "checkpoints" / "last.pt", weights_only=True)["model"] for path in (plain, seen)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_evaluate_repeats_the_figures_and_takes_another_network(
    judge: Path, kept: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "gan", f"task.features={judge}")
    result = json.loads((folder / "result.json").read_text())
    other = kept("model=lenet5", "data=digits", "trainer.max_steps=3")
    capsys.readouterr()
    for network, name in ((judge, result["features"]), (other, f"lenet5-digits/{other.name}")):
        assert main.main(["evaluate", str(folder), f"task.features={network}", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["features"].startswith(name)
        assert (said["metrics"] == result["test"]) == (network == judge)


def test_a_run_that_is_resumed_judges_with_the_same_network(judge: Path, tmp_path: Path) -> None:
    words = (f"task.features={judge}", "trainer.eval_every=1", "trainer.checkpoint_every=1")
    whole = run(tmp_path / "whole", *words, "trainer.max_steps=4")
    folder = run(tmp_path / "longer", *words)
    assert main.main(["resume", str(folder), "trainer.max_steps=4"]) == 0
    first, second = (json.loads((path / "result.json").read_text()) for path in (whole, folder))
    assert (first["test"], first["features"]) == (second["test"], second["features"])


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    """The one line with which a GAN of digits, or of other data, does not begin."""
    folder = tmp_path / "refused"
    capsys.readouterr()
    assert main.main([*GAN, f"hydra.run.dir={folder}", *words]) == 2
    assert not folder.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dltrain: ")]
    assert line.startswith("dltrain: task.features: ")
    return line


def test_a_folder_that_is_no_run_is_answered_with_the_nearest(
    judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, tmp_path, f"task.features={judge.parent / 'rum'}")
    assert f"got {judge.parent / 'rum'}. Did you mean {judge}?" in line
    assert "latest" not in line


def test_latest_is_refused_as_it_will_be_another(
    judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected the folder of a run, got latest" in refused(capsys, tmp_path, "task.features=latest")


def test_a_run_that_tells_no_classes_apart_is_refused(
    kept: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, tmp_path, f"task.features={kept('forecast')}")
    assert "expected the folder of a run with the task classification, got forecasting" in line


def test_a_classifier_of_other_pictures_is_refused_with_both_sizes(
    kept: Callable[..., Path], data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist = kept("model=mlp", "data=mnist", f"data.root={data_root}", "trainer.max_steps=1")
    line = refused(capsys, tmp_path, f"task.features={mnist}")
    assert "tells pictures of 1x8x8 apart, got one of 1x28x28" in line


def test_data_that_are_no_pictures_have_no_classifier(
    judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, tmp_path, f"task.features={judge}", "data=ring")
    assert "expected null, as these data are no pictures from black to white" in line


def test_a_run_without_a_whole_checkpoint_is_refused(
    judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(judge, broken, symlinks=True)
    for file in (broken / "checkpoints").glob("step-*.pt"):
        file.write_bytes(file.read_bytes()[:-100])
    line = refused(capsys, tmp_path, f"task.features={broken}")
    assert "refused, it is damaged" in line


class Rows(nn.Module):
    """Answers for each row of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x[:, 0]).mean(1)


@pytest.mark.parametrize(("classifier", "said"), [(nn.Conv2d(1, 10, 8), "no linear layer"), (Rows(), "once per image")])
def test_a_classifier_without_a_last_hidden_layer_of_the_whole_picture_says_so(
    classifier: nn.Module, said: str, digits: Spec
) -> None:
    with pytest.raises(ValueError, match=said):
        classifier_features.ClassifierFeatures(classifier, PixelRange(digits.low, digits.high).from_unit, "it")(
            torch.rand(2, 1, 8, 8)
        )
