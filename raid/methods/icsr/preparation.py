"""Stage 1 of ICSR by itself, for runs that share its local labels: a sweep over stage 2, for example."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from raid.distributed.backend import Backend
from raid.methods.icsr.config import IcsrConfig, InterCamera, Refine
from raid.methods.icsr.intra_camera import intra_camera
from raid.methods.icsr.recipe import ready
from raid.methods.launch import opened


def prepare_local_labels(config: IcsrConfig, backend: Backend, folder: Path) -> Path:
    """Do stage 1 alone in a run folder of its own; return its local_labels.parquet, for `intra.labels`.

    One folder serves all configurations that differ in what comes after stage 1. It is gone on with camera
    by camera, and where it is complete nothing is trained. One caller at a time.

    Args:
        config: of a run that wants the labels; its own `intra.labels` and `run.folder` do not matter.
        backend: where the pool is.
        folder: of stage 1 alone.

    Raises:
        InputError: as `raid.methods.icsr.recipe.run`; or the folder holds another run.
    """
    run = replace(config.run, folder=folder)
    asked = replace(
        config,
        intra=replace(config.intra, labels=None),
        refine=replace(config.refine, enabled=True),
        run=run,
    )
    inputs, weights, _ = ready(asked, backend)
    run_folder, config = opened(
        _of_stage_1(asked),
        inputs.fingerprint,
        method="icsr",
        facts=inputs.facts,
        origins=inputs.origins,
        resume=True,
        fresh=False,
    )
    if not run_folder.local_labels.exists():
        with backend.pool(len(np.unique(inputs.train.cameras))) as fanout:
            intra_camera(config, inputs, weights, fanout, run_folder)
    return run_folder.local_labels


def _of_stage_1(config: IcsrConfig) -> IcsrConfig:
    """Return the configuration with the defaults in place of all that does not change the local labels."""
    keep = config.neighbors.keep if config.intra.method == "dbscan" else "all"
    return replace(
        config,
        preset="default",  # what it stands for is in the fields
        scale="strong",
        neighbors=replace(config.neighbors, keep=keep),
        inter=InterCamera(),
        refine=Refine(),
        run=replace(config.run, workers=1),  # of an encoder of one camera, whatever the pool is
    )
