"""A server of files on this machine that breaks off or waits, and counts what it is asked for."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

PARTS = {"train": 60, "t10k": 20}


def mnist() -> dict[str, bytes]:
    """The four archives of a small MNIST."""
    random, found = np.random.default_rng(0), {}
    for part, count in PARTS.items():
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        found[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        found[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(
            struct.pack(">2I", 0x801, count) + bytes(range(10)) * (count // 10)
        )
    return found


def archive(*members: tarfile.TarInfo) -> bytes:
    """A compressed tar; a plain file in it says what it is called."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in members:
            content = member.name.encode() if member.isfile() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Mirror:
    """What is served, and how."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, Counter[str]()
        self.broken: set[str] = set()  # served by half
        self.pause = 0.0  # seconds in the middle of each
        self.url = ""

    def answer(self, request: http.server.BaseHTTPRequestHandler, body: bool) -> None:
        name = Path(request.path).name
        content = self.files.get(name)
        if content is None:
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if not body:
            return
        self.asked[name] += 1
        request.wfile.write(content[: len(content) // 2])
        request.wfile.flush()
        time.sleep(self.pause)
        if name not in self.broken:
            request.wfile.write(content[len(content) // 2 :])


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Mirror]:
    """Serve files until the test is over."""
    mirror = Mirror(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self, body=self.headers.get("Method") != "HEAD")  # torchvision asks so where a link leads

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
