"""What both stages of MAR train: the encoder and the reference agents, by losses that see the whole batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raid.distributed.group import Group
from raid.errors import InputError
from raid.methods.encoder import Encoder, EncoderSettings
from raid.methods.mar.config import Sgd
from raid.methods.mar.weights import Weights
from raid.models.batch_norm import BatchNorm


class Networks:
    """Encoder and agents in training.

    Attributes:
        encoder: of the images.
        agents: (P, D) rows of any length; a stage that wants unit rows normalises them in its loss, so that
            the gradient takes account of it.
        optimizer: of both.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        weights: Weights,
        group: Group,
        device: torch.device,
        sgd: Sgd,
        *,
        train_agents: bool = True,
    ) -> None:
        """Start from `weights`; raises as `Encoder`."""
        self.encoder = Encoder(settings, weights.model, group, device)
        agents = weights.agents.to(device=device, dtype=settings.dtype, copy=True)
        self.agents = nn.Parameter(agents, requires_grad=train_agents)
        trained = [self.agents] if train_agents else []
        self.optimizer = torch.optim.SGD(
            _parameter_groups(self.encoder, trained, sgd.weight_decay),
            lr=sgd.learning_rate,
            momentum=sgd.momentum,
        )

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate

    def step(self, inputs: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Train on one global batch; return its loss.

        Features are gathered and the loss is computed on every worker alike. So is the agents' gradient,
        which needs no reduction; that of the features goes back through each worker's own rows.

        Args:
            inputs: (B / W, 3, H, W) this worker's rows; the same number on all workers.
            loss_of: the loss of (features (B, D) of all rows in rank order, agents (P, D)).
        """
        encoder, group = self.encoder, self.encoder.group
        self.optimizer.zero_grad()
        parts = encoder.forward_batch(inputs)
        features = group.gather_rows(torch.cat(parts).detach()).requires_grad_()
        loss = loss_of(features, self.agents)
        sought = [features, self.agents] if self.agents.requires_grad else [features]
        gradients = torch.autograd.grad(loss, sought, allow_unused=True, materialize_grads=True)
        encoder.backward_batch(parts, gradients[0][group.slice(len(features))])
        if self.agents.requires_grad:
            self.agents.grad = gradients[1]
        self.optimizer.step()
        encoder.follow_statistics()
        return loss.detach()

    def assert_lockstep(self) -> None:
        """Fail when the workers' networks differ by a single bit."""
        self.encoder.assert_lockstep(self.agents)

    def check_weights(self, epoch: int, step: int, path: str) -> None:
        """Stop a training that has diverged before its weights take the place of some that are of use.

        Raises:
            InputError: they are not finite; names the field `path` of the learning rate.
        """
        values = (*self.encoder.model.state_dict().values(), self.agents)
        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise _diverged(path, f"the weights after epoch {epoch + 1}, step {step + 1} are not finite")

    def weights(self, scale: float) -> Weights:
        """Return a copy of what has been learned."""
        model = {key: value.cpu().clone() for key, value in self.encoder.model.state_dict().items()}
        return Weights(model, self.agents.detach().cpu().clone(), scale)


def check_loss(loss: Tensor, epoch: int, step: int, path: str) -> None:
    """Stop a training that has diverged before it goes on with numbers that are none.

    Raises:
        InputError: the loss is not finite; names the field `path` of the learning rate.
    """
    if not bool(torch.isfinite(loss)):
        raise _diverged(path, f"the loss of epoch {epoch + 1}, step {step + 1} is {float(loss)}")


def _diverged(path: str, what: str) -> InputError:
    return InputError(
        f"{path}: {what}: the training has diverged; lower it (a smaller batch needs a smaller one), or "
        "start from weights that fit"
    )


def _parameter_groups(
    encoder: Encoder, others: Sequence[nn.Parameter], weight_decay: float
) -> list[dict[str, object]]:
    """Return all trained parameters; those of batch norm do not decay."""
    norms = [module for module in encoder.model.modules() if isinstance(module, BatchNorm)]
    of_norms = {id(parameter) for module in norms for parameter in module.parameters()}
    decaying = [parameter for parameter in encoder.parameters if id(parameter) not in of_norms]
    normed = [parameter for parameter in encoder.parameters if id(parameter) in of_norms]
    return [
        {"params": [*decaying, *others], "weight_decay": weight_decay},
        {"params": normed, "weight_decay": 0.0},
    ]
