"""ICSR: pseudo-label refinement with intra-camera similarity, from images to a trained model.

Source: Li et al., "Pseudo labels refinement with intra-camera similarity for unsupervised person
re-identification". The recipe, in the paper's order:

1. Intra-camera training (section 2.2): one independent encoder a camera alternates between clustering the
   camera's images and training on the clusters. What stays are the local labels.
2. Inter-camera training (section 2.3): one encoder for all cameras. Every epoch clusters all images, lets
   information nodes (equation 1) discard the members of their cluster that the local labels contradict
   (equation 2), with a probability that decays, and trains on what is left (equations 3 and 4).

Supports any number of workers with the same result, resumption after any step, stage 1 taken from another run
(`intra.labels`), sets without a query and a gallery (no evaluation), and `refine.enabled=false`:
Cluster-Contrast with agglomerative clustering.

Raises InputError for what the user can mend: see `run`.
"""

import time

import numpy as np
from torch import Tensor

from raid.distributed.backend import Backend
from raid.methods.encoder import num_features, starting_weights
from raid.methods.icsr.check import check, check_memory
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.inter_camera import InterCameraJob, inter_camera
from raid.methods.icsr.intra_camera import intra_camera
from raid.methods.icsr.local_labels import TakenLabels, take_local_labels
from raid.methods.inputs import Inputs, open_inputs
from raid.methods.launch import local_backend, opened, reported
from raid.methods.lifetime import run_stage, under_way
from raid.run_folder import RunFolder
from raid.spans import Spans


def run(
    config: IcsrConfig, backend: Backend | None = None, *, resume: bool = False, fresh: bool = False
) -> RunFolder:
    """Train and evaluate as `config` says; return the folder with everything that came of it.

    Args:
        config: resolved and checked.
        backend: where the workers and the pool are; None: on this machine, without Ray.
        resume: go on with the run that `run.folder` holds.
        fresh: start the run in `run.folder` over.

    Raises:
        InputError: the images, the weights or the run folder do not fit the configuration. Nothing has
            been written then.
    """
    backend, spans = backend or local_backend(config), Spans()
    with spans("prepare"):
        inputs, weights, taken = ready(config, backend)
    folder, config = opened(
        config,
        _fingerprint(inputs, taken),
        method="icsr",
        facts=inputs.facts,
        origins=inputs.origins,
        resume=resume,
        fresh=fresh,
    )
    with under_way(config, folder, "icsr"):
        local_labels = None if taken is None else taken.put_into(folder)
        if config.makes_labels:
            with spans("intra_camera"), backend.pool(len(np.unique(inputs.train.cameras))) as fanout:
                local_labels = intra_camera(config, inputs, weights, fanout, folder)
        job = InterCameraJob(config, inputs, weights, local_labels, folder, spans.take(), time.time())
        run_stage(backend, config, folder, inter_camera, job)
        reported(folder, inputs.retrieval)
    return folder


def ready(config: IcsrConfig, backend: Backend) -> tuple[Inputs, dict[str, Tensor], TakenLabels | None]:
    """Return what a run begins with: its images, the weights and, where it takes them, the local labels.

    Raises:
        InputError: something of it does not fit the configuration, or the machine. Nothing has been written.
    """
    inputs = open_inputs(config.data, multi_query=config.evaluate.multi_query)
    check(config, inputs)
    taken = None
    if config.refine.enabled and config.intra.labels is not None:
        taken = take_local_labels(config.intra.labels, inputs.train)
    weights = starting_weights(config.training.encoder)
    backend.prepare(config.run.folder)
    dimensions = num_features(config.training.encoder)
    check_memory(config, inputs.train, dimensions, backend.memory_bytes())
    return inputs, weights, taken


def _fingerprint(inputs: Inputs, taken: TakenLabels | None) -> str | dict[str, str]:
    """Return that of the images, by itself where they are all that the run is made of."""
    if taken is None:
        return inputs.fingerprint
    return {"data.root": inputs.fingerprint, "intra.labels": taken.fingerprint}
