"""Processes forked from one that has done the imports: a start takes no seconds, nor does an end."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context
from unittest import mock

IMPORTED = [
    *(f"raid.methods.{method}.recipe" for method in ("icsr", "mar", "slsr")),
    "torchvision.models",
]


@contextmanager
def in_use() -> Iterator[None]:
    """Whoever asks for processes that are spawned gets such ones; nothing but what is imported is theirs."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    forked = multiprocessing.get_context("forkserver")
    with mock.patch.dict(context._concrete_contexts, spawn=forked):
        yield
