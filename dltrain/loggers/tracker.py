"""What a run says about itself for later: TensorBoard events and ``metrics.jsonl``, side by side in one folder."""

import io
import json
import math
import os
import re
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG, create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from dltrain import redaction
from dltrain.loggers.film import Film
from dltrain.storage import safe_read

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents"
STAMP = re.compile(rf"{EVENTS}\.(\d{{10}})\.(\d{{9}})\.", re.ASCII)  # seconds, nanoseconds
RESERVED = ("step", "epoch", "split", "non_finite")


class Tracker:
    """Writes ``events.out.tfevents.*`` and ``metrics.jsonl`` into one folder, each call at once.

    TensorBoard's own writer is not used: it holds events back for up to two minutes, and imports TensorFlow wherever
    that is installed.

    Args:
        folder: Where to write; it is made when missing.
        purge_step: First step that will be written again by a resumed run. Lines of that step and later are
            dropped from ``metrics.jsonl``; TensorBoard hides the old points. None keeps everything.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._started = time.time()
        self._step = purge_step or 0
        self._last: dict[str, float] = {}
        first = not any(folder.glob(f"{EVENTS}*"))
        self._lines = _open_lines(folder / METRICS, purge_step)
        self._found = _last_line(folder / METRICS)
        self._film = Film(folder, purge_step)
        self._file = open(folder / _file_name(folder), "xb")  # noqa: SIM115
        self._events = RecordWriter(self._file)
        self._write(Event(wall_time=self._started, file_version="brain.Event:2"))
        # TensorBoard takes the first START as the beginning and hides later steps at every other one.
        if first or purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=self._started, step=purge_step or 0, session_log=start))

    def scalars(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
        """Log numbers of one moment: one TensorBoard event and one line of JSON.

        Args:
            step: Optimizer steps so far, the x axis of every curve.
            epoch: Epochs so far, with a fraction; TensorBoard gets it as ``epoch`` beside the train split.
            split: ``train``, ``val`` or ``test``.
            values: Name -> value. TensorBoard's tag is ``<name>/<split>``, but ``lr`` and names with a slash
                (``grad/norm``) stand for themselves. In the JSON line a value that is not finite is null, and
                ``non_finite`` says what it was: the line stays valid JSON for every reader.

        Raises:
            ValueError: When a name is one of the line's own keys.
        """
        line = _line(step, epoch, split, values)
        curves = {_tag(name, split): value for name, value in values.items()}
        if split == "train":
            curves["epoch"] = epoch
        self._step = step
        self._last |= curves
        self._summary(step, *_points(curves))
        self._lines.write(line)
        self._lines.flush()

    def ends_with(self, step: int, split: str) -> bool:
        """Whether this moment is the last that an earlier session has logged."""
        return (self._found.get("step"), self._found.get("split")) == (step, split)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Show text, read as Markdown, in TensorBoard's Text tab."""
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        content = TensorProto(dtype=DT_STRING, string_val=[redaction.redact(markdown).encode()], tensor_shape=shape)
        self._summary(step, Summary.Value(tag=tag, metadata=plugin, tensor=content))

    def image(self, tag: str, picture: Tensor, step: int) -> None:
        """Show a picture, uint8 of 3 x height x width, in TensorBoard's Images tab."""
        _, height, width = picture.shape
        file = io.BytesIO()
        Image.fromarray(picture.detach().cpu().permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
        encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
        self._summary(step, Summary.Value(tag=tag, image=encoded))

    def frame(self, picture: Tensor, step: int) -> None:
        """Add a picture, uint8 of 3 x height x width, to the film of the run."""
        self._film.add(picture, step)

    def film(self) -> None:
        """Write the film, as far as it has come."""
        self._film.write()

    def hparams(self, choices: dict[str, Any], metrics: dict[str, float], succeeded: bool = True) -> None:
        """Make the run a row of TensorBoard's HParams tab; call it once, when the run ends.

        Args:
            choices: Name -> bool, int, float or str; values of other types are shown as text.
            metrics: Name -> final value, logged as ``best/<name>`` at the last step. A name with a slash stays as it
                is, and is not logged again when it is the last point of that curve. Values that are not finite are
                left out.
            succeeded: Whether the run ended as it should.
        """
        # No "experiment" summary: TensorBoard would take the first run's and hide every column that this one lacks.
        # Without it the columns are those of all runs together.
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
            Summary.Value(tag=SESSION_START_INFO_TAG, metadata=create_summary_metadata(started)),
            Summary.Value(tag=SESSION_END_INFO_TAG, metadata=create_summary_metadata(ended)),
            *_points(final),
        )

    def sync(self) -> None:
        """Wait until everything written so far is on the disk itself; any thread may call it."""
        for file in (self._lines, self._file):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close both files; calling it again does nothing."""
        self._lines.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _summary(self, step: int, *values: Summary.Value) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        self._events.write(event.SerializeToString())
        self._file.flush()


def _tag(name: str, split: str) -> str:
    return name if "/" in name or name == "lr" else f"{name}/{split}"


def _points(curves: dict[str, float]) -> list[Summary.Value]:
    return [Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]


def _line(step: int, epoch: float, split: str, values: dict[str, float]) -> str:
    """One line of ``metrics.jsonl``."""
    if not values.keys().isdisjoint(RESERVED):
        raise ValueError(f"expected names other than {', '.join(RESERVED)} for logged values, got {', '.join(values)}")
    line: dict[str, Any] = {"step": step, "epoch": epoch, "split": split}
    lost = {}
    for name, value in values.items():
        finite = math.isfinite(value)
        line[name] = value if finite else None
        if not finite:
            lost[name] = str(value)
    if lost:
        line["non_finite"] = lost
    return json.dumps(line, allow_nan=False) + "\n"


def _file_name(folder: Path) -> str:
    """A name that sorts after those of earlier sessions, whatever the clock says: TensorBoard reads in that order."""
    stamps = (STAMP.match(file.name) for file in folder.glob(f"{EVENTS}.*"))
    earlier = [int(stamp[1] + stamp[2]) for stamp in stamps if stamp]
    now = max(time.time_ns(), *(number + 1 for number in earlier), 0)
    return f"{EVENTS}.{now // 10**9:010d}.{now % 10**9:09d}.{socket.gethostname()}.{os.getpid()}"


def _open_lines(path: Path, purge_step: int | None) -> TextIO:
    """``metrics.jsonl``, ready for the next line: without purged steps and without a last line that was cut off."""
    if path.exists():
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if _keep(line, purge_step)]
        fresh = path.with_name(f"{path.name}.new")
        with open(fresh, "wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    return open(path, "a", encoding="utf-8")


def _last_line(path: Path) -> dict[str, Any]:
    lines = path.read_text("utf-8").splitlines()
    return safe_read.parse_mapping(lines[-1]) if lines else {}


def _keep(line: bytes, purge_step: int | None) -> bool:
    try:
        step = safe_read.parse_mapping(line.decode()).get("step")
    except UnicodeDecodeError:
        return False
    return type(step) is int and line.endswith(b"\n") and (purge_step is None or step < purge_step)
