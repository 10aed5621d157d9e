"""Runs that are killed at a certain place, and gone on with."""

from collections.abc import Callable

import pytest

from raid.distributed import checkpoint


class Killed(BaseException):
    """Stands for the signal that ends a process: nothing handles it."""


def dying(real: Callable, call: int, *, after: bool) -> Callable:
    """Return `real`, at whose given call the run ends: before it, or after it has done its work."""
    calls = iter(range(1, 1000))

    def function(*arguments, **keywords):
        dies = next(calls) == call
        if dies and not after:
            raise Killed
        result = real(*arguments, **keywords)
        if dies:
            raise Killed
        return result

    return function


def kill_at(patch: pytest.MonkeyPatch, module: object, name: str, call: int, *, after: bool) -> None:
    """End the run at a call of a function."""
    patch.setattr(module, name, dying(getattr(module, name), call, after=after))


def lives(run: Callable[[bool], object], monkeypatch: pytest.MonkeyPatch, call: int, *, after: bool) -> int:
    """Call `run(resume)` until it ends by itself; return how many lives it took.

    Each ends at the same call of `checkpoint.save`.
    """
    for life in range(1, 100):
        with monkeypatch.context() as patch:
            kill_at(patch, checkpoint, "save", call, after=after)
            try:
                run(life > 1)
            except Killed:
                continue
        return life
    raise AssertionError("the run gets nowhere")
