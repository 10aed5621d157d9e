"""Log lines to standard error, one way for the command and for the worker processes it spawns."""

import logging
import sys


def configure() -> None:
    """Print the messages of level INFO and above as they are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.captureWarnings(True)
