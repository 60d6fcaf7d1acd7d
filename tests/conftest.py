"""Shared fixtures: small files in the formats that dltrain reads, and finished runs."""

import contextlib
import gc
import io
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests run in parallel on few cores, where several threads per process are slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from example_files import (
    write_boxes,
    write_clips,
    write_masks,
    write_pixels,
    write_questions,
    write_rolls,
    write_songs,
    write_speech,
)
from PIL import Image

gc.disable()  # until the first test: importing and collecting tests creates many objects but no garbage
GET_FREEZE_COUNT = gc.get_freeze_count
BYTES_3D, BYTES_1D = 0x803, 0x801  # magic numbers of MNIST's idx files


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write an array of bytes in MNIST's format."""
    magic = BYTES_3D if values.ndim == 3 else BYTES_1D
    path.write_bytes(struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def number_of_frozen_modules() -> Iterator[list[int]]:
    """Yield the number of modules excluded from garbage collection, in a list of one element."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "get_freeze_count", lambda: 1)  # counting all frozen objects takes longer than training
        yield [0]
    gc.unfreeze()  # libraries report frozen objects as leaks when Python ends


@pytest.fixture(autouse=True)
def imports_are_frozen(number_of_frozen_modules: list[int]) -> None:
    """Exclude imported modules from garbage collection, which every run triggers before it trains."""
    if len(sys.modules) > number_of_frozen_modules[0] + 20:  # libraries are imported when they are first needed
        gc.collect()
        gc.freeze()
        gc.enable()
        number_of_frozen_modules[0] = len(sys.modules)


@pytest.fixture
def frozen_objects_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `gc.get_freeze_count`, which `number_of_frozen_modules` replaces."""
    monkeypatch.setattr(gc, "get_freeze_count", GET_FREEZE_COUNT)


@pytest.fixture
def nothing_is_frozen(imports_are_frozen: None, frozen_objects_are_counted: None) -> Iterator[None]:
    """Undo `imports_are_frozen` for one test."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for ``data.root`` with small artificial data sets.

    They have the formats of MNIST, Fashion-MNIST and CIFAR-10, and of the data sets that the experiments read.
    """
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 60), ("t10k", 20)):
            write_idx(raw / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28)))
            write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    (root / "cifar10").mkdir()
    pictures = {
        f"x_{p}": random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for p, n in (("train", 60), ("test", 20))
    }
    labels = {f"y_{p}": (np.arange(n) % 10).astype(np.uint8) for p, n in (("train", 60), ("test", 20))}
    np.savez(root / "cifar10" / "cifar10.npz", **pictures, **labels)
    write_masks(root / "brain", 40, (24, 20), "L")
    write_boxes(root / "trees", 12, (40, 40))
    (root / "text").mkdir()
    (root / "text" / "shakespeare.txt").write_text("To be, or not to be, that is the question.\n" * 100)
    (root / "chorales").mkdir()
    write_rolls(root / "chorales" / "jsb.json", 24, 8)
    (root / "verses").mkdir()
    (root / "verses" / "en-es.tsv").write_text("en\tes\n" + "\n".join(phrases(np.random.default_rng(0))) + "\n")
    (root / "summaries").mkdir()
    (root / "summaries" / "descriptions.jsonl").write_text("".join(map(packages, range(90))))
    write_speech(root / "speech", 36)
    (root / "sentiment").mkdir()
    (root / "sentiment" / "movies.tsv").write_text(
        "id\trating\ttext\n" + "\n".join(reviews(np.random.default_rng(0))) + "\n"
    )
    return root


def reviews(random: np.random.Generator) -> list[str]:
    """Return 200 lines, each with a number, a rating and a text of 3 to 40 words."""
    words = np.array(["the", "film", "is", "good", "bad", "slow", "funny", "not", "and", "a"])
    texts = [" ".join(words[random.integers(0, len(words), random.integers(3, 41))]) for _ in range(200)]
    ratings = [text.count("good") - text.count("bad") + random.normal() for text in texts]
    return [f"{n}\t{rating:.3f}\t{text}" for n, (rating, text) in enumerate(zip(ratings, texts, strict=True), 1)]


def packages(number: int) -> str:
    """Return a line of JSON with a text of two sentences, its summary and a kind."""
    kind, use = ("library", "tool", "game")[number % 3], ("read", "write", "sort")[number % 5 % 3]
    text = f"This {kind} can {use} files. It has {number % 7} options " + "and more " * (number % 4)
    return json.dumps({"text": text.strip() + ".", "summary": f"{kind} to {use} files", "kind": kind}) + "\n"


def phrases(random: np.random.Generator) -> list[str]:
    """Return 120 lines, each with a phrase of 1 to 12 words and its word-for-word translation."""
    words = [("the", "el"), ("dog", "perro"), ("cat", "gato"), ("sees", "ve"), ("and", "y"), ("sleeps", "duerme")]
    drawn = [[words[number] for number in random.integers(0, len(words), 1 + row % 12)] for row in range(120)]
    return ["\t".join(" ".join(side) for side in zip(*pairs, strict=True)) for pairs in drawn]


@pytest.fixture(scope="session")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a mapping from data options to paths of user files."""
    from dltrain.datasets.time_series import BUNDLED

    root, random = tmp_path_factory.mktemp("own"), np.random.default_rng(1)
    features = random.normal(size=(80, 6))
    lines = ["a,b,c,d,e,f,kind,price"]
    for row in features:
        kind = "cat" if row[0] > 0 else "dog"
        lines.append(",".join([*(f"{v:.4f}" for v in row), kind, f"{row @ np.arange(6):.4f}"]))
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    pictures = {
        f"x_{p}": random.integers(0, 256, (n, 12, 12), dtype=np.uint8) for p, n in (("train", 60), ("test", 20))
    }
    np.savez(root / "arrays.npz", **pictures, y_train=np.arange(60) % 4, y_test=np.arange(20) % 4)
    for number in range(40):
        folder = root / "pictures" / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    words = np.array(["the", "film", "is", "good", "bad", "slow", "funny", ",", ".", "and", "a"])
    lines = ["review,kind,price"]
    for number in range(80):
        words_drawn = words[random.integers(0, len(words), 1 + number % 30)]
        kind = "liked" if number % 2 else "disliked"
        lines.append(f'"{" ".join(words_drawn)} {kind}",{kind},{random.normal():.3f}')
    (root / "reviews.csv").write_text("\n".join(lines) + "\n")
    lines = ["premise\thypothesis\tkind\tprice"]
    for number in range(80):
        texts = [" ".join(words[random.integers(0, len(words), 3 + number % (8 + part))]) for part in range(2)]
        lines.append("\t".join([*texts, ("follows", "contradicts")[number % 2], f"{random.normal():.3f}"]))
    (root / "claims.tsv").write_text("\n".join(lines) + "\n")
    write_masks(root / "scans", 24, (24, 20), "RGB")
    write_boxes(root / "crossings", 24, (24, 20))
    write_clips(root / "clips", 24, 12, (24, 20))
    write_pixels(root / "emotions.csv", 12, 40, 10)
    pictures_of = {
        "pixels_csv": root / "emotions.csv",
        "video_folder": root / "clips",
        "image_folder": root / "pictures",
        "detection_folder": root / "crossings",
        "image_masks": root / "scans",
    }
    (root / "phrases.tsv").write_text("english\tspanish\n" + "\n".join(phrases(random)) + "\n")
    write_rolls(root / "rolls.json", 20, 5)
    write_songs(root / "songs", 20)
    music = {"pianoroll": root / "rolls.json", "midi": root / "songs", "midi_events": root / "songs"}
    own_speech = {"speech": write_speech(root / "speech", 40)}
    tagged = [("the", "O"), ("dog", "O"), ("Ada", "B-PER"), ("Lovelace", "I-PER"), ("sleeps", "O"), ("Rome", "B-LOC")]
    drawn = [[tagged[number] for number in random.integers(0, 6, 1 + row % 9)] for row in range(90)]
    (root / "names.conll").write_text("\n\n".join("\n".join(map(" ".join, rows)) for rows in drawn) + "\n")
    write_questions(root / "questions.json", 24)
    texts = {"text_table": root / "reviews.csv", "parallel": root / "phrases.tsv"}
    (root / "packages.jsonl").write_text("".join(map(packages, range(90))))
    texts |= {"summaries": root / "packages.jsonl", "text_to_text": root / "packages.jsonl"}
    texts |= {"text_pairs": root / "claims.tsv", "text": root / "book.txt"}
    (root / "book.txt").write_text((BUNDLED / "moby_dick.txt").read_text()[:40_000])
    texts |= {"squad": root / "questions.json", "conll": root / "names.conll"}
    return {"csv": root / "table.csv", "npz": root / "arrays.npz", **texts, **pictures_of, **music, **own_speech}


@pytest.fixture(scope="session")
def small_data(data_root: Path, own_files: dict[str, Path]) -> Callable[[str], list[str]]:
    """Return a function that takes a data option and returns overrides that select a small local version of it."""
    paths = {
        "csv": [f"data.path={own_files['csv']}", "data.column=kind", "data.batch_size=16"],
        "text_table": [f"data.path={own_files['text_table']}", "data.column=kind", "data.batch_size=16"],
        "text_pairs": [f"data.path={own_files['text_pairs']}", "data.column=kind", "data.batch_size=16"],
        "squad": [f"data.path={own_files['squad']}", "data.max_length=40", "data.max_question=8", "data.overlap=8"],
        "conll": [f"data.path={own_files['conll']}", "data.batch_size=16"],
        "sentence_pairs": ["data.max_length=24", "data.max_words=500", "data.batch_size=8"],
        "parallel": [f"data.path={own_files['parallel']}", "data.batch_size=16", "data.max_length=16"],
        "summaries": [f"data.path={own_files['summaries']}", "data.batch_size=16", "data.max_length=32"],
        "text_to_text": [
            f"data.path=[{own_files['summaries']},{own_files['summaries']}]",
            *["data.source=text", "data.target=[summary,kind]", "data.prefix=[summarize,classify]"],
            *["data.weight=[1,2]", "data.batch_size=16", "data.max_length=32"],
        ],
        "random_pairs": ["data.pairs=20", "data.steps=6", "data.vocabulary=9", "data.batch_size=8"],
        "adding_problem": ["data.sequences=200", "data.steps=6"],
        "copy_memory": ["data.sequences=200", "data.delay=3", "data.items=2"],
        "speech": [f"data.path={own_files['speech']}", "data.stack=1", "data.mels=20", "data.max_seconds=1"],
        "reversal": ["data.sequences=200", "data.steps=6", "data.symbols=5"],
        "npz": [f"data.path={own_files['npz']}", "data.batch_size=16"],
        "image_folder": [
            f"data.path={own_files['image_folder']}",
            "data.image_size=16",
            "data.workers=0",
            "data.batch_size=8",
        ],
        "image_masks": [f"data.path={own_files['image_masks']}", "data.image_size=16", "data.batch_size=5"],
        "detection_folder": [
            f"data.path={own_files['detection_folder']}",
            *["data.image_size=32", "data.batch_size=5"],
        ],
        "pixels_csv": [f"data.path={own_files['pixels_csv']}", "data.batch_size=8"],
        "video_folder": [
            f"data.path={own_files['video_folder']}",
            "data.image_size=12",
            "data.frames=4",
            "data.batch_size=5",
        ],
        "pianoroll": [f"data.path={own_files['pianoroll']}", "data.batch_size=8"],
        "midi": [f"data.path={own_files['midi']}", "data.batch_size=8", "data.steps_per_beat=2"],
        "midi_events": [f"data.path={own_files['midi_events']}", "data.batch_size=8", "data.context_length=16"],
        "moving_shapes": ["data.clips=64", "data.image_size=12", "data.frames=4", "data.batch_size=16"],
        "timeseries": ["data.window=24", "data.horizon=6", "data.series=elnino"],
        "text": [
            f"data.path={own_files['text']}",
            *["data.context_length=16", "data.batch_size=8", "data.validation=0.01", "data.test=0.01"],
        ],
        "digits": [],
        "gates": [],
        "ring": [],
        "shapes": ["data.image_size=16", "data.batch_size=64"],
    }
    return lambda name: [f"data={name}", *paths.get(name, [f"data.root={data_root}", "data.batch_size=16"])]


# Short runs of several kinds, for tests of whole run folders.
RUNS = {
    "plain": ("model=mlp", "data=digits", "trainer.epochs=1"),
    "average": ("model=mlp", "data=digits", "trainer.epochs=2", "regularization.ema_decay=0.99"),
    "augmented": (
        "model=cnn",
        "data=digits",
        "data.augment=[crop]",
        "trainer.max_steps=5",
        "model.blocks=[{channels: 4}]",
    ),
    "forecast": (
        "model=lstm",
        "model.hidden_size=8",
        "data=timeseries",
        "data.series=elnino",
        "data.window=24",
        "data.horizon=6",
        "trainer.epochs=3",
    ),
    "unvalidated": ("model=mlp", "data=digits", "trainer.max_steps=3", "data.validation=0"),
}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that takes a key of `RUNS` or overrides, trains once, and returns the run folder.

    Do not modify the folder. The file ``printed`` next to it contains the standard output of the run.
    """
    from dltrain.cli import main

    known: dict[tuple[str, ...], Path] = {}

    def once(*key: str) -> Path:
        overrides = RUNS.get(key[0], key)
        if overrides not in known:
            folder, out = tmp_path_factory.mktemp("finished") / "run", io.StringIO()
            # Drawing images takes most of the time of a short run.
            quick = [] if "trainer.log_media=true" in overrides else ["trainer.log_media=false"]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                assert main.main([*overrides, *quick, "device=cpu", f"hydra.run.dir={folder}"]) == 0
            folder.with_name("printed").write_text(out.getvalue())
            known[overrides] = folder
        return known[overrides]

    return once


@pytest.fixture(params=sorted(RUNS))
def any_run(request: pytest.FixtureRequest, finished_run: Callable[..., Path]) -> Path:
    """Return the folder of a run, for each kind in `RUNS`."""
    return finished_run(request.param)


@pytest.fixture
def plain_run(finished_run: Callable[..., Path]) -> Path:
    """Return the folder of a short run of a classifier."""
    return finished_run("plain")
