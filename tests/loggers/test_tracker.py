"""TensorBoard events, metrics.jsonl and the HParams tab."""

import io
import json
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from dltrain.loggers.tracker import Tracker


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def lines(folder):
    def reject_constant(token):
        raise AssertionError(f"{token} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=reject_constant) for line in text.splitlines()]


def hparams_tab(folder):
    """Return the rows of TensorBoard's HParams tab, computed by TensorBoard's own backend."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = Context(TBContext(data_provider=provider, multiplexer=multiplexer))
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, start_index=0, slice_size=100)
    answer = Handler(RequestContext(), context, "0", request).run()
    return {group.name: group for group in answer.session_groups}


def row(group):
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
    return values, {metric.name.tag: metric.value for metric in group.metric_values}


def test_tensorboard_reads_the_scalars_with_their_tags(tmp_path):
    with closing(Tracker(tmp_path)) as tracker:
        tracker.scalars(5, 0.5, "train", {"loss": 0.25, "lr": 0.125, "grad/norm": 2.0})
        tracker.scalars(10, 1.0, "val", {"loss": 0.5, "accuracy": 0.75, "throughput/samples_per_s": 100.0})
    read = events(tmp_path)
    found = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert found == {
        "loss/train": [(5, 0.25)],
        "lr": [(5, 0.125)],
        "grad/norm": [(5, 2.0)],
        "epoch": [(5, 0.5)],
        "loss/val": [(10, 0.5)],
        "accuracy/val": [(10, 0.75)],
        "throughput/samples_per_s": [(10, 100.0)],
    }


def test_each_call_immediately_writes_one_event_and_one_line(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.scalars(5, 0.5, "train", {"loss": 0.25, "accuracy": 0.5})
    assert lines(tmp_path) == [{"step": 5, "epoch": 0.5, "split": "train", "loss": 0.25, "accuracy": 0.5}]
    read = events(tmp_path)
    assert read.Scalars("loss/train")[0].wall_time == read.Scalars("accuracy/train")[0].wall_time
    tracker.close()
    tracker.close()


def test_non_finite_values_are_written_to_tensorboard_and_as_null_to_metrics_jsonl(tmp_path):
    with closing(Tracker(tmp_path)) as tracker:
        tracker.scalars(1, 0.1, "train", {"loss": float("nan"), "grad/norm": float("-inf"), "lr": 0.5})
    (line,) = lines(tmp_path)
    assert (line["loss"], line["grad/norm"], line["lr"]) == (None, None, 0.5)
    assert line["non_finite"] == {"loss": "nan", "grad/norm": "-inf"}
    read = events(tmp_path)
    assert np.isnan(read.Scalars("loss/train")[0].value)
    assert read.Scalars("grad/norm")[0].value == float("-inf")


def test_reserved_names_are_rejected_and_nothing_is_written(tmp_path):
    with closing(Tracker(tmp_path)) as tracker, pytest.raises(ValueError, match="expected names other than step"):
        tracker.scalars(1, 0.1, "train", {"step": 3.0})
    assert lines(tmp_path) == []
    assert events(tmp_path).Tags()["scalars"] == []


def test_images_and_texts_are_read_back_unchanged(tmp_path):
    pixels = torch.randint(0, 256, (3, 11, 17), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with closing(Tracker(tmp_path)) as tracker:
        tracker.image("confusion", pixels, step=7)
        tracker.text("config", "# Größe\n\n`a: 1`")
    read = events(tmp_path)
    (image,) = read.Images("confusion")
    decoded = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert (image.step, image.width, image.height) == (7, 17, 11)
    assert np.array_equal(decoded, pixels.permute(1, 2, 0).numpy())
    (text,) = read.Tensors("config")
    assert text.tensor_proto.string_val[0].decode() == "# Größe\n\n`a: 1`"
    assert "config" in read.PluginTagToContent("text")


def test_each_run_is_a_row_of_the_hparams_tab_with_its_final_metric(tmp_path):
    with closing(Tracker(tmp_path / "a")) as tracker:
        tracker.scalars(40, 1.0, "val", {"accuracy": 0.5})
        choices = {"model": "lstm", "lr": 0.5, "depth": 2, "bias": True, "sizes": [1, 2], "bound": float("inf")}
        tracker.hparams(choices, {"accuracy": 0.75, "f1": float("nan")})
    with closing(Tracker(tmp_path / "b")) as tracker:
        tracker.hparams({"model": "cnn", "kernel": 3}, {"mse": 0.25}, succeeded=False)
    tab = hparams_tab(tmp_path)
    assert set(tab) == {"a", "b"}
    values, metrics = row(tab["a"])
    expected = {"model": "lstm", "lr": 0.5, "depth": 2.0, "bias": True, "sizes": "[1, 2]", "bound": "inf"}
    assert values == expected
    assert values["bias"] is True
    assert metrics == {"best/accuracy": 0.75, "accuracy/val": 0.5}
    assert row(tab["b"]) == ({"model": "cnn", "kernel": 3.0}, {"best/mse": 0.25})
    statuses = {name: group.sessions[0].status for name, group in tab.items()}
    assert statuses == {"a": api_pb2.STATUS_SUCCESS, "b": api_pb2.STATUS_FAILURE}
    assert [p.name for p in (tmp_path / "a").iterdir() if p.is_dir()] == []


def test_the_final_metric_is_logged_at_the_last_step(tmp_path):
    with closing(Tracker(tmp_path)) as tracker:
        tracker.scalars(40, 1.0, "val", {"accuracy": 0.5})
        tracker.hparams({"model": "lstm"}, {"accuracy": 0.75})
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("best/accuracy")] == [(40, 0.75)]


def test_a_final_metric_already_logged_at_the_last_step_is_not_logged_twice(tmp_path):
    with closing(Tracker(tmp_path / "a")) as tracker:
        tracker.scalars(40, 1.0, "test", {"accuracy": 0.5, "loss": 2.0})
        tracker.hparams({"model": "lstm"}, {"accuracy/test": 0.5, "loss/test": 1.0})
    read = events(tmp_path / "a")
    assert [e.value for e in read.Scalars("accuracy/test")] == [0.5]
    assert row(hparams_tab(tmp_path)["a"])[1] == {"accuracy/test": 0.5, "loss/test": 1.0}


def test_a_resumed_run_leaves_no_duplicates(tmp_path):
    with closing(Tracker(tmp_path)) as tracker:
        for step in range(0, 60, 10):
            tracker.scalars(step, step / 10, "train", {"loss": 1.0})
        tracker.scalars(50, 5.0, "val", {"loss": 1.0})
    with closing(Tracker(tmp_path, purge_step=30)) as tracker:
        assert [line["step"] for line in lines(tmp_path)] == [0, 10, 20]
        tracker.scalars(30, 3.0, "train", {"loss": 2.0})
    expected = [(0, 1.0), (10, 1.0), (20, 1.0), (30, 2.0)]
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == expected
    read = events(tmp_path)
    assert [(e.step, e.value) for e in read.Scalars("loss/train")] == expected
    assert read.Scalars("loss/val") == []
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRun(str(tmp_path), "run")
    multiplexer.Reload()
    assert [e.step for e in multiplexer.Tensors("run", "loss/train")] == [0, 10, 20, 30]


def test_reopening_without_purging_keeps_everything(tmp_path):
    for split in ("val", "test"):
        with closing(Tracker(tmp_path)) as tracker:
            tracker.scalars(50, 5.0, split, {"loss": 1.0})
    assert [line["split"] for line in lines(tmp_path)] == ["val", "test"]
    read = events(tmp_path)
    assert [len(read.Scalars(tag)) for tag in ("loss/val", "loss/test")] == [1, 1]


@pytest.mark.parametrize("incomplete", ['{"step": 20, "epo', '{"step": 20, "epoch": 2}', "\0\0\0"])
def test_an_incomplete_last_line_is_dropped(tmp_path, incomplete):
    whole = '{"step": 10, "epoch": 1, "split": "train", "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + incomplete)
    with closing(Tracker(tmp_path)) as tracker:
        tracker.scalars(30, 3.0, "train", {"loss": 2.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 30]
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": "x"}',
        b'{"step": true}',
        b'{"step": 1, "a": "\xff"}',
        b"[" * 100_000,
        b'{"step": ' + b"[" * 100_000,
        b"3",
    ],
)
def test_lines_that_are_not_log_entries_are_dropped(tmp_path, damaged):
    whole = b'{"step": 10, "epoch": 1, "split": "train", "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + damaged + b"\n")
    for purge_step in (None, 20):
        with closing(Tracker(tmp_path, purge_step)) as tracker:
            assert tracker.ends_with(10, "train")
    assert [line["step"] for line in lines(tmp_path)] == [10]


@pytest.mark.parametrize("name", ["².3.x", "1.².x", f"{'9' * 200}.3.x", "٣.3.x"])
def test_files_whose_names_resemble_event_files_are_ignored(tmp_path, name):
    (tmp_path / f"events.out.tfevents.{name}").touch()
    with closing(Tracker(tmp_path, 0)) as tracker:
        tracker.scalars(1, 0.1, "train", {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_the_tracker_imports_neither_tensorflow_nor_torchvision_nor_torchs_summary_writer(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('tensorflow was imported')")
    code = (
        "import sys, pathlib, torch; from contextlib import closing; from dltrain.loggers.tracker import Tracker\n"
        "with closing(Tracker(pathlib.Path(sys.argv[1]))) as t:\n"
        "    t.scalars(1, 1.0, 'train', {'loss': 1.0}); t.text('a', 'b'); t.hparams({'a': 1}, {'b': 2.0})\n"
        "    t.image('c', torch.zeros(3, 4, 4, dtype=torch.uint8), 1)\n"
        "sys.exit(sorted({'torchvision', 'torch.utils.tensorboard'} & set(sys.modules)) or 0)"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
