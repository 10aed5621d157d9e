"""The `raid` command. A method and its libraries are imported when they are asked for, not before."""

import argparse
from collections.abc import Sequence

from raid import __version__
from raid.commands.answers import add_extract, add_rank, add_threshold
from raid.commands.command_line import exit_status, parse_with_overrides
from raid.commands.data import add_data
from raid.commands.results import (
    add_compare,
    add_evaluate,
    add_register,
    add_report,
    add_scaling,
    add_tables,
    add_track,
)
from raid.commands.training import add_config, add_demo, add_methods, add_plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status: 0 done, 1 errors in a set, 2 a mistake."""
    options = parse_with_overrides(_parser(), arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raid", description="Train person re-identification without labels (and with few)."
    )
    parser.add_argument("--version", action="version", version=f"raid {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_methods(commands)
    add_plan(commands)
    add_config(commands)
    add_data(commands)
    add_demo(commands)
    add_evaluate(commands)
    add_extract(commands)
    add_rank(commands)
    add_threshold(commands)
    add_compare(commands)
    add_scaling(commands)
    add_tables(commands)
    add_report(commands)
    add_track(commands)
    add_register(commands)
    return parser
