"""NaN and Inf, out of memory, and weights of another model.

Rows refer to the table of faults in tests/faults/README.md.

| row | tests |
| --- | --- |
| 16 | test_resuming_with_another_model_is_rejected |
| 16 | test_a_checkpoint_of_another_model_is_rejected_with_the_differing_shapes |
| 26 | the tests of non-finite losses, module outputs and gradients, and of `trainer.on_non_finite` |
| 27 | test_a_nan_metric_is_reported_and_is_never_the_best_value |
| 28 | test_fp16_steps_with_non_finite_gradients_are_skipped_and_counted_and_the_run_can_be_resumed |
| 29 | test_out_of_memory_errors_suggest_settings_that_need_less_memory |
| 29 | test_a_batch_too_large_for_memory_is_split_without_changing_the_step |
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dltrain.config import compose
from dltrain.runs import assemble
from dltrain.storage.checkpoints import Checkpoints

STEPS = 40
MLP = ("model=mlp", "model.hidden_size=16")
COMMON = ["data=digits", "device=cpu", "trainer.epochs=null", "trainer.log_media=false"]
COMMON += [f"trainer.max_steps={STEPS}", "trainer.eval_every=20", "trainer.log_every=7", "trainer.checkpoint_every=10"]
Run = Callable[..., Any]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def weights(run: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return Checkpoints(run).load(name)["model"]


@pytest.fixture
def run_with_fault(dltrain: Run, tmp_path: Path) -> Run:
    """Return a function that trains with a fault of `non_finite.Faulty` and returns the process and the run folder."""
    yaml = {"_target_": "non_finite.Faulty", "classes": "${spec.classes}", "fault": "none"}
    yaml |= {"begin": 0, "end": 0, "steps": STEPS, "most": 10**9, "witness": str(tmp_path / "witness.pt")}
    (tmp_path / "conf" / "task").mkdir(parents=True)
    OmegaConf.save(yaml, tmp_path / "conf" / "task" / "faulty.yaml")
    dividing = {"_target_": "non_finite.DividingNetwork", "size": "${spec.size}", "outputs": "${spec.outputs}", "at": 9}
    (tmp_path / "conf" / "model").mkdir()
    OmegaConf.save(dividing, tmp_path / "conf" / "model" / "dividing.yaml")

    def run(
        fault: str, begin: int, end: int, *more: str, name: str = "run", model: Sequence[str] = MLP
    ) -> tuple[Any, Path]:
        own = ["--config-dir", str(tmp_path / "conf"), "allow_targets=[non_finite]", "task=faulty"]
        chosen = [f"task.fault={fault}", f"task.begin={begin}", f"task.end={end}", f"hydra.run.dir={tmp_path / name}"]
        return dltrain(*own, *model, *COMMON, *chosen, *more), tmp_path / name

    return run


@pytest.mark.parametrize("accumulate", [2, pytest.param(1, marks=pytest.mark.faults)])
def test_a_non_finite_loss_is_reported_and_the_last_finite_checkpoint_is_kept(
    accumulate: int, run_with_fault: Run, tmp_path: Path
) -> None:
    child, run = run_with_fault("loss", 15, 99, f"trainer.accumulate={accumulate}")
    assert child.code == 3
    assert read(run / "status.json")["state"] == "diverged"
    report = read(run / "nan_report.json")
    assert (report["step"], report["what"], report["module"], report["repeated_from"]) == (15, "loss", None, 10)
    assert report["lr"] == pytest.approx(1e-3)
    assert 0 < report["last_finite_loss"] < 3
    # The report must name the examples that the task received.
    components = assemble.build_components(compose.compose([*MLP, *COMMON]))
    source = components.data.load().train
    picked = {name: value[report["examples"]] for name, value in source.rows.items()}  # type: ignore[union-attr]
    given = torch.load(tmp_path / "witness.pt", weights_only=True)
    assert len(report["examples"]) == accumulate * len(given)
    assert torch.equal(source.prepare(picked)["inputs"][: len(given)], given)
    assert "in step 15 (learning rate 0.001; last finite loss " in child.stderr
    assert "Traceback" not in child.stderr
    name, state, rejected = Checkpoints(run).load_newest()
    assert (name, rejected) == ("step-00000010.pt", [])
    assert all(value.isfinite().all() for value in state["model"].values())


def test_the_nan_report_names_the_first_module_with_a_non_finite_output(run_with_fault: Run) -> None:
    child, run = run_with_fault("none", 0, 0, model=["model=dividing", "model.at=16"])
    assert child.code == 3, child.stderr
    report = read(run / "nan_report.json")
    assert (report["step"], report["module"]) == (16, "2 (DivideByZero)")
    assert "First module with a non-finite output: 2 (DivideByZero)" in child.stderr


def test_a_nan_gradient_is_found_although_the_loss_is_finite(run_with_fault: Run) -> None:
    child, run = run_with_fault("gradient", 5, 5)
    assert child.code == 3
    report = read(run / "nan_report.json")
    assert (report["step"], report["repeated_from"]) == (5, 0)
    assert report["what"].startswith("gradient of ") and report["what"].endswith("weight")
    assert not list((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("fault", ["loss", pytest.param("gradient", marks=pytest.mark.faults)])
def test_non_finite_steps_are_skipped_and_counted_with_on_non_finite_skip(fault: str, run_with_fault: Run) -> None:
    child, run = run_with_fault(fault, 12, 14, "trainer.on_non_finite=skip", "optimizer/schedule=cosine")
    assert child.code == 0, child.stderr
    assert read(run / "result.json")["skipped_steps"] == 3
    assert all(value.isfinite().all() for value in weights(run).values())
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not any("loss" in line.get("non_finite", {}) for line in logged)
    # Adam does not count the three skipped steps.
    assert Checkpoints(run).load("last.pt")["optimizers"]["train"]["optimizer"]["state"][0]["step"] == STEPS - 3


def test_non_finite_weights_are_never_saved_with_on_non_finite_ignore(run_with_fault: Run) -> None:
    child, run = run_with_fault("loss", 15, 99, "trainer.on_non_finite=ignore")
    assert child.code == 3, child.stderr
    assert "is not saved: its weights are not finite" in child.stderr
    assert Checkpoints(run).read_entry("last.pt")["step"] == 10
    assert all(value.isfinite().all() for value in weights(run).values())


@pytest.mark.faults
def test_a_nan_metric_is_reported_and_is_never_the_best_value(run_with_fault: Run) -> None:
    child, run = run_with_fault("metric", 0, 0)
    assert child.code == 3, child.stderr
    assert "accuracy/val is nan at step 20, so it cannot be the best value" in child.stderr
    assert "not finite on the test split: accuracy" in child.stderr
    assert not (run / "checkpoints" / "best.pt").exists()
    assert (run / "checkpoints" / "last.pt").exists()


@pytest.mark.faults
def test_fp16_steps_with_non_finite_gradients_are_skipped_and_counted_and_the_run_can_be_resumed(
    run_with_fault: Run, dltrain: Run, tmp_path: Path
) -> None:
    half = ["device.precision=fp16", "optimizer/schedule=cosine", "trainer.log_every=1"]
    # After step 11 the scaler must skip exactly the two steps with NaN gradients.
    child, run = run_with_fault("gradient", 12, 13, *half)
    assert child.code == 0, child.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert train[10]["skipped_steps"] + 2 == train[-1]["skipped_steps"] == read(run / "result.json")["skipped_steps"]
    taken, previous = 0, 0.0
    for line in train:
        # The cosine schedule does not count skipped steps; `previous` is their number before this step.
        angle = torch.pi * (line["step"] - 1 - previous) / STEPS
        assert line["lr"] == pytest.approx(1e-3 * (1 + torch.cos(torch.tensor(angle)).item()) / 2, abs=1e-9)
        previous = line["skipped_steps"]
        taken += 1
    assert taken == STEPS
    last = Checkpoints(run).read_entry("last.pt")["sha256"]
    shutil.copytree(run, tmp_path / "half", symlinks=True)
    manifest = read(tmp_path / "half" / "checkpoints" / "manifest.json")
    final = f"step-{STEPS:08}.pt"
    (tmp_path / "half" / "checkpoints" / final).unlink()
    del manifest[final]
    (tmp_path / "half" / "checkpoints" / "manifest.json").write_text(json.dumps(manifest))
    status = read(tmp_path / "half" / "status.json")
    (tmp_path / "half" / "status.json").write_text(json.dumps({**status, "state": "running"}))
    again = dltrain("resume", str(tmp_path / "half"), "allow_targets=[non_finite]")
    assert again.code == 0, again.stderr
    assert Checkpoints(tmp_path / "half").read_entry("last.pt")["sha256"] == last


def test_out_of_memory_errors_suggest_settings_that_need_less_memory(run_with_fault: Run) -> None:
    child, run = run_with_fault("memory", 0, 0, "task.most=20")
    assert child.code == 4
    assert read(run / "status.json")["state"] == "out_of_memory"
    for words in ("Batch size 64", "peak memory", "data.batch_size=32 trainer.accumulate=2", "trainer.on_oom=shrink"):
        assert words in child.stderr
    assert "Traceback" not in child.stderr


def test_a_batch_too_large_for_memory_is_split_without_changing_the_step(run_with_fault: Run, dltrain: Run) -> None:
    child, run = run_with_fault("memory", 0, 0, "task.most=20", "trainer.on_oom=shrink")
    assert child.code == 0, child.stderr
    assert "from now on 16 examples at a time" in child.stderr
    assert read(run / "result.json")["examples_at_a_time"] == 16
    whole, other = run_with_fault("none", 0, 0, name="whole")
    assert whole.code == 0 and read(other / "result.json")["examples_at_a_time"] == 64
    for name, value in weights(other).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-3, atol=1e-4)


def test_resuming_with_another_model_is_rejected(dltrain: Run, tmp_path: Path) -> None:
    assert dltrain(*MLP, *COMMON, "trainer.max_steps=10", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    child = dltrain("resume", str(tmp_path / "run"), "model=perceptron", "optimizer.lr=0.5", "trainer.max_steps=20")
    assert child.code == 2
    assert "optimizer.lr: expected 0.001, got 0.5. It cannot be changed on resume." in child.stderr
    assert "model._target_: expected dltrain.models.feedforward.MLP, got" in child.stderr
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


def test_a_checkpoint_of_another_model_is_rejected_with_the_differing_shapes(dltrain: Run, tmp_path: Path) -> None:
    for name, hidden in (("small", 16), ("large", 24)):
        overrides = [
            *MLP,
            *COMMON,
            f"model.hidden_size={hidden}",
            "trainer.max_steps=10",
            f"hydra.run.dir={tmp_path / name}",
        ]
        assert dltrain(*overrides).code == 0
    shutil.rmtree(tmp_path / "small" / "checkpoints")
    shutil.copytree(tmp_path / "large" / "checkpoints", tmp_path / "small" / "checkpoints", symlinks=True)
    before = {file: file.read_bytes() for file in (tmp_path / "small").rglob("*") if file.is_file()}
    child = dltrain("resume", str(tmp_path / "small"), "trainer.max_steps=20")
    assert child.code == 5
    assert "belongs to another model" in child.stderr and "(24, 64), but (16, 64) in this model" in child.stderr
    assert before == {file: file.read_bytes() for file in (tmp_path / "small").rglob("*") if file.is_file()}
