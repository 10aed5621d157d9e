"""What both stages of MAR train: the encoder and the reference agents."""

import torch
from torch import Tensor, nn

from raid.distributed.group import Group
from raid.methods.encoder import Encoder, EncoderSettings
from raid.methods.mar.config import Sgd
from raid.methods.mar.weights import Weights
from raid.methods.networks import Networks, on_cpu
from raid.models.batch_norm import BatchNorm


class Agents(nn.Module):
    """The reference agents: `rows` (P, D) of any length.

    A stage that wants unit rows normalises them in its loss, so that the gradient takes account of it.
    """

    def __init__(self, rows: Tensor, *, trained: bool) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows, requires_grad=trained)


class MarNetworks(Networks):
    """Encoder and agents in training."""

    beside: Agents

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
        encoder = Encoder(settings, weights.model, group, device)
        rows = weights.agents.to(device=device, dtype=settings.dtype, copy=True)
        agents = Agents(rows, trained=train_agents)
        optimizer = torch.optim.SGD(
            _parameter_groups(encoder, agents, sgd.weight_decay),
            lr=sgd.learning_rate,
            momentum=sgd.momentum,
            fused=encoder.on_gpu,
        )
        super().__init__(encoder, agents, optimizer)

    @property
    def agents(self) -> nn.Parameter:
        """(P, D)."""
        return self.beside.rows

    def weights(self, scale: float) -> Weights:
        """Return a copy of what has been learned."""
        model = on_cpu(self.encoder.model.state_dict())
        return Weights(model, self.agents.detach().cpu().clone(), scale)


def _parameter_groups(encoder: Encoder, agents: Agents, weight_decay: float) -> list[dict[str, object]]:
    """Return all trained parameters; those of batch norm do not decay."""
    norms = [module for module in encoder.model.modules() if isinstance(module, BatchNorm)]
    of_norms = {id(parameter) for module in norms for parameter in module.parameters()}
    decaying = [parameter for parameter in encoder.parameters if id(parameter) not in of_norms]
    decaying += [parameter for parameter in agents.parameters() if parameter.requires_grad]
    normed = [parameter for parameter in encoder.parameters if id(parameter) in of_norms]
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": normed, "weight_decay": 0.0},
    ]
