"""Image networks in whole runs: initial weights from torchvision, auxiliary heads, and resume."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from run_examples import lines, read

from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs import initial_weights, launch
from dltrain.runs.assemble import build_components
from dltrain.runs.job import load_job
from dltrain.runs.launch import Outcome
from dltrain.storage.checkpoints import Checkpoints

GOOGLENET = ["model=googlenet", "model.stem=small", "data=digits", "device=cpu"]
NETWORKS = {name: [] for name in ("alexnet", "vgg11", "googlenet", "inception_v3", "resnet18")}
NETWORKS |= {"vgg13": ["model.norm=batch"]}
TRANSFER = ["transfer=finetune", "transfer=freeze"]


def test_the_output_layers_of_the_network_and_its_auxiliary_heads_are_new_for_a_different_number_of_classes(
    tmp_path: Path,
) -> None:
    file = tmp_path / "googlenet.pt"
    reference = torchvision.models.googlenet(weights=None, init_weights=False, num_classes=7)
    torch.save(reference.state_dict(), file)
    job = compose.compose([*GOOGLENET, "transfer=freeze", f"transfer.weights={file}"])
    components = build_components(job)
    loaded = initial_weights.prepare(components, job, None)
    assert loaded is not None and not loaded.unused
    heads = {f"{layer}.{part}" for layer in ("fc", "aux1.fc2", "aux2.fc2") for part in ("weight", "bias")}
    assert set(loaded.new) == heads | {"conv1.conv.weight"}  # one channel, and 3x3 instead of 7x7
    assert all("different outputs" in loaded.new[name] for name in heads)
    there = reference.state_dict()
    assert all(
        torch.equal(value, there[name]) for name, value in components.model.state_dict().items() if name in loaded.names
    )
    components.loaded = loaded
    (turn,) = components.stages()[0].turns
    trained = {name for name, p in components.model.named_parameters() if any(p is owned for owned in turn.parameters)}
    assert trained == set(loaded.new)


@pytest.mark.slow
def test_losses_of_auxiliary_heads_are_logged(train: Callable[..., Outcome]) -> None:
    run = train(*GOOGLENET, "trainer.max_steps=4", "trainer.log_every=1", "data.batch_size=16")
    logged = [line for line in lines(run) if line["split"] == "train"]
    assert logged and all({"aux1", "aux2"} <= set(line) for line in logged)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_run_ends_with_the_checkpoint_and_metrics_of_an_uninterrupted_run(
    name: str, train: Callable[..., Outcome], tmp_path: Path
) -> None:
    chosen = [f"model={name}", "model.stem=small", "data=digits", *NETWORKS[name], "data.batch_size=16"]
    whole = train(*chosen, "trainer.max_steps=3", "trainer.checkpoint_every=1", "trainer.keep_last=5")
    path = tmp_path / "run"
    shutil.copytree(whole.folder, path, symlinks=True)
    for file in (path / "checkpoints").iterdir():
        if file.name != "step-00000001.pt":
            file.unlink()
    outcome = launch.resume(load_job(path), path, Console(io.StringIO()), 0.0)
    assert outcome.state == "finished"
    entries = [Checkpoints(folder).read_entry("last.pt")["sha256"] for folder in (whole.folder, path)]
    assert entries[0] == entries[1]
    assert read(path / "result.json")["test"] == read(whole.folder / "result.json")["test"]


@pytest.mark.slow
@pytest.mark.parametrize("option", TRANSFER)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_starts_from_a_state_dict_of_torchvision(
    name: str, option: str, train: Callable[..., Outcome], tmp_path: Path
) -> None:
    theirs = f"{name}_bn" if "model.norm=batch" in NETWORKS[name] else name
    aux = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    reference, file = getattr(torchvision.models, theirs)(weights=None, **aux), tmp_path / "weights.pt"
    torch.save(reference.state_dict(), file)
    chosen = [f"model={name}", "model.stem=small", "data=digits", *NETWORKS[name], "data.batch_size=16"]
    run = train(*chosen, option, f"transfer.weights={file}", "trainer.max_steps=2")
    record = read(run.folder / "transfer.json")
    there, here = reference.state_dict(), Checkpoints(run.folder).load("last.pt")["model"]
    assert record["names"] and not record["unused"]
    unchanged = {key for key in record["names"] if torch.equal(here[key], there[key])}
    assert (unchanged == set(record["names"])) == (option == "transfer=freeze")
