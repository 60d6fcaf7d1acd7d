"""Help texts: ``dltrain --help`` and ``dltrain VERB --help``. Does not import Hydra or compose a configuration."""

from argparse import ArgumentParser
from collections.abc import Sequence
from textwrap import indent

from dltrain.cli.args import Parser
from dltrain.cli.verbs import VERBS
from dltrain.config.groups import list_groups

KEYS = """\
  seed                                random seed: initialization, data order, augmentation
  trainer.epochs trainer.max_steps    passes over the training data; maximum number of optimizer steps
  trainer.accumulate                  number of batches whose gradients are averaged in one step
  trainer.log_every                   when the loss is logged: "50 steps", "1 epoch", "5 minutes"
  trainer.eval_every                  when the validation split is evaluated
  trainer.eval_examples               number of validation examples to evaluate, the same ones each time
  trainer.checkpoint_every            when a checkpoint is written
  trainer.max_minutes                 minutes after which the run writes a checkpoint and stops
  optimizer.lr                        learning rate
  model.hidden_size model.num_layers  width and number of the hidden layers
  data.batch_size data.workers        examples per batch; processes that read files
  data.path data.column               your own file; column to predict
  data.window data.horizon            number of past steps to read; number of next steps to predict
  data.root data.download             folder of data sets; whether to download missing ones
  data.on_bad_sample                  unreadable examples: stop or skip
  device.precision                    auto, fp32, tf32, bf16 or fp16
  hydra.run.dir hydra.sweep.dir       folder of the run; folder of the sweep
  sweep.resume                        with -m: folder of a sweep to resume"""
OWN_MODEL = "  dltrain --config-dir my_conf model=mine 'allow_targets=[mine]'"
EXIT_CODES = """\
  0 done, 1 failed, 2 wrong usage, 3 diverged, 4 out of memory, 5 checkpoint rejected, 130 Ctrl-C, 143 SIGTERM"""


def verb_help(name: str) -> str:
    """Return the help of a verb."""
    verb = VERBS[name]
    parser = Parser(f"dltrain {name}", verb, epilog=f"examples:\n{indent(verb.examples, '  ')}")
    for argument, text in verb.arguments:
        parser.add_argument(argument, help=text)
    return parser.format_help()


def program_help(config_dirs: Sequence[str]) -> str:
    """Return the help of dltrain: verbs, groups with their options, keys and flags."""
    groups = [f"  {group}: {', '.join(options)}" for group, options in list_groups(config_dirs).items()]
    sections = {
        "examples": indent(VERBS["train"].examples, "  "),
        "groups (GROUP=OPTION)": "\n".join(groups),
        "keys (KEY=VALUE); dltrain --cfg job prints all": KEYS,
        "your own model: a class in mine.py and its YAML file my_conf/model/mine.yaml": OWN_MODEL,
        "exit codes": EXIT_CODES,
    }
    parser = Parser(
        "dltrain",
        VERBS["train"],
        usage="dltrain [VERB] [GROUP=OPTION ...] [KEY=VALUE ...] [FLAGS]",
        description="Train deep networks from a configuration.",
        epilog="\n\n".join(f"{title}:\n{text}" for title, text in sections.items()),
    )
    verbs = parser.add_subparsers(metavar="VERB", help="dltrain VERB --help", parser_class=ArgumentParser)
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.summary)
    return parser.format_help()
