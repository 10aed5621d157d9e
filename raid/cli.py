"""The `raid` command. A method and its libraries are imported when they are asked for, not before."""

import argparse
import os
import sys
from collections.abc import Sequence

from raid import __version__
from raid.commands.data import add_data
from raid.commands.results import (
    add_compare,
    add_evaluate,
    add_register,
    add_report,
    add_tables,
    add_track,
)
from raid.commands.training import add_config, add_demo, add_methods, add_plan
from raid.errors import InputError

EXIT_INPUT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status: 0 done, 1 errors in a set, 2 a mistake."""
    options = _parse(arguments)
    try:
        status: int | None = options.run(options)
        sys.stdout.flush()
    except InputError as error:
        for line in str(error).splitlines():
            print(f"raid: {line}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except BrokenPipeError:  # `raid config icsr | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("raid: interrupted", file=sys.stderr)
        return 130
    return status or 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse gives up on overrides that come after an option (FILE --resume a.b=c).
    if rest and (
        not hasattr(options, "overrides") or any("=" not in text or text[0] == "-" for text in rest)
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


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
    add_compare(commands)
    add_tables(commands)
    add_report(commands)
    add_track(commands)
    add_register(commands)
    return parser
