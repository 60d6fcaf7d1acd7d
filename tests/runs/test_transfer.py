"""Initial weights from another run or a file, and frozen modules."""

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_examples import model_of, read
from safetensors.torch import save_file
from torch import nn

from dltrain.config import compose
from dltrain.data.tokens import Tokens
from dltrain.errors import CheckpointError, ConfigError
from dltrain.loggers.console import Console
from dltrain.runs import dry_run, initial_weights, launch
from dltrain.runs.assemble import build_components
from dltrain.runs.job import load_job
from dltrain.runs.launch import Outcome
from dltrain.runs.weight_files import InitialWeights
from dltrain.storage.checkpoints import Checkpoints

MLP = ["model=mlp", "model.hidden_size=8", "model.num_layers=2", "model.norm=batch", "trainer.epochs=2"]
STILL = ["optimizer=sgd", "optimizer.lr=1e-30"]  # a learning rate too small to change a weight
Train = Callable[..., Outcome]


@pytest.fixture(scope="module")
def animals(own_files: dict[str, Path]) -> list[str]:
    return [
        "data=csv",
        f"data.path={own_files['csv']}",
        "data.column=kind",
        "data.batch_size=16",
        "data.ignore=[price]",
    ]


@pytest.fixture(scope="module")
def birds(own_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the overrides of `animals`, with the path of a copy of the table that has other class names."""
    path = tmp_path_factory.mktemp("birds") / "birds.csv"
    path.write_text(own_files["csv"].read_text().replace("cat", "owl").replace("dog", "emu"))
    return ["data=csv", f"data.path={path}", "data.column=kind", "data.batch_size=16", "data.ignore=[price]"]


@pytest.fixture(scope="module")
def source(train: Train, animals: list[str]) -> Outcome:
    return train(*MLP, *animals)


def notes(*overrides: str) -> list[str]:
    """Return the messages about the initial weights that a run prints before it starts."""
    job = compose.compose(["device=cpu", *overrides])
    components = build_components(job)
    components.loaded = initial_weights.prepare(components, job, None)
    components.stages()  # checks transfer.freeze and transfer.unfreeze_at
    return components.loaded.describe() if components.loaded else []


def weights(folder: Path, name: str = "best.pt") -> dict[str, bytes]:
    state = Checkpoints(folder).load(name)["model"]
    return {key: value.numpy().tobytes() for key, value in state.items()}


def test_a_run_starts_from_the_best_weights_of_another_run_and_records_them(
    train: Train, source: Outcome, animals: list[str]
) -> None:
    chosen = ["transfer=finetune", f"transfer.weights={source.folder}"]
    run = train(*MLP, *animals, *STILL, *chosen, "seed=7", "trainer.max_steps=1")
    there = weights(source.folder)
    here = weights(run.folder)
    learned = [name for name in here if "running" not in name and "num_batches" not in name]
    assert all(here[name] == there[name] for name in learned)
    record = read(run.folder / "transfer.json")
    assert set(record["names"]) == set(there) and not record["new"] and not record["unused"]
    entry = Checkpoints(source.folder).read_entry("best.pt")
    assert record["sha256"] == entry["sha256"] and f"step {entry['step']}" in record["origin"]
    assert (
        f"initial weights: {len(there)} of {len(there)} from {source.folder}" in (run.folder / "train.log").read_text()
    )


def test_a_head_of_the_same_size_with_other_classes_is_reinitialized_and_reported(
    source: Outcome, birds: list[str]
) -> None:
    messages = notes(*MLP, *birds, "transfer=finetune", f"transfer.weights={source.folder}")
    (new,) = [line for line in messages if "new:" in line]
    assert "different outputs: emu owl here, cat dog in the loaded weights" in new
    names = new.split(": ")[1].split()
    state = model_of(source)
    heads = [name for name in state if state[name].shape[:1] == (2,)]
    assert names == heads and len(heads) == 2
    assert any(f"{len(state) - 2} of {len(state)} from {source.folder}" in line for line in messages)


def test_frozen_modules_and_their_running_statistics_do_not_change(
    train: Train, source: Outcome, birds: list[str]
) -> None:
    averaged = ["regularization.ema_decay=0.9", "regularization.weight_decay=0.1"]
    run = train(*MLP, *birds, *averaged, "transfer=freeze", f"transfer.weights={source.folder}", "trainer.epochs=3")
    there = weights(source.folder)
    record = read(run.folder / "transfer.json")
    assert len(record["new"]) == 2 and len(record["names"]) == len(there) - 2
    state = Checkpoints(run.folder).load("last.pt")
    for found in (state["model"], state["average"]["model"]):
        changed = {name for name in there if found[name].numpy().tobytes() != there[name]}
        assert changed == set(record["new"])


# Image models, and overrides that make some of them smaller.
NETWORKS = {
    **{
        "cnn": ["model.blocks=[{channels: 4, pool: max}]", "model.hidden_size=[8]", "model.norm=batch"],
        "resnet20": [],
        "lenet5": [],
    },
    **{"resnet18": ["model.stem=small"], "googlenet": ["model.stem=small"]},
}


@pytest.mark.parametrize(
    "name", [name if name == "cnn" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_no_weight_or_statistic_of_a_frozen_network_changes_except_those_of_the_head(
    name: str, train: Train, data_root: Path
) -> None:
    common = [f"model={name}", *NETWORKS[name], f"data.root={data_root}", "data.batch_size=18"]
    source = train(*common, "data=mnist", "trainer.max_steps=2")
    frozen = ["transfer=freeze", f"transfer.weights={source.folder}", "regularization.weight_decay=0.1"]
    run = train(*common, "data=fashion_mnist", "augment=affine", *frozen, "trainer.epochs=2")
    record, there, here = read(run.folder / "transfer.json"), weights(source.folder), weights(run.folder, "last.pt")
    assert {name for name in there if here[name] != there[name]} == set(record["new"])
    assert len(record["new"]) == (6 if name == "googlenet" else 2)  # GoogLeNet has two auxiliary heads
    assert any("running_mean" in weight for weight in there) == (name != "lenet5")


GRADUAL = ["transfer=gradual", "transfer.unfreeze_at=1", "trainer.epochs=3", "trainer.keep_last=100"]


@pytest.mark.slow
def test_resuming_within_or_between_the_stages_of_gradual_unfreezing_gives_the_same_last_checkpoint(
    train: Train, source: Outcome, birds: list[str], tmp_path: Path
) -> None:
    weights_of = [f"transfer.weights={source.folder}", "trainer.checkpoint_every=1", "regularization.ema_decay=0.9"]
    more = ["optimizer/schedule=cosine", "regularization.dropout=0.3", "transfer.lr_scale=0.3"]
    whole = train(*MLP, *birds, *GRADUAL, *weights_of, *more)
    steps = sorted(int(file.stem.split("-")[1]) for file in (whole.folder / "checkpoints").glob("step-*.pt"))
    border = steps[-1] // 3
    before, after = max(step for step in steps if step < border), min(step for step in steps if step > border)
    final = Checkpoints(whole.folder).read_entry("last.pt")["sha256"]
    for step in (before, border, after):
        path = tmp_path / str(step)
        shutil.copytree(whole.folder, path, symlinks=True)
        for file in (path / "checkpoints").iterdir():
            if not (file.stem.startswith("step") and int(file.stem.split("-")[1]) <= step):
                file.unlink()
        launch.resume(load_job(path), path, Console(io.StringIO()), 0.0)
        assert Checkpoints(path).read_entry("last.pt")["sha256"] == final, step
    frozen, thawed = (Checkpoints(whole.folder).load(f"step-{step:08}.pt")["model"] for step in (border, after))
    there = weights(source.folder)
    names = read(whole.folder / "transfer.json")["names"]
    assert all(frozen[name].numpy().tobytes() == there[name] for name in names)
    assert all(thawed[name].numpy().tobytes() != there[name] for name in names)


def test_resume_needs_transfer_json_but_not_the_initial_weights(
    train: Train, source: Outcome, birds: list[str], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(source.folder, moved, symlinks=True)
    run = train(*MLP, *birds, "transfer=freeze", f"transfer.weights={moved}", "trainer.max_steps=2")
    shutil.rmtree(moved)
    job = load_job(run.folder)
    with dry_run.prepare_run(job, begun=run.folder) as (components, _):
        (turn,) = components.stages()[0].turns
        assert len(turn.parameters) == 2
    (run.folder / "transfer.json").unlink()
    with pytest.raises(CheckpointError, match=r"transfer.json: missing or damaged"):
        launch.resume(job, run.folder, Console(io.StringIO()), 0.0)


TEXT = ["model=gpt", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "trainer.max_steps=2"]


def text(folder: Path, letters: str) -> list[str]:
    path = folder / f"{letters}.txt"
    path.write_text("".join(letters[(7 * n * n + n) % len(letters)] for n in range(600)))
    return ["data=text", f"data.path={path}", "data.context_length=8", "data.batch_size=8"]


def test_embeddings_of_another_vocabulary_of_the_same_size_are_rejected(train: Train, tmp_path: Path) -> None:
    source = train(*TEXT, *text(tmp_path, "abcdefg"))
    chosen = ["transfer=finetune", f"transfer.weights={source.folder}"]
    with pytest.raises(ConfigError, match=r"weights for the same tokens.* 3 of 7 tokens differ"):
        notes(*TEXT, *text(tmp_path, "abcdxyz"), *chosen)
    # The same characters in a different order give the same vocabulary.
    messages = notes(*TEXT, *text(tmp_path, "gfedcba"), *chosen)
    assert not any("new:" in line for line in messages)
    (tmp_path / "abcdefg.txt").unlink()  # the run folder contains the vocabulary
    assert notes(*TEXT, *text(tmp_path, "gfedcba"), *chosen) == messages
    alone = tmp_path / "alone.pt"
    torch.save(model_of(source, "best.pt"), alone)
    with pytest.raises(ConfigError, match=r"The tokens of these weights cannot be determined"):
        notes(*TEXT, *text(tmp_path, "gfedcba"), "transfer=finetune", f"transfer.weights={alone}")


def test_the_hint_for_weights_whose_target_tokens_are_unknown_does_not_name_a_tokenizer_file() -> None:
    tokens = Tokens(size=2, decode=lambda numbers: "ab"[numbers[0]])
    facts = {"target_outputs": 2, "target_tokens": tokens}
    found = InitialWeights({"weight": torch.zeros(2, 1), "bias": torch.zeros(2)}, "a.pt", "", tokens=["a", "b"])
    with pytest.raises(ConfigError, match=r"The tokens of these weights cannot be determined\. Use a run folder\.$"):
        initial_weights.load(nn.Linear(1, 2), lambda other: nn.Linear(1, other["target_outputs"]), facts, {}, found)


def test_a_bert_classifier_starts_from_the_weights_of_a_masked_language_model(
    train: Train, own_files: dict[str, Path]
) -> None:
    sizes = ["model.hidden_size=16", "model.num_heads=2", "model.num_layers=1"]
    data = ["data=text_table", f"data.path={own_files['text_table']}", "data.column=kind", "data.special_tokens=true"]
    chosen = ["model=bert", *sizes, *data, "trainer.max_steps=2"]
    source = train(*chosen, "task=masked_language_modeling")
    messages = notes(*chosen, f"transfer.weights={source.folder}")
    assert any("initial weights: 17 of 21" in line for line in messages)
    assert any("new: pooler.weight pooler.bias: not in the loaded weights" in line for line in messages)
    assert any("new: head.weight head.bias: different outputs" in line for line in messages)


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "wrapped", "parallel"])
def test_weights_from_other_programs_are_loaded_except_for_the_head(
    form: str, source: Outcome, animals: list[str], tmp_path: Path
) -> None:
    state = {name: value.clone() for name, value in model_of(source, "best.pt").items()}
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(state, file)
    else:
        named = {f"module.{name}": value for name, value in state.items()} if form == "parallel" else state
        torch.save({"state_dict": named, "epoch": 3} if form == "wrapped" else named, file)
    messages = notes(*MLP, *animals, "transfer=finetune", f"transfer.weights={file}")
    assert any(f"{len(state) - 2} of {len(state)} from {file}" in line for line in messages)
    assert any("different outputs: cat dog here, unknown in the loaded weights" in line for line in messages)


def test_weights_that_contain_code_are_rejected_and_the_code_is_not_run(animals: list[str], tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": Payload()}))
        with pytest.raises(ConfigError, match=r"^transfer.weights: expected a file of weights, got"):
            notes(*MLP, *animals, f"transfer.weights={tmp_path / name}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["transfer=finetune"], r"transfer.weights: expected a run folder, .* got nothing"),
        (["transfer.weights=nowhere.pt"], r"transfer.weights: expected a run folder, .* It does not exist"),
        (
            ["transfer.weights=torchvision:ResNet18"],
            r"transfer.weights: expected a name of torchvision's weights, .*, got torchvision:ResNet18. Did you mean "
            r"torchvision:ResNet18_Weights.IMAGENET1K_V1\?",
        ),
        (
            ["transfer.freeze=[layer]"],
            r"transfer.freeze: expected modules of the model, got layer. Did you mean layers\?",
        ),
        (["transfer.freeze=[layers]"], r"transfer.freeze: expected at least one trainable parameter, got none"),
        (["transfer.freeze=layers"], r"transfer.freeze: expected auto or a list of modules, got layers"),
        (["transfer.freeze=null"], r"transfer.freeze: expected auto or a module, got null"),
        (["transfer=freeze", "transfer.freeze=[layers.1]"], r"transfer.weights: expected a run folder"),
        (["transfer=finetune", "transfer.freeze=auto"], r"transfer.weights: expected a run folder"),
        (
            ["transfer.freeze=[layers.1]", "transfer.unfreeze_at=2"],
            r"transfer.unfreeze_at: expected at most 1, because training has 2 epochs, got 2",
        ),
        (
            ["transfer.freeze=[layers.1]", "transfer.unfreeze_at=[1,1]"],
            r"transfer.unfreeze_at: expected a number, or a list with one number per entry of transfer.freeze \(1\)",
        ),
        (["transfer.lr_scale=0"], r"transfer.lr_scale: expected a number above 0, got 0"),
        (["transfer.frees=[a]"], r"transfer.frees: unknown key. Did you mean transfer.freeze\?"),
    ],
)
def test_an_invalid_transfer_setting_is_rejected_with_one_message(
    overrides: list[str], message: str, animals: list[str]
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        notes(*MLP, *animals, *overrides)
    assert len(caught.value.problems) == 1


def test_freezing_the_whole_critic_of_a_gan_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"expected at least one trainable parameter of the critic, got none"):
        notes("model=gan", "data=ring", "transfer.freeze=[critic]")


def test_weights_of_another_model_are_rejected(source: Outcome, animals: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"transfer.weights: expected weights of this model, .* None of the"):
        notes("model=perceptron", *animals, f"transfer.weights={source.folder}")


def test_loading_initial_weights_does_not_change_the_random_state(source: Outcome, birds: list[str]) -> None:
    plain, transferring = (
        compose.compose(["device=cpu", *MLP, *birds, *more])
        for more in ([], ["transfer=finetune", f"transfer.weights={source.folder}"])
    )
    build_components(plain)
    expected = torch.get_rng_state()
    components = build_components(transferring)
    assert initial_weights.prepare(components, transferring, None) is not None
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_head_with_the_same_classes_is_kept_and_trained_while_all_other_weights_are_frozen(
    train: Train, source: Outcome, animals: list[str]
) -> None:
    run = train(*MLP, *animals, "transfer=freeze", f"transfer.weights={source.folder}", "seed=3")
    record, there, here = read(run.folder / "transfer.json"), weights(source.folder), weights(run.folder, "last.pt")
    assert not record["new"] and set(record["names"]) == set(there)
    assert {name for name in there if here[name] != there[name]} == set(record["heads"])
    assert len(record["heads"]) == 2


@pytest.fixture(scope="module")
def cells(own_files: dict[str, Path]) -> list[str]:
    return ["model=unet", "model.hidden_size=[2]", "data=image_masks", f"data.path={own_files['image_masks']}"]


def test_the_output_layer_of_a_segmenter_is_kept_only_for_the_same_class_names_in_the_same_order(
    train: Train, cells: list[str]
) -> None:
    small = [*cells, "data.image_size=8", "data.batch_size=6"]
    source = train(*small, "data.class_names=[rest,cell,wall]", "trainer.max_steps=1")
    chosen = ["transfer=freeze", f"transfer.weights={source.folder}"]
    messages = notes(*small, "data.class_names=[rest,wall,cell]", *chosen)
    (new,) = [line for line in messages if "new:" in line]
    assert "output.weight output.bias" in new
    assert "different outputs: rest wall cell here, rest cell wall in the loaded weights" in new
    assert not any("new:" in line for line in notes(*small, "data.class_names=[rest,cell,wall]", *chosen))


def test_the_class_layer_of_a_detector_is_kept_only_for_the_same_class_names_in_the_same_order(
    train: Train, own_files: dict[str, Path]
) -> None:
    small = ["model=fcos", "model.backbone=narrow", "model.fpn_width=32", "model.num_convs=1", "data=detection_folder"]
    small += [f"data.path={own_files['detection_folder']}", "data.image_size=32", "data.batch_size=8"]
    source = train(*small, "data.class_names=[bright,dark]", "trainer.max_steps=1")
    chosen = ["transfer=freeze", f"transfer.weights={source.folder}"]
    (new,) = [line for line in notes(*small, "data.class_names=[dark,bright]", *chosen) if "new:" in line]
    names = [name for name in model_of(source) if "cls_logits" in name]
    assert new.split(": ")[1].split() == names and len(names) == 2
    assert "different outputs: dark bright here, bright dark in the loaded weights" in new
    assert not any("new:" in line for line in notes(*small, "data.class_names=[bright,dark]", *chosen))
