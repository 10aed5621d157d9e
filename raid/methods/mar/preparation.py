"""Stage 1 of MAR by itself, for runs that share it: a sweep over stage 2, for example."""

from dataclasses import replace
from pathlib import Path

from raid.distributed.backend import Backend
from raid.methods.mar.config import Losses, MarConfig, Mining, Multilabel, Sgd, Training
from raid.methods.mar.pretraining import FILE
from raid.methods.mar.recipe import run


def prepare_pretraining(config: MarConfig, backend: Backend, folder: Path) -> Path:
    """Do stage 1 alone in a run folder of its own; return its pretrained.pt, for `pretraining.checkpoint`.

    One folder serves all configurations that differ in stage 2 alone. It is gone on with where it was
    interrupted, and where it is complete nothing is trained. One caller at a time.

    Args:
        config: of a run that starts from it; its own `pretraining.checkpoint` and `run.folder` do not matter.
        backend: where the workers are.
        folder: of stage 1 alone.

    Raises:
        InputError: as `raid.methods.mar.recipe.run`; or the folder holds another run.
    """
    alone = replace(_of_stage_1(config), run=replace(config.run, folder=folder))
    return run(alone, backend, resume=True).path / FILE


def _of_stage_1(config: MarConfig) -> MarConfig:
    """Return the configuration with the defaults in place of all that does not change stage 1."""
    return replace(
        config,
        preset="default",  # what it stands for is in the fields
        model=config.pretraining_model,
        pretraining=replace(config.pretraining, checkpoint=None),
        training=replace(Training(), epochs=0),
        optimizer=Sgd(),
        multilabel=Multilabel(),
        mining=Mining(),
        losses=Losses(),
    )
