"""MAR's stages in this process, to be looked at step by step."""

import time
from pathlib import Path
from typing import Any

import tiny
import torch

from raid.distributed.fanout import InProcess
from raid.distributed.group import Group
from raid.methods.mar.adaptation import AdaptationStage
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import MarInputs, measured, open_mar_inputs
from raid.methods.mar.job import MarJob, MarWorker
from raid.methods.mar.pretraining import PretrainingStage
from raid.methods.mar.weights import Weights, starting_weights
from raid.methods.stage import Worker
from raid.run_folder import RunFolder


def configured(sets: Path, folder: Path | None = None, **overrides: Any) -> MarConfig:
    """Return the configuration of a run on the images of the fixture `sets`."""
    return tiny.mar_config(sets / "source", sets / "target", folder or sets / "run", **overrides)


def job_of(config: MarConfig, inputs: MarInputs) -> MarJob:
    """Return what `mar.run` gives its workers."""
    return MarJob(
        config,
        inputs,
        measured(config, inputs),
        starting_weights(config, inputs.source),
        RunFolder(config.run.folder),
        before={},
        started=time.time(),
    )


def worker_of(config: MarConfig) -> MarWorker:
    """Return the only worker of a run."""
    job = job_of(config, open_mar_inputs(config))
    return Worker(Group.solo(), InProcess(), job, torch.device("cpu"))


def pretrained(worker: MarWorker) -> Weights:
    """Return weights after two steps of stage 1."""
    stage = PretrainingStage(worker)
    for step in range(2):
        stage.step(0, step)
    return stage.networks.weights(12.5)


def started(config: MarConfig) -> AdaptationStage:
    """Return stage 2 before its first step."""
    worker = worker_of(config)
    stage = AdaptationStage(worker, pretrained(worker))
    stage.start()
    return stage
