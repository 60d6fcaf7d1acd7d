"""A local HTTP file server that can truncate or delay its responses and counts the downloads."""

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

SIZES = {"train": 60, "t10k": 20}


def mnist() -> dict[str, bytes]:
    """Return the contents of the four files of a small MNIST with random pixels, by file name."""
    generator, files = np.random.default_rng(0), {}
    for part, count in SIZES.items():
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(
            struct.pack(">2I", 0x801, count) + bytes(range(10)) * (count // 10)
        )
    return files


def archive(*members: tarfile.TarInfo) -> bytes:
    """Return a gzip-compressed tar archive; each regular file in it contains its own name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            content = member.name.encode() if member.isfile() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Mirror:
    """Files of a server, the faults of its responses, and the number of downloads of each file."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.requests = files, Counter[str]()
        self.truncated: set[str] = set()  # files of which only the first half is sent
        self.pause = 0.0  # seconds to wait after the first half of every file
        self.url = ""

    def respond(self, request: http.server.BaseHTTPRequestHandler, body: bool) -> None:
        """Send the file that a request names, or only its headers."""
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
        self.requests[name] += 1
        request.wfile.write(content[: len(content) // 2])
        request.wfile.flush()
        time.sleep(self.pause)
        if name not in self.truncated:
            request.wfile.write(content[len(content) // 2 :])


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Mirror]:
    """Serve files within a ``with`` block."""
    mirror = Mirror(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # To resolve redirects, torchvision sends GET with a header Method: HEAD and reads no body.
            mirror.respond(self, body=self.headers.get("Method") != "HEAD")

        def log_message(self, format: str, *args: object) -> None:
            """Do not log requests."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
