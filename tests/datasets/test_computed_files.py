"""The cache of computed files: one process at a time writes a folder, and a failed computation leaves no files."""

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from dltrain.datasets import computed_files
from dltrain.datasets.computed_files import computed


def test_files_of_a_failed_computation_are_removed_before_the_lock_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path))
    remove = computed_files.shutil.rmtree
    removed = []

    def remove_locked(folder: Path, ignore_errors: bool) -> None:
        (lock,) = (tmp_path / "kind").glob("*.lock")
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        removed.append(folder)
        remove(folder, ignore_errors=ignore_errors)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(computed_files.shutil, "rmtree", remove_locked)
    with pytest.raises(KeyboardInterrupt):
        computed("kind", {"a": 1}, fail)
    assert len(removed) == 2 and not list((tmp_path / "kind").glob("*.tmp"))
    assert (computed("kind", {"a": 1}, lambda folder: None) / "manifest.json").is_file()
