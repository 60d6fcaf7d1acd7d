"""Small runs of three kinds, with what makes an exact resume hard: augmentation, accumulation, dropout, averages."""

from pathlib import Path

# Steps of an epoch, and of the whole run; `accumulate` losses make a step.
SHAPE = {"pictures": (7, 28), "forecast": (8, 32), "text": (14, 28)}
ACCUMULATE = {"pictures": 2, "forecast": 1, "text": 1}

SPANS = ["device=cpu", "trainer.log_every=1", "allow_targets=[gated]"]
PICTURES = [
    *["model=cnn", "model.hidden=[8]", "model.blocks=[{channels: 4, pool: max}]", "data=cifar10", "data.batch_size=4"],
    *["data.augment=[flip,crop]", "trainer.accumulate=2", "regularization.dropout=0.2", "regularization.average=0.9"],
    *["task._target_=gated.Classification", "trainer.epochs=4", "trainer.checkpoint_every=3", "seed=3"],
]
FORECAST = [
    *["model=lstm", "model.hidden=8", "data=timeseries", "data.window=24", "data.horizon=6", "data.series=elnino"],
    *["regularization.dropout=0.1", "optimizer/schedule=plateau", "task._target_=gated.Forecasting"],
    *["trainer.epochs=4", "trainer.eval_every=3", "trainer.checkpoint_every=1 epoch"],
]
TEXT = [
    *["model=gpt", "model.hidden=16", "model.heads=2", "model.depth=1", "data=text", "data.length=16"],
    *["data.stride=4", "data.batch_size=64", "regularization.dropout=0.1", "optimizer/schedule=cosine"],
    *["task._target_=gated.LanguageModeling", "trainer.epochs=2", "trainer.eval_every=5"],
    *["trainer.checkpoint_every=4", "trainer.log_every=3", "optimizer=adamw"],
]


def recipe(name: str, data_root: Path) -> list[str]:
    """The command of one kind of run."""
    if name == "pictures":
        return [*SPANS, *PICTURES, f"data.root={data_root}"]
    if name == "text":
        return [*SPANS, *TEXT, f"data.path={data_root / 'text' / 'shakespeare.txt'}"]
    return [*SPANS, *FORECAST]
