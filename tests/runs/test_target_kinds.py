"""The task, not the column, decides whether targets are classes or numbers."""

from pathlib import Path

import pytest
import torch

from dltrain.config.compose import compose
from dltrain.runs.assemble import build_components
from dltrain.runs.dry_run import build_batches


@pytest.mark.parametrize(("task", "dtype"), [("classification", torch.int64), ("regression", torch.float32)])
def test_the_task_decides_whether_few_distinct_integers_are_classes_or_numeric_targets(
    task: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("x,count\n" + "".join(f"{row / 7:.4f},{row % 5 + 10}\n" for row in range(60)))
    job = compose(["model=mlp", "data=csv", f"data.path={tmp_path / 'a.csv'}", f"task={task}", "device=cpu"])
    components = build_components(job)
    batch = next(iter(build_batches(components, components.data.load())["test"]))
    assert batch["targets"].dtype == dtype
    numbers = batch["targets"][:, 0] * batch["scale"][:, 0] + batch["shift"][:, 0] if task == "regression" else None
    expected = numbers if numbers is not None else batch["targets"] + 10.0
    assert set(expected.round().int().tolist()) <= {10, 11, 12, 13, 14}
    torch.testing.assert_close(expected, expected.round(), atol=1e-4, rtol=0)
