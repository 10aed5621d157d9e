"""What stage 2 of MAR starts from: one look at all target images with the pretrained networks.

The images are those of the set, in order and not augmented (the release looks at shuffled, augmented batches
and drops the last): nothing is drawn, and a resumed run finds all of it in its checkpoint.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from raid.data.images import Images
from raid.distributed.fanout import FanOut
from raid.losses.cross_view import CrossViewCentre, by_view
from raid.methods.mar.config import MarConfig
from raid.methods.mar.losses import Followed, own_orders
from raid.methods.mar.multilabel_table import MultilabelTable, table_is_sharded
from raid.methods.mar.networks import MarNetworks
from raid.methods.pool_extraction import features_of
from raid.ops.multilabel import agreement_quantile, log_soft_multilabels
from raid.ops.neighbors import MapBlocks

Ints = NDArray[np.int64]


def empty(networks: MarNetworks, num_images: int, scale: float, config: MarConfig) -> Followed:
    """Return what follows the batches, before it has seen an image; every worker calls this."""
    encoder, num_agents = networks.encoder, len(networks.agents)
    dtype = encoder.settings.dtype
    centre = table = None
    if config.losses.cml:
        zeros = torch.zeros(num_agents, device=encoder.device, dtype=dtype)
        centre = CrossViewCentre(zeros, zeros, momentum=config.centre_momentum)
    if mines_by_agreement(config):
        num_bytes = num_images * num_agents * dtype.itemsize
        table = MultilabelTable(
            num_images,
            num_agents,
            momentum=config.multilabel.momentum,
            sharded=table_is_sharded(config.multilabel.table, num_bytes, encoder.group, encoder.device),
            group=encoder.group,
            device=encoder.device,
            dtype=dtype,
        )
    return Followed(centre, table, as_threshold(0.0, encoder.device), scale)


def start_following(
    networks: MarNetworks,
    images: Images,
    cameras: Ints,
    followed: Followed,
    config: MarConfig,
    fanout: FanOut,
) -> Followed:
    """Give `followed` its centre and threshold, from all target images; every worker calls this.

    Args:
        networks: as stage 1 left them.
        images: N training images of the target.
        cameras: (N,).
        followed: see `empty`; changed.
        config: of the run.
        fanout: where blocks of the agreements run.

    Memory: the first worker holds the multilabels, N * P numbers, and twice those of the largest camera.
    """
    encoder = networks.encoder
    if followed.centre is None and followed.table is None:
        return followed
    with encoder.spans("extract"):
        features = features_of(encoder, images, fanout, config.extract.on)
    agents = functional.normalize(networks.agents.detach()).cpu()
    with encoder.spans("initialise"):
        seen = encoder.group.once(
            lambda: _look(features, agents, torch.from_numpy(cameras), followed.scale, config, fanout.map)
        )
    if followed.centre is not None:
        moments = {"mean": torch.from_numpy(seen.mean), "deviation": torch.from_numpy(seen.deviation)}
        followed.centre.load_state_dict(moments)
    followed.threshold = as_threshold(seen.threshold, encoder.device)
    return followed


def as_threshold(value: float, device: torch.device) -> Tensor:
    """Return T as the mining takes it: a GPU's host does not ask for it at every step."""
    return torch.tensor(value, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class _Seen:
    """Of all target images: centre of L_CML (empty without that loss), and the threshold."""

    mean: NDArray[np.floating]
    deviation: NDArray[np.floating]
    threshold: float


def _look(
    features: Tensor, agents: Tensor, cameras: Tensor, scale: float, config: MarConfig, map_blocks: MapBlocks
) -> _Seen:
    """Look at all images; on the first worker alone."""
    logs = log_soft_multilabels(features, agents, scale)
    if config.multilabel.control == "permuted":
        logs = logs.gather(1, own_orders(torch.arange(len(logs)), logs.shape[1], config.seed))
    mean = deviation = torch.empty(0)
    if config.losses.cml:
        centre = CrossViewCentre.of_images(logs, by_view(cameras), momentum=0.0)
        mean, deviation = centre.mean, centre.deviation
    threshold = 0.0
    if mines_by_agreement(config):
        threshold = agreement_quantile(
            logs.exp_().float().numpy(),
            config.mining.ratio,
            map_blocks=map_blocks,
            num_sampled=None if config.mining.start == "exact" else config.mining.start,
            seed=config.seed,
        )
    return _Seen(mean.numpy(), deviation.numpy(), threshold)


def mines_by_agreement(config: MarConfig) -> bool:
    """Whether the threshold and the table of the multilabels are of any use."""
    return config.losses.mdl and config.mining.guide == "agreement"
