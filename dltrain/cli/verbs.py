"""Verbs of the command line, with their arguments, flags and help."""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from typing import NamedTuple

from dltrain.cli.flag_types import count, one_of, probability, seed, shape, temperature

RUN = ("RUN", "the folder of the run, or latest for the most recently active run")
LOCATION = ("KEY=VALUE", "location of the data, and device: data.path=FILE data.root=DIR device=cpu")
SCORE = ("task.features=RUN", "compute sample quality with the features of that run's classifier")
RESUMABLE = (
    "trainer.epochs and trainer.max_steps (train longer), keys of trainer for the time limit, logs, checkpoints, "
    "requeueing and out-of-memory errors, keys of data for location, workers and unreadable examples, keys of device "
    "except precision"
)


class Verb(NamedTuple):
    """Arguments, flags and help of a verb."""

    summary: str
    usage: str
    description: str
    examples: str  # commands, one per line
    arguments: tuple[tuple[str, str], ...]  # positional arguments with their help: (("RUN", "the run's folder"), ...)
    names: tuple[int, float] = (1, 1)  # minimum and maximum number of runs, files or folders
    add_flags: Callable[[ArgumentParser], None] = lambda parser: None


def _train_flags(parser: ArgumentParser) -> None:
    """Declare the flags of ``dltrain`` itself; Hydra handles those in `dltrain.cli.main.HYDRA_FLAGS`."""
    add = parser.add_argument
    add("-m", "--multirun", action="store_true", help="run a sweep: every combination of the values, one at a time")
    add("-r", "--run", action="store_true", help=SUPPRESS)
    _config_dir(parser)
    add("-c", "--cfg", type=one_of("job", "hydra", "all"), metavar="job", help="print the configuration as YAML")
    add("-p", "--package", metavar="KEY", help="with --cfg: only the part below KEY")
    infos = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    info = "print how Hydra composes the configuration"
    add("-i", "--info", nargs="?", const="all", type=one_of(*infos), metavar="WHAT", help=info)
    completion = 'shell completion: eval "$(dltrain -sc install=bash)"'
    add("-sc", "--shell-completion", action="store_true", help=completion)
    add("--hydra-help", action="store_true", help="print Hydra's own help")
    add("--version", action="store_true", help="print the versions of dltrain, torch, Hydra and Python")


def _summary_flags(parser: ArgumentParser) -> None:
    _config_dir(parser)
    example = "shape of an example, instead of data=: 3x32x32 (image), 96x7 (7 series), 784 (vector), 1024 (tokens)"
    parser.add_argument("--input", type=shape, metavar="SHAPE", help=example)
    sizes = "number of outputs; for text, the vocabulary size"
    parser.add_argument("--outputs", type=count, metavar="N", help=sizes)


def _evaluate_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    split = "the split to evaluate: test (default), val or train (without augmentation)"
    add("--split", type=one_of("test", "val", "train"), metavar="SPLIT", help=split)
    checkpoint = "best on the validation split (default), last, or a file of the run's checkpoints/"
    add("--checkpoint", default="best", metavar="WHICH", help=checkpoint)
    add("--json", action="store_true", help="print one JSON object instead of the table")


def _predict_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    formats = "jsonl (JSON lines, default) or csv (one header for all INPUTs)"
    add("--format", type=one_of("jsonl", "csv"), default="jsonl", metavar="FORMAT", help=formats)
    _checkpoint(parser)
    add("--batch", type=count, metavar="N", help="number of examples per batch (default: twice data.batch_size)")
    add("--top", type=count, metavar="K", help="only the K most probable classes, in descending order")
    add(
        "--out",
        metavar="FOLDER",
        help="a new or empty folder for predicted masks, images with boxes, or the images of --explain",
    )
    explain = "classification: write images to --out that show which parts support the predicted class (Grad-CAM; "
    explain += "attention for vit); for texts with model.readout=attention, print the weight of each word"
    add("--explain", action="store_true", help=explain)
    add("--text", help="a text to read instead of INPUT")


def _generate_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--count", type=count, metavar="N", help="number of examples (default: 64)")
    add("--seed", type=seed, default=0, metavar="N", help="random seed (default: 0)")
    add("--class", dest="label", metavar="NAME", help="conditional models: generate only this class, a name or number")
    add("--interpolate", action="store_true", help="interpolate between samples")
    given = "reconstruct these examples (images, folders, .npy, .npz), each below its original"
    add("--given", nargs="+", default=[], metavar="INPUT", help=given)
    out = "the file to write (default: generated.png, or .csv or .npy for examples that cannot be drawn); for music, a "
    out += ".mid file (default: text on standard output)"
    add("--out", metavar="FILE", help=out)
    add("--force", action="store_true", help="overwrite FILE")
    add("--prompt", metavar="TEXT", help="text: the text to continue (default: task.prompt), or to translate")
    add("--length", type=count, metavar="N", help="text: maximum number of tokens to generate (default: 200)")
    greedy = "text: sampling temperature; 0 takes the most likely token (default: task.temperature)"
    add("--temperature", type=temperature, metavar="T", help=greedy)
    add("--top-k", type=count, metavar="K", help="text: draw from the K most likely tokens")
    nucleus = "text: draw from the most likely tokens with this total probability"
    add("--top-p", type=probability, metavar="P", help=nucleus)
    search = "text: beam search with N candidates; the most likely text is printed when it is complete"
    add("--beam", type=count, metavar="N", help=search)
    _checkpoint(parser)


def _resume_flags(parser: ArgumentParser) -> None:
    text = "allow a jump of the learning rate, if its schedule depends on the length of training"
    parser.add_argument("--change-schedule", action="store_true", help=text)


def _runs_flags(parser: ArgumentParser) -> None:
    keys = ("model", "data", "task", "metric", "state", "step", "age", "time", "folder", "typed")
    order = f"one of {' '.join(keys)}: age (default) lists the newest first, metric the best first"
    parser.add_argument("--sort", type=one_of(*keys), default="age", metavar="KEY", help=order)
    parser.add_argument("--json", action="store_true", help="print one JSON array with all fields of each run")


def _config_dir(parser: ArgumentParser) -> None:
    text = "a folder of your own YAML groups, searched after dltrain's; may be repeated"
    parser.add_argument("-cd", "--config-dir", action="append", default=[], metavar="DIR", help=text)


def _checkpoint(parser: ArgumentParser) -> None:
    which = "best on the validation split (default), or last"
    parser.add_argument("--checkpoint", type=one_of("best", "last"), default="best", metavar="WHICH", help=which)


VERBS = {
    "train": Verb(
        summary="train and evaluate a model (the default)",
        usage="dltrain [train] [-m] [GROUP=OPTION ...] [KEY=VALUE ...] [FLAGS]",
        description="""\
Train a model and evaluate its best checkpoint on the test split. A run folder keeps checkpoints, logs and results.
Overrides and flags may come in any order. dltrain --help lists the groups and the most used keys.""",
        examples="""\
dltrain model=lstm data=timeseries
dltrain model=gru data=timeseries data.series=elnino data.horizon=12
dltrain model=cnn data=digits regularization=dropout optimizer/schedule=cosine
dltrain -m model=gru,lstm optimizer.lr=1e-3,3e-3 'seed=range(0,3)'
dltrain model=lstm --cfg job""",
        arguments=(("GROUP=OPTION", "an option of a group: model=lstm"), ("KEY=VALUE", "a key: optimizer.lr=3e-4")),
        names=(0, 0),
        add_flags=_train_flags,
    ),
    "resume": Verb(
        summary="continue an interrupted run, with bitwise identical results",
        usage="dltrain resume RUN [KEY=VALUE ...] [--change-schedule]",
        description="""\
Continue a run that was interrupted, was killed or ran out of time, in its own folder. Its curves and checkpoints are
bitwise identical to those of an uninterrupted run (on CUDA with device.deterministic=true). If the last checkpoint is
damaged, the newest intact one is used; exit code 5 if there is none.""",
        examples="""\
dltrain resume latest
dltrain resume outputs/lstm-timeseries/20261122-170146-f8f5 trainer.epochs=40""",
        arguments=(RUN, ("KEY=VALUE", RESUMABLE)),
        add_flags=_resume_flags,
    ),
    "rerun": Verb(
        summary="repeat a run in a new folder and list what differs",
        usage="dltrain rerun RUN [GROUP=OPTION ...] [KEY=VALUE ...]",
        description="""\
Repeat a run in a new folder (hydra.run.dir= sets it); the old folder is not changed. Differences from the original
run are listed first: keys changed in this command, versions of Python and packages, platform, processor, device,
threads, commit, source code and data. If nothing differs, the checkpoints of the new run are bitwise identical (on
CUDA with device.deterministic=true).""",
        examples="""\
dltrain rerun latest
dltrain rerun outputs/lstm-timeseries/20261122-170146-f8f5 seed=1 optimizer.lr=3e-4""",
        arguments=(
            RUN,
            ("GROUP=OPTION", "replaces a whole group; other keys stay as the run had them"),
            ("KEY=VALUE", "replaces one key"),
        ),
    ),
    "evaluate": Verb(
        summary="metrics of a run's checkpoint on one split of its data, or on other data",
        usage="dltrain evaluate RUN [KEY=VALUE ...] [FLAGS]",
        description="""\
Compute the metrics of a checkpoint and print them in the same table as at the end of the run. The run's folder is not
changed, and the run may still be training.

The run's own data are evaluated. data.path= gives their new location or names other data; all examples of other data
are evaluated, with the normalization, vocabulary and classes of the run.""",
        examples="""\
dltrain evaluate latest
dltrain evaluate outputs/lstm-timeseries/20261122-170146-f8f5 --split val
dltrain evaluate latest data.path=/mnt/disk/sales.csv device=cpu""",
        arguments=(RUN, LOCATION, SCORE),
        add_flags=_evaluate_flags,
    ),
    "predict": Verb(
        summary="predictions of a run's model for files, standard input or text",
        usage="dltrain predict RUN [INPUT ...] [KEY=VALUE ...] [FLAGS] [-- INPUT ...]",
        description="""\
Print the predictions of a run's model for new data: lines on standard output, messages on standard error. INPUT
must be of the same kind as the training data. The most common kinds:

  images    image files of any size and color, folders of them, or .npy and .npz files of arrays
            -> class, class_name, probability, and the probabilities of all classes; in segmentation the fraction
            of pixels of each class, and with --out a mask of class numbers; in detection the objects with class, score
            and box, and with --out a copy of the image that shows them; in classification with --explain and --out an
            image of the parts that support the class
  clips     folders of frames, folders of such folders, or video files
            -> as for images in classification
  arrays    .npy and .npz files (the array x, x_test, or the only one)
  tables    CSV files with the run's columns; other columns, and the predicted one, are ignored
            -> as for images; in regression, the predicted number in the unit and under the name of its column
  series    CSV files with the columns of the run; the model reads the last data.window rows. Without INPUT, the
            series of the run are read
            -> one line per step ahead: time, step, and each series in its own unit
  text      text files, or --text; for data=text_table also CSV and JSON lines files with the column of texts
            -> number of characters, and nats per character; for data=text_table as for tables; for a run that
            translates or summarizes, the translation or summary of each line and its score (task.beam=5 uses beam
            search)
  audio     audio files, or folders of them
            -> the transcript and its score; with task=classification as for images
  music     MIDI files, or piano rolls in JSON
            -> number of frames or events, and nats per frame or event

All INPUTs must exist. The command stops at the first one that cannot be read, with an error and exit code 2; the lines
of earlier INPUTs are printed. The training data are not needed, except for runs of earlier versions, which have no
fitted.pt.""",
        examples="""\
dltrain predict latest holiday.jpg
dltrain predict outputs/cnn-image_folder/20261122-170146-f8f5 scans/ --top 3 --format csv > classes.csv
cat new.csv | dltrain predict latest -
dltrain predict latest --text 'It was the whale.'""",
        arguments=(
            RUN,
            ("INPUT", "a file or folder, or - for standard input; after -- every word is an INPUT"),
            LOCATION,
        ),
        names=(1, float("inf")),
        add_flags=_predict_flags,
    ),
    "generate": Verb(
        summary="samples, reconstructions, interpolations and text of a run's model",
        usage="dltrain generate RUN [KEY=VALUE ...] [FLAGS]",
        description="""\
Generate examples with a run's model, write them to a file and print its name. The suffix selects the format: .png a
grid of images, or a scatter plot of points; .gif one image after the other; .npy the numbers, pixels from 0 (black)
to 1 (white); .csv the numbers, one line per example.

A language model writes text to standard output instead, token by token, after the prompt if there is one. A run that
translates or summarizes writes the translation or summary of the prompt.

The same seed gives the same examples and the same text. The run's data are needed only for plain autoencoders (not
with --given), which use codes of training examples, and for runs of earlier versions, which have no fitted.pt.""",
        examples="""\
dltrain generate latest --count 100 --seed 1 --out digits.png
dltrain generate outputs/vae-mnist/20261122-170146-f8f5 --interpolate --out walk.gif
dltrain generate latest --class 3
dltrain generate latest --given seven.png scans/
dltrain generate latest --prompt "It was " --length 500 --temperature 0.7 --top-p 0.9""",
        arguments=((RUN[0], f"{RUN[1]}; put it before --given"), LOCATION),
        add_flags=_generate_flags,
    ),
    "runs": Verb(
        summary="a table of runs: choices, metric, state, age",
        usage="dltrain runs [FOLDER] [FLAGS]",
        description="""\
List the runs below a folder, including jobs of sweeps. Finished runs are listed with the test metric, all others
with the best validation metric. A run in the state "lost" was killed; dltrain resume continues it.""",
        examples="""\
dltrain runs
dltrain runs outputs/sweep --sort metric""",
        arguments=(("FOLDER", "the folder to search (default: outputs)"),),
        names=(0, 1),
        add_flags=_runs_flags,
    ),
    "inspect": Verb(
        summary="how a data set is read: columns, missing values, classes, splits; trains nothing",
        usage="dltrain inspect data=OPTION [data.KEY=VALUE ...]",
        description="""\
Read a data set and print how it is interpreted: columns, missing values, times and season, classes and splits, and
what is left out. Nothing is trained.""",
        examples="""\
dltrain inspect data=csv data.path=houses.csv
dltrain inspect data=timeseries data.path=sales.csv data.group=store""",
        arguments=(("GROUP=OPTION", "an option of a group: data=csv"), ("KEY=VALUE", "a key: data.path=houses.csv")),
        names=(0, 0),
        add_flags=_config_dir,
    ),
    "summary": Verb(
        summary="layers, parameters, multiply-adds and memory of a model; trains nothing",
        usage="dltrain summary [GROUP=OPTION ...] [KEY=VALUE ...] [--input SHAPE --outputs N]",
        description="""\
Print layers, parameters, multiply-adds, the receptive field, and the memory of a training step. Nothing is trained
and no weights are allocated, so that wide layers take no longer than narrow ones.""",
        examples="""\
dltrain summary model=cnn data=digits
dltrain summary model=lenet5 --input 1x28x28 --outputs 10
dltrain summary model=gpt --input 1024 --outputs 50257 model.hidden_size=768 model.num_layers=12 model.num_heads=12""",
        arguments=(("GROUP=OPTION", "an option of a group: model=lstm"), ("KEY=VALUE", "a key: model.hidden_size=64")),
        names=(0, 0),
        add_flags=_summary_flags,
    ),
}
