"""When a training saves its state between the ends of its epochs."""

import time

from raid.distributed.group import Group
from raid.distributed.launch import Stopped
from raid.methods.execution import Run
from raid.run_folder import RunFolder
from raid.run_status import asked_to_stop

_NO, _SAVE, _STOP, _TAKEN = range(4)


class Saving:
    """Says on every worker alike when the state is due: by steps, by the first worker's clock, or on request.

    Args:
        group: the workers.
        run: the configuration's section.
        folder: of the run, where somebody may ask for it.
    """

    def __init__(self, group: Group, run: Run, folder: RunFolder) -> None:
        self._group, self._run, self._folder = group, run, folder
        self._saved = time.monotonic()
        self._says = _NO

    def due(self, step: int) -> bool:
        """Return whether the state is to be saved after so many steps of an epoch; every worker calls it.

        Raises:
            InputError: another process goes on with the run.
        """
        every = self._run.checkpoint_steps
        self._says = self._group.agreed(self._first_says() if self._group.is_first else _NO)
        if self._says == _TAKEN:
            raise self._folder.taken_over()
        return self._says != _NO or (every > 0 and step % every == 0)

    def _first_says(self) -> int:
        if not self._folder.is_ours():
            return _TAKEN
        if asked_to_stop(self._folder.path):
            return _STOP
        minutes = self._run.checkpoint_minutes
        return _SAVE if minutes > 0 and time.monotonic() > self._saved + 60 * minutes else _NO

    def done(self) -> None:
        """Note that the state has been saved; every worker calls it, and only the first one has written.

        Raises:
            Stopped: that was all that is to be done.
        """
        self._saved = time.monotonic()
        if self._says == _STOP:
            self._group.barrier()  # the first that raises ends them all: not while the file is being written
            raise Stopped("the training was asked to stop, and has saved its state")
