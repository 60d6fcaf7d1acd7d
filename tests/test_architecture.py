"""The import rules: who may know whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dltrain"
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """All modules a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def users_of(library: str) -> set[str]:
    names = {str(f.relative_to(PACKAGE)): imported(f) for f in FILES}
    return {name for name, modules in names.items() if any(m.split(".")[0] == library for m in modules)}


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("hydra", {"cli.py", "compose.py", "overrides.py"}),
        ("omegaconf", {"cli.py", "compose.py", "parts.py", "references.py", "session.py", "stored.py"}),
        ("rich", {"console.py"}),
        ("tensorboard", {"tracker.py"}),
        ("torchvision", {"data/fetching.py", "data/cifar10.py"}),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library: str, allowed: set[str]) -> None:
    assert users_of(library) <= allowed


@pytest.mark.parametrize("family", ["models", "data", "tasks"])
def test_models_data_and_tasks_never_import_one_another(family: str) -> None:
    others = {"models", "data", "tasks"} - {family}
    for file in (PACKAGE / family).glob("*.py"):
        for module in imported(file):
            assert not any(module.startswith(f"dltrain.{other}") for other in others), f"{file.name} imports {module}"


@pytest.mark.parametrize(
    ("family", "allowed"),
    [
        ("models", {"dltrain.models", "dltrain.errors"}),
        ("data", {"dltrain.data", "dltrain.errors"}),
        (
            "tasks",
            {"dltrain.tasks", "dltrain.errors", "dltrain.metrics", "dltrain.scores", "dltrain.draw", "dltrain.charts"},
        ),
    ],
)
def test_a_family_knows_only_its_own_and_what_serves_all(family: str, allowed: set[str]) -> None:
    for file in (PACKAGE / family).glob("*.py"):
        ours = {m for m in imported(file) if m.startswith("dltrain.")}
        strangers = {m for m in ours if not any(m == a or m.startswith(f"{a}.") for a in allowed)}
        assert not strangers, f"{file.name} imports {strangers}"


VERBS = sorted(f"verbs/{file.stem}" for file in (PACKAGE / "verbs").glob("*.py"))


def test_nothing_before_the_run_imports_torch() -> None:
    for name in (
        "cli",
        "flags",
        "streams",
        "compose",
        "overrides",
        "keys",
        "words",
        "errors",
        "console",
        "folder",
        "sweep",
        "stop",
        "stored",
        "since",
        "overview",
        *VERBS,
    ):
        top = ast.parse((PACKAGE / f"{name}.py").read_text()).body
        heads = [n for n in top if isinstance(n, ast.Import | ast.ImportFrom)]
        modules = {a.name for n in heads if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module or "" for n in heads if isinstance(n, ast.ImportFrom)}
        assert not any(m.split(".")[0] in ("torch", "torchvision") for m in modules), name
        assert not modules & {"dltrain.run", "dltrain.session", "dltrain.loop", "dltrain.build"}, name


def test_the_loop_knows_no_configuration_and_no_model() -> None:
    ours = {m.split(".")[1] for m in imported(PACKAGE / "loop.py") if m.startswith("dltrain.")}
    known = {"average", "checkpoint", "console", "data", "device", "journal", "judge"}
    assert ours <= known | {"optim", "record", "stages", "stop", "tasks", "turns"}
