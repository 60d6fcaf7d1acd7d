"""The entry: which verb, which flags. Never imports torch; a verb does when it needs it."""

import contextlib
import errno
import functools
import importlib
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dltrain import redaction
from dltrain.cli import stdio
from dltrain.cli.hydra_flags import Parser
from dltrain.config.compose import conf_dir, expand
from dltrain.config.composer import search_path
from dltrain.errors import ConfigError, DltrainError, format_error, suggest
from dltrain.loggers.formatting import CONTROL_CODES
from dltrain.training.signals import NAMES, Stopped

STARTED = time.perf_counter()

# verb -> what it is; each is a module of dltrain.cli, imported when called.
VERBS = {
    "train": "train, evaluate and keep a run (the default)",
    "resume": "go on with a run that was interrupted",
    "rerun": "begin a run anew, and say what differs from then",
    "evaluate": "what the best checkpoint of a run reaches on its test split",
    "predict": "what a run's model says about files, standard input or text",
    "generate": "what a run's model makes up: pictures, points, or a way from one to another",
    "runs": "a table of runs: what was chosen, what they reached, how they ended",
    "summary": "layers, parameters, multiply-adds and memory of a model; trains nothing",
}
# data.KEY=VALUE, device=OPTION and the like; whatever else has an = in it may be a file.
OVERRIDE = re.compile(r"[+~]*[a-zA-Z_][\w./@]*=|~[a-zA-Z_]")
OURS = ("multirun", "run", "config_dir")  # flags that do not show something


@dataclass(frozen=True)
class Command:
    """A command line, taken apart.

    Args:
        verb: What to do.
        overrides: ``group=option`` and ``key=value``.
        multirun: Whether it is a sweep.
        config_dirs: Folders of the user's own YAML groups.
        rest: Flags that the verb reads itself.
        words: Everything that the verb may read, in the order in which it was typed.
    """

    verb: str
    overrides: list[str]
    multirun: bool
    config_dirs: tuple[str, ...]
    rest: list[str]
    words: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 diverged, 4 out of memory, 5 checkpoint refused, 130 and 143
        ended by Ctrl-C and SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    redaction.clear()
    redaction.register_overrides(argv)
    try:
        with stdio.ready(), careful(), named():
            return dispatch(argv)
    except DltrainError as error:
        for line in error.problems:
            print(f"dltrain: {harmless(line)}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        print("dltrain: interrupted before anything was done", file=sys.stderr)
        return NAMES.get(stopped.reason, 143)
    except BrokenPipeError:
        # Who read our output has seen enough; without this Python complains once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        # Of dltrain, or of a model of the user's own: Python itself would print the secrets in it.
        for line in redaction.redact(traceback.format_exc()).splitlines():
            print(harmless(line), file=sys.stderr)
        return 1


def harmless(text: str) -> str:
    """A line for a terminal: no secrets, and nothing that moves the cursor or looks like another line."""
    shown = CONTROL_CODES.sub("", text).replace("\n", " ")
    return redaction.redact("".join(c for c in shown if c.isprintable() or c == "\t"))


@contextlib.contextmanager
def careful() -> Iterator[None]:
    """Let torch load tensors and plain values only, wherever a library asks it for more."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def named() -> Iterator[None]:
    """What the system cannot take for a name of a file is the user's mistake, wherever it turns up.

    Raises:
        ConfigError: Saying what is wrong with it.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        wanted = f"a name that the system takes ({error.strerror})"
        raise ConfigError(format_error("file", wanted, error.filename)) from None
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        raise ConfigError(format_error("~NAME", "a user who has a home on this machine", "another")) from None


def dispatch(argv: list[str]) -> int:
    """Call what a command line asks for."""
    if "--version" in argv:
        print(version())
        return 0
    command = read(argv)
    if command.verb == "train" and command.rest:
        return show(command)
    return importlib.import_module(f"dltrain.cli.{command.verb}").main(command, STARTED)


def read(argv: list[str]) -> Command:
    """Take a command line apart.

    Raises:
        ConfigError: For flags that do not exist, or that dltrain refuses.
    """
    named = bool(argv) and argv[0] in VERBS
    if argv and not named and argv[0].isalpha() and (close := suggest(argv[0], VERBS)):
        raise ConfigError(format_error(argv[0], "a verb or KEY=VALUE", argv[0], close))
    verb = argv[0] if named else "train"
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-r", "--run", action="store_true")
    parser.add_argument("-cd", "--config-dir", action="append", default=[])
    if verb == "train":
        parser.add_showing()
    words = argv[1:] if named else argv
    end = words.index("--") if verb == "predict" and "--" in words else len(words)
    found, rest = parser.parse_known_args(words[:end])
    rest += words[end:]
    flags = {name: value for name, value in vars(found).items() if name not in OURS and value}
    if "package" in flags and "cfg" not in flags:
        parser.error("--package: expected --cfg job with it")
    shown = [word for name, value in flags.items() for word in as_flag(name, value)]
    overrides = [word for word in rest if not word.startswith("-") and (verb == "train" or is_override(word))]
    others = [word for word in rest if word not in overrides]
    if verb == "train":
        parser.refuse(others)
    elif found.multirun:
        sweep = "dltrain -m GROUP=A,B KEY=1,2 trains every combination"
        raise ConfigError(f"-m: refused, dltrain {verb} sweeps nothing. {sweep}")
    return Command(verb, overrides, found.multirun, tuple(found.config_dir), shown or others, tuple(rest))


def is_override(word: str) -> bool:
    """Whether a word sets something; the folder of a sweep's run, ``0_model=lstm``, is one that is there.

    So is one that is not there, ``sweep/0_model=lstm``, unless that is a group; what is nearly a key sets something.
    """
    if not OVERRIDE.match(word) or os.path.exists(word):
        return False
    key = word.lstrip("+~").partition("=")[0].partition("@")[0]
    if "/" in key:
        return (conf_dir() / key).is_dir()
    head = key.partition(".")[0]
    return head in known() or bool(suggest(head, known("config.yaml")))


@functools.cache
def known(files: str = "**/*.yaml") -> frozenset[str]:
    """The names of groups, and of keys in some of their files."""
    groups = (entry.name for entry in conf_dir().iterdir() if entry.is_dir())
    texts = (file.read_text(encoding="utf-8") for file in conf_dir().glob(files))
    return frozenset([*groups, *(name for text in texts for name in re.findall(r"^ *(\w+):", text, re.MULTILINE))])


def one_run(command: Command) -> tuple[Path, list[str], list[str]]:
    """The run that a command is about, what it changes, and the modules that it trusts.

    Raises:
        ConfigError: When it names none, several, or something that is no run.
    """
    from dltrain.runs import job

    flags = [word for word in command.rest if word.startswith("-")]
    names = [word for word in command.rest if word not in flags]
    if flags or len(names) != 1:
        usage = f"dltrain {command.verb} RUN, RUN being a run's folder or latest"
        raise ConfigError(format_error(command.verb, usage, " ".join(flags or names) or None))
    return job.find_run(names[0]), command.overrides, trusted(command.overrides)


def trusted(overrides: list[str]) -> list[str]:
    """The modules that a command line trusts."""
    found = [word.split("=", 1)[1] for word in overrides if word.startswith("allow_targets=")]
    return [name.strip() for text in found for name in text.strip("[]").split(",") if name.strip()]


def as_flag(name: str, value: bool | str) -> list[str]:
    """A flag as it is typed."""
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def show(command: Command) -> int:
    """Let Hydra answer ``--help``, ``--cfg``, ``--info`` and completion; mistakes are ours to explain."""
    import hydra
    from omegaconf import DictConfig

    if "--shell-completion" in command.rest:
        prepare_completion(command.overrides)
        overrides = command.overrides
    else:
        overrides = checked(command)

    def nothing(config: DictConfig) -> None:
        """Hydra wants a function to decorate; these flags never call it."""

    sys.argv = ["dltrain", *command.rest, *overrides]
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(nothing)()
    except SystemExit as stop:
        return 2 if stop.code else 0
    return 0


def checked(command: Command) -> list[str]:
    """The overrides as Hydra reads them, once they are known to be right.

    Raises:
        ConfigError: For what is wrong in them, or when they ask for several jobs.
    """
    if not command.overrides and not command.config_dirs:
        return []
    jobs = expand(command.overrides, command.config_dirs, sweep=command.multirun)
    if len(jobs) > 1:
        raise ConfigError(f"{command.rest[0]}: expected one job, got a sweep. Give each key one value.")
    return [*jobs[0].overrides, *search_path(command.config_dirs)]


def prepare_completion(words: list[str]) -> None:
    """Complete a verb, and let Hydra complete what follows it; it knows none.

    Raises:
        ConfigError: When it is not said what to do for which shell.
    """
    what, _, shell = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if what not in ("install", "uninstall", "query") or shell not in ("bash", "fish", "zsh"):
        raise ConfigError(
            format_error("--shell-completion", "install=SHELL, SHELL being bash, fish or zsh", " ".join(words))
        )
    line = os.environ.get("COMP_LINE", "dltrain ").split(" ")
    # Hydra would look into the packages that its own keys name.
    line = [word for word in line[:-1] if not word.lstrip("+~").startswith("hydra")] + line[-1:]
    if what == "query" and len(line) == 2:
        for verb in filter(lambda verb: verb.startswith(line[1]), VERBS):
            print(verb)
    if len(line) > 2 and line[1] in VERBS:  # Hydra knows neither verbs nor the run that follows one
        line = [line[0], *(word for word in line[2:-1] if "=" in word or word.startswith("-")), *line[2:][-1:]]
    os.environ["COMP_LINE"] = " ".join(line)


def version() -> str:
    """The versions of dltrain and of what decides how it behaves."""
    from importlib import metadata

    dltrain, torch, hydra = (metadata.version(name) for name in ("dltrain", "torch", "hydra-core"))
    return f"dltrain {dltrain} (torch {torch}, hydra {hydra}, Python {platform.python_version()})"


if __name__ == "__main__":
    sys.exit(main())
