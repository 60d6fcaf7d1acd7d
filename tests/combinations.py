"""Combinations of models, data and tasks that fit together, and overrides for small models and data."""

import itertools
from collections.abc import Callable

from dltrain.config import compose, groups
from dltrain.config.compose import Job

CONF = groups.conf_dir()
OPTIONS = {group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in CONF.iterdir() if group.is_dir()}

# `FITS` names the data that fit each model. Models must be added to `FITS`, data to `TASKS`, and tasks to `TASKS` or
# `MADE_FOR`, or `test_every_option_is_covered_by_these_tests` fails.
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
    "airbench": IMAGES,
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
# Families of similar models; `COVERING` contains only the first model of each.
OF_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet", "googlenet", "inception_v3")
OF_TORCHVISION += ("vgg11", "vgg13", "vgg16", "vgg19")
FAMILIES = [(*OF_TORCHVISION, "timm")]
FAMILIES += [("gpt", "gpt_nano", "gpt2", "gpt2_medium")]
FAMILIES += [("bert", "bert_base", "bert_minilm")]
FAMILIES += [("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")]
FAMILIES += [("deeplabv3", "fcn")]
LARGER = {name for family in FAMILIES for name in family[1:]}
LARGER |= {"r3d_18", "r2plus1d_18"}  # cnn_lstm covers their data; see tests/models/test_video.py
# The tasks of specialized models, the default task first. Tests train the other tasks on digits or not at all.
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
# Sequence-to-sequence task -> the data set on which tests train it; "" for every data set that fits the task.
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
# A GPT reads only earlier tokens, a BERT reads all tokens.
SENSIBLE = [t for t in SENSIBLE if "gpt" not in t[0] or t[2] != "masked_language_modeling"]
SENSIBLE = [t for t in SENSIBLE if "bert" not in t[0] or t[2] != "language_modeling"]
WITH_MASK = {"text": ["data.special_tokens=true"], "text_table": ["data.special_tokens=true"]}
SPECIAL = {"masked_language_modeling": WITH_MASK, "span_corruption": WITH_SENTINELS}
TRAINED = [t for t in SENSIBLE if t[1] == "digits" or t[2] in MADE_FOR.get(t[0], (t[2],))[:1]]
TRAINED = [t for t in TRAINED if WRITING.get(t[2], "") in ("", t[1])]
# The perceptron rule trains a single layer, so it is tested only with the perceptron, on classification data.
RULE = [(m, d, "perceptron_rule") for m, d, t in SENSIBLE if t == "classification"]
TRAINED += [t for t in RULE if t[0] == "perceptron"]
INCOMPATIBLE = set(TRIPLES) - {*SENSIBLE, *RULE}
SUPERVISED = {"classification", "segmentation", "regression", "forecasting", "language_modeling", "translation"}
SUPERVISED |= {"question_answering", "tagging", "masked_language_modeling", "polyphony"}


def covering(triples: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return a small subset, chosen greedily, that contains every model, data set and task."""
    left = sorted(triples, key=lambda triple: triple[1] != "npz")  # prefer npz, which has few and small images
    seen, found = set[str](), list[tuple[str, str, str]]()
    while best := max(left, key=lambda triple: len(set(triple) - seen), default=None):
        if not set(best) - seen:
            break
        seen |= set(best)
        found.append(best)
    return found


COVERING = covering([triple for triple in TRAINED if triple[0] not in LARGER])
# The first combination of each task. The others in `COVERING` log no images, because drawing takes most of the time of
# a short run.
DRAWN = set({task: (model, data, task) for model, data, task in reversed(COVERING)}.values())
SCHEDULES = sorted(file.stem for file in (CONF / "optimizer" / "schedule").glob("*.yaml"))
SETTINGS = [f"{group}={name}" for group in ("optimizer", "regularization") for name in OPTIONS[group]]
SETTINGS += [f"optimizer/schedule={name}" for name in SCHEDULES]
# Every setting is tested with one of these combinations.
CASES = [t for t in COVERING if t[2] in SUPERVISED]
SETTINGS_OF = {case: SETTINGS[number :: len(CASES)] for number, case in enumerate(CASES)}
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
    "airbench": ["model.hidden_size=[24,24,24]", "model.logit_scale=1"],
    "vit": ["model.num_layers=1"],
    "fashion_mnist_vit": ["model.num_layers=1"],
    "cifar10_fast": ["model.hidden_size=[24,24,24]", "data.batch_size=8"],
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
    "reverse_sequences": ["data.sequences=200", "task.decode_examples=4"],
    "summaries": [
        "model.hidden_size=16",
        "model.num_layers=1",
        "data.max_words=300",
        "data.max_length=32",
        "task.decode_examples=4",
    ],
    "transformer_memorize": ["model.hidden_size=32", "model.num_layers=1", "data.pairs=4"],
    "verses": ["model.hidden_size=16", "task.decode_examples=4"],
    "verses_transformer": ["model.hidden_size=16", "model.num_layers=1", "task.decode_examples=4"],
    "adding_problem": ["data.sequences=200"],
    "copy_memory": ["data.sequences=200"],
    "gpt_moby_dick_cpu": ["data.batch_size=2"],
    "gpt_shakespeare_cpu": ["data.batch_size=2"],
    "cifar10_cnn": ["data.batch_size=8", "model.hidden_size=[16]"],
    "dcgan_fashion_mnist": ["model.hidden_size=8", "data.batch_size=8"],
    "fashion_mnist_cnn": ["data.batch_size=8"],
    "mlp_mnist": ["model.hidden_size=32"],
    "rbm_mnist": ["model.hidden_size=32"],
    "shapes_segmentation": ["model.hidden_size=[8,16]", "data.examples=32", "data.batch_size=8"],
    "moving_shapes": ["data.clips=80", "data.batch_size=8"],
    "layerwise_mnist": ["data.num_labels=20"],
}
QUICK = ["trainer.max_steps=2", "trainer.log_media=false", "trainer.eval_examples=64", "device=cpu"]


def compose_small(model: str, data: str, task: str, small_data: Callable[[str], list[str]], *more: str) -> Job:
    """Compose a combination with a small model and small data; `more` are overrides."""
    special = [*SPECIAL.get(task, {}).get(data, []), *(["data.stride=512"] if data == "text" else [])]
    special = [*special, *(["task.decode_examples=4"] if task in set(WRITING) - {"span_corruption"} else [])]
    return compose.compose(
        [f"model={model}", f"task={task}", *small_data(data), *special, *SMALLER.get(model, []), *more]
    )
