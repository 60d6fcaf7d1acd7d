"""Metrics of a run: TensorBoard events and ``metrics.jsonl``."""

import json
import math
import os
import re
import socket
import time
from pathlib import Path
from typing import Any, TextIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto
from torch import Tensor

from dltrain import redaction
from dltrain.loggers.film import Film, encode_gif, encode_png, to_pil
from dltrain.storage import safe_read
from dltrain.storage.atomic import write_durable
from dltrain.storage.run_files import EVENTS, METRICS

EVENTS_TIME = re.compile(rf"{EVENTS}\.(\d{{10}})\.(\d{{9}})\.", re.ASCII)  # seconds, nanoseconds
CLIP_FRAME_MS, CLIP_LAST_FRAME_MS = 150, 700
RESERVED_NAMES = ("step", "epoch", "split", "non_finite")


class Tracker:
    """Writer of ``events.out.tfevents.*`` and ``metrics.jsonl`` in a folder, unbuffered.

    TensorBoard's own writer buffers events for up to two minutes and imports TensorFlow if it is installed.

    Args:
        folder: The folder, created if missing.
        purge_step: First step that a resumed run writes again. From this step on, lines of ``metrics.jsonl`` and frames
            of ``film.gif`` are removed, and TensorBoard hides the old points. None keeps them.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._started = time.time()
        self._step = purge_step or 0
        self._last: dict[str, float] = {}
        first = not any(folder.glob(f"{EVENTS}*"))
        self._lines = _open_lines(folder / METRICS, purge_step)
        logged = (folder / METRICS).read_text("utf-8").splitlines()
        self._last_logged = safe_read.parse_mapping(logged[-1]) if logged else {}
        self.film = Film(folder, purge_step)
        self._file = open(folder / _file_name(folder), "xb")  # noqa: SIM115
        self._events = RecordWriter(self._file)
        self._write(Event(wall_time=self._started, file_version="brain.Event:2"))
        # The first START event begins the run. A later one makes TensorBoard hide the points already written for
        # its step and later steps.
        if first or purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=self._started, step=purge_step or 0, session_log=start))

    def scalars(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
        """Log values of one step: one TensorBoard event and one JSON line.

        Args:
            step: Optimizer steps so far, the x axis of every curve.
            epoch: Epochs so far, fractional; also logged as a separate curve for the training split.
            split: ``train``, ``val`` or ``test``.
            values: Name -> value. The TensorBoard tag is ``<name>/<split>``; ``lr`` and names with a slash
                (``grad/norm``) are used as they are. JSON has no NaN or infinity: such a value is null, and
                ``non_finite`` contains it as a string.

        Raises:
            ValueError: A name is one of the JSON line's own keys, `RESERVED_NAMES`.
        """
        if not values.keys().isdisjoint(RESERVED_NAMES):
            reserved, got = ", ".join(RESERVED_NAMES), ", ".join(values)
            raise ValueError(f"expected names other than {reserved} for logged values, got {got}")
        line: dict[str, Any] = {"step": step, "epoch": epoch, "split": split}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        if non_finite := {name: str(value) for name, value in values.items() if not math.isfinite(value)}:
            line["non_finite"] = non_finite
        text = json.dumps(line, allow_nan=False)
        curves = {n if "/" in n or n == "lr" else f"{n}/{split}": value for n, value in values.items()}
        if split == "train":
            curves["epoch"] = epoch
        self._step = step
        self._last |= curves
        self._summary(step, *_points(curves))
        self._lines.write(f"{text}\n")
        self._lines.flush()

    def ends_with(self, step: int, split: str) -> bool:
        """Return whether the last line of earlier sessions has this step and split."""
        return (self._last_logged.get("step"), self._last_logged.get("split")) == (step, split)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Show Markdown in TensorBoard's Text tab."""
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        content = make_tensor_proto([redaction.redact(markdown).encode()])
        self._summary(step, Summary.Value(tag=tag, metadata=plugin, tensor=content))

    def image(self, tag: str, picture: Tensor, step: int) -> None:
        """Show a uint8 image (3, height, width) or animation (frames, 3, height, width) in the Images tab."""
        height, width = picture.shape[-2:]
        if picture.dim() == 4:
            content = encode_gif([to_pil(frame) for frame in picture], CLIP_FRAME_MS, CLIP_LAST_FRAME_MS)
        else:
            content = encode_png(picture)
        encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        self._summary(step, Summary.Value(tag=tag, image=encoded))

    def hparams(self, choices: dict[str, Any], metrics: dict[str, float], succeeded: bool = True) -> None:
        """Add the run to TensorBoard's HParams tab; call it once, at the end of the run.

        Args:
            choices: Name -> bool, int, float or str; other types and non-finite numbers are shown as text.
            metrics: Name -> final value, logged as ``best/<name>`` at the last step. A name with a slash is used as
                it is. A value that is already the last point of its curve is not logged again. Non-finite values are
                omitted.
        """
        # Importing these takes 30 ms, which would delay the start of a run.
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2
        from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS

        # No "experiment" summary: TensorBoard would hide the columns that the first run lacks.
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=self._started)
        for name, value in choices.items():
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, (int, float)) and math.isfinite(value):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = redaction.redact(str(value))
        status = STATUS_SUCCESS if succeeded else STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        started = plugin_data_pb2.HParamsPluginData(session_start_info=start)
        ended = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        final = {name if "/" in name else f"best/{name}": v for name, v in metrics.items() if math.isfinite(v)}
        final = {name: value for name, value in final.items() if self._last.get(name) != value}
        self._summary(
            self._step,
            Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=metadata.create_summary_metadata(started)),
            Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(ended)),
            *_points(final),
        )

    def sync(self) -> None:
        """Flush everything written so far to disk; thread-safe."""
        for file in (self._lines, self._file):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close both files; may be called again."""
        self._lines.close()
        self._file.close()

    def _summary(self, step: int, *values: Summary.Value) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        self._events.write(event.SerializeToString())
        self._file.flush()


def _points(curves: dict[str, float]) -> list[Summary.Value]:
    return [Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]


def _file_name(folder: Path) -> str:
    """Return a name that sorts after the names of earlier sessions, even if the clock went back.

    TensorBoard reads event files in the order of their names.
    """
    matches = (EVENTS_TIME.match(file.name) for file in folder.glob(f"{EVENTS}.*"))
    earlier = [int(match[1] + match[2]) for match in matches if match]
    now = max(time.time_ns(), *(number + 1 for number in earlier), 0)
    return f"{EVENTS}.{now // 10**9:010d}.{now % 10**9:09d}.{socket.gethostname()}.{os.getpid()}"


def _open_lines(path: Path, purge_step: int | None) -> TextIO:
    """Open ``metrics.jsonl`` for appending, after removing lines that are purged, invalid or incomplete."""
    if path.exists():
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if _keep(line, purge_step)]
        write_durable(path, b"".join(kept))
    return open(path, "a", encoding="utf-8")


def _keep(line: bytes, purge_step: int | None) -> bool:
    try:
        step = safe_read.parse_mapping(line.decode()).get("step")
    except UnicodeDecodeError:
        return False
    return type(step) is int and line.endswith(b"\n") and (purge_step is None or step < purge_step)
