"""MAR: unsupervised person re-identification by soft multilabel learning, from two image sets to a model.

Source: Yu et al., "Unsupervised person re-identification by soft multilabel learning", CVPR 2019. The
recipe, in the paper's order:

1. Pretraining: the people of a labelled source set as classes, by a plain softmax. The rows of the
   classifier, at unit length, are the reference agents. Its end is the paper's row "source only".
2. Adaptation: every step takes labelled source and unlabelled target images. A target image is described by
   its soft multilabel over the agents (equation 1); of the most similar pairs those whose multilabels agree
   are taken for positive and the others for hard negative (equations 2 to 4), multilabels are kept alike at
   every camera (equations 5 and 6), and agents and features are learned jointly (equations 7 and 8).

Supports any number of workers with the same result (pairs are mined in the gathered global batch),
resumption after any step, stage 1 taken from another run, every row of the paper's ablation by switches, and
sets without a query and a gallery (no evaluation).

Raises InputError for what the user can mend: see `run`.
"""

import logging
import time

from raid.distributed import checkpoint
from raid.distributed.backend import Backend
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.methods.encoder import device_of
from raid.methods.launch import local_backend, opened, reported
from raid.methods.lifetime import run_stage, under_way
from raid.methods.mar.adaptation import adapt
from raid.methods.mar.check import check, check_memory
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import measured, open_mar_inputs
from raid.methods.mar.job import MarJob, write_model
from raid.methods.mar.pretraining import pretrain
from raid.methods.mar.weights import starting_weights
from raid.methods.stage import Progress, Worker
from raid.run_folder import RunFolder
from raid.spans import Spans

logger = logging.getLogger(__name__)


def run(
    config: MarConfig, backend: Backend | None = None, *, resume: bool = False, fresh: bool = False
) -> RunFolder:
    """Train and evaluate as `config` says; return the folder with everything that came of it.

    Args:
        config: resolved and checked.
        backend: where the workers and the pool are; None: on this machine, without Ray.
        resume: go on with the run that `run.folder` holds.
        fresh: start the run in `run.folder` over.

    Raises:
        InputError: the images, the weights or the run folder do not fit the configuration; nothing has been
            written then. Or the training has diverged: the checkpoints before are kept.
    """
    backend, spans = backend or local_backend(config), Spans()
    with spans("prepare"):
        inputs = open_mar_inputs(config)
        check(config, inputs)
        weights = starting_weights(config, inputs.source)
        backend.prepare(config.run.folder)
        check_memory(config, inputs, weights.agents.shape[1], backend.memory_bytes())
    folder, config = opened(
        config,
        inputs.fingerprint(config),
        method="mar",
        facts=inputs.facts,
        origins=inputs.origins(config),
        resume=resume,
        fresh=fresh,
    )
    with under_way(config, folder, "mar"):
        if not folder.model.exists():  # the last that is written: no workers are started for nothing
            with spans("statistics"):
                statistics = measured(config, inputs)
            job = MarJob(config, inputs, statistics, weights, folder, spans.take(), time.time())
            run_stage(backend, config, folder, train, job)
        reported(folder, inputs.target.retrieval, inputs.shown)
    return folder


def train(group: Group, fanout: FanOut, job: MarJob) -> None:
    """Train both stages; every worker of `group` calls this.

    Args:
        group: the workers.
        fanout: where blocks of rows run.
        job: the same on every worker.
    """
    config = job.config
    worker = Worker(group, fanout, job, device_of(config.run.device))
    path = checkpoint.latest(job.folder.checkpoints)
    group.barrier()  # all have looked before anybody writes a newer one
    state = None if path is None else checkpoint.load(path)
    if group.is_first:
        job.folder.forget_from(0 if state is None else state["epoch"])
        if state is not None:
            logger.info("going on from epoch %d, step %d", state["epoch"] + 1, state["step"])
    weights = job.weights
    progress = Progress(before={**job.before, "time/startup_s": time.time() - job.started})
    if config.pretraining_epochs and (state is None or state["stage"] == "pretraining"):
        weights = pretrain(worker, progress, state)
        state = None
    if config.training.epochs:
        weights = adapt(worker, weights, progress, state)
    write_model(worker, weights, "model.pt")
