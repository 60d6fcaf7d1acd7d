"""``dltrain inspect``: print how a data set is read, without training."""

import argparse

from dltrain.config.compose import compose
from dltrain.loggers.console import clean


def main(arguments: argparse.Namespace, started: float) -> int:
    """Compose the configuration, read the data and print how they were read."""
    job = compose(arguments.overrides, tuple(arguments.config_dir))
    from dltrain.runs.inspection import inspect_data

    for line in inspect_data(job):
        print(clean(line))
    return 0
