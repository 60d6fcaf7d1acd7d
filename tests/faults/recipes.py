"""Small runs that are hard to resume exactly: augmentation, accumulation, dropout, weight averages, several stages."""

import contextlib
import io
from pathlib import Path

# For each kind of run, the numbers of steps of the first epoch and of the whole run.
STEPS = {
    **{"forecast": (8, 32), "vae": (6, 12), "dbn": (6, 16), "denoising": (3, 12), "masks": (4, 8)},
    **{"images": (7, 28), "gan": (10, 20), "text": (14, 28), "streams": (8, 24), "reviews": (8, 24)},
    "translation": (6, 12),
    "music": (4, 8),
    "speech": (6, 18),
    **{"resnet20": (7, 14), "resnet18": (4, 8), "finetune": (4, 12), "freeze": (4, 12), "gradual": (4, 12)},
    **{"gradual_head": (4, 12), "mask_files": (3, 12), "mask_workers": (3, 12), "boxes": (3, 9), "clips": (4, 12)},
}
# Most tests that stop or kill a run are marked `faults` for these kinds of run and `slow` for all others.
CORE = ("forecast", "vae", "dbn", "images", "gan", "text")
ONCE = ("forecast", "vae", "dbn", "text")  # kinds without accumulation
# For each kind of run, the numbers of batches of the first epoch and of the whole run. If batches contain examples of
# similar length, the last step of an epoch may have a single batch.
BATCHES = {kind: tuple(n if kind in ONCE else 2 * n for n in steps) for kind, steps in STEPS.items()}
BATCHES |= {"reviews": (15, 45), "translation": (11, 22), "speech": (12, 34)}

COMMON = ["device=cpu", "trainer.log_every=1", "allow_targets=[gated]"]
IMAGES = [
    *[
        "model=cnn",
        "model.hidden_size=[8]",
        "model.blocks=[{channels: 4, pool: max}]",
        "data=cifar10",
        "data.batch_size=4",
    ],
    *[
        "augment=crop_flip",
        "augment.rotation=10",
        "augment.mixup=0.4",
        "trainer.accumulate=2",
        "regularization.dropout=0.2",
        "regularization.ema_decay=0.9",
    ],
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
# The model carries its state from batch to batch; the last batch of an epoch has only some of the streams.
STREAMS = [
    *["model=lstm", "model.hidden_size=16", "data=text", "data.streams=true", "data.context_length=16"],
    *["data.batch_size=14", "regularization.dropout=0.1", "task._target_=gated.LanguageModeling", "trainer.epochs=3"],
    *["trainer.accumulate=2", "trainer.eval_every=5", "trainer.checkpoint_every=3"],
]
# A bidirectional network, and batches that contain texts of similar length and have a limited number of tokens.
REVIEWS = [
    *["model=gru", "model.hidden_size=8", "model.bidirectional=true", "model.readout=attention", "data=text_table"],
    *["data.max_length=32", "data.max_tokens=240", "data.threshold=0", "regularization.dropout=0.3"],
    "task._target_=gated.Classification",
    *["trainer.accumulate=2", "trainer.epochs=3", "trainer.checkpoint_every=4"],
]
# Batches that contain sentence pairs of similar length. A growing fraction of the decoder's inputs are tokens that the
# model predicted.
TRANSLATION = [
    *["model=seq2seq", "model.hidden_size=8", "data=parallel", "data.batch_size=14", "regularization.dropout=0.2"],
    *["task._target_=gated.Translation", "task.teacher_forcing=0.2", "trainer.accumulate=2", "trainer.epochs=2"],
    *["trainer.checkpoint_every=3", "task.beam=2"],
]
# Batches that contain pieces of similar length, with random transpositions.
MUSIC = [
    *["model=lstm", "model.hidden_size=8", "data=pianoroll", "data.batch_size=3", "data.transpose=5"],
    *["task._target_=gated.Polyphony", "regularization.dropout=0.2", "trainer.accumulate=2", "trainer.epochs=2"],
    *["trainer.checkpoint_every=3"],
]
# Batches that contain recordings of similar length, with masks of SpecAugment.
SPEECH = [
    *["model=deep_speech2", "model.channels=2", "model.hidden_size=6", "model.num_layers=1", "data=speech"],
    *["data.stack=1", "data.mels=20", "data.batch_size=3", "data.time_masks=2", "data.frequency_masks=1"],
    *["regularization.dropout=0.2", "task._target_=gated.Ctc", "trainer.accumulate=2", "trainer.epochs=3"],
    *["trainer.checkpoint_every=3", "task.beam=2"],
]
# A loss with random numbers and a term whose weight increases, an evaluation with noise, and an animated film.gif.
VAE = [
    *["model=vae", "model.hidden_size=16", "model.latent=3", "data=digits", "data.batch_size=256", "task.warmup=0.5"],
    *["task._target_=gated.Variational", "task.binarize=true", "trainer.epochs=2", "trainer.eval_every=4"],
    *["trainer.checkpoint_every=3"],
]
# Images and masks with the same random affine transform, and running statistics of batch norm.
MASKS = [
    *[
        "model=unet",
        "model.hidden_size=[4,8]",
        "data=shapes",
        "data.batch_size=50",
        "augment=affine",
        "augment.min_area=0.5",
    ],
    *["task._target_=gated.Segmentation", "trainer.accumulate=2", "trainer.epochs=2", "trainer.checkpoint_every=3"],
]
# Noise that the loader adds, in training and in evaluation.
DENOISING = [
    *["model=autoencoder", "model.hidden_size=16", "model.latent=3", "data=digits", "data.batch_size=256"],
    *["task._target_=gated.Reconstruction", "task.corruption=gaussian", "trainer.accumulate=2", "trainer.epochs=4"],
    *["trainer.eval_every=2", "trainer.checkpoint_every=2"],
]
# Three stages with different data and parameters: one epoch of pretraining with persistent chains for each of two
# layers, and two epochs of fine-tuning.
DBN = [
    *["model=dbn", "model.hidden_size=[12,10]", "data=digits", "data.batch_size=256", "data.num_labels=300"],
    *["task._target_=gated.Layerwise", "task.persistent=true", "task.pretrain_epochs=1", "task.pretrain_lr=0.01"],
    *["trainer.epochs=2", "trainer.eval_every=5", "trainer.checkpoint_every=4", "optimizer/schedule=cosine"],
    *["regularization.dropout=0.1", "regularization.ema_decay=0.9"],
]
# Two optimizers, noise for critic and generator, running statistics and a weight average. The generator is updated in
# every second step.
GAN = [
    *["model=dcgan", "model.hidden_size=4", "model.latent=8", "model.conditional=true", "data=digits"],
    *["data.batch_size=65", "trainer.accumulate=2", "task._target_=gated.Adversarial", "task.n_critic=2"],
    *["task.critic_lr=1e-3", "optimizer/schedule=cosine", "regularization.ema_decay=0.9", "trainer.epochs=2"],
    *["trainer.eval_every=7", "trainer.checkpoint_every=3", "device.precision=fp16"],
]

# Images and their boxes with the same random transform, in batches with different numbers of boxes.
BOXES = [
    *[
        "model=fcos",
        "model.backbone=narrow8",
        "model.fpn_width=32",
        "model.num_convs=1",
        "task=detection",
        "data=shapes",
        "data.batch_size=10",
    ],
    *["data.examples=60", "augment=resized_crop", "augment.rotation=10", "augment.min_area=0.5"],
    *["task._target_=gated.Detection", "trainer.accumulate=2", "trainer.epochs=3", "trainer.checkpoint_every=2"],
]
# Clips whose frames all have the same random transform.
CLIPS = [
    *["model=cnn_lstm", "model.hidden_size=8", "data=moving_shapes", "data.clips=80", "data.image_size=16"],
    *["data.batch_size=7", "augment.shift=2", "regularization.dropout=0.2"],
    *["task._target_=gated.Classification", "trainer.accumulate=2", "trainer.epochs=3", "trainer.checkpoint_every=3"],
]


# Residual networks, whose batch norm layers have running statistics.
RESNET20 = [
    *["model=resnet20", "data=cifar10", "data.batch_size=4", "augment=crop_flip", "augment.cutmix=1"],
    *["augment.brightness=0.3", "augment.randaugment=1"],
    *["task._target_=gated.Classification", "trainer.accumulate=2", "optimizer=momentum", "optimizer.lr=0.1"],
    *["optimizer/schedule=one_cycle", "trainer.epochs=2", "trainer.checkpoint_every=3"],
]
RESNET18 = [
    *["model=resnet18", "data=cifar10", "data.batch_size=7", "augment=crop_flip", "trainer.accumulate=2"],
    *["task._target_=gated.Classification", "optimizer=sgd", "trainer.epochs=2", "trainer.checkpoint_every=3"],
]
# Start from the weights of another run. The head is loaded only if all class names are equal.
SOURCE = ["model=resnet20", "data=mnist", "data.batch_size=27", "trainer.epochs=1", "seed=5", "device=cpu"]
TRANSFER = [
    *["model=resnet20", "data.batch_size=7", "augment=affine", "task._target_=gated.Classification"],
    *["trainer.accumulate=2", "trainer.epochs=3", "trainer.checkpoint_every=3", "regularization.ema_decay=0.9"],
]
TRANSFERS = {
    "finetune": ["data=fashion_mnist", "transfer=finetune", "transfer.lr_scale=0.3"],
    "freeze": ["data=mnist", "transfer=freeze"],
    "gradual": ["data=fashion_mnist", "transfer=gradual", "optimizer/schedule=cosine"],
    "gradual_head": ["data=mnist", "transfer=gradual", "transfer.unfreeze_at=2"],
}
# Images and masks that are decoded one by one, cropped at full resolution and given the same random transform.
MASK_FILES = [
    *["model=unet", "model.hidden_size=[4,8]", "data=image_masks", "data.image_size=16", "data.channels=1"],
    *["data.batch_size=5", "augment=resized_crop", "augment.rotation=10", "regularization.dropout=0.2"],
    *["augment.contrast=0.3", "augment.randaugment=2"],
    *["task._target_=gated.Segmentation", "trainer.accumulate=2", "trainer.epochs=4", "trainer.checkpoint_every=2"],
]


def recipe(kind: str, data_root: Path) -> list[str]:
    """Return the overrides of one kind of run."""
    if kind in TRANSFERS:
        weights = f"transfer.weights={source(data_root)}"
        return [*COMMON, *TRANSFER, *TRANSFERS[kind], weights, f"data.root={data_root}"]
    if kind in ("mask_files", "mask_workers"):
        workers = 2 if kind == "mask_workers" else 0
        return [*COMMON, *MASK_FILES, f"data.path={data_root / 'brain'}", f"data.workers={workers}"]
    pictures = {"images": IMAGES, "resnet20": RESNET20, "resnet18": RESNET18}
    if kind in pictures:
        return [*COMMON, *pictures[kind], f"data.root={data_root}"]
    kinds = {"forecast": FORECAST, "vae": VAE, "dbn": DBN, "gan": GAN, "denoising": DENOISING, "masks": MASKS}
    kinds |= {"boxes": BOXES, "clips": CLIPS}
    if kind in kinds:
        return [*COMMON, *kinds[kind]]
    if kind == "reviews":
        return [*COMMON, *REVIEWS, f"data.path={data_root / 'sentiment' / 'movies.tsv'}"]
    if kind == "speech":
        return [*COMMON, *SPEECH, f"data.path={data_root / 'speech' / 'prompts.tsv'}"]
    if kind == "translation":
        return [*COMMON, *TRANSLATION, f"data.path={data_root / 'verses' / 'en-es.tsv'}"]
    if kind == "music":
        return [*COMMON, *MUSIC, f"data.path={data_root / 'chorales' / 'jsb.json'}"]
    return [*COMMON, *{"text": TEXT, "streams": STREAMS}[kind], f"data.path={data_root / 'text' / 'shakespeare.txt'}"]


def source(data_root: Path) -> Path:
    """Return the folder of the run whose weights are transferred; train it on the first call."""
    from dltrain.cli import main

    folder = data_root / "source"
    if not folder.exists():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main.main([*SOURCE, f"data.root={data_root}", f"hydra.run.dir={folder}"]) == 0
    return folder
