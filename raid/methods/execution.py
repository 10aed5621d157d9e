"""Sections of the configuration that all methods share: where a run is computed, how exactly, what stays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from raid.config import Schema
from raid.methods.sections import Model
from raid.models.backbone import Autocast


@dataclass(frozen=True, kw_only=True)
class Extract(Schema):
    """Where features are extracted between epochs; the result is the same."""

    on: Annotated[
        Literal["workers", "pool"], "the training workers, each its share, or the pool's processes"
    ] = "workers"


@dataclass(frozen=True, kw_only=True)
class Pool(Schema):
    """The processes beside the training workers: cameras of stage 1, blocks of rows between epochs."""

    size: Annotated[
        NonNegativeInt | None,
        "processes; null: as many as run.workers; 0: none, the worker (or the driver) does their work itself",
    ] = None
    per_gpu: Annotated[
        PositiveInt,
        "processes in place of one where each holds a GPU (cameras of stage 1, GANs of clusters): so many "
        "share it, and its memory; small networks leave most of a GPU idle",
    ] = 1

    def processes(self, workers: int) -> int:
        """Return how many processes share the pool's work in a run of so many workers."""
        return workers if self.size is None else max(1, self.size)


@dataclass(frozen=True, kw_only=True)
class Numerics(Schema):
    """What decides the last bits of a result."""

    dtype: Annotated[Literal["float32", "float64"], "of the model"] = "float32"
    autocast: Annotated[
        Autocast,
        "bfloat16: convolutions compute in it, in training and extraction; weights, statistics of norms, "
        "losses and features stay of the dtype; auto: on GPUs (of CPUs, those with AMX are faster in it)",
    ] = "auto"
    reproducible: Annotated[
        Literal["batched", "exact"],
        "exact: equal bit for bit on any number of workers (CPU, ghost batch norm, about 1.3 times the time)",
    ] = "batched"
    micro_batch: Annotated[
        PositiveInt | None,
        "images of a worker's share of a batch that pass through the network at once, in whole ghost groups; "
        "the gradients of its passes are added up, and the result is the same; null: all of the share",
    ] = None
    threads: Annotated[PositiveInt, "CPU threads of one worker"] = 1
    extract_batch: Annotated[
        PositiveInt | Literal["auto"],
        "images of one block of feature extraction; auto: 128, on a GPU the most that fit (tried "
        "up to 2048); another number changes the last bits of a feature",
    ] = "auto"

    def pass_size(self, num_rows: int, model: Model) -> int:
        """Return how many of a worker's rows pass through the network at once, one ghost group at least."""
        if self.micro_batch is None:
            return num_rows
        return min(max(1, self.micro_batch // model.ghost_size) * model.ghost_size, num_rows)

    def problems_with(self, model: Model) -> Iterator[tuple[str, str]]:
        """Yield (path, message) of what the batch norm of a stage makes impossible."""
        if self.reproducible == "exact" and model.batch_norm != "ghost":
            yield "numerics.reproducible", "exact needs model.batch_norm=ghost"
        if self.autocast == "bfloat16" and (self.dtype == "float64" or self.reproducible == "exact"):
            yield "numerics.autocast", "bfloat16 is for float32 models that are not exact: use auto or none"
        if self.micro_batch and model.batch_norm != "ghost":
            yield (
                "numerics.micro_batch",
                f"batch norm ({model.batch_norm}) sees all images of a worker at once: use "
                "model.batch_norm=ghost, or no micro-batches",
            )


@dataclass(frozen=True, kw_only=True)
class Track(Schema):
    """What MLflow gets of the run folder, at MLFLOW_TRACKING_URI or in a database beside the runs."""

    enabled: Annotated[bool, "false: the run folder alone; `raid track sync` can send it later"] = True
    experiment: Annotated[str, Field(min_length=1), "MLflow's name for runs that belong together"] = "raid"
    parent: Annotated[str | None, "MLflow run that this one is nested in, of a sweep; null: none"] = None


@dataclass(frozen=True, kw_only=True)
class Run(Schema):
    """Where and on how many workers; nothing here changes the result."""

    folder: Annotated[Path, "everything the run writes"] = Path("runs/run")
    workers: Annotated[PositiveInt, "processes that share a batch"] = 1
    device: Annotated[Literal["auto", "cpu", "cuda"], "auto: a GPU when there is one"] = "auto"
    checkpoint_steps: Annotated[
        NonNegativeInt, "training steps between checkpoints inside an epoch; 0: one at every epoch's end"
    ] = 0
    checkpoint_minutes: Annotated[
        NonNegativeFloat, "of training between checkpoints inside an epoch, beside checkpoint_steps; 0: none"
    ] = 15.0
    step_timeout_s: Annotated[
        NonNegativeFloat,
        "a training step that takes longer ends its workers, who leave their stacks behind; 0: none does",
    ] = 1800.0
    min_workers: Annotated[
        PositiveInt | None,
        "workers that will do after others are lost, if the cluster gets no others; null: all of them",
    ] = None
    retries: Annotated[
        NonNegativeInt,
        "times that workers which die are started again, without reaching a checkpoint between",
    ] = 3
    keep_checkpoints: Annotated[PositiveInt, "latest checkpoints kept"] = 2
    profile: Annotated[
        bool, "a trace of a few training steps, and a page of what they are made of, in the folder's profile/"
    ] = False
    blur: Annotated[
        bool, "show nobody: pictures in the report, and of GANs in the folder and MLflow, are blurred"
    ] = False
