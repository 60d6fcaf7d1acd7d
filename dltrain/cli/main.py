"""Entry point: run a verb and turn each error into a message and an exit code. Imports neither torch nor Hydra."""

import contextlib
import errno
import gc
import importlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

from dltrain import __version__, redaction
from dltrain.cli.args import parse
from dltrain.cli.stdio import standard_streams
from dltrain.errors import ConfigError, DltrainError, format_error
from dltrain.loggers.formatting import CONTROL_CODES
from dltrain.training.signals import SIGNAL_EXIT_CODES, Stopped

STARTED = time.perf_counter()
# Imports and the composed configuration create a million objects, most of which live until the end: with Python's
# default thresholds, garbage collection takes a tenth of the time to the first step. The training loop lowers the
# thresholds again.
RARE_COLLECTIONS = (50_000, 20, 100)
HYDRA_FLAGS = ("cfg", "package", "info", "hydra_help", "shell_completion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``dltrain --help`` lists all exit codes."""
    argv = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(*RARE_COLLECTIONS)
    redaction.clear()
    redaction.register_overrides(argv)
    try:
        with standard_streams(), _weights_only_loading(), _explained_paths():
            return run(argv)
    except DltrainError as error:
        for line in error.problems:
            print(f"dltrain: {_printable(line)}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        print("dltrain: interrupted before anything was done", file=sys.stderr)
        return SIGNAL_EXIT_CODES.get(stopped.reason, 143)
    except BrokenPipeError:  # the process that reads standard output closed it
        return 0
    except Exception:  # a bug in dltrain or in the user's code; Python's own traceback could contain secrets
        for line in redaction.redact(traceback.format_exc()).splitlines():
            print(_printable(line), file=sys.stderr)
        return 1


def run(argv: Sequence[str]) -> int:
    """Parse a command line and call its verb, a module of `dltrain.cli`."""
    arguments = parse(argv)
    if arguments.help:
        from dltrain.cli.help import program_help, verb_help

        is_top_level = arguments.verb == "train" and "train" not in argv[:1]
        print(program_help(arguments.config_dir) if is_top_level else verb_help(arguments.verb), end="")
        return 0
    if arguments.verb == "train" and arguments.version:
        from importlib.metadata import version

        torch, hydra = version("torch"), version("hydra-core")
        print(f"dltrain {__version__} (torch {torch}, hydra {hydra}, Python {platform.python_version()})")
        return 0
    if flags := {name: value for name in HYDRA_FLAGS if (value := vars(arguments).get(name))}:
        from dltrain.cli.hydra_flags import show

        return show(arguments, flags)
    return importlib.import_module(f"dltrain.cli.{arguments.verb}").main(arguments, STARTED)


def _printable(text: str) -> str:
    """Return text as one line that is safe to print on a terminal: secrets redacted, control characters removed."""
    shown = CONTROL_CODES.sub("", text).replace("\n", " ")
    return redaction.redact("".join(c for c in shown if c.isprintable() or c == "\t"))


@contextlib.contextmanager
def _weights_only_loading() -> Iterator[None]:
    """Make every `torch.load`, including calls in libraries, load only tensors and plain values."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def _explained_paths() -> Iterator[None]:
    """Turn errors about paths into `ConfigError`: no permission, a name that is too long, an unknown ``~USER``."""
    try:
        yield
    except PermissionError as error:
        if error.filename is None:
            raise
        raise ConfigError(
            format_error("file", "a path that you may access", error.filename, "Permission denied.")
        ) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        expected = f"a name that the system accepts ({error.strerror})"
        raise ConfigError(format_error("file", expected, error.filename)) from None
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        raise ConfigError(format_error("~NAME", "a user of this machine", "an unknown name")) from None


if __name__ == "__main__":
    sys.exit(main())
