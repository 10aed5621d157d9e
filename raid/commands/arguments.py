"""Arguments that commands have in common, and what they come to."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from raid.distributed.backend import Backend
    from raid.methods.known import MethodConfig

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_configuration(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the run file and the overrides; FILE may be left out where it is `optional`."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", nargs="?" if optional else None, help="a run file, see jobs/"
    )
    # A default, or argparse calls the overrides required when FILE is missing.
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="values that go before the file's"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the model that a command is about."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a run's folder, or its model.pt or pretrained.pt"
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the choice between Ray and this machine alone."""
    parser.add_argument(
        "--backend",
        choices=["ray", "local"],
        default="ray",
        help="ray: the cluster of RAY_ADDRESS or of the submitted job, else one of this machine's own; "
        "local: no Ray, run.workers processes of this machine",
    )


@contextmanager
def backend_of(name: str, config: "MethodConfig") -> Iterator["Backend"]:
    """Give the backend of `--backend` for a run of `config`, and close it."""
    from raid.methods.launch import local_backend

    if name == "local":
        yield local_backend(config)
        return
    from raid.methods.on_ray import ray_backend

    backend = ray_backend(config)
    try:
        yield backend
    except SystemExit as stopped:  # by SIGTERM: Ray would take longer to end than whoever sent it waits
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(stopped.code or 0))
    finally:
        backend.close()


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
