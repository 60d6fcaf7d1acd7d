"""Run the documented commands, with overrides that shorten the runs.

The default tests run the quick commands of the README and every twelfth quick command of all pages. They compose the
configuration of every third slow command.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from example_files import write_recording, write_speech
from PIL import Image

from dltrain.cli import args
from dltrain.cli.main import main
from dltrain.cli.verbs import VERBS
from dltrain.config import compose

USAGES = ("Training", "PublicTest", "PrivateTest")
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRONG = "dltrain modle=lstm optimizer.lr=fast"  # the README shows its errors
# Slow commands: downloaded data sets, long evaluations, sweeps, and the examples (run by test_examples.py).
SLOW = re.compile(
    r"KINETICS|electricity|movie_reviews|sentiment|verses|"
    r"mnist|cifar10|shakespeare|moby_dick|ring_gan|^dltrain -m |--config-dir conf"
)
# For each pattern, overrides that shorten the matching commands.
SHORT = {
    "": ["trainer.max_steps=2", "trainer.epochs=null", "trainer.log_media=false", "device=cpu"],
    "midi_events": ["data.context_length=16"],
    "book.txt data.tokens=": ["data.context_length=4"],
    "gpt": ["model.num_layers=1", "model.hidden_size=16"],
    "image_masks": ["data.batch_size=5", "data.image_size=16"],
    "transformer_seq2seq": ["model.num_layers=1", "model.hidden_size=16"],
    "unet": ["model.hidden_size=[8,16]"],
    "fcos": ["model.backbone=narrow", "model.fpn_width=32"],
    "shapes_detection": ["data.examples=16"],
    "tree_crowns": ["data.tile=10", "data.image_size=32"],
    "detection_folder": ["data.batch_size=5"],
    "deeplabv3": ["model.backbone=mobilenet_v3_large"],
    "layerwise|num_labels": ["data.num_labels=20"],
    "moving_shapes": ["data.clips=80"],
    "deep_speech2|speech_prompts": ["model.channels=2", "model.hidden_size=8"],
    "reverse_sequences": ["data.sequences=40"],
    "adding_problem|copy_memory": ["data.sequences=200"],
    "video_folder": ["data.frames=4", "data.image_size=12", "data.batch_size=5"],
    "image_folder": ["data.workers=0", "data.image_size=16"],
    "ETTh1": ["data.window=24"],
    "^dltrain( model=(lstm|gru|transformer)(?!.* data=).*)?$": ["data.window=24"],
}


def commands() -> list[str]:
    """Return the distinct commands in indented lines and between backticks, without comments."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        found += re.findall(r"^    (dltrain(?: (?!: ).*)?)$", text, re.MULTILINE)
        found += [line for line in re.findall(r"`(dltrain(?: [^`]*)?)`", text) if line.split()[-1] not in VERBS]
    return list(dict.fromkeys(line.split(" #")[0].strip() for line in found))


def is_training(line: str) -> bool:
    return line.split()[1:2] == [] or (line.split()[1] not in VERBS and not re.search("--(help|cfg|shell)", line))


QUICK = [line for line in commands() if line != WRONG and not SLOW.search(line)]
LONG = [line for line in commands() if SLOW.search(line)]


@pytest.fixture
def here(
    tmp_path: Path, own_files: dict[str, Path], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Change to a folder with small versions of the files and data sets that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLTRAIN_DATA", str(data_root))
    shutil.copy(own_files["csv"], "table.csv")
    for name in ("new.csv", "other.csv"):
        Path(name).write_text("".join(Path("table.csv").read_text().splitlines(keepends=True)[:30]))
    shutil.copytree(own_files["image_folder"], "pictures")
    shutil.copytree(own_files["detection_folder"], "crossings")
    shutil.copytree(own_files["video_folder"], "clips")
    shutil.copytree(own_files["video_folder"], "new_clips")
    write_emotions(tmp_path / "emotions.csv")
    shutil.copytree(own_files["image_masks"], "scans")
    shutil.copytree(own_files["image_masks"] / "images", "new_scans")
    write_voc(own_files["image_masks"], tmp_path / "VOC2012")
    (tmp_path / "sales.csv").write_text("units\n" + "".join(f"{100 + n % 7}\n" for n in range(600)))
    days = np.datetime64("2024-01-01") + np.arange(600)
    rows = "".join(f"{day},{100 + n % 7},{int(n % 30 == 0)}\n" for n, day in enumerate(days))
    (tmp_path / "shop.csv").write_text("date,units,holiday\n" + rows)
    dates = np.datetime64("2016-07-01") + np.arange(21 * 120) * np.timedelta64(6, "h")
    for name in ("ETTh1.csv", "electricity.csv"):
        (tmp_path / name).write_text("date,OT\n" + "".join(f"{date},{n % 9}\n" for n, date in enumerate(dates)))
    (tmp_path / "book.txt").write_text(
        "It was a bright cold day in April.\nThe clocks were striking thirteen.\n\n" * 40
    )
    (tmp_path / "stories.txt").write_text("It was a bright cold day in April.<|endoftext|>" * 60)
    (tmp_path / "poems.txt").write_text("The sea is calm tonight.\nThe tide is full.\n\n" * 60)
    write_reviews(tmp_path)
    for name in ("articles.jsonl", "new_articles.jsonl"):
        shutil.copy(own_files["summaries"], name)
    shutil.copy(own_files["conll"], "names.conll")
    shutil.copy(own_files["squad"], "questions.json")
    asked = {"question": "Where does it rise?", "context": "The river rises in Rome."}
    (tmp_path / "new_questions.jsonl").write_text(json.dumps(asked) + "\n")
    rows = [("the dog sees " * (1 + n % 3), "el perro ve " * (1 + n % 3)) for n in range(40)]
    (tmp_path / "phrases.tsv").write_text("en\tes\n" + "".join(f"{source}\t{target}\n" for source, target in rows))
    for number, name in enumerate(("phrases.en", "phrases.es")):
        (tmp_path / name).write_text("".join(f"{row[number]}\n" for row in rows))
    shutil.copy(own_files["pianoroll"], "rolls.json")
    shutil.copytree(own_files["midi"], "songs")
    shutil.copy(own_files["midi"] / "00.mid", "song.mid")
    (tmp_path / "new_phrases.txt").write_text("the dog\nthe cat sees\n")
    write_speech(tmp_path, 30)
    for number in range(30):
        word = ("yes", "no", "stop")[number % 3]
        write_recording(tmp_path / "words" / word / f"{number}.wav", word, seed=number)
    write_recording(tmp_path / "new_recording.wav", "a cab")
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in re.findall(r"```\w+\n# (my_\S+)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def write_emotions(path: Path) -> None:
    rows = [f"{n % 7},{' '.join(str(n % 256) for _ in range(144))},{usage}" for n in range(70) for usage in USAGES]
    path.write_text("emotion,pixels,Usage\n" + "\n".join(rows) + "\n")


def write_voc(scans: Path, root: Path) -> None:
    """Copy images and masks into the layout of Pascal VOC."""
    shutil.copytree(scans / "masks", root / "SegmentationClass")
    (root / "JPEGImages").mkdir()
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    files = sorted((scans / "images").iterdir())
    for file in files:
        Image.open(file).save(root / "JPEGImages" / f"{file.stem}.jpg")
    for part, chosen in (("train", files[::2]), ("val", files[1::2])):
        (lists / f"{part}.txt").write_text("".join(f"{file.stem}\n" for file in chosen))


def write_reviews(folder: Path) -> None:
    rows = [(f"a {('good', 'slow')[n % 2]} film {n}", ("liked", "disliked")[n % 2], n % 5 + n / 8) for n in range(40)]
    (folder / "reviews.csv").write_text("review,label\n" + "".join(f"{text},{label}\n" for text, label, _ in rows))
    (folder / "new_reviews.csv").write_text("review\n" + "".join(f"{text}\n" for text, *_ in rows[:3]))
    (folder / "ratings.tsv").write_text("text\trating\n" + "".join(f"{text}\t{r - 2}\n" for text, _, r in rows))
    records = [json.dumps({"body": text, "stars": rating}) for text, _, rating in rows]
    (folder / "reviews.jsonl").write_text("\n".join(records) + "\n")


def kind_of_run(line: str, small_data: Callable[[str], list[str]]) -> list[str]:
    """Return arguments for `finished_run`, so that its run can replace RUN or latest in a command."""
    if "--explain" in line and "--text" in line:
        lstm = ["model=lstm", "model.hidden_size=8", "model.readout=attention"]
        return [*lstm, *small_data("text_table"), "trainer.max_steps=2"]
    if ".mid" in line:
        return ["model=gru", "model.hidden_size=8", *small_data("pianoroll"), "trainer.max_steps=2"]
    if "--explain" in line:
        return ["augmented"]
    if "lenet5" in line:
        return ["model=lenet5", *small_data("fashion_mnist"), "trainer.max_steps=2"]
    if "questions.jsonl" in line:
        small = ["model.hidden_size=16", "model.num_layers=1"]
        return ["model=bert", *small, *small_data("squad"), "trainer.max_steps=1"]
    if "Ada Lovelace" in line:
        return ["model=lstm", "model.hidden_size=8", *small_data("conll"), "trainer.max_steps=1"]
    if "<mask>" in line:
        task = ["task=masked_language_modeling", "data.special_tokens=true"]
        return ["model=transformer", *small_data("text"), *task, "trainer.max_steps=1"]
    if "articles" in line:
        return ["model=t5", "data=summaries", "data.path=articles.jsonl", "data.tokens=bpe", "trainer.max_steps=1"]
    if "model=bert" in line:
        task = ["task=masked_language_modeling", "data.special_tokens=true"]
        return ["model=bert", "data=text_table", "data.path=reviews.csv", *task, "trainer.max_steps=1"]
    if re.search("--(prompt|text) ", line) and "the cat" not in line:
        small = ["model.hidden_size=8", "model.num_heads=2", "model.num_layers=1", "data.context_length=8"]
        return ["model=gpt", "data=text", *small, "trainer.max_steps=1"]
    if "generate" in line:
        return ["model=vae", "data=digits", "trainer.max_steps=2"]
    if "features" in line:
        return ["model=mlp", *small_data("fashion_mnist"), "trainer.max_steps=2"]
    if "phrases" in line or "the cat" in line:
        return ["model=seq2seq", "model.hidden_size=8", *small_data("parallel"), "trainer.max_steps=2"]
    if "new_recording" in line:
        return ["model=gru", "model.hidden_size=8", *small_data("speech"), "trainer.max_steps=2"]
    if "reviews" in line or "--text" in line:
        return ["model=lstm", *small_data("text_table"), "trainer.max_steps=2"]
    if "crossings" in line:
        small = ["model.backbone=narrow", "model.fpn_width=32"]
        return ["model=fcos", *small, *small_data("detection_folder"), "trainer.max_steps=1"]
    if "new_clips" in line:
        return ["model=cnn_lstm", *small_data("video_folder"), "trainer.max_steps=2"]
    if "emotions" in line:
        return ["model=mlp", *small_data("pixels_csv"), "trainer.max_steps=2"]
    if "new_scans" in line:
        return ["model=unet", "model.hidden_size=[8,16]", *small_data("image_masks"), "trainer.max_steps=2"]
    if re.search(r"INPUT|new\.csv|other\.csv", line):
        return ["model=mlp", *small_data("csv"), "trainer.max_steps=2"]
    return ["forecast"] if "predict" in line else ["plain"]


# The default tests run these commands.
DEFAULT = [
    line for number, line in enumerate(QUICK) if line in (ROOT / "README.md").read_text("utf-8") or number % 12 == 0
]


@pytest.mark.parametrize(
    "line", [line if line in DEFAULT else pytest.param(line, marks=pytest.mark.slow) for line in [*QUICK, *LONG]]
)
def test_documented_commands_run(
    line: str, here: Path, finished_run: Callable[..., Path], small_data: Callable[[str], list[str]]
) -> None:
    run = "outputs/model-data/run"
    if re.search(r"\b(RUN|latest)\b", line):
        shutil.copytree(finished_run(*kind_of_run(line, small_data)), here / run)
    words = shlex.split(line.replace("RUN", run).replace("INPUT ...", "table.csv").replace("seed=S", "seed=0"))[1:]
    if is_training(line):
        words += [word for pattern, overrides in SHORT.items() if re.search(pattern, line) for word in overrides]
    elif "resume" in line:
        words.append("trainer.max_steps=25")
    assert main(words) == 0


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[] if number % 3 == 0 else [pytest.mark.slow]) for number, line in enumerate(LONG)],
)
def test_configurations_of_slow_documented_commands_can_be_composed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    found = args.parse(shlex.split(line.replace("seed=S", "seed=0"))[1:])
    assert compose.expand(found.overrides, tuple(found.config_dir), sweep=found.multirun)


def test_an_invalid_command_prints_the_errors_shown_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    shown = (ROOT / "README.md").read_text("utf-8").split(f"    {WRONG}\n")[1].split("\n\n")[0]
    assert main(shlex.split(WRONG)[1:]) == 2
    assert capsys.readouterr().err.splitlines() == [line.strip() for line in shown.splitlines()]
