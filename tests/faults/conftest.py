"""Fixtures that run `dltrain` in child processes."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import TIMEOUT_S, Child, Gate, ServerClient
from recipes import recipe


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerClient]:
    """Return a client of a fork server that serves all tests of this process."""
    found = ServerClient(tmp_path_factory.mktemp("server"))
    yield found
    found.close()


@pytest.fixture
def start(server: ServerClient, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Return a function that starts `dltrain` with arguments, by default in `tmp_path`."""
    begun: list[Child] = []

    def start(*argv: str, cwd: Path | None = None, **more: Any) -> Child:
        begun.append(server.start(list(argv), cwd or tmp_path, **more))
        return begun[-1]

    yield start
    for child in begun:
        if not child.ended.is_set():
            child.kill()


@pytest.fixture
def dltrain(start: Callable[..., Child]) -> Callable[..., Child]:
    """Return a function that runs `dltrain` with arguments and waits for its end."""
    return lambda *argv, timeout=TIMEOUT_S, **more: start(*argv, **more).wait(timeout)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(scope="session")
def uninterrupted_run(
    server: ServerClient, tmp_path_factory: pytest.TempPathFactory, data_root: Path
) -> Callable[[str], Path]:
    """Return a function that trains a kind of run in `recipes.py` without interruption and returns the run folder."""

    @functools.cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        path = folder / "run"
        child = server.start([*recipe(kind, data_root), f"hydra.run.dir={path}"], folder).wait()
        assert child.code == 0, child.stderr
        return path

    return run
