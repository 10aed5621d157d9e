"""`python -m raid`: the `raid` command."""

import sys

from raid.cli import main

if __name__ == "__main__":
    sys.exit(main())
