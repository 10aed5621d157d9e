"""A training that has diverged is stopped, before it goes on with numbers that are none."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raid.data.fetched import Fetched
from raid.data.images import names_of
from raid.distributed.group import Group
from raid.errors import InputError
from raid.files import write_json
from raid.methods.encoder import Encoder, Shares
from raid.run_folder import RunFolder

_SHOWN = 3


@dataclass(frozen=True)
class _Seen:
    """The loss of a step on its way to the host, and what the step was made of."""

    loss: Fetched
    epoch: int
    step: int
    rate: float
    shares: Shares


class LossCheck:
    """Stops a training whose loss is not finite; every worker uses one, and has the same losses.

    On a GPU a loss is looked at when the next step has been queued: nobody waits for it.

    Args:
        encoder: that is trained.
        folder: of the run; diverged.json there lists the images of the batch.
        path: field of the learning rate.
    """

    def __init__(self, encoder: Encoder, folder: RunFolder, path: str) -> None:
        self._encoder, self._folder, self._path = encoder, folder, path
        self._waiting: _Seen | None = None

    def see(self, loss: Tensor, *, epoch: int, step: int, rate: float) -> None:
        """Look at the loss of a global batch, or at that of the one before.

        Args:
            loss: of the batch that the encoder was trained on last.
            epoch: 0-based, as is the step.
            step: of the epoch.
            rate: learning rate of the step.

        Raises:
            InputError: it is not finite.
        """
        self.settle()
        self._waiting = _Seen(Fetched(loss), epoch, step, rate, self._encoder.latest)
        if not loss.is_cuda:
            self.settle()

    def settle(self) -> None:
        """Look at what has not been looked at yet; before anything of the training is kept.

        Raises:
            InputError: see `see`.
        """
        seen, self._waiting = self._waiting, None
        if seen is None:
            return
        loss = float(seen.loss.arrays()[0])
        if not np.isfinite(loss):
            raise self._diverged(seen, loss)

    def _diverged(self, seen: _Seen, loss: float) -> InputError:
        names = names_of_batch(seen.shares, self._encoder.group)
        if self._encoder.group.is_first:
            place = {"epoch": seen.epoch, "step": seen.step, "learning_rate": seen.rate}
            write_json(self._folder.diverged, {**place, "loss": str(loss), "batch": names})
        self._encoder.group.barrier()  # the first that raises ends them all: not before the file is there
        return diverged(
            self._path,
            f"the loss of epoch {seen.epoch + 1}, step {seen.step + 1} is {loss} at the learning rate "
            f"{seen.rate:g}, on the batch of {len(names)} images that {self._folder.diverged} lists "
            f"({', '.join(names[:_SHOWN])}, ...)",
        )


def names_of_batch(shares: Shares, group: Group) -> list[str]:
    """Return the names of the images of a global batch, set by set; every worker calls this.

    Args:
        shares: this worker's, of each set: the images, and its rows of the batch.
        group: the workers.
    """
    names = []
    for images, rows in shares:
        gathered = group.gather_rows(torch.from_numpy(rows.astype(np.int64)))
        names += names_of(images, gathered.numpy())
    return names


def check_weights(tensors: list[Tensor], *, epoch: int, step: int, path: str) -> None:
    """Stop a training that has diverged before its weights take the place of some that are of use.

    Raises:
        InputError: they are not finite.
    """
    if not all(bool(torch.isfinite(value).all()) for value in tensors):
        raise diverged(path, f"the weights after epoch {epoch + 1}, step {step + 1} are not finite")


def diverged(path: str, what: str) -> InputError:
    """Return the error that names `path`, the field of the learning rate."""
    return InputError(
        f"{path}: {what}: the training has diverged; lower it (a smaller batch needs a smaller one), or "
        "start from weights that fit. The checkpoints before are kept"
    )
