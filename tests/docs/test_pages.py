"""README and docs: links lead somewhere, commands are valid, and what is generated or copied is up to date."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from dltrain.cli import args
from dltrain.config import compose

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
COMMANDS = [
    pytest.param(line, id=f"{page.stem}: {line[:60]}")
    for page in PAGES
    for found in re.findall(r"^    (dltrain .*)$", page.read_text("utf-8"), re.MULTILINE)
    if not found.startswith("dltrain: ") and "…" not in found
    for line in [found.split(" # ")[0].split("  #")[0].strip()]
]
WRONG = "modle=lstm"  # the example of a wrong command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_composes_or_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    words = shlex.split(line)[1:]
    found = args.parse(words)
    if found.verb in ("train", "summary") and WRONG not in words and not any("shell-completion" in w for w in words):
        folders = tuple("conf" if name == "my_conf" else name for name in found.config_dir)
        overrides = [word.replace("model=mean", "model=moving_average") for word in found.overrides]
        assert compose.expand(overrides, folders, sweep=getattr(found, "multirun", False))


def test_extending_shows_the_files_of_the_examples() -> None:
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    files = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "conf").rglob("*.yaml")]
    assert len(files) == 8
    for file in files:
        assert file.read_text("utf-8").rstrip() in page, file.name


def test_configuration_is_generated_from_the_yaml_files() -> None:
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text("utf-8") == module.page(), "run make docs"
