"""Import rules: which packages a package may import, and where each library may be used."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dltrain"
FILES = sorted(PACKAGE.rglob("*.py"))

# Layers from the lowest to the highest. A package may import only packages in lower layers.
LAYERS = [
    ["redaction"],
    ["errors", "keyed_random"],
    ["metrics", "plots", "profiling"],
    ["config", "storage", "data", "models", "tasks"],
    ["datasets", "optim", "loggers"],
    ["training"],
    ["runs"],
    ["sweeps"],
    ["cli"],
]
LAYER = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
# Packages and modules that must not import torch, so that errors before training are reported quickly.
LIGHT = [
    "redaction",
    "errors",
    "config",
    "cli",
    "sweeps",
    "runs/job",
    "runs/overridable",
    "runs/provenance",
    "runs/index",
]
LIGHT += ["storage/run_dir", "storage/folder_checks", "storage/run_files", "storage/safe_read", "storage/atomic"]
LIGHT += ["training/signals"]
LIGHT += ["loggers/console"]


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imported(file: Path, top_only: bool = False) -> frozenset[str]:
    """Return all modules that a file imports, anywhere or only at its top level."""
    tree = ast.parse(file.read_text())
    found = set[str]()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "dltrain" else names | {node.module}
    return frozenset(found)


def own_packages(file: Path) -> set[str]:
    """Return the packages of dltrain that a file imports."""
    return {name.split(".")[1] for name in imported(file) if name.startswith("dltrain.") and "__" not in name}


def importers_of(library: str) -> set[str]:
    names = {str(f.relative_to(PACKAGE)): imported(f) for f in FILES}
    return {name for name, modules in names.items() if any(m.split(".")[0] == library for m in modules)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_only_packages_of_lower_layers(file: Path) -> None:
    package = package_of(file)
    if package.startswith("__"):
        return  # __init__.py and __main__.py belong to no layer
    for other in own_packages(file) - {package}:
        assert LAYER[other] < LAYER[package], f"{package} may not import {other}"


def test_every_package_belongs_to_a_layer() -> None:
    assert {package_of(file) for file in FILES} - {"__init__", "__main__"} == set(LAYER)


def test_the_documentation_lists_the_same_layers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| \d", line)]
    assert [re.findall(r"`(\w+)`", row) for row in rows] == LAYERS


def test_no_two_modules_import_each_other_at_their_top_level() -> None:
    def name(file: Path) -> str:
        return "dltrain." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)

    edges = {name(file): imported(file, top_only=True) for file in FILES}
    pairs = [(a, b) for a in edges for b in edges[a] if a < b and a in edges.get(b, ())]
    assert not pairs


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        (
            "hydra",
            {"cli/hydra_flags.py", *(f"config/{name}.py" for name in ("compose", "composer", "overrides", "revise"))},
        ),
        (
            "omegaconf",
            {
                "cli/hydra_flags.py",
                *(f"config/{name}.py" for name in ("compose", "composer", "interpolation", "revise")),
            },
        ),
        ("rich", {"loggers/screen.py"}),
        ("tensorboard", {"loggers/tracker.py"}),
        (
            "matplotlib",
            {
                f"plots/{name}.py"
                for name in ("figures", "charts", "attention", "distance", "spectrogram", "piano_rolls")
            },
        ),
        ("soundfile", {"datasets/audio_files.py"}),
        ("scipy", {"datasets/audio_files.py"}),
        ("jiwer", {"metrics/error_rates.py"}),
        ("timm", {"models/timm_networks.py"}),
        (
            "torchvision",
            {
                "datasets/download.py",
                "datasets/cifar10.py",
                "datasets/pretrained.py",
                "models/video_resnet.py",
                "models/torchvision_networks.py",
                "models/vision_transformer.py",
                "models/segmenters.py",
                *(f"models/{name}.py" for name in ("detectors", "detection_backbones", "fcos", "retinanet")),
                *(f"models/{name}.py" for name in ("ssdlite", "faster_rcnn")),
            },
        ),
    ],
)
def test_each_library_is_imported_only_by_the_modules_listed_for_it(library: str, allowed: set[str]) -> None:
    assert importers_of(library) <= allowed


def test_modules_that_report_errors_before_training_do_not_import_torch() -> None:
    files = [file for name in LIGHT for file in (PACKAGE / name).glob("*.py")]
    files += [file for name in LIGHT if (file := PACKAGE / f"{name}.py").is_file()]
    names = ["dltrain." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "tensorboard", "matplotlib", "pandas"} & set(completed.stdout.split())


def test_matplotlib_is_imported_only_within_functions() -> None:
    for file in FILES:
        assert "matplotlib" not in {name.split(".")[0] for name in imported(file, top_only=True)}, file


def test_pyplot_is_never_imported() -> None:
    for file in FILES:
        assert not re.search(r"^\s*(import|from)\b.*\bpyplot\b", file.read_text("utf-8"), re.MULTILINE), file


@pytest.mark.slow
def test_importing_all_modules_does_not_import_matplotlib() -> None:
    names = ["dltrain." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in FILES]
    names = [name for name in names if not name.endswith("__")]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert {"torch", "dltrain.plots.charts"} <= set(completed.stdout.split())
    assert "matplotlib" not in completed.stdout.split()


def test_packages_have_empty_init_files() -> None:
    for file in PACKAGE.glob("*/__init__.py"):
        assert not file.read_text()


def test_the_training_package_does_not_import_config_models_or_datasets() -> None:
    for file in (PACKAGE / "training").glob("*.py"):
        assert not own_packages(file) & {"config", "models", "datasets"}
