"""``dltrain generate RUN``: what a run's model makes up."""

import argparse
import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dltrain.cli.hydra_flags import Parser, at_least_one, seed
from dltrain.cli.main import Command, is_override, trusted
from dltrain.config.revise import revise_job
from dltrain.data.inputs import Given, check
from dltrain.errors import ConfigError, OutOfMemory, format_error, suggest
from dltrain.loggers.console import Console
from dltrain.runs import job as stored
from dltrain.runs import overridable
from dltrain.storage.atomic import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from dltrain.data.loader import Batches
    from dltrain.data.spec import Spec, Splits
    from dltrain.runs.assemble import Components
    from dltrain.runs.export import Generated
    from dltrain.tasks.base import GenerateRequest

USAGE = """\
dltrain generate RUN [FLAGS] [device=... device.KEY=VALUE data.KEY=VALUE ...]

What the trained model of a run makes up, as a file whose name goes to standard output. RUN is a run's folder, or
latest.

  --count N               how many: 64
  --seed N                others: 0
  --class NAME            of one class only, by name or number, where the model was taught classes
  --interpolate           a way from one to another instead of single ones
  --given INPUT ...       what the model makes of these pictures (files, folders, .npy, .npz), each below its original
  --out FILE              generated.png, or .csv for examples that are neither pictures nor points in a plane
  --force                 replace FILE if it is there
  --checkpoint best|last  which weights: those that did best in validation (the default), or the newest

The ending of FILE says what it is: .png a grid of pictures, or points in a plane; .gif one picture after the other;
.npy the numbers, pictures from 0 (black) to 1 (white); .csv numbers, a line for each example.

The same seed gives the same examples. Data are needed only for --given, and for models that start from examples of
their own data (autoencoders); data.path= and data.root= say where they are now.

  dltrain generate latest --count 100 --seed 1 --out digits.png
  dltrain generate outputs/vae-mnist/20261122-170146-f8f5 --interpolate --out way.gif
  dltrain generate latest --class 3
  dltrain generate latest --given seven.png scans/
"""

COUNT = 64
SHOWN = 20  # classes that a message names


def main(command: Command, started: float) -> int:
    """Read the command and the folder, rebuild the model, let it make up examples, write them."""
    if {"--help", "-h"} & set(command.words):
        print(USAGE)
        return 0
    asked, run, typed = read(command.words)
    path = stored.find_run(run)
    check(asked.given)
    if asked.out:
        refuse_existing(Path(os.path.expanduser(asked.out)), asked.force)
    job, changed = revise_job(stored.load_job(path, trusted(typed)), typed)
    overridable.check_predict(changed)
    job.ready()
    from dltrain.runs import export
    from dltrain.runs.assemble import build_components
    from dltrain.runs.inference import restore_weights

    components = build_components(job)
    spec = components.data.spec
    out = Path(os.path.expanduser(asked.out or f"generated{next(iter(export.encoders(spec)))}"))
    step = restore_weights(components, path, f"{asked.checkpoint}.pt")
    made = made_up(components, asked)
    write(out, export.encode(made, out, spec), asked.force)
    Console().info(f"{path}: {asked.checkpoint} checkpoint, of step {step:,}: {len(made.examples):,} examples")
    print(out)
    return 0


def read(words: Iterable[str]) -> tuple[argparse.Namespace, str, list[str]]:
    """The verb's flags, the run and the overrides.

    Raises:
        ConfigError: When they make no sense.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--count", type=at_least_one)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--class", dest="label")
    parser.add_argument("--interpolate", action="store_true")
    parser.add_argument("--given", nargs="+", default=[])
    parser.add_argument("--out")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    asked, others = parser.parse_known_args(list(words))
    parser.refuse([word for word in others if word.startswith("-")])
    typed = [word for word in [*others, *asked.given] if is_override(word)]
    asked.given = [word for word in asked.given if word not in typed]
    names = [word for word in others if word not in typed]
    if len(names) != 1:
        usage = "dltrain generate RUN, RUN being a run's folder or latest, before --given"
        raise ConfigError(format_error("generate", usage, " ".join(names) or None))
    if asked.given and asked.count:
        raise ConfigError(
            format_error("--count", "no number with --given, which gives as many as it is given", asked.count)
        )
    return asked, names[0], typed


def made_up(components: "Components", asked: argparse.Namespace) -> "Generated":
    """What the model makes up, and the examples that it was given, both as people see them.

    Raises:
        ConfigError: When the model cannot do what is wished.
    """
    from dltrain.runs.export import Generated
    from dltrain.tasks.pixel_range import PixelRange
    from dltrain.training.evaluation import run_in_eval_mode

    with contextlib.ExitStack() as held, spared(asked.count or COUNT):
        request = generate_request(components, asked, held)
        examples = run_in_eval_mode(
            functools.partial(components.task.generate, request=request), components.model, components.device
        )
    spec = components.data.spec
    given = None if request.given is None else PixelRange(spec.low, spec.high).to_unit(request.given).float().cpu()
    return Generated(examples.float().cpu(), given, request.interpolate)


@contextlib.contextmanager
def spared(count: int) -> Iterator[None]:
    """Say what asks for less memory when there is not enough.

    Raises:
        OutOfMemory: When it ran out.
    """
    from dltrain.training.device import is_out_of_memory

    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = f"All {count:,} examples are made at once: try a smaller --count"
        raise OutOfMemory(f"out of memory: {first}. {hint}") from None


def generate_request(components: "Components", asked: argparse.Namespace, held: contextlib.ExitStack) -> "GenerateRequest":
    """What the command asks of the model; ``held`` closes what it reads from.

    Raises:
        ConfigError: For a class that the data have not, or pictures that cannot be read.
    """
    import torch

    from dltrain.runs.inference import eval_batches, explain_missing_data
    from dltrain.tasks.base import GenerateRequest

    @functools.cache
    def splits() -> "Splits":
        with explain_missing_data():
            return components.data.load()

    def train() -> "Batches":
        return held.enter_context(contextlib.closing(eval_batches(components, splits(), "train")))

    given = read_given(components, splits(), asked.given) if asked.given else None
    return GenerateRequest(
        count=(asked.count or COUNT) if given is None else len(given),
        noise=torch.Generator().manual_seed(asked.seed),
        device=components.device.device,
        label=None if asked.label is None else label_of(asked.label, components.data.spec),
        interpolate=asked.interpolate,
        given=given,
        train=train,
    )


def read_given(components: "Components", splits: "Splits", names: Iterable[str]) -> "Tensor":
    """A user's own examples, as the model reads them.

    Raises:
        ConfigError: Naming one that cannot be read.
    """
    import torch

    from dltrain.data.loader import Batches
    from dltrain.data.spec import Source

    pieces = components.data.inputs(Given(tuple(names)))
    batches = (Batches(Source(piece.rows, splits.test.prepare), COUNT, components.device.device) for piece in pieces)
    examples = [batch["inputs"] for piece in batches for batch in piece]
    if not examples:
        raise ConfigError(format_error("--given", "at least one example", "none"))
    return torch.cat(examples)


def label_of(name: str, spec: "Spec") -> int:
    """The number of a class, by its name or by that number.

    Raises:
        ConfigError: Naming the nearest.
    """
    if not spec.classes:
        raise ConfigError(format_error("--class", "nothing, as this run's data have no classes", name))
    names = list(spec.class_names or map(str, range(spec.classes)))
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < spec.classes:
        return int(name)
    hint = suggest(name, names) or f"It is one of {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}."
    raise ConfigError(format_error("--class", f"a class by name, or a number from 0 to {spec.classes - 1}", name, hint))


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to write where something is already, or where nothing can be.

    Raises:
        ConfigError: Saying what to do.
    """
    if not os.path.isdir(path.parent):
        raise ConfigError(format_error("--out", "a file in a folder that is there", path))
    if os.path.isdir(path) or (os.path.exists(path) and not force):
        raise ConfigError(format_error("--out", "a new file", path, "It exists; --force replaces a file."))


def write(path: Path, content: bytes, force: bool) -> None:
    """Write a file whole or not at all; without ``force`` only a new one.

    Raises:
        ConfigError: When that cannot be done.
    """
    refuse_existing(path, force)
    try:
        write_atomic(path, content)
    except OSError as error:
        raise ConfigError(format_error("--out", f"a file that can be written at {path}", error.strerror)) from error
