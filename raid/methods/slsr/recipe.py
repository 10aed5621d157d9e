"""SLSR: sparse label smoothing with one DCGAN per cluster, from labelled images to a model.

Source: Ainam et al., "Sparse label smoothing for semi-supervised person re-identification". The recipe, in
the paper's order:

1. Baseline: a classifier of the identities, trained on the labelled images. Its end is the paper's row of
   the same name.
2. Clusters (section 4.2): k-means on the baseline's features of all training images (equations 1 and 2).
3. GANs (section 4.1): one DCGAN a cluster (equation 3), all at the same time on the pool.
4. Generated images of every cluster, labelled by the identities that the cluster holds (equations 9 to 12).
5. Fine-tuning (section 4.3): a classifier of real and generated images by one loss (equation 13).

Each stage leaves a file that says that it is done: baseline.pt, clusters.npz, gans/cluster_00/generator.pt,
generated.json, model.pt. A resumed run goes on behind the last of them, other runs can begin with
`baseline.checkpoint` and `generated.folder`.

Supports any number of workers with the same result, resumption after any step, `generated.label=none` (the
baseline with the same erasing, learning rate and epochs) and sets without a query and a gallery (no
evaluation).

Raises InputError for what the user can mend: see `run`.
"""

import logging
import shutil
import time
from pathlib import Path

from raid.data.samples import content_hash
from raid.distributed import checkpoint
from raid.distributed.backend import Backend
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.files import atomic_path
from raid.methods.encoder import device_of
from raid.methods.launch import local_backend, opened, reported
from raid.methods.lifetime import run_stage, under_way
from raid.methods.slsr.check import check
from raid.methods.slsr.classification import ClassificationStage, Classified
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.generated_set import GeneratedSet, content_of, open_generated_set, take_over
from raid.methods.slsr.images import JoinedImages
from raid.methods.slsr.inputs import SlsrInputs, open_slsr_inputs
from raid.methods.slsr.job import SlsrJob, SlsrWorker
from raid.methods.slsr.making import make_images
from raid.methods.slsr.memory import check_memory
from raid.methods.slsr.targets import of_real, with_generated
from raid.methods.slsr.weights import Weights, as_content, read_baseline, starting_weights
from raid.methods.stage import Figures, Progress, Worker, restore, train_stage
from raid.run_folder import RunFolder
from raid.spans import Spans

logger = logging.getLogger(__name__)


def run(
    config: SlsrConfig, backend: Backend | None = None, *, resume: bool = False, fresh: bool = False
) -> RunFolder:
    """Train and evaluate as `config` says; return the folder with everything that came of it.

    Args:
        config: resolved and checked.
        backend: where the workers and the pool are; None: on this machine, without Ray.
        resume: go on with the run that `run.folder` holds.
        fresh: start the run in `run.folder` over.

    Raises:
        InputError: the images, the weights or the run folder do not fit the configuration; nothing has been
            written then. Or a training has diverged: the checkpoints before are kept.
    """
    backend, spans = backend or local_backend(config), Spans()
    with spans("prepare"):
        inputs, weights = ready(config, backend)
    folder, config = opened(
        config,
        fingerprint(config, inputs),
        method="slsr",
        facts=inputs.facts,
        origins=inputs.origins,
        resume=resume,
        fresh=fresh,
    )
    with under_way(config, folder, "slsr"):
        if config.uses_baseline:
            have_baseline(config, inputs, weights, folder, backend, spans)
        if config.makes_images:
            make_images(config, inputs, folder, backend, spans)
        elif config.uses_images:
            assert config.generated.folder is not None
            take_over(config.generated.folder.expanduser(), folder)
        if config.finetuning.epochs:
            _finetune(config, inputs, weights, folder, backend, spans)
        else:
            with atomic_path(folder.model) as temporary:
                shutil.copyfile(folder.baseline, temporary)
        reported(folder, inputs.inputs.retrieval)
    return folder


def ready(config: SlsrConfig, backend: Backend) -> tuple[SlsrInputs, dict[str, Weights]]:
    """Return what a run begins with: its images, and what its stages start from, by their names.

    Raises:
        InputError: something of it does not fit the configuration, or the machine. Nothing has been written.
    """
    inputs = open_slsr_inputs(config)
    check(config, inputs)
    weights = _starting_weights(config, inputs)
    other = config.generated.folder
    if config.uses_images and other is not None:  # its mistakes, before any work
        open_generated_set(other.expanduser(), config, inputs)
    backend.prepare(config.run.folder)
    check_memory(config, len(inputs.labels), inputs.num_identities, backend.memory_bytes())
    return inputs, weights


def train_baseline(group: Group, fanout: FanOut, job: SlsrJob) -> None:
    """Train stage 1 and write baseline.pt; every worker of `group` calls this."""
    config, inputs = job.config, job.inputs
    worker = Worker(group, fanout, job, device_of(config.run.device))
    targets = of_real(inputs.labels, inputs.num_identities, config.baseline.label_smoothing)
    stage = ClassificationStage(
        "baseline",
        worker,
        config.baseline_model,
        job.weights,
        Classified(inputs.inputs.train_images, targets),
        range(config.baseline_epochs),
    )
    _train(worker, stage, {})
    _write_model(worker, stage, config.as_baseline, job.folder.baseline)


def finetune(group: Group, fanout: FanOut, job: SlsrJob) -> None:
    """Train stage 5 and write model.pt; every worker of `group` calls this."""
    config, inputs, generated = job.config, job.inputs, job.generated
    worker = Worker(group, fanout, job, device_of(config.run.device))
    epsilon, images = config.finetuning.label_smoothing, inputs.inputs.train_images
    if generated is None:
        classified = Classified(images, of_real(inputs.labels, inputs.num_identities, epsilon))
    else:
        targets = with_generated(
            inputs.labels,
            inputs.num_identities,
            epsilon,
            generated.made_from,
            generated.sets,
            config.generated,
            config.seed,
        )
        classified = Classified(JoinedImages(images, generated.images), targets)
    # Of images that this run has made the clusters are on record with their GANs.
    figures = {} if generated is None or config.makes_images else generated.figures
    first = config.baseline_epochs + config.gan_epochs
    stage = ClassificationStage(
        "finetuning", worker, config.model, job.weights, classified, range(first, config.epochs)
    )
    _train(worker, stage, figures)
    _write_model(worker, stage, config, job.folder.model)


def _train(worker: SlsrWorker, stage: ClassificationStage, figures: Figures) -> None:
    """Train a stage, from its start or from its latest checkpoint; its first record has `figures` too."""
    job, group = worker.job, worker.group
    path = checkpoint.latest(job.folder.checkpoints)
    group.barrier()  # all have looked before anybody writes a newer one
    state = None if path is None else checkpoint.load(path)
    progress = Progress(
        epoch=stage.epochs.start, before={**job.before, "time/startup_s": time.time() - job.started}
    )
    if state is not None and state["stage"] == stage.name:
        restore(stage.networks, progress, state)
        logger.info("going on from epoch %d, step %d", progress.epoch + 1, progress.step)
    if progress.epoch == stage.epochs.start:
        progress.before |= figures
    if group.is_first:
        job.folder.forget_from(progress.epoch)
    train_stage(worker, stage, progress)


def _write_model(worker: SlsrWorker, stage: ClassificationStage, config: SlsrConfig, path: Path) -> None:
    if worker.group.is_first:
        train = worker.job.inputs.inputs.train.fingerprint()
        checkpoint.write_tensors(path, as_content(stage.networks.weights(), config, train))


def _starting_weights(config: SlsrConfig, inputs: SlsrInputs) -> dict[str, Weights]:
    """Return what the stages of this run start from, by their names; read once for all workers."""
    found = {}
    if config.baseline_epochs:
        found["baseline"] = starting_weights(config.as_baseline.encoder())
    elif config.uses_baseline:
        assert config.baseline.checkpoint is not None
        train = inputs.inputs.train.fingerprint()
        found["learned"] = read_baseline(config.baseline.checkpoint, config, train)
    if config.finetuning.epochs and config.finetuning.start == "weights":
        found["finetuning"] = starting_weights(config.encoder())
    return found


def fingerprint(config: SlsrConfig, inputs: SlsrInputs) -> dict[str, str]:
    """Hash all that a run is made of: the images, and what it takes of other runs."""
    parts = {"data.root": inputs.inputs.fingerprint}
    if config.uses_baseline and config.baseline.checkpoint is not None:
        parts["baseline.checkpoint"] = content_hash(config.baseline.checkpoint.expanduser().read_bytes())
    if config.uses_images and config.generated.folder is not None:
        parts["generated.folder"] = content_of(config.generated.folder.expanduser())
    return parts


def have_baseline(
    config: SlsrConfig,
    inputs: SlsrInputs,
    weights: dict[str, Weights],
    folder: RunFolder,
    backend: Backend,
    spans: Spans,
) -> None:
    """See to it that baseline.pt is in the run folder."""
    if folder.baseline.exists():
        return
    if "learned" in weights:
        content = as_content(weights["learned"], config.as_baseline, inputs.inputs.train.fingerprint())
        checkpoint.write_tensors(folder.baseline, content)
    else:
        job = SlsrJob(config, inputs, weights["baseline"], None, folder, spans.take(), time.time())
        run_stage(backend, config, folder, train_baseline, job)


def _finetune(
    config: SlsrConfig,
    inputs: SlsrInputs,
    weights: dict[str, Weights],
    folder: RunFolder,
    backend: Backend,
    spans: Spans,
) -> None:
    if config.finetuning.start == "baseline":
        start = read_baseline(folder.baseline, config, inputs.inputs.train.fingerprint())
    else:
        start = weights["finetuning"]
    generated: GeneratedSet | None = None
    if config.uses_images:
        generated = open_generated_set(folder.path, config, inputs)
    job = SlsrJob(config, inputs, start, generated, folder, spans.take(), time.time())
    run_stage(backend, config, folder, finetune, job)
