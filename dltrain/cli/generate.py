"""``dltrain generate RUN``: write samples, reconstructions, interpolations or music to a file, or print text."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dltrain.config.groups import is_override
from dltrain.data.inputs import check_inputs
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.runs.job import open_run
from dltrain.runs.overridable import check_predict
from dltrain.storage.atomic import write_atomic

if TYPE_CHECKING:
    from dltrain.runs.assemble import Components
    from dltrain.tasks.base import TextRequest

TextEncoder = Callable[[str], bytes]
TEXT_FLAGS = ("prompt", "length", "temperature", "top_k", "top_p", "beam")
DRAWING_FLAGS = ("temperature", "top_k", "top_p")
EXAMPLE_FLAGS = {
    "count": "--count",
    "label": "--class",
    "interpolate": "--interpolate",
    "given": "--given",
    "out": "--out",
}


def main(arguments: argparse.Namespace, started: float) -> int:
    """Write generated examples or music to a file and print the file's name, or print generated text."""
    given = [word for word in arguments.given if not is_override(word)]
    overrides = [*arguments.overrides, *filter(is_override, arguments.given)]
    if given and arguments.count:
        raise ConfigError("--count: not supported with --given because every example in --given is reconstructed once")
    path, job, changes = open_run(arguments.names[0], overrides)
    check_inputs(given)
    if arguments.out:
        _reject_existing(Path(os.path.expanduser(arguments.out)), arguments.force)
    check_predict(changes)
    job.set_environment()
    from dltrain.runs import export, generation
    from dltrain.runs.inference import rebuild_components, restore_weights

    components = rebuild_components(job, path)
    is_text = generation.writes_text(components.task)
    formats = generation.file_formats(components) if is_text else {}
    _check_flags(arguments, components, is_text, formats)
    step = restore_weights(components, path, f"{arguments.checkpoint}.pt")
    checkpoint = f"{path}: {arguments.checkpoint} checkpoint, step {step:,}"
    if is_text and arguments.out:
        _write_file(arguments, components, checkpoint, formats)
        return 0
    if is_text:
        _write_text(arguments, components, checkpoint)
        return 0
    spec = components.data.spec
    out = Path(os.path.expanduser(arguments.out or f"generated{next(iter(export.encoders(spec)))}"))
    _reject_existing(out, arguments.force)  # before the examples are generated, which may take long
    encode = export.encoder(out, spec)
    label = None if arguments.label is None else generation.class_number(arguments.label, spec)
    count = arguments.count or generation.COUNT
    generated = generation.generate(components, count, arguments.seed, label, arguments.interpolate, given)
    _write_content(out, encode(generated), arguments.force)
    Console().info(f"{checkpoint}: {len(generated.examples):,} examples")
    print(out)
    return 0


def _check_flags(
    arguments: argparse.Namespace, components: "Components", is_text: bool, formats: Mapping[str, TextEncoder]
) -> None:
    """Raise ConfigError for flags that do not apply to what the task generates, and for flags that exclude each other.

    A suffix of ``--out`` that is not in `formats` is an error too, unless `formats` is empty.

    Args:
        formats: Suffix -> encoder, for each file format in which the text can be written.
    """
    from dltrain.runs import generation

    text = "text" if formats else "text on standard output"
    output, task = (text if is_text else "examples"), type(components.task).__name__
    flags = dict(EXAMPLE_FLAGS) if is_text else _flags(TEXT_FLAGS)
    if formats:
        del flags["out"]
        if arguments.out and Path(arguments.out).suffix.lower() not in formats:
            raise ConfigError(format_error("--out", f"a file ending in {' or '.join(formats)}", arguments.out))
    given = _given(arguments, flags)
    if given and (is_text or generation.generates_examples(components.task)):
        raise ConfigError(*(f"{flag}: not supported for the task {task}, which generates {output}" for flag in given))
    if arguments.beam is not None and (drawing := _given(arguments, _flags(DRAWING_FLAGS))):
        raise ConfigError(f"--beam: not supported with {' '.join(drawing)} because beam search does not sample tokens")


def _flags(names: tuple[str, ...]) -> dict[str, str]:
    return {name: f"--{name.replace('_', '-')}" for name in names}


def _given(arguments: argparse.Namespace, flags: dict[str, str]) -> list[str]:
    values = {flag: getattr(arguments, name) for name, flag in flags.items()}
    return [flag for flag, value in values.items() if not (value is None or value is False or value == [])]


def _text_request(arguments: argparse.Namespace) -> "TextRequest":
    from dltrain.tasks.base import TextRequest

    given = {name: getattr(arguments, name) for name in TEXT_FLAGS if getattr(arguments, name) is not None}
    return TextRequest(**given, seed=arguments.seed)


def _write_file(
    arguments: argparse.Namespace, components: "Components", checkpoint: str, formats: Mapping[str, TextEncoder]
) -> None:
    """Write the text to the file ``--out`` in the format of its suffix, and print the name of the file."""
    from dltrain.runs import generation

    out, pieces = Path(os.path.expanduser(arguments.out)), list[str]()
    generation.write(components, _text_request(arguments), pieces.append)
    _write_content(out, formats[out.suffix.lower()]("".join(pieces)), arguments.force)
    Console().info(checkpoint)
    print(out)


def _write_text(arguments: argparse.Namespace, components: "Components", checkpoint: str) -> None:
    """Print the text token by token; on a terminal, without control characters, which could change its settings."""
    from dltrain.runs import generation

    console, is_terminal = Console(), sys.stdout.isatty()
    begun = False

    def emit(text: str) -> None:
        nonlocal begun
        if not begun:  # the first token shows that the prompt is valid
            console.info(checkpoint)
        begun = True
        safe = (c for c in text if c.isprintable() or c in "\n\t")
        sys.stdout.write("".join(safe) if is_terminal else text)
        sys.stdout.flush()

    generation.write(components, _text_request(arguments), emit)
    sys.stdout.write("\n")


def _write_content(out: Path, content: bytes, force: bool) -> None:
    _reject_existing(out, force)
    try:
        write_atomic(out, content)
    except OSError as error:
        raise ConfigError(format_error("--out", "a file that can be written", out, f"{error.strerror}.")) from error


def _reject_existing(path: Path, force: bool) -> None:
    """Reject a folder, a path in a missing folder and, unless ``force`` is set, an existing file."""
    if not os.path.isdir(path.parent):
        raise ConfigError(format_error("--out", "a file in an existing folder", path))
    if os.path.isdir(path):
        raise ConfigError(format_error("--out", "a file", path, "It is a folder."))
    if os.path.exists(path) and not force:
        raise ConfigError(format_error("--out", "a new file", path, "It exists; --force replaces a file."))
