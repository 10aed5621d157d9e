"""A command line from its arguments to its exit status, of `raid` and of the scripts in tune/."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from raid.errors import InputError

EXIT_INPUT_ERROR = 2


def parse_with_overrides(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a command line, on which overrides may come after an option (FILE --resume a.b=c)."""
    options, rest = parser.parse_known_args(arguments)
    # argparse gives up on them.
    if rest and (
        not hasattr(options, "overrides") or any("=" not in text or text[0] == "-" for text in rest)
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def exit_status(run: Callable[[], int | None]) -> int:
    """Return the exit status of what a command does, having told of its mistakes."""
    try:
        status = run()
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
