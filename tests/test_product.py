"""Train every option of every group except `device`, which is only composed, and `transfer`, which is tested elsewhere.

`slow` tests train every model on all data that it supports; tasks other than its default one are trained on digits
only.
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dltrain.config import compose, groups, instantiate
from dltrain.config.compose import Job
from dltrain.data.spec import Spec
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console
from dltrain.runs import assemble, compatibility, dry_run, launch, model_summary, report
from dltrain.storage.checkpoints import Checkpoints

CONF = groups.conf_dir()
PACKAGE = CONF.parent / "dltrain"
OPTIONS = {group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in CONF.iterdir() if group.is_dir()}

# Compatible combinations. New options must be added here, or `test_every_option_is_covered_by_these_tests` fails.
IMAGES = {"digits", "mnist", "fashion_mnist", "cifar10", "npz", "image_folder", "pixels_csv"}
CLIPS = {"moving_shapes", "video_folder"}
ROLLS = {"pianoroll", "midi"}
TEXTS = {"text", "text_table", "text_pairs", "midi_events", "conll", "squad"} | ROLLS
OF_BERT = {"text", "text_table", "text_pairs", "conll", "squad", "sentence_pairs"}
PAIRS = {"parallel", "summaries", "text_to_text", "reversal", "random_pairs"}
MASKED = {"shapes", "image_masks"}  # images with masks, also used as plain images
BOXED = {"shapes", "detection_folder"}  # images with boxes, also used as plain images
DETECTORS = ("fcos", "retinanet", "ssdlite", "fasterrcnn")
FITS = {
    **dict.fromkeys(DETECTORS, BOXED),
    "unet": MASKED,
    "fcn": MASKED,
    "deeplabv3": MASKED,
    **dict.fromkeys(("cnn_lstm", "r3d_18", "r2plus1d_18"), CLIPS),
    "deep_speech2": {"speech"},
    "perceptron": IMAGES | {"timeseries", "csv", "gates", "ring"},
    "mlp": IMAGES | {"timeseries", "csv", "gates", "ring"},
    "cnn": IMAGES,
    "resnet9": IMAGES,
    "vit": IMAGES,
    "lenet5": IMAGES,
    "rnn": IMAGES | TEXTS | {"adding_problem", "copy_memory", "timeseries", "speech"},
    "lstm": IMAGES | TEXTS | {"adding_problem", "copy_memory", "timeseries", "speech"},
    "gru": IMAGES | TEXTS | {"adding_problem", "copy_memory", "timeseries", "speech"},
    "transformer": IMAGES | TEXTS | {"adding_problem", "copy_memory", "timeseries", "speech"},
    "dlinear": {"timeseries"},
    "nlinear": {"timeseries"},
    "patchtst": {"timeseries"},
    "seq2seq_forecaster": {"timeseries"},
    **dict.fromkeys(("bert", "bert_base", "bert_minilm"), OF_BERT),
    "bag_of_words": {"text_table"},
    **{name: {"text", "midi_events", "copy_memory"} for name in ("gpt", "gpt_nano", "gpt2", "gpt2_medium")},
    "seq2seq": PAIRS,
    "transformer_seq2seq": PAIRS,
    "t5": PAIRS,
    "vae": IMAGES | MASKED | BOXED | {"timeseries", "csv", "gates", "ring"},
    "autoencoder": IMAGES | MASKED | BOXED | {"timeseries", "csv", "gates", "ring"},
    "conv_vae": IMAGES | MASKED | BOXED,
    "conv_autoencoder": IMAGES | MASKED | BOXED,
    "gan": IMAGES | MASKED | BOXED | {"timeseries", "csv", "gates", "ring"},
    "dcgan": IMAGES | MASKED | BOXED,
    "rbm": IMAGES | MASKED | BOXED,
    "dbn": IMAGES,
    **{f"resnet{layers}": IMAGES for layers in (18, 34, 50, 101, 152, 20, 32, 44, 56, 110)},
    **dict.fromkeys(("timm", "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "googlenet", "inception_v3"), IMAGES),
}
# Families of similar models: the default tests train only the first one of each.
OF_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet", "googlenet", "inception_v3")
OF_TORCHVISION += ("vgg11", "vgg13", "vgg16", "vgg19")
FAMILIES = [(*OF_TORCHVISION, "timm")]
FAMILIES += [("gpt", "gpt_nano", "gpt2", "gpt2_medium")]
FAMILIES += [("bert", "bert_base", "bert_minilm")]
FAMILIES += [("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")]
FAMILIES += [("deeplabv3", "fcn")]  # with the same backbones
LARGER = {name for family in FAMILIES for name in family[1:]}
LARGER |= {"r3d_18", "r2plus1d_18"}  # cnn_lstm reads the same data; see tests/models/test_video.py
# Models with tasks other than the default task of the data. The first is the default task of the model; the others are
# trained on one data set only.
CODING = ("variational", "reconstruction")
MADE_FOR = {"vae": CODING, "conv_vae": CODING, "autoencoder": CODING[::-1], "conv_autoencoder": CODING[::-1]}
MADE_FOR |= dict.fromkeys(("unet", "fcn", "deeplabv3"), ("segmentation",))
MADE_FOR |= {"gan": ("adversarial",), "dcgan": ("adversarial",)}
MADE_FOR |= dict.fromkeys(DETECTORS, ("detection",))
MADE_FOR |= {"bag_of_words": ("classification", "regression")}
MADE_FOR |= {"rbm": ("contrastive_divergence",), "dbn": ("layerwise",)}
WITH_SENTINELS = {
    "parallel": ["data.shared_vocabulary=true", "data.sentinels=10"],
    "summaries": [],
    "text_to_text": [],
}
# Tasks that write a text, and the data with which the last three are trained.
WRITING = {
    "translation": "",
    "summarization": "summaries",
    "text_to_text": "text_to_text",
    "span_corruption": "summaries",
}
TASKS = {
    **{name: {"classification"} for name in IMAGES},
    **{name: {"segmentation"} for name in MASKED},
    "detection_folder": {"detection"},
    **{name: {"classification"} for name in CLIPS},
    "gates": {"classification"},
    "ring": {"classification"},
    "timeseries": {"forecasting"},
    "midi_events": {"language_modeling"},
    **{name: {"polyphony"} for name in ROLLS},
    "text": {"language_modeling", "masked_language_modeling"},
    "csv": {"classification", "regression"},
    "conll": {"tagging"},
    "squad": {"question_answering", "masked_language_modeling"},
    "sentence_pairs": {"masked_language_modeling"},
    "text_pairs": {"classification", "regression", "masked_language_modeling"},
    "text_table": {"classification", "regression", "masked_language_modeling"},
    **{name: {*WRITING} for name in WITH_SENTINELS},
    **{name: {*WRITING} - {"span_corruption"} for name in ("reversal", "random_pairs")},
    "speech": {"classification", "ctc"},
    "adding_problem": {"regression"},
    "copy_memory": {"language_modeling"},
}
TRIPLES = list(itertools.product(OPTIONS["model"], OPTIONS["data"], OPTIONS["task"]))
SENSIBLE = [t for t in TRIPLES if t[1] in FITS.get(t[0], ()) and t[2] in MADE_FOR.get(t[0], TASKS.get(t[1], ()))]
# A gpt reads earlier tokens only, a bert reads all.
SENSIBLE = [t for t in SENSIBLE if "gpt" not in t[0] or t[2] != "masked_language_modeling"]
SENSIBLE = [t for t in SENSIBLE if "bert" not in t[0] or t[2] != "language_modeling"]
WITH_MASK = {"text": ["data.special_tokens=true"], "text_table": ["data.special_tokens=true"]}
SPECIAL = {"masked_language_modeling": WITH_MASK, "span_corruption": WITH_SENTINELS}
TRAINED = [t for t in SENSIBLE if t[1] == "digits" or t[2] in MADE_FOR.get(t[0], (t[2],))[:1]]
TRAINED = [t for t in TRAINED if WRITING.get(t[2], "") in ("", t[1])]
# The perceptron rule trains a single layer, so it is tested only with the perceptron, on all classification data.
RULE = [(m, d, "perceptron_rule") for m, d, t in SENSIBLE if t == "classification"]
TRAINED += [t for t in RULE if t[0] == "perceptron"]
INCOMPATIBLE = set(TRIPLES) - {*SENSIBLE, *RULE}
SUPERVISED = {"classification", "segmentation", "regression", "forecasting", "language_modeling", "translation"}
SUPERVISED |= {"question_answering", "tagging", "masked_language_modeling", "polyphony"}


def covering(triples: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return a small subset with every model, every task and every data set: each adds as many of them as possible."""
    left = sorted(triples, key=lambda triple: triple[1] != "npz")  # the fewest images
    seen, found = set[str](), list[tuple[str, str, str]]()
    while best := max(left, key=lambda triple: len(set(triple) - seen), default=None):
        if not set(best) - seen:
            break
        seen |= set(best)
        found.append(best)
    return found


COVERING = covering([triple for triple in TRAINED if triple[0] not in LARGER])
# Combinations that draw images: the first of each task. Drawing takes most of the time of a run of two steps.
DRAWN = set({task: (model, data, task) for model, data, task in reversed(COVERING)}.values())
SCHEDULES = sorted(file.stem for file in (CONF / "optimizer" / "schedule").glob("*.yaml"))
SETTINGS = [f"{group}={name}" for group in ("optimizer", "regularization") for name in OPTIONS[group]]
SETTINGS += [f"optimizer/schedule={name}" for name in SCHEDULES]
# Every setting is tested with one of these combinations.
CASES = [t for t in COVERING if t[2] in SUPERVISED]
SETTINGS_OF = {case: SETTINGS[number :: len(CASES)] for number, case in enumerate(CASES)}
PADDED = ("inputs", "masked", "previous", "segments", "targets")  # fields whose width depends on the batch
SHARE = 24  # the default tests take every 24th incompatible combination of digits, text and timeseries
# Tasks whose loss stays above 0 even if all examples are memorized.
NEVER_ZERO = {"variational", "contrastive_divergence", "detection"}
COARSE = {"fcn", "deeplabv3"}  # their outputs, at an eighth of the size, cannot follow masks of a few pixels
SMALLER = {
    "fcos": ["model.backbone=narrow", "model.fpn_width=32", "model.num_convs=1"],
    "retinanet": ["model.backbone=narrow", "model.fpn_width=32"],
    "fasterrcnn": ["model.backbone=narrow", "model.fpn_width=32", "model.hidden_size=16"],
    "ssdlite": ["model.width_mult=0.25"],
    **{name: ["model.stem=small"] for name in OF_TORCHVISION},
    "timm": ["model.name=test_efficientnet"],
    "unet": ["model.hidden_size=[8,16]"],
    "deeplabv3": ["model.backbone=mobilenet_v3_large"],
    "shapes_detection": ["data.examples=16"],
    "tree_crowns": ["data.tile=10", "data.image_size=32"],
    "unet_brain": ["model.hidden_size=[8,16]", "data.image_size=16", "data.block=4"],
    "cnn": ["model.hidden_size=[16]"],
    "resnet9": ["model.hidden_size=[4,8,8,16]"],
    "vit": ["model.num_layers=1"],
    "fashion_mnist_vit": ["model.num_layers=1"],
    "cifar10_fast": ["model.hidden_size=[4,8,8,16]"],
    "dbn": ["model.hidden_size=[32,32]"],
    "dcgan": ["model.hidden_size=8"],
    "rbm": ["model.hidden_size=32"],
    **{
        name: ["model.hidden_size=32", "model.num_heads=2", "model.num_layers=2"]
        for name in ("bert", "bert_base", "bert_minilm")
    },
    **{
        name: ["model.hidden_size=32", "model.num_heads=2", "model.num_layers=2"]
        for name in ("gpt_nano", "gpt2", "gpt2_medium")
    },
    "gpt": ["model.hidden_size=32", "model.num_heads=2", "model.num_layers=2"],
    "seq2seq": ["model.hidden_size=32"],
    "deep_speech2": ["model.channels=4", "model.hidden_size=16", "model.num_layers=1"],
    "speech_prompts": ["model.channels=2", "model.hidden_size=8", "data.mels=16"],
    "t5": ["model.hidden_size=32", "model.num_heads=2", "model.num_layers=1"],
    "transformer_seq2seq": ["model.hidden_size=32", "model.num_heads=2", "model.num_layers=1"],
    "reverse_sequences": ["data.sequences=200"],
    "summaries": ["model.hidden_size=16", "model.num_layers=1", "data.max_words=300"],
    "transformer_memorize": ["model.hidden_size=32", "model.num_layers=1", "data.pairs=4"],
    "verses": ["model.hidden_size=16"],
    "verses_transformer": ["model.hidden_size=16"],
    "adding_problem": ["data.sequences=200"],
    "copy_memory": ["data.sequences=200"],
    "gpt_moby_dick_cpu": ["data.batch_size=2"],
    "gpt_shakespeare_cpu": ["data.batch_size=2"],
    "cifar10_cnn": ["data.batch_size=8"],
    "moving_shapes": ["data.clips=80", "data.batch_size=8"],
    "layerwise_mnist": ["data.num_labels=20"],
}
QUICK = ["trainer.max_steps=2", "trainer.log_media=false", "trainer.eval_examples=64", "device=cpu"]
RATES = {"bag_of_words": 0.1, "perceptron": 3e-2, "mlp": 1e-2, "gru": 1e-2, "lstm": 1e-2, "cnn": 1e-3}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(model: str, data: str, task: str, small_data: Callable[[str], list[str]], *more: str) -> Job:
    special = [*SPECIAL.get(task, {}).get(data, []), *(["data.stride=512"] if data == "text" else [])]
    special = [*special, *(["task.decode_examples=4"] if task in set(WRITING) - {"span_corruption"} else [])]
    return compose.compose(
        [f"model={model}", f"task={task}", *small_data(data), *special, *SMALLER.get(model, []), *more]
    )


def test_every_option_is_covered_by_these_tests() -> None:
    assert set(OPTIONS["model"]) == set(FITS)
    assert set(OPTIONS["data"]) == set(TASKS)
    assert set(OPTIONS["task"]) == set.union({"perceptron_rule"}, *TASKS.values(), *map(set, MADE_FOR.values()))


@pytest.mark.parametrize("model", ["gpt", "t5", "lstm", "unet", "vae", "dbn", "timm"])
def test_the_data_that_a_message_lists_for_a_model_are_those_with_which_it_is_trained(model: str) -> None:
    job = compose.compose([f"model={model}"])
    needed = instantiate.required_facts(job.resolved["model"], "model", job.allow)
    assert set(compatibility.matching_data(job, "model", needed).split()) == FITS[model]


def test_every_setting_is_covered_by_these_tests() -> None:
    assert sorted(itertools.chain(*SETTINGS_OF.values())) == sorted(SETTINGS)


@pytest.mark.parametrize("option", OPTIONS["device"])
def test_every_device_option_composes(option: str) -> None:
    assert compose.compose([f"device={option}"]).choices["device"] == option


def others_are_slow(default: list[tuple[str, str, str]], triples: Iterable[tuple[str, str, str]]) -> list[Any]:
    """Mark the combinations that the default tests do not train as slow."""
    return [t if t in default else pytest.param(*t, marks=pytest.mark.slow) for t in triples]


@pytest.mark.parametrize(("model", "data", "task"), others_are_slow(COVERING, TRAINED))
def test_a_compatible_combination_trains_evaluates_and_gives_the_same_metrics_after_loading(
    model: str, data: str, task: str, here: Path, small_data: Callable[[str], list[str]], own_files: dict[str, Path]
) -> None:
    more = ["trainer.max_steps=2", f"hydra.run.dir={here}/run", "device=cpu"]
    more += ["trainer.log_media=false"] if (model, data, task) in COVERING and (model, data, task) not in DRAWN else []
    more += ["data.column=price"] if task == "regression" and data != "adding_problem" else []
    more += SETTINGS_OF.get((model, data, task), [])
    job = composed(model, data, task, small_data, *more)
    outcome = launch.train(job, Console(), 0.0)
    assert outcome.state == "finished"
    result = json.loads((here / "run" / "result.json").read_text())
    again = assemble.build_components(job)
    assert result["steps"] == 2 * len(again.task.stages(again.model))
    checkpoints = Checkpoints(here / "run")
    state = checkpoints.load("best.pt")
    again.model.load_state_dict((state.get("average") or state)["model"])
    batches = dry_run.build_batches(again, again.data.load())
    real = next(iter(batches["train"]))
    example = again.task.example(vars(again.data.spec), len(real["inputs"]))
    # The task's example has the maximum length.
    padded = {name for name in PADDED if name in example and example[name].dim() > 1} if "lengths" in real else set()
    boxes = {"boxes", "kinds"}  # an example has one box per image
    assert all(real[name].dtype == value.dtype for name, value in example.items())
    assert all(real[name].shape == value.shape for name, value in example.items() if name not in padded | boxes)
    assert all(real[name].shape[2:] == value.shape[2:] for name, value in example.items() if name in boxes)
    assert all(real[name].shape[1] <= example[name].shape[1] for name in padded)
    summary = model_summary.summarize_job(job, None, None)
    assert summary.parameters == sum(p.numel() for p in again.model.parameters())
    again.task.fit_baselines(batches["train"], batches.get("val"))
    again.model.eval()
    with torch.inference_mode():
        evaluation = again.task.evaluate(again.model, batches["test"])
    assert report.finite_or_none(evaluation.metrics) == result["test"]


@pytest.mark.parametrize(
    ("model", "data", "task"),
    others_are_slow(
        list({(m, t): (m, d, t) for m, d, t in reversed(COVERING) if m not in COARSE and t != "detection"}.values()),
        [t for t in TRAINED if t[2] not in NEVER_ZERO and t[0] not in COARSE],
    ),
)
def test_one_batch_can_be_overfitted(model: str, data: str, task: str, small_data: Callable[[str], list[str]]) -> None:
    column = ["data.column=price"] if task == "regression" and data != "adding_problem" else []
    components = assemble.build_components(composed(model, data, task, small_data, "device=cpu", *column))
    whole = next(dry_run.build_batches(components, components.data.load())["train"].epoch(0))
    batch = {name: value[:3] for name, value in whole.items()}
    optimizer = torch.optim.Adam(components.model.parameters(), lr=RATES.get(model, 3e-3))
    components.model.train()
    first = last = components.task.loss(components.model, batch, 0.0).total.item()
    for _ in range(200):
        loss = components.task.loss(components.model, batch, 0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
        if last < 0.1 * first:
            break
    assert last <= 0.1 * first  # the loss of a perceptron may be 0 from the start


def incompatible_jobs(
    data: str, small_data: Callable[[str], list[str]]
) -> Iterator[tuple[Callable[[], Job], Spec, str]]:
    """Yield a function that makes the job of each incompatible combination with these data, one model of each family.

    Swapping model and task is faster than composing each.
    """
    yaml = {(group, name): node for group in ("model", "task") for name, node in compose.options(group, ()).items()}
    yaml = {key: {k: v for k, v in node.items() if k != "defaults"} for key, node in yaml.items()}
    job = compose.compose(["model=mlp", *small_data(data), *WITH_MASK.get(data, [])])
    spec = instantiate.build(job.resolved["data"], "data", job.allow).spec
    for model, task in itertools.product(OPTIONS["model"], OPTIONS["task"]):
        if (model, data, task) in INCOMPATIBLE and model not in LARGER:
            config = {**job.config, "model": yaml["model", model], "task": yaml["task", task]}
            choices = {**job.choices, "model": model, "task": task}
            yield functools.partial(Job, config, choices, job.overrides, None, None), spec, f"{model} {data} {task}"


@pytest.mark.parametrize("share", [SHARE, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "data",
    [
        data if data in ("digits", "text", "timeseries") else pytest.param(data, marks=pytest.mark.slow)
        for data in OPTIONS["data"]
    ],
)
def test_every_incompatible_combination_is_rejected_with_compatible_options(
    data: str, share: int, here: Path, small_data: Callable[[str], list[str]]
) -> None:
    jobs = list(incompatible_jobs(data, small_data))
    assert len(jobs) == sum(triple[1] == data and triple[0] not in LARGER for triple in INCOMPATIBLE)
    for make_job, spec, name in jobs[OPTIONS["data"].index(data) % share :: share]:
        job = make_job()
        with pytest.raises(ConfigError) as caught:
            assemble.build_model(job, assemble.build_task(job, spec)[1])
        message = "\n".join(caught.value.problems)
        chosen = [f"{group}={option} " for group, option in zip(("model", "data", "task"), name.split(), strict=True)]
        if (
            "use another model" not in message and "special_tokens" not in message and "sentinels" not in message
        ):  # a GPT for text classification: only the model is wrong
            assert sum(choice in message for choice in chosen) >= 2, message
            assert "Data that fit" in message or "Use task=" in message or "Use a task" in message, message
    assert not (here / "outputs").exists()


@pytest.mark.parametrize("option", OPTIONS["augment"])
def test_every_augmentation_trains(option: str, here: Path, small_data: Callable[[str], list[str]]) -> None:
    small = ["model.blocks=[{channels: 4}]", *QUICK]
    job = composed("cnn", "npz", "classification", small_data, f"augment={option}", *small)
    outcome = launch.train(job, Console(), 0.0)
    assert outcome.state == "finished"


# Experiments that take several seconds even at a small size; others train the same kind of model on the same data.
LONG = {"gpt_moby_dick_cpu", "shapes_detection", "layerwise_mnist", "moving_shapes", "cifar10_resnet20"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in OPTIONS["experiment"]]
)
def test_every_experiment_runs(name: str, here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLTRAIN_DATA", str(data_root))
    job = compose.compose([f"experiment={name}", *QUICK, *SMALLER.get(name, [])])
    assert launch.train(job, Console(), 0.0).exit_code == 0


def test_every_key_of_regularization_is_used() -> None:
    keys = set(OmegaConf.load(CONF / "regularization" / "none.yaml"))
    written = "".join(file.read_text() for file in CONF.rglob("*.yaml"))
    code = "".join(
        (PACKAGE / name).read_text() for name in ("runs/session.py", "optim/regularization.py", "runs/assemble.py")
    )
    for key in keys:
        assert f"${{regularization.{key}}}" in written or f'"{key}"' in code or f"    {key}: " in code, key
