"""Generated images are scored with the features of a trained classifier; the result names the classifier."""

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

CLASSIFIER = ("model=mlp", "model.hidden_size=[48,12]", "data=digits", "trainer.epochs=8", "optimizer.lr=5e-3")
AVERAGED = "regularization.ema_decay=0.9"
GAN = (
    "model=gan",
    "model.hidden_size=8",
    "data=digits",
    "trainer.max_steps=2",
    "device=cpu",
    "trainer.log_media=false",
)


@pytest.fixture
def classifier_run(finished_run: Callable[..., Path]) -> Path:
    """Return the run folder of a classifier of digits with averaged weights."""
    return finished_run(*CLASSIFIER, AVERAGED)


@pytest.fixture
def digits() -> Spec:
    return Digits(validation=0.1).spec


def test_features_are_the_inputs_of_the_last_layer_of_the_classifier(classifier_run: Path, digits: Spec) -> None:
    network = classifier_features.load_features(str(classifier_run), digits)
    trained = load_trained(
        rebuild_components(job.load_job(classifier_run)), classifier_run, "best.pt", reject_other_data=True
    )
    batch = next(iter(eval_batches(trained.components, trained.splits, "test")))
    low, high = (torch.tensor(bound)[:, None, None] for bound in (digits.low, digits.high))
    features, logits = network((batch["inputs"] - low) / (high - low))
    expected: list[Tensor] = []
    last = [module for module in trained.components.model.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda layer, inputs: expected.append(inputs[0]))
    with torch.no_grad():
        expected_logits = trained.components.model(batch["inputs"])
    assert features.shape == (len(batch["inputs"]), 12)
    assert torch.allclose(features, expected[0], atol=1e-4)
    assert torch.allclose(logits, expected_logits, atol=1e-3)
    assert float((logits.argmax(1) == batch["targets"]).double().mean()) > 0.7


def test_a_layerwise_pretrained_classifier_gets_pixels_scaled_as_in_training(
    finished_run: Callable[..., Path], digits: Spec
) -> None:
    overrides = ("model=dbn", "model.hidden_size=[48,12]", "task=layerwise", "data=digits")
    dbn = finished_run(*overrides, "task.pretrain_epochs=1", "trainer.epochs=2")
    trained = load_trained(rebuild_components(job.load_job(dbn)), dbn, "best.pt", reject_other_data=True)
    pixels = torch.rand(9, 1, 8, 8)
    _, logits = classifier_features.load_features(str(dbn), digits)(pixels)
    with torch.no_grad():
        assert torch.allclose(logits, trained.components.model(pixels), atol=1e-5)


def test_the_classifier_is_frozen_and_described_by_its_run_and_accuracy(classifier_run: Path, digits: Spec) -> None:
    network = classifier_features.load_features(str(classifier_run), digits)
    accuracy = json.loads((classifier_run / "result.json").read_text())["test"]["accuracy"]
    assert network.name == f"mlp-digits/{classifier_run.name} (accuracy {accuracy:.3g})"
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_generated_images_closer_to_real_images_score_better(classifier_run: Path, digits: Spec) -> None:
    pixels = Digits(validation=0.1).load().train.rows["pixels"].float() / 16
    real, others = pixels[::2], pixels[1::2]
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    quality = Quality(classifier_features.load_features(str(classifier_run), digits))
    good, fair, bad = (quality.measure(real, fake) for fake in (others, (real + noise) / 2, noise))
    assert good["frechet"] < fair["frechet"] < bad["frechet"]
    assert good["classifier_score"] > fair["classifier_score"] > 1
    assert good["precision"] > 0.6 > bad["precision"]
    assert good["recall"] > 0.6 > bad["recall"]


def train_gan(folder: Path, *overrides: str) -> Path:
    assert main.main([*GAN, f"hydra.run.dir={folder}", *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def scored(finished_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a GAN whose images are scored with the features of the classifier."""
    return train_gan(tmp_path_factory.mktemp("scored") / "gan", f"task.features={finished_run(*CLASSIFIER, AVERAGED)}")


@pytest.fixture(scope="module")
def unscored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the same GAN without a classifier."""
    return train_gan(tmp_path_factory.mktemp("unscored") / "gan")


def test_the_result_names_the_classifier_and_the_log_warns_against_comparing_with_fid(
    classifier_run: Path, scored: Path
) -> None:
    result = json.loads((scored / "result.json").read_text())
    assert result["features"].startswith(f"mlp-digits/{classifier_run.name} (accuracy 0.")
    assert set(Quality.metrics) <= set(result["test"])
    assert f"from {result['features']}; not comparable with FID" in (scored / "train.log").read_text()


def test_without_a_classifier_the_result_names_pixels_as_the_features(unscored: Path) -> None:
    result = json.loads((unscored / "result.json").read_text())
    assert result["features"] == "pixels, 8x8"
    assert "classifier_score" not in result["test"]


def test_the_result_of_a_classification_run_does_not_contain_features(classifier_run: Path) -> None:
    assert "features" not in json.loads((classifier_run / "result.json").read_text())


def test_scores_from_classifier_features_do_not_change_training(scored: Path, unscored: Path) -> None:
    weights = [torch.load(path / "checkpoints" / "last.pt", weights_only=True)["model"] for path in (unscored, scored)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_evaluate_reproduces_the_scores_and_accepts_another_classifier(
    classifier_run: Path, scored: Path, finished_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((scored / "result.json").read_text())
    other = finished_run("model=lenet5", "data=digits", "trainer.max_steps=3")
    capsys.readouterr()
    for network, name in ((classifier_run, result["features"]), (other, f"lenet5-digits/{other.name}")):
        assert main.main(["evaluate", str(scored), f"task.features={network}", "--json"]) == 0
        evaluated = json.loads(capsys.readouterr().out)
        assert evaluated["features"].startswith(name)
        assert (evaluated["metrics"] == result["test"]) == (network == classifier_run)


@pytest.mark.slow
def test_a_resumed_run_uses_the_same_classifier(classifier_run: Path, tmp_path: Path) -> None:
    overrides = (f"task.features={classifier_run}", "trainer.eval_every=1", "trainer.checkpoint_every=1")
    uninterrupted = train_gan(tmp_path / "uninterrupted", *overrides, "trainer.max_steps=4")
    folder = train_gan(tmp_path / "resumed", *overrides)
    assert main.main(["resume", str(folder), "trainer.max_steps=4"]) == 0
    first, second = (json.loads((path / "result.json").read_text()) for path in (uninterrupted, folder))
    assert (first["test"], first["features"]) == (second["test"], second["features"])


def error_of(capsys: pytest.CaptureFixture[str], tmp_path: Path, *overrides: str) -> str:
    """Return the only error line of a GAN run that is rejected before it starts."""
    folder = tmp_path / "rejected"
    capsys.readouterr()
    assert main.main([*GAN, f"hydra.run.dir={folder}", *overrides]) == 2
    assert not folder.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dltrain: ")]
    assert line.startswith("dltrain: task.features: ")
    return line


def test_a_missing_folder_is_rejected_and_the_nearest_run_is_suggested(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, tmp_path, f"task.features={classifier_run.parent / 'rum'}")
    assert f"got {classifier_run.parent / 'rum'}. Did you mean {classifier_run}?" in line
    assert "latest" not in line


def test_latest_is_rejected_as_a_classifier(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected the folder of a run, got latest" in error_of(capsys, tmp_path, "task.features=latest")


def test_a_run_of_another_task_is_rejected_as_a_classifier(
    finished_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, tmp_path, f"task.features={finished_run('forecast')}")
    assert "expected the folder of a run with the task classification, got forecasting" in line


def test_a_classifier_of_images_of_another_shape_is_rejected_with_both_shapes(
    finished_run: Callable[..., Path], data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist = finished_run("model=mlp", "data=mnist", f"data.root={data_root}", "trainer.max_steps=1")
    line = error_of(capsys, tmp_path, f"task.features={mnist}")
    assert "that classifies images of shape 1x8x8, got shape 1x28x28" in line


def test_a_classifier_is_rejected_for_data_that_are_not_images(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, tmp_path, f"task.features={classifier_run}", "data=ring")
    assert "expected null for data that are not images" in line


def test_a_run_whose_checkpoints_are_damaged_is_rejected(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(classifier_run, damaged, symlinks=True)
    for file in (damaged / "checkpoints").glob("step-*.pt"):
        file.write_bytes(file.read_bytes()[:-100])
    line = error_of(capsys, tmp_path, f"task.features={damaged}")
    assert "rejected because it is damaged" in line


class RowClassifier(nn.Module):
    """A classifier that applies its last linear layer to each row of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x[:, 0]).mean(1)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [(nn.Conv2d(1, 10, 8), "no linear layer"), (RowClassifier(), "must have one row per image")],
)
def test_a_classifier_without_one_feature_vector_per_image_is_rejected(
    classifier: nn.Module, message: str, digits: Spec
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier_features.ClassifierFeatures(classifier, PixelRange(digits.low, digits.high).from_unit, "it")(
            torch.rand(2, 1, 8, 8)
        )
