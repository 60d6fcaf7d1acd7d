"""Truncated and interrupted downloads, and malicious archives.

Rows refer to the table of faults in tests/faults/README.md.

| row | tests |
| --- | --- |
| 45 | the tests of downloads |
| 46 | the tests of archives, arrays and pickled files |
"""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mirror import Mirror, archive, md5, mnist, serve
from torchvision import datasets

from dltrain.datasets.cifar10 import CIFAR10
from dltrain.datasets.mnist import MNIST
from dltrain.datasets.npz import Npz
from dltrain.errors import ConfigError

# Download from a mirror in a child process: argv is the root, the mirror, and the names and hashes of the archives.
DOWNLOAD = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore SIGINT
from torchvision import datasets
from dltrain.datasets.mnist import MNIST
root, url, resources = sys.argv[1:]
datasets.MNIST.mirrors, datasets.MNIST.resources = [url], json.loads(resources)
print(len(MNIST(root=root, download=True).load().test))
"""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serve a small MNIST on this machine and let torchvision download from there."""
    with serve(mnist()) as found:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [found.url])
        monkeypatch.setattr(datasets.MNIST, "resources", [(name, md5(c)) for name, c in found.files.items()])
        yield found


def download(root: Path, mirror: Mirror) -> subprocess.Popen:
    call = [sys.executable, "-c", DOWNLOAD, str(root), mirror.url, json.dumps(datasets.MNIST.resources)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files_in(root: Path) -> list[str]:
    """Return the files and folders in a folder, except lock files."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.suffix != ".lock")


def test_a_truncated_download_leaves_no_files_and_the_next_one_succeeds(mirror: Mirror, tmp_path: Path) -> None:
    mirror.truncated = {"t10k-images-idx3-ubyte.gz"}  # the other three are complete
    with pytest.raises(ConfigError, match=r"data\.download"):
        MNIST(root=str(tmp_path), download=True).load()
    assert files_in(tmp_path) == []
    mirror.truncated = set()
    splits = MNIST(root=str(tmp_path), download=True).load()
    assert (len(splits.train), len(splits.test)) == (54, 20)
    requests = mirror.requests.copy()
    MNIST(root=str(tmp_path), download=True).load()
    assert mirror.requests == requests


@pytest.mark.faults
def test_a_download_succeeds_after_a_killed_download(mirror: Mirror, tmp_path: Path) -> None:
    mirror.pause = 30
    process = download(tmp_path, mirror)
    while not mirror.requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "MNIST").exists()
    mirror.pause = 0
    assert len(MNIST(root=str(tmp_path), download=True).load().test) == 20
    assert {Path(name).parts[0] for name in files_in(tmp_path)} == {"MNIST"}


@pytest.mark.faults
def test_an_interrupted_download_leaves_no_files(mirror: Mirror, tmp_path: Path) -> None:
    mirror.pause = 30
    process = download(tmp_path, mirror)
    while not mirror.requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert files_in(tmp_path) == []


def test_a_truncated_data_file_is_downloaded_again(mirror: Mirror, tmp_path: Path) -> None:
    MNIST(root=str(tmp_path), download=True).load()
    damaged = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:1000])
    with pytest.raises(ConfigError, match=r"data\.download=true downloads it again"):
        MNIST(root=str(tmp_path)).load()
    MNIST(root=str(tmp_path), download=True).load()
    assert damaged.read_bytes() == whole


def test_a_download_with_a_wrong_hash_is_rejected_before_it_is_unpacked(mirror: Mirror, tmp_path: Path) -> None:
    bomb = zip_bomb(tmp_path / "bomb.gz")
    mirror.files["train-images-idx3-ubyte.gz"] = bomb
    with pytest.raises(ConfigError, match=r"data\.download.*corrupted"):
        MNIST(root=str(tmp_path / "root"), download=True).load()
    assert files_in(tmp_path / "root") == []


def zip_bomb(path: Path) -> bytes:
    """Write a file of less than 1 MB that unpacks to 100 MB of zeros; return its content."""
    with path.open("wb") as file:
        subprocess.run(["sh", "-c", "head -c 100000000 /dev/zero | gzip -1"], stdout=file, check=True)
    return path.read_bytes()


@pytest.mark.faults
def test_simultaneous_downloads_fetch_each_file_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.pause = 0.3
    processes = [download(tmp_path, mirror) for _ in range(3)]
    found = [process.communicate(timeout=300) for process in processes]
    assert [out.strip() for out, _ in found] == ["20"] * 3, found
    assert mirror.requests == dict.fromkeys(mirror.files, 1)


def test_without_a_network_the_error_gives_a_working_download_command(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a folder"
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(ConfigError) as caught:
        MNIST(root=str(root), download=True).load()
    message = str(caught.value)
    assert "\n" not in message and "refused" in message
    by_hand = message.split("To download by hand: ")[1].replace("http://127.0.0.1:9/", mirror.url)
    subprocess.run(["sh", "-c", by_hand], check=True, capture_output=True)
    assert len(MNIST(root=str(root)).load().test) == 20


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serve files from which torchvision downloads CIFAR-10."""
    with serve({}) as found:
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{found.url}cifar-10-python.tar.gz")
        yield found


def member(name: str, link: str | None = None, hard: bool = False) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    if link is not None:
        found.type, found.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, link
    return found


@pytest.mark.parametrize("trusted", [False, True], ids=["wrong hash", "right hash"])
@pytest.mark.parametrize("kind", ["parent folder", "absolute", "symbolic link", "hard link", "device"])
def test_an_archive_with_a_link_or_a_device_or_a_path_outside_its_folder_is_rejected(
    kind: str, trusted: bool, cifar: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    device = member("cifar-10-batches-py/zero")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 5
    members = {
        "parent folder": [member("../../outside/evil")],
        "absolute": [member(str(outside / "evil"))],
        "symbolic link": [member("cifar-10-batches-py", str(outside)), member("cifar-10-batches-py/evil")],
        "hard link": [member("link", str(outside / "kept"), hard=True), member("link")],
        "device": [device],
    }[kind]
    cifar.files["cifar-10-python.tar.gz"] = content = archive(*members)
    if trusted:
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(content))
    with pytest.raises(ConfigError):
        CIFAR10(root=str(root), download=True).load()
    assert [path.name for path in outside.iterdir()] == ["kept"] and (outside / "kept").read_text() == "kept"
    assert files_in(root) == []


class Bomb:
    """An object whose unpickling creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


def test_a_pickled_cifar10_file_with_a_wrong_hash_is_not_unpickled(tmp_path: Path) -> None:
    folder, canary = tmp_path / "cifar-10-batches-py", tmp_path / "canary"
    folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    (folder / "batches.meta").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(ConfigError, match=r"data\.root"):
        CIFAR10(root=str(tmp_path)).load()
    assert not canary.exists()
    pickle.loads((folder / "test_batch").read_bytes())
    assert canary.exists()  # an unsafe load runs the code


ARRAYS = {
    "x_train": np.ones((8, 3)),
    "y_train": np.arange(8) % 2,
    "x_test": np.ones((4, 3)),
    "y_test": np.arange(4) % 2,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_objects_are_rejected_and_not_unpickled(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    members = np.array([Bomb(canary)] * 8, dtype=object)
    np.savez(tmp_path / "a.npz", **{**ARRAYS, name: members})
    np.savez(tmp_path / "cifar10.npz", **{**ARRAYS, name: members})
    with pytest.raises(ConfigError, match=r"data\.path"):
        Npz(str(tmp_path / "a.npz")).load()
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10.npz").rename(tmp_path / "cifar10" / "cifar10.npz")
    with pytest.raises(ConfigError, match=r"data\.root"):
        CIFAR10(root=str(tmp_path)).load()
    assert not canary.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)[name]
    assert canary.exists()  # an unsafe load runs the code


def test_arrays_larger_than_memory_are_rejected_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as bomb:
        for name in ARRAYS:
            bomb.writestr(f"{name}.npy", bytes(16))
        bomb.filelist[2].file_size = 2**50  # the zip directory states the uncompressed sizes
    assert path.stat().st_size < 10_000
    with pytest.raises(ConfigError, match=r"1,125,900 GB uncompressed"):
        Npz(str(path))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_truncated_npz_file_is_rejected_with_its_name(part: float, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{**ARRAYS, "x_train": np.random.default_rng(0).random((8, 300))})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        Npz(str(path)).load()


def test_a_flipped_bit_in_an_npz_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{**ARRAYS, "x_train": np.random.default_rng(0).random((8, 300))})
    content = bytearray(path.read_bytes())
    content[5000] ^= 4
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="x_train"):
        Npz(str(path)).load()
