"""An encoder in training and what is trained beside it, by losses that see the whole batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raid.methods.divergence import check_weights
from raid.methods.encoder import Encoder
from raid.models.batch_norm import pending_statistics, update_running_statistics


class Networks:
    """Encoder and whatever turns its features into a loss: MAR's agents, SLSR's classifier.

    Attributes:
        encoder: of the images; each worker passes its own rows of a batch through it.
        beside: what works on features. Every worker passes all rows of a batch through it, and all come to
            the same gradient without a reduction; its batch norm, if any, must be that of one worker.
        optimizer: of both. A group's `factor` is what the stage's learning rate is multiplied by in it.
    """

    def __init__(self, encoder: Encoder, beside: nn.Module, optimizer: Optimizer) -> None:
        self.encoder, self.beside, self.optimizer = encoder, beside, optimizer

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters.get("factor", 1.0)

    def step(self, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Train on one global batch; return its loss.

        Args:
            inputs: (B / W, 3, H, W) this worker's rows; the same number on all workers.
            loss_of: the loss of features (B, D) of all rows in rank order, through `beside`.
        """
        encoder, group = self.encoder, self.encoder.group
        self.optimizer.zero_grad()
        self.beside.train()
        mine, backward = encoder.forward_batch(inputs)
        features = group.gather_rows(mine, equal=True).requires_grad_()
        loss = loss_of(features)
        trained = [parameter for parameter in self.beside.parameters() if parameter.requires_grad]
        gradient, *others = torch.autograd.grad(
            loss, [features, *trained], allow_unused=True, materialize_grads=True
        )
        backward(gradient[group.slice(len(features))])
        for parameter, of_parameter in zip(trained, others, strict=True):
            parameter.grad = of_parameter
        self.optimizer.step()
        self._follow_statistics()
        return loss.detach()

    def assert_lockstep(self) -> None:
        """Fail when the workers' networks differ by a single bit."""
        self.encoder.assert_lockstep(*self.beside.state_dict().values())

    def check_weights(self, epoch: int, step: int, path: str) -> None:
        """Stop a training that has diverged; see `divergence.check_weights`."""
        values = [*self.encoder.model.state_dict().values(), *self.beside.state_dict().values()]
        check_weights(values, epoch=epoch, step=step, path=path)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "model": self.encoder.model.state_dict(),
            "beside": self.beside.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.encoder.model.load_state_dict(state["model"])
        self.beside.load_state_dict(state["beside"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _follow_statistics(self) -> None:
        self.encoder.follow_statistics()
        statistics = pending_statistics(self.beside)
        if statistics is not None:  # of all groups already
            update_running_statistics(self.beside, statistics)


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a state dict on the CPU."""
    return {key: value.cpu().clone() for key, value in state.items()}
