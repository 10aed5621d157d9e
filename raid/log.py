"""Log lines to standard error, one way for the command and for the worker processes it spawns."""

import logging
import sys

from tqdm import tqdm


def configure() -> None:
    """Print raid's messages of level INFO and above, others' warnings, above any progress bar."""
    handler = _AboveBars()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("raid").setLevel(logging.INFO)
    logging.captureWarnings(True)


class _AboveBars(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
