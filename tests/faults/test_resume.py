"""A stopped and resumed run has the same results as an uninterrupted one."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate
from recipes import BATCHES, CORE, STEPS, recipe
from same import assert_same, curves, status, steps

KINDS = list(STEPS)
ALLOW = "allow_targets=[gated]"


@pytest.mark.parametrize(
    "kind",
    [
        "forecast",
        *(pytest.param(kind, marks=pytest.mark.faults if kind in CORE else pytest.mark.slow) for kind in KINDS[1:]),
    ],
)
def test_running_a_command_twice_gives_identical_results(
    kind: str, uninterrupted_run: Callable[[str], Path], dltrain: Callable[..., Child], data_root: Path, tmp_path: Path
) -> None:
    child = dltrain(*recipe(kind, data_root), f"hydra.run.dir={tmp_path / 'run'}")
    assert child.code == 0, child.stderr
    assert_same(tmp_path / "run", uninterrupted_run(kind))


def moments(kind: str) -> dict[str, str]:
    """Return the gate for each moment at which a run is stopped. Every process counts its batches from 1."""
    epoch, whole = BATCHES[kind]
    return {
        "the first step": "train-1",
        "the middle of an epoch": f"train-{epoch + epoch // 2}",
        "the last step of an epoch": f"train-{epoch}",
        "the first step of an epoch": f"train-{epoch + 1}",
        "an evaluation": "evaluate-2",
        "the last step": f"train-{whole}",
    }


def marks(kind: str, name: str) -> list[pytest.MarkDecorator]:
    """Return the pytest marks of the stop at a moment.

    One stop is in the default suite. All other stops of the kinds in `CORE`, and all other stops in the middle of an
    epoch, are marked `faults`; the rest are marked `slow`.
    """
    if name.startswith("the middle") and kind == "images":
        return []
    return [pytest.mark.faults if kind in CORE or name.startswith("the middle") else pytest.mark.slow]


STOPS = [
    pytest.param(kind, name, id=f"{kind}, {name}", marks=marks(kind, name)) for kind in KINDS for name in moments(kind)
]


@pytest.mark.parametrize(("kind", "moment"), STOPS)
def test_a_run_stopped_at_any_moment_resumes_to_identical_results(
    kind: str,
    moment: str,
    uninterrupted_run: Callable[[str], Path],
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    data_root: Path,
    tmp_path: Path,
) -> None:
    stop_at, run = moments(kind)[moment], tmp_path / "run"
    gate.close(stop_at)
    child = start(*recipe(kind, data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, stop_at)
    child.send(signal.SIGTERM)
    gate.open(stop_at)
    assert child.wait().code == 143, child.stderr
    assert status(run)["state"] == "interrupted"
    resumed = dltrain("resume", str(run), ALLOW)
    assert resumed.code == 0, resumed.stderr
    assert_same(run, uninterrupted_run(kind))


@pytest.mark.faults
def test_a_resumed_epoch_reads_every_example_exactly_once(
    start: Callable[..., Child], dltrain: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path
) -> None:
    seen, stop_at = gate.folder / "seen", "train-13"
    seen.touch()
    whole = dltrain(*recipe("forecast", data_root), environment=gate.environment)
    assert whole.code == 0, whole.stderr
    expected = seen.read_text().split()
    per_epoch = len(expected) // 4
    assert all(len(set(expected[n * per_epoch :][:per_epoch])) == per_epoch for n in range(4))
    seen.write_text("")
    gate.close(stop_at)
    run = tmp_path / "run"
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, stop_at)
    child.send(signal.SIGTERM)
    gate.open(stop_at)
    assert child.wait().code == 143
    assert dltrain("resume", str(run), ALLOW, environment=gate.environment).code == 0
    assert seen.read_text().split() == expected


FROM_FILES = {
    "image_folder": [
        "data.image_size=16",
        *["model=cnn", "model.hidden_size=[8]", "model.blocks=[{channels: 4, pool: max}]", "augment=resized_crop"],
        *["augment.cutmix=1", "task._target_=gated.Classification", "data.batch_size=4"],
    ],
    "image_masks": [
        "data.image_size=16",
        *["model=unet", "model.hidden_size=[4,8]", "augment=resized_crop", "augment.rotation=10"],
        *["task._target_=gated.Segmentation", "data.batch_size=3"],
    ],
    "speech": [
        *["model=deep_speech2", "model.channels=2", "model.hidden_size=6", "model.num_layers=1", "data.stack=1"],
        *["data.mels=20", "data.time_masks=2", "data.frequency_masks=1", "task._target_=gated.Ctc"],
        "data.batch_size=3",
    ],
    "video_folder": [
        "data.image_size=16",
        *["model=cnn_lstm", "model.hidden_size=8", "model.blocks=[{channels: 4, pool: max}]", "augment=resized_crop"],
        *["augment.rotation=10", "task._target_=gated.Classification", "data.batch_size=3", "data.frames=4"],
    ],
}


@pytest.mark.parametrize(
    "data",
    [
        "image_folder",
        *(pytest.param(data, marks=pytest.mark.faults) for data in ("image_masks", "video_folder", "speech")),
    ],
)
def test_resuming_with_another_number_of_workers_gives_identical_results(
    data: str,
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    own_files: dict[str, Path],
    tmp_path: Path,
) -> None:
    command = [
        *[*FROM_FILES[data], f"data={data}", f"data.path={own_files[data]}"],
        *["regularization.dropout=0.2", "trainer.accumulate=2", "trainer.epochs=2", "device=cpu"],
        *["trainer.log_every=1", ALLOW],
    ]
    whole = dltrain(*command, "data.workers=0", f"hydra.run.dir={tmp_path / 'whole'}")
    assert whole.code == 0, whole.stderr
    run = tmp_path / "run"
    first = [*command, "data.workers=0", f"hydra.run.dir={run}"]
    for number, argv in enumerate((first, ["resume", str(run), "data.workers=2", ALLOW])):
        stop_at = f"train-{5 + number}"
        gate.close(stop_at)
        child = start(*argv, environment=gate.environment)
        gate.wait_until_reached(child, stop_at)
        child.send(signal.SIGTERM)
        gate.open(stop_at)
        assert child.wait().code == 143, child.stderr
    last = dltrain("resume", str(run), "data.workers=0", ALLOW)
    assert last.code == 0, last.stderr
    assert_same(run, tmp_path / "whole")


@pytest.mark.faults
def test_a_run_resumed_three_times_has_one_curve_in_tensorboard(
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    uninterrupted_run: Callable[[str], Path],
    data_root: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.resume=auto"]
    for step in (5, 11, 21):
        gate.delay(0.01)
        child = start(*command, environment=gate.environment)
        child.wait_until(lambda step=step: steps(run) >= step)
        assert child.kill().code == -signal.SIGKILL
    assert len(list(run.glob("events.out.tfevents.*"))) == 3
    assert dltrain(*command).code == 0
    found, expected = curves(run), curves(uninterrupted_run("forecast"))
    assert [step for step, _ in found["loss/train"]] == list(range(1, 33))
    assert found == expected
    assert [path.name for path in tmp_path.rglob("events.out.tfevents.*") if path.parent != run] == []


@pytest.mark.faults
def test_a_clock_that_jumps_between_sessions_does_not_affect_resuming(
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    uninterrupted_run: Callable[[str], Path],
    data_root: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}"]
    gate.close("train-13")
    child = start(*command, environment=gate.environment)
    gate.wait_until_reached(child, "train-13")
    child.kill()
    # Simulate a clock that was a year ahead and ran backwards while the checkpoints were written.
    ahead = time.time() + 365 * 86400
    (events,) = run.glob("events.out.tfevents.*")
    events.rename(run / f"events.out.tfevents.{int(ahead)}.{events.name.split('.', 4)[-1]}")
    for number, file in enumerate(sorted(run.glob("checkpoints/step-*.pt"), reverse=True)):
        os.utime(file, (ahead + number, ahead + number))
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))
