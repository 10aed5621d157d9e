"""The first stages of SLSR by themselves, for runs that share them: a sweep over labels, for example."""

from dataclasses import replace
from pathlib import Path

from raid.distributed.backend import Backend
from raid.methods.launch import opened
from raid.methods.lifetime import under_way
from raid.methods.slsr.config import Finetuning, Gan, Generated, ImageClusters, SlsrConfig
from raid.methods.slsr.making import make_images
from raid.methods.slsr.recipe import fingerprint, have_baseline, ready, run
from raid.spans import Spans


def prepare_baseline(config: SlsrConfig, backend: Backend, folder: Path) -> Path:
    """Do stage 1 alone in a run folder of its own; return its baseline.pt, for `baseline.checkpoint`.

    One folder serves all configurations that differ in what comes after stage 1. It is gone on with where it
    was interrupted, and where it is complete nothing is trained. One caller at a time.

    Args:
        config: of a run that begins with it; its own `baseline.checkpoint` and `run.folder` do not matter.
        backend: where the workers are.
        folder: of stage 1 alone.

    Raises:
        InputError: as `raid.methods.slsr.recipe.run`; or the folder holds another run.
    """
    config = config.as_baseline
    alone = replace(
        config,
        preset="default",  # what it stands for is in the fields
        baseline=replace(config.baseline, checkpoint=None),
        clusters=ImageClusters(),
        gan=Gan(),
        generated=Generated(),
        finetuning=replace(Finetuning(), epochs=0),
        run=replace(config.run, folder=folder),
    )
    return run(alone, backend, resume=True).baseline


def prepare_images(config: SlsrConfig, backend: Backend, folder: Path) -> Path:
    """Do stages 1 to 4 alone in a run folder of its own; return it, for `generated.folder`.

    One folder serves all configurations that differ in the labels of the images or in the fine-tuning, and
    as `generated.folder` those that take fewer images too. It is gone on with where it was interrupted, and
    where it is complete nothing is made. One caller at a time.

    Args:
        config: of a run that takes the images: the one that takes most. With `baseline.checkpoint` that is
            stage 1; its own `generated.folder` and `run.folder` do not matter.
        backend: where workers and pool are.
        folder: of stages 1 to 4 alone.

    Raises:
        InputError: as `raid.methods.slsr.recipe.run`; or the folder holds another run.
    """
    spans, alone = Spans(), _of_images(replace(config, run=replace(config.run, folder=folder)))
    with spans("prepare"):
        inputs, weights = ready(alone, backend)
    made_of = fingerprint(alone, inputs)
    run_folder, alone = opened(
        alone, made_of, method="slsr", facts=inputs.facts, origins=inputs.origins, resume=True, fresh=False
    )
    with under_way(alone, run_folder, "slsr"):
        have_baseline(alone, inputs, weights, run_folder, backend, spans)
        make_images(alone, inputs, run_folder, backend, spans)
    return run_folder.path


def _of_images(config: SlsrConfig) -> SlsrConfig:
    """Return the configuration with the defaults in place of all that does not change the images."""
    made, baseline = config.generated, config.baseline
    return replace(
        config.as_baseline,
        preset="default",  # what it stands for is in the fields
        generated=replace(Generated(), count=made.count, split=made.split),
        # It is not done; but images are for it, and its batch must be one that the workers can share.
        finetuning=replace(Finetuning(), epochs=1, batch_size=baseline.batch_size),
    )
