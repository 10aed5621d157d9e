"""Log lines to standard error, one way for the command and for the worker processes it spawns."""

import logging
import sys

from tqdm import tqdm


def configure() -> None:
    """Print the messages of level INFO and above as they are, above any progress bar."""
    handler = _AboveBars()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


class _AboveBars(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
