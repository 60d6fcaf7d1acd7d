"""``dltrain generate``: samples of trained models, written to files."""

import contextlib
import csv
import importlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from in_process import Result
from PIL import Image, ImageSequence
from test_main import child, imported_libraries
from torch import Tensor

from dltrain.config import groups
from dltrain.datasets.digits import Digits
from dltrain.errors import OutOfMemory
from dltrain.plots import charts, grids
from dltrain.runs import generation, job
from dltrain.runs.assemble import build_components
from dltrain.runs.inference import eval_batches, restore_weights
from dltrain.tasks.base import GenerateRequest, Task
from dltrain.training import evaluation

CONF = groups.conf_dir()
SHORT = ("data=digits", "trainer.max_steps=2")
CONDITIONAL = ("model=vae", "model.conditional=true", *SHORT)


def task_of(model: str) -> type[Task] | None:
    """Return the class of the task that a model's YAML selects, or None."""
    defaults = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text()).get("defaults", [])
    names = [part[key] for part in defaults if isinstance(part, dict) for key in part if "override /task@" in key]
    if not names:
        return None
    module, _, name = yaml.safe_load((CONF / "task" / f"{names[0]}.yaml").read_text())["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


MODELS = {path.stem: task_of(path.stem) for path in sorted((CONF / "model").glob("*.yaml"))}
GENERATIVE = [name for name, task in MODELS.items() if task is not None and task.generate is not Task.generate]
# The first model of each task.
FIRST = {task: name for name, task in reversed(MODELS.items()) if name in GENERATIVE}.values()

FinishedRun = Callable[..., Path]


Generate = Callable[..., Result]


def error_line(result: Result) -> str:
    """Check that a command was rejected with exit code 2 and one error line; return the line."""
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    return line


def generated(run: Path, count: int = 64, seed: int = 0, **options: object) -> Tensor:
    """Generate examples by calling the task directly."""
    components = build_components(job.load_job(run))
    restore_weights(components, run, "best.pt")

    def train():  # type: ignore[no-untyped-def]
        return eval_batches(components, components.data.load(), "train")

    noise = torch.Generator().manual_seed(seed)
    request = GenerateRequest(count, noise, components.device.device, train=train, **options)  # type: ignore[arg-type]
    return evaluation.run_in_eval_mode(
        lambda model: components.task.generate(model, request), components.model, components.device
    ).float()


def pixels(path: Path) -> Tensor:
    """Return an image as uint8, 3 x height x width."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """Write three digits to image files; return their paths."""
    files = []
    for number, picture in enumerate(Digits().load().test.rows["pixels"][:3, 0]):
        files.append(tmp_path / f"scan{number}.png")
        Image.fromarray((picture.float() * 255 / 16).round().byte().numpy()).save(files[-1])
    return files


# RBMs and DBNs draw samples by many Gibbs steps, so use few hidden units.
NARROW = {"rbm": ["model.hidden_size=32"], "dbn": ["model.hidden_size=[32,32]"]}


def test_the_list_of_generative_models_includes_vae_and_gan_but_not_mlp_and_gpt() -> None:
    assert {"gan", "vae", "autoencoder", "rbm"} <= set(GENERATIVE)
    assert not {"mlp", "cnn", "gpt", "perceptron"} & set(GENERATIVE)


@pytest.mark.parametrize("model", GENERATIVE)
def test_the_command_and_the_task_generate_the_same_samples(
    model: str, finished_run: FinishedRun, generate: Generate
) -> None:
    run = finished_run(f"model={model}", *SHORT, *NARROW.get(model, []))
    result = generate(run, "--count", 10, "--seed", 3)
    assert result.code == 0, result.err
    assert result.out == "generated.png\n"
    assert f"{run}: best checkpoint, step " in result.err
    examples = generated(run, 10, 3)
    assert examples.shape == (10, 1, 8, 8)
    assert 0 <= float(examples.min()) < float(examples.max()) <= 1
    assert torch.equal(pixels(Path("generated.png")), grids.images(examples))
    assert generate(run, "--count", 10, "--seed", 4, "--out", "other.npy").code == 0
    other = np.load("other.npy")
    assert np.array_equal(other, generated(run, 10, 4).numpy())
    assert not np.array_equal(other, examples.numpy())


@pytest.mark.parametrize("flag", ["--interpolate", "--given", "--class"])
@pytest.mark.parametrize("model", [m if m in FIRST else pytest.param(m, marks=pytest.mark.slow) for m in GENERATIVE])
def test_each_flag_writes_a_file_or_is_rejected_with_a_one_line_error(
    model: str, flag: str, finished_run: FinishedRun, generate: Generate, scans: list[Path]
) -> None:
    words = {"--interpolate": [], "--given": scans, "--class": ["3"]}[flag]
    result = generate(finished_run(f"model={model}", *SHORT, *NARROW.get(model, [])), flag, *words)
    if result.code:
        assert flag in error_line(result)
        assert not Path("generated.png").exists()
    else:
        assert Path("generated.png").exists()


@pytest.mark.parametrize("model", ["vae", "autoencoder", "rbm"])
def test_given_images_are_shown_above_their_reconstructions(
    model: str, finished_run: FinishedRun, generate: Generate, scans: list[Path]
) -> None:
    run = finished_run(f"model={model}", *SHORT, *NARROW.get(model, []))
    data = Digits().load().test
    given = data.prepare({name: value[:3] for name, value in data.rows.items()})["inputs"]
    unit = data.rows["pixels"][:3].float() / 16
    assert generate(run, "--given", *scans, "device=cpu").code == 0
    reconstructed = generated(run, given=given)
    shown = pixels(Path("generated.png")).int()
    expected = grids.images(torch.cat([unit, reconstructed]), columns=3).int()
    # Equal except for rounding: files contain bytes, and digits have 17 gray levels.
    assert int((shown - expected).abs().max()) <= 1
    assert generate(run, "--given", *scans, "--out", "remade.npy").code == 0
    assert np.abs(np.load("remade.npy") - reconstructed.numpy()).max() < 1e-3


def test_reconstructions_are_arranged_in_rows_of_eight(
    finished_run: FinishedRun, generate: Generate, tmp_path: Path
) -> None:
    np.save(tmp_path / "many.npy", Digits().load().test.rows["pixels"][:11].numpy())
    assert generate(finished_run("model=vae", *SHORT), "--given", "many.npy", "--out", "rows.png").code == 0
    side = 56 + grids.GAP
    grid = pixels(Path("rows.png"))
    assert grid.shape == (3, 4 * side + grids.GAP, 8 * side + grids.GAP)
    white = [bool((grid[:, row * side + 2 : (row + 1) * side, 3 * side + 2 :] == 255).all()) for row in range(4)]
    assert white == [False, False, True, True]


def test_a_gif_shows_one_sample_per_frame(finished_run: FinishedRun, generate: Generate) -> None:
    run = finished_run("model=gan", *SHORT)
    assert generate(run, "--interpolate", "--count", 12, "--out", "way.GIF").code == 0
    with Image.open("way.GIF") as moving:
        shown = [page.convert("L").resize((8, 8)) for page in ImageSequence.Iterator(moving)]
    assert len(shown) == 12
    grid = generated(run, 12, interpolate=True)
    for page, picture in zip(shown, grid, strict=True):
        assert np.abs(np.array(page) / 255 - picture[0].numpy()).mean() < 0.05


def test_points_are_drawn_as_png_or_written_as_numbers(finished_run: FinishedRun, generate: Generate) -> None:
    run = finished_run("model=gan", "data=ring", "trainer.max_steps=2")
    points = generated(run, 20)
    assert points.shape == (20, 2)
    for name in ("points.png", "points.csv", "points.npy"):
        assert generate(run, "--count", 20, "--out", name).out == f"{name}\n"
    assert torch.equal(pixels(Path("points.png")), charts.scatter(points, None, (), "20 points"))
    with open("points.csv") as file:
        lines = list(csv.DictReader(file))
    assert np.array_equal(np.float32([[line["x1"], line["x2"]] for line in lines]), points.numpy())
    assert np.array_equal(np.load("points.npy"), points.numpy())
    assert "--out: expected a file ending in .png or .csv or .npy for examples of shape 2" in error_line(
        generate(run, "--out", "points.gif")
    )


@pytest.mark.parametrize(("name", "number"), [("3", 3), ("0", 0)])
def test_a_conditional_model_generates_one_class(
    name: str, number: int, finished_run: FinishedRun, generate: Generate
) -> None:
    run = finished_run(*CONDITIONAL)
    assert generate(run, "--class", name, "--count", 4, "--out", "one.npy").code == 0
    assert np.array_equal(np.load("one.npy"), generated(run, 4, label=number).numpy())


def test_a_class_can_be_selected_by_its_name(finished_run: FinishedRun, generate: Generate, data_root: Path) -> None:
    run = finished_run("model=vae", "model.conditional=true", "data=fashion_mnist", f"data.root={data_root}", SHORT[1])
    assert generate(run, "--class", "ankle boot", "--count", 4, "--out", "boots.npy").code == 0
    assert generate(run, "--class", 9, "--count", 4, "--out", "nines.npy").code == 0
    assert np.array_equal(np.load("boots.npy"), np.load("nines.npy"))
    assert "Did you mean ankle boot?" in error_line(generate(run, "--class", "ankle bot"))


def test_generate_reads_the_data_only_for_models_without_a_prior(
    finished_run: FinishedRun, generate: Generate, data_root: Path, scans: list[Path]
) -> None:
    missing_root = "data.root=/nowhere"
    for model, free in (("vae", True), ("autoencoder", False)):
        run = finished_run(f"model={model}", "data=mnist", f"data.root={data_root}", SHORT[1])
        result = generate(run, missing_root, "--out", f"{model}.png")
        assert result.code == (0 if free else 2)
        assert free or "data.path=... or data.root=... sets their location" in result.err
        assert generate(run, missing_root, "--out", f"{model}-given.png", "--given", *scans).code == 0


def test_existing_files_are_not_overwritten_without_force(finished_run: FinishedRun, generate: Generate) -> None:
    run = finished_run("model=gan", *SHORT)
    Path("generated.png").write_bytes(b"mine")
    for words in ([], ["--out", "generated.png"]):
        assert "got generated.png. It exists; --force replaces a file." in error_line(generate(run, *words))
    assert Path("generated.png").read_bytes() == b"mine"
    assert generate(run, "--force", "--count", 2).code == 0
    assert pixels(Path("generated.png")).shape[0] == 3
    Path("folder").mkdir()
    assert "--out: expected a file, got folder. It is a folder." in error_line(
        generate(run, "--force", "--out", "folder")
    )
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["folder", "generated.png"]


def test_generate_does_not_change_the_run_folder(finished_run: FinishedRun, generate: Generate) -> None:
    run = finished_run("model=vae", *SHORT)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert generate(run).code == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "generate: expected dltrain generate RUN [KEY=VALUE ...] [FLAGS], got nothing"),
        ("{run} more", "generate: expected dltrain generate RUN"),
        ("{run}s", "Did you mean {run}?"),
        ("{run} --cuont 3", "--cuont: unknown flag. Did you mean --count?"),
        ("{run} --count 0", "expected a whole number of at least 1, got 0"),
        ("{run} --seed x", "expected a whole number of at least 0, got x"),
        (
            "{run} --out a.jpg",
            "--out: expected a file ending in .png or .gif or .npy for examples of shape 1x8x8, got a.jpg",
        ),
        ("{run} --out a.jpg --class 10", "--out: expected a file ending in .png"),  # rejected before generating
        ("{run} --out no/a.png", "--out: expected a file in an existing folder, got no/a.png"),
        ("{run} --class x", "--class: expected a class name, or a number from 0 to 9, got x. The classes are 0, 1, 2"),
        ("{run} --class 10", "--class: expected a class name, or a number from 0 to 9, got 10"),
        pytest.param("{run} --class " + "1" * 5000, "--class: expected a class name, or a number", id="5000 digits"),
        ("{run} --given no.png", "INPUT 1: expected an existing file or folder, got no.png"),
        ("{run} --count 3 --given .", "--count: not supported with --given"),
        ("{run} model.hidden_size=3", "model.hidden_size: expected 400, got 3. After training, only"),
        ("{run} --checkpoint worst", "--checkpoint: expected one of best last, got worst"),
    ],
)
def test_invalid_arguments_are_rejected_with_a_one_line_error(
    words: str, line: str, finished_run: FinishedRun, generate: Generate
) -> None:
    run = finished_run("model=vae", *SHORT)
    assert line.format(run=run) in error_line(generate(*words.format(run=run).split()))
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("plain", "Classification, which generates no examples. Use dltrain predict RUN INPUT for predictions"),
        ("forecast", "Forecasting, which generates no examples. Use dltrain predict RUN INPUT"),
    ],
)
def test_a_run_whose_task_does_not_generate_is_rejected_and_predict_is_suggested(
    run: str, message: str, finished_run: FinishedRun, generate: Generate
) -> None:
    line = error_line(generate(finished_run(run)))
    assert line.startswith(f"dltrain: generate: not supported for the task {message}")
    assert not list(Path.cwd().iterdir())


def test_a_damaged_checkpoint_is_rejected_and_the_other_checkpoint_is_suggested(
    finished_run: FinishedRun, generate: Generate, tmp_path: Path
) -> None:
    run = tmp_path / "broken"
    shutil.copytree(finished_run("model=vae", *SHORT), run, symlinks=True)
    best = run / "checkpoints" / os.readlink(run / "checkpoints" / "best.pt")
    best.write_bytes(best.read_bytes()[:-9])
    result = generate(run)
    assert result.code == 5
    assert "--checkpoint last" in result.err


@pytest.mark.parametrize("words", ["generate nowhere", "generate --sed 3", "generate x --count no"])
def test_invalid_arguments_are_rejected_without_importing_torch(words: str, tmp_path: Path) -> None:
    completed = child(tmp_path, *words.split())
    assert completed.returncode == 2
    assert "torch" not in imported_libraries(completed)
    assert "Traceback" not in completed.stderr


def test_standard_output_is_only_the_path_of_the_generated_file(finished_run: FinishedRun, generate: Generate) -> None:
    run = finished_run("model=gan", *SHORT)
    result = generate(run, "--count", 9, "--out", "nine.png", "device=cpu")
    assert result == (0, "nine.png\n", f"{run}: best checkpoint, step 2: 9 examples\n")
    assert torch.equal(pixels(Path("nine.png")), grids.images(generated(run, 9)))


def test_an_empty_array_of_given_examples_is_rejected_with_a_one_line_error(
    finished_run: FinishedRun, generate: Generate
) -> None:
    np.save("none.npy", np.zeros((0, 8, 8), np.uint8))
    assert "expected at least one example in none.npy" in error_line(
        generate(finished_run(*CONDITIONAL), "--given", "none.npy")
    )


def test_out_of_memory_with_given_examples_does_not_suggest_a_smaller_count() -> None:
    expected = "All examples are reconstructed together: try fewer examples in --given"
    with pytest.raises(OutOfMemory, match=expected), generation._explain_out_of_memory(None):
        torch.empty(2**60)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Limit the address space of this process to 4 GiB more than it uses."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit memory")
def test_out_of_memory_ends_with_exit_code_4_and_suggests_a_smaller_count(
    finished_run: FinishedRun, generate: Generate
) -> None:
    run = finished_run(*CONDITIONAL)
    with little_memory():
        result = generate(run, "--count", 2**31 - 1)
    assert result.code == 4 and "Traceback" not in result.err
    assert result.err.startswith("dltrain: out of memory: ")
    assert result.err.endswith("All 2,147,483,647 examples are generated together: try a smaller --count\n")


def test_a_count_above_the_largest_32_bit_integer_is_rejected(finished_run: FinishedRun, generate: Generate) -> None:
    assert "at most 2,147,483,647" in error_line(generate(finished_run(*CONDITIONAL), "--count", "1" * 30))
