"""Spec values of every data set in conf/data, built from its YAML file; batches and fitted state of most of them."""

import functools
import importlib
import inspect
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from example_files import write_clips, write_pixels, write_questions, write_recording, write_rolls, write_songs
from PIL import Image

from dltrain.data.loader import Batches
from dltrain.data.ragged import Ragged
from dltrain.data.spec import Spec
from dltrain.storage.checkpoint_format import load_error

FOLDER = Path(__file__).parents[2] / "conf" / "data"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
BUILT_IN = (
    "timeseries",
    "digits",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "text",
    "gates",
    "ring",
    "shapes",
    "moving_shapes",
    "reversal",
    "random_pairs",
    "adding_problem",
    "copy_memory",
    "sentence_pairs",
)
FROM_FILES = (
    "npz",
    "pixels_csv",
    "video_folder",
    "image_folder",
    "image_masks",
    "detection_folder",
    "csv",
    "text_table",
    "text_pairs",
    "conll",
    "squad",
    "parallel",
    "summaries",
    "text_to_text",
    "pianoroll",
    "midi",
    "midi_events",
    "speech",
)


def read_yaml(name):
    """Return the content of a YAML file, its class, and its arguments without augmentation."""
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    target = config["_target_"]
    module, _, attribute = target.rpartition(".")
    arguments = {key: value for key, value in config.items() if key != "defaults" and not key.startswith("_")}
    arguments |= {"augment": None} if "augment" in arguments else {}
    return config, getattr(importlib.import_module(module), attribute), arguments


def provided_facts(data):
    return {fact.name for fact in fields(Spec) if getattr(data.spec, fact.name) is not None}


def write_user_data(name, folder):
    """Write a small file or folder for a data set; return its path."""
    if name == "npz":
        x, y = np.random.default_rng(0).random((40, 6, 2)), np.arange(40) % 2
        np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        return str(folder / "a.npz")
    if name == "csv":
        (folder / "a.csv").write_text("a,b\n" + "".join(f"{n},{n % 2}\n" for n in range(40)))
        return str(folder / "a.csv")
    if name == "text_table":
        (folder / "a.csv").write_text("text,label\n" + "".join(f"a text of {'word ' * n},{n % 2}\n" for n in range(40)))
        return str(folder / "a.csv")
    if name == "text_pairs":
        lines = (f"a text of {'word ' * n},another one of {n},{n % 2}\n" for n in range(1, 41))
        (folder / "a.csv").write_text("one,other,label\n" + "".join(lines))
        return str(folder / "a.csv")
    if name == "squad":
        write_questions(folder / "a.json", 12)
        return str(folder / "a.json")
    if name == "conll":
        (folder / "a.conll").write_text("\n".join(f"Ada B-PER\nsees O\nRome B-LOC\n{n} O\n" for n in range(40)))
        return str(folder / "a.conll")
    if name == "speech":
        for number in range(30):
            word = ("yes", "no", "stop")[number % 3]
            write_recording(folder / "words" / word / f"{number}.wav", word, seed=number)
        return str(folder / "words")
    if name == "parallel":
        (folder / "a.tsv").write_text(
            "en\tes\n" + "".join(f"{'the dog ' * n}{n}\t{'el perro ' * n}{n}\n" for n in range(1, 20))
        )
        return str(folder / "a.tsv")
    if name in ("summaries", "text_to_text"):
        rows = ({"text": f"the dog sees {'the cat ' * n}{n}", "summary": f"dog {n}"} for n in range(1, 20))
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(folder / "a.jsonl")
    if name == "detection_folder":
        images = [{"id": number, "file_name": f"{number}.png", "width": 9, "height": 7} for number in range(20)]
        boxes = [{"image_id": number, "category_id": number % 2, "bbox": [1, 2, 5, 4]} for number in range(20)]
        kinds = [{"id": number, "name": "ab"[number]} for number in range(2)]
        (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
        for number in range(20):
            Image.new("RGB", (9, 7), (number, 0, 0)).save(folder / f"{number}.png")
        return str(folder)
    if name == "image_masks":
        for number in range(20):
            for part, mode in (("images", "RGB"), ("masks", "L")):
                (folder / part).mkdir(exist_ok=True)
                Image.new(mode, (9, 7), 1).save(folder / part / f"{number}.png")
        Image.new("L", (9, 7)).save(folder / "masks" / "0.png")
        return str(folder)
    if name == "pianoroll":
        write_rolls(folder / "a.json", 12, 4)
        return str(folder / "a.json")
    if name in ("midi", "midi_events"):
        write_songs(folder, 40)
        return str(folder)
    if name == "pixels_csv":
        write_pixels(folder / "a.csv", 6, 20, 4)
        return str(folder / "a.csv")
    if name == "video_folder":
        write_clips(folder, 20, 5, (9, 7))
        return str(folder)
    for number in range(20):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    return str(folder / "pictures")


@pytest.fixture(scope="module")
def user_path(tmp_path_factory):
    """Return a function that writes the files of a data set once and returns their path."""
    return functools.cache(lambda name: write_user_data(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def small_arguments(user_path):
    """Return a function that returns the class of a data set and the arguments of a small version."""

    def make(name):
        _, target, arguments = read_yaml(name)
        limits = {"clips": 40, "sequences": 40, "stride": 64}
        arguments |= {key: count for key, count in limits.items() if key in arguments}
        return target, {**arguments, "path": user_path(name)} if name in FROM_FILES else arguments

    return make


@pytest.fixture(scope="module")
def loaded(small_arguments):
    """Return a function that loads a small data set once and returns it and its splits."""

    @functools.cache
    def load(name):
        target, arguments = small_arguments(name)
        data = target(**arguments)
        return data, data.load()

    return load


def test_every_data_yaml_is_tested_here():
    assert set(NAMES) == {*BUILT_IN, *FROM_FILES}


@pytest.mark.parametrize("name", NAMES)
def test_each_yaml_has_a_comment_a_default_task_and_every_argument_of_its_class(name):
    config, target, arguments = read_yaml(name)
    assert (FOLDER / f"{name}.yaml").read_text("utf-8").startswith("# ")
    assert set(arguments) == set(inspect.signature(target).parameters) - {"fitted"}
    assert set(config["_provides_"]) <= {fact.name for fact in fields(Spec)}
    (override, *_, own) = config["defaults"]
    (task,) = override.values()
    assert (FOLDER.parent / "task" / f"{task}.yaml").is_file() and own == "_self_"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_data_provide_exactly_the_spec_values_listed_in_their_yaml(name, loaded, tmp_path):
    config, target, arguments = read_yaml(name)
    data = target(**{**arguments, "root": str(tmp_path)}) if "root" in arguments else loaded(name)[0]
    assert provided_facts(data) == set(config["_provides_"])


@pytest.mark.parametrize("name", FROM_FILES)
def test_user_data_provide_only_spec_values_listed_in_their_yaml(name, loaded):
    config, _, arguments = read_yaml(name)
    assert arguments["path"] == "???"
    data, _ = loaded(name)
    assert provided_facts(data) and provided_facts(data) <= set(config["_provides_"])


@pytest.mark.parametrize(
    "name",
    [*(name for name in BUILT_IN if name not in ("mnist", "fashion_mnist", "cifar10")), *FROM_FILES],
)
def test_batches_match_the_provided_spec_values(name, loaded):
    data, splits = loaded(name)
    for source, training in ((splits.train, True), (splits.val, False), (splits.test, False)):
        batch = next(iter(Batches(source, data.batch_size, training=training)))
        inputs, targets = batch["inputs"], batch.get("targets")
        spec = data.spec
        assert tuple(inputs.shape[1:]) == spec.shape or ("lengths" in batch and inputs.shape[1] <= spec.shape[0])
        assert spec.size in (None, inputs[0].numel())
        if spec.object_classes:
            boxes, kinds = batch["boxes"], batch["kinds"]
            assert boxes.shape == (len(inputs), kinds.shape[1], 4) and kinds.dtype == torch.int64
            assert 0 < int(kinds.max()) <= spec.object_classes
            assert bool((boxes[kinds > 0] >= 0).all()) and float(boxes.max()) <= max(inputs.shape[2:])
        if spec.transcripts:
            transcript, steps = batch["transcript"], batch["transcript_lengths"]
            assert transcript.shape == (len(inputs), int(steps.max()))
            assert int(transcript.max()) < spec.transcripts.size and spec.transcripts.blank == 0
            assert spec.features == spec.audio.bands * spec.audio.frames
        if spec.answer_spans:
            assert batch["segments"].shape == inputs.shape and int(batch["segments"].max()) == 1
            assert bool((batch["start"] <= batch["end"]).all()) and int(batch["end"].max()) < inputs.shape[1]
        elif spec.sentence_pairs:
            assert batch["segments"].shape == inputs.shape and set(batch["not_next"].tolist()) == {0, 1}
        elif targets is None:
            assert spec.object_classes
        elif spec.horizon:
            assert targets.shape[1:] == (spec.horizon, spec.columns)
        elif spec.pixel_classes:
            assert targets.dtype == torch.int64 and targets.shape[1:] == inputs.shape[2:]
            assert int(targets.min()) >= 0 and int(targets.max()) < spec.pixel_classes
        elif spec.notes:
            assert targets.shape == inputs.shape and inputs.shape[2] == spec.notes.size == spec.features
            assert set(targets.unique().tolist()) >= {0.0, 1.0} and set(inputs.unique().tolist()) == {0.0, 1.0}
            assert bool((targets[targets < 0] == -1).all()), "frames after the end of a piece have the target -1"
        elif spec.target_length:
            assert targets.shape == batch["previous"].shape and targets.shape[1] <= spec.target_length
            assert int(inputs.max()) < spec.tokens.size and int(targets.max()) < spec.target_tokens.size
        elif spec.targets and not spec.classes:
            assert targets.dtype == torch.float32 and targets.shape[1:] == (spec.targets,)
        elif spec.tokens and not spec.classes:
            assert targets.shape == inputs.shape and int(max(inputs.max(), targets.max())) < spec.tokens.size
        else:
            assert targets.dtype == torch.int64 and targets.dim() == 1 and int(targets.max()) < spec.classes


@pytest.mark.parametrize("name", FROM_FILES)
def test_at_most_5_percent_of_the_steps_are_padding_and_widths_are_multiples_of_pad_multiple(
    name, loaded, small_arguments
):
    target, arguments = small_arguments(name)
    _, splits = loaded(name)
    sources = [source for source in (splits.train, splits.val, splits.test) if source is not None]
    if not isinstance(splits.train.rows, dict) or not any(isinstance(f, Ragged) for f in splits.train.rows.values()):
        assert "pad_multiple" not in arguments
        return
    assert arguments["pad_multiple"] == 1
    for source in sources:
        assert Batches(source, 4, training=source is splits.train).padding <= 0.05
    padded = target(**{**arguments, "pad_multiple": 8}).load()
    choices = [padded] if name != "text_table" else [padded, target(**{**arguments, "batching": "random"}).load()]
    for multiple, found in zip((8, 1), choices, strict=False):
        for source in (found.train, found.val, found.test):
            assert source.plan.multiple == multiple
            steps = {batch["inputs"].shape[1] for batch in Batches(source, 4, training=source is found.train)}
            assert all(width % multiple == 0 for width in steps)


@pytest.mark.parametrize(
    "name",
    [*(name for name in BUILT_IN if name not in ("mnist", "fashion_mnist", "cifar10")), *FROM_FILES],
)
def test_loading_twice_gives_identical_batches(name, loaded, small_arguments):
    target, arguments = small_arguments(name)
    sources = loaded(name)[1].train, target(**arguments).load().train
    one, other = (next(iter(Batches(source, 8, training=True))) for source in sources)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", BUILT_IN)
def test_constructor_defaults_equal_the_values_in_the_yaml(name):
    _, target, arguments = read_yaml(name)
    for key, parameter in inspect.signature(target).parameters.items():
        # The default of `map_above` is for runs of earlier versions, which kept all texts in memory.
        if key not in ("root", "augment", "fitted", "map_above") and target.__name__ != "FashionMNIST":
            assert parameter.default == arguments[key], key


@pytest.mark.parametrize("name", FROM_FILES)
def test_data_can_be_rebuilt_from_their_fitted_state_without_their_files(name, tmp_path):
    (tmp_path / "own").mkdir()
    _, target, arguments = read_yaml(name)
    path = Path(write_user_data(name, tmp_path / "own"))
    data = target(**{**arguments, "path": str(path), "workers": 0})
    splits = data.load()
    content = data.fit()
    assert load_error(content) is None, "the fitted state may contain only tensors and plain Python objects"
    moved = tmp_path / f"moved{path.suffix}"
    path.rename(moved)
    again = target(**{**arguments, "path": str(path), "workers": 0, "fitted": content})
    tokens = [each.spec.tokens and each.spec.tokens.size for each in (data, again)]
    assert tokens[0] == tokens[1] and again.fit() == content
    known = dict.fromkeys(("tokens", "target_tokens", "transcripts"))
    assert replace(again.spec, **known) == replace(data.spec, **known)
    assert type(again.prepare) is type(splits.test.prepare)
    other = target(**{**arguments, "path": str(moved), "workers": 0, "fitted": content}).evaluation()
    assert len(other) == sum(map(len, filter(None, (splits.train, splits.val, splits.test))))


def test_every_bundled_file_is_small_and_listed_in_the_notice():
    folder = Path(importlib.import_module("dltrain.datasets.time_series").__file__).parent / "bundled"
    notice = (folder / "NOTICE.md").read_text("utf-8")
    for path in folder.iterdir():
        assert path.stat().st_size < 500_000
        assert path.name == "NOTICE.md" or f"`{path.name}`" in notice
