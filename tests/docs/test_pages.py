"""README and docs: links and names of tests exist, and generated or copied parts are up to date."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_points_to_an_existing_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_code_in_extending_equals_the_files_of_the_examples() -> None:
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    files = [*(ROOT / "examples").glob("my_*.py"), *(ROOT / "examples" / "conf").rglob("*.yaml")]
    assert len(files) == 8
    for file in files:
        assert file.read_text("utf-8").rstrip() in page, file.name


def test_each_test_in_the_table_of_faults_exists() -> None:
    folder = ROOT / "tests" / "faults"
    rows = re.findall(r"^\| \d.*\| (.*) \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert rows
    for entry in re.sub(r" \(.*?\)|; also [^;]*", "", "; ".join(rows)).split("; "):
        file, _, parts = entry.partition(": ")
        names = " ".join(re.findall(r"^def (test_\w+)", (folder / f"{file}.py").read_text("utf-8"), re.MULTILINE))
        assert all(part in ("", "all") or part in names for part in parts.split(", ")), entry


def test_the_configuration_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text("utf-8") == module.page(), "run make docs"
