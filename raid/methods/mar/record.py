"""What the report shows of the soft multilabels: some target images and their nearest reference agents."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from raid.data.streams import SHOWN, stream
from raid.files import atomic_path
from raid.methods.encoder import Encoder
from raid.methods.mar.job import MarWorker
from raid.methods.mar.weights import Weights
from raid.ops.multilabel import soft_multilabels

_NUM_IMAGES, _NUM_AGENTS = 6, 5


def record_multilabels(worker: MarWorker, encoder: Encoder, weights: Weights) -> None:
    """Write multilabels.npz (MAR fig. 1); every worker calls this.

    Images are drawn by the seed; an agent is shown by the first image of its person.
    """
    job = worker.job
    num_images = len(job.inputs.target.train)
    drawn = stream(job.config.seed, SHOWN).permutation(num_images)[:_NUM_IMAGES]
    rows = np.sort(drawn)
    features = encoder.extract(job.inputs.target.train_images.take(rows))
    agents = functional.normalize(weights.agents)
    multilabels = soft_multilabels(features, agents.to(features.dtype), weights.scale)
    values, nearest = torch.sort(multilabels, dim=1, descending=True, stable=True)
    kept = min(_NUM_AGENTS, len(agents))
    if worker.group.is_first:
        shown = nearest[:, :kept].numpy()
        with atomic_path(job.folder.multilabels) as temporary:
            np.savez(
                temporary,
                allow_pickle=False,
                target_rows=rows,
                agents=shown,
                values=values[:, :kept].float().numpy(),
                source_rows=_first_images(job.inputs.source.labels)[shown],
            )


def _first_images(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each label 0..P-1, (P,)."""
    first: NDArray[np.int64] = np.unique(labels, return_index=True)[1]
    return first
