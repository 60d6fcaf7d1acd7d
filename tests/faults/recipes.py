"""Small runs of several kinds, with what makes an exact resume hard: augmentation, accumulation, dropout, averages."""

from pathlib import Path

# Steps of an epoch, and of the whole run; `accumulate` losses make a step.
SHAPE = {
    **{"pictures": (7, 28), "forecast": (8, 32), "text": (14, 28)},
    **{"latent": (6, 12), "layers": (6, 16), "rivals": (10, 20)},
}
ACCUMULATE = {"pictures": 2, "forecast": 1, "text": 1, "latent": 1, "layers": 1, "rivals": 2}

SPANS = ["device=cpu", "trainer.log_every=1", "allow_targets=[gated]"]
PICTURES = [
    *[
        "model=cnn",
        "model.hidden_size=[8]",
        "model.blocks=[{channels: 4, pool: max}]",
        "data=cifar10",
        "data.batch_size=4",
    ],
    *["data.augment=[flip,crop]", "trainer.accumulate=2", "regularization.dropout=0.2", "regularization.ema_decay=0.9"],
    *["task._target_=gated.Classification", "trainer.epochs=4", "trainer.checkpoint_every=3", "seed=3"],
]
FORECAST = [
    *["model=lstm", "model.hidden_size=8", "data=timeseries", "data.window=24", "data.horizon=6", "data.series=elnino"],
    *["regularization.dropout=0.1", "optimizer/schedule=plateau", "task._target_=gated.Forecasting"],
    *["trainer.epochs=4", "trainer.eval_every=3", "trainer.checkpoint_every=1 epoch"],
]
TEXT = [
    *[
        "model=gpt",
        "model.hidden_size=16",
        "model.num_heads=2",
        "model.num_layers=1",
        "data=text",
        "data.context_length=16",
    ],
    *["data.stride=4", "data.batch_size=64", "regularization.dropout=0.1", "optimizer/schedule=cosine"],
    *["task._target_=gated.LanguageModeling", "trainer.epochs=2", "trainer.eval_every=5"],
    *["trainer.checkpoint_every=4", "trainer.log_every=3", "optimizer=adamw"],
]
# A loss that draws random numbers, a weight that rises over the run, an evaluation with noise of its own, and a film.
LATENT = [
    *["model=vae", "model.hidden_size=16", "model.latent=3", "data=digits", "data.batch_size=256", "task.warmup=0.5"],
    *["task._target_=gated.Variational", "task.binarise=true", "trainer.epochs=2", "trainer.eval_every=4"],
    *["trainer.checkpoint_every=3"],
]
# Three stages with other data and turns: an epoch of each of two layers, whose chains go on, and two of the answer.
LAYERS = [
    *["model=dbn", "model.hidden_size=[12,10]", "data=digits", "data.batch_size=256", "data.num_labels=300"],
    *["task._target_=gated.Layerwise", "task.persistent=true", "task.pretrain_epochs=1", "task.pretrain_lr=0.01"],
    *["trainer.epochs=2", "trainer.eval_every=5", "trainer.checkpoint_every=4", "optimizer/schedule=cosine"],
    *["regularization.dropout=0.1", "regularization.ema_decay=0.9"],
]
# Two optimizers, one of which moves in every second step, noise in both turns, running statistics, and an average.
RIVALS = [
    *["model=dcgan", "model.hidden_size=4", "model.latent=8", "model.conditional=true", "data=digits"],
    *["data.batch_size=65", "trainer.accumulate=2", "task._target_=gated.Adversarial", "task.n_critic=2"],
    *["task.critic_lr=1e-3", "optimizer/schedule=cosine", "regularization.ema_decay=0.9", "trainer.epochs=2"],
    *["trainer.eval_every=7", "trainer.checkpoint_every=3", "device.precision=fp16"],
]


def recipe(name: str, data_root: Path) -> list[str]:
    """The command of one kind of run."""
    if name == "pictures":
        return [*SPANS, *PICTURES, f"data.root={data_root}"]
    if name in ("latent", "layers", "rivals"):
        return [*SPANS, *{"latent": LATENT, "layers": LAYERS, "rivals": RIVALS}[name]]
    if name == "text":
        return [*SPANS, *TEXT, f"data.path={data_root / 'text' / 'shakespeare.txt'}"]
    return [*SPANS, *FORECAST]
