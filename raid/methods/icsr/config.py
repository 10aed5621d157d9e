"""Configuration of ICSR."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from raid.config import Schema
from raid.data.statistics import IMAGENET, Statistics
from raid.methods.encoder import EncoderSettings
from raid.methods.execution import Extract, Numerics, Pool, Run, Track
from raid.methods.icsr.contrastive import Settings
from raid.methods.sections import (
    Augment,
    Clustering,
    Data,
    Evaluate,
    Model,
    Neighbors,
    Optimizer,
    Sampler,
    Share,
    sharing_problems,
)

_PER_IMAGES = re.compile(r"n//([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class IntraCamera(Clustering):
    """Stage 1: one encoder a camera, for the local labels."""

    labels: Annotated[
        Path | None, "local_labels.parquet of another run, in place of this stage; null: do it"
    ] = None
    epochs: Annotated[PositiveInt, "clusterings of a camera; it is trained between them"] = 20
    steps: Annotated[PositiveInt, "training steps of an epoch"] = 100
    num_clusters: Annotated[
        PositiveInt | str, "clusters of a camera: a number, or n//5 for a fifth of its images"
    ] = "n//5"
    momentum: Annotated[Share, "of the old centroid in the memory"] = 0.2
    select: Annotated[
        Literal["silhouette", "last"],
        "the epoch whose clusters are kept: best silhouette (no labels) or last",
    ] = "silhouette"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield a number of clusters that cannot be read."""
        if isinstance(self.num_clusters, str) and not _PER_IMAGES.fullmatch(self.num_clusters):
            yield "num_clusters", f"{self.num_clusters!r} is neither a number nor of the form n//5"

    def clusters_of(self, num_images: int) -> int:
        """Return the number of clusters of a camera with `num_images` images."""
        if isinstance(self.num_clusters, int):
            return self.num_clusters
        return max(1, num_images // int(self.num_clusters.removeprefix("n//")))


@dataclass(frozen=True, kw_only=True)
class InterCamera(Clustering):
    """Stage 2: one encoder for all cameras."""

    epochs: Annotated[PositiveInt, "clusterings; the encoder is trained after each"] = 50
    steps: Annotated[PositiveInt, "training steps of an epoch"] = 400
    num_clusters: Annotated[PositiveInt, "global clusters"] = 1200
    momentum: Annotated[Share, "of the old centroid in the memory"] = 0.1


@dataclass(frozen=True, kw_only=True)
class Refine(Schema):
    """Cleaning the global clusters with the local ones (ICSR equations 1 and 2)."""

    enabled: Annotated[bool, "false: the baseline, Cluster-Contrast with agglomerative clustering"] = True
    num_neighbors: Annotated[PositiveInt, "neighbours in the harmonic centrality"] = 15
    include_self: Annotated[bool, "an image is the first of its own neighbours"] = True
    score_cutoff: Annotated[PositiveFloat | None, "largest cosine distance that counts; null: no limit"] = 0.5
    referee: Annotated[
        Literal["top", "union", "intersection", "sequential", "infomap_last"],
        "which information nodes of a cluster and camera judge the others",
    ] = "top"
    coin: Annotated[
        Literal["sample", "pair"], "one draw an image and epoch, or one for every judged pair"
    ] = "sample"
    require_above_mean: Annotated[bool, "only information nodes (score above the mean) judge"] = True
    decay: Annotated[
        Literal["none", "linear", "exponential", "cosine"], "schedule of the discard probability"
    ] = "cosine"
    horizon: Annotated[PositiveFloat, "length of the schedule in runs: 3 ends the cosine at 0.76"] = 3.0
    start: Annotated[Share, "discard probability at the first epoch"] = 1.0
    end: Annotated[Share, "discard probability at the end of the horizon"] = 0.0


@dataclass(frozen=True, kw_only=True)
class IcsrConfig(Schema):
    """Everything that `raid icsr` takes."""

    method = "icsr"

    preset: Annotated[
        Literal["default", "paper", "as_released"],
        "reading of the paper: the default, the paper's text to the letter, or the authors' release",
    ] = "default"
    seed: Annotated[int, Field(ge=0, lt=2**63), "of everything random"] = 1
    scale: Annotated[
        Literal["strong", "weak"],
        "strong: the batch is the same for any number of workers; weak: it grows with them, and with it the "
        "learning rate by optimizer.weak_rule",
    ] = "strong"
    data: Data = Data()
    model: Model = Model()
    augment: Augment = Augment()
    sampler: Sampler = Sampler()
    neighbors: Neighbors = Neighbors()
    temperature: Annotated[PositiveFloat, "of ClusterNCE (equation 3)"] = 0.05
    optimizer: Optimizer = Optimizer()
    intra: IntraCamera = IntraCamera()
    inter: InterCamera = InterCamera()
    refine: Refine = Refine()
    evaluate: Evaluate = Evaluate()
    extract: Extract = Extract()
    pool: Pool = Pool()
    numerics: Numerics = Numerics()
    track: Track = Track()
    run: Run = Run()

    PRESETS = {  # noqa: RUF012
        # Algorithm 1 loops equation 2 over every information node; equation 1 knows no cutoff; the local
        # labels are the final ones; a discard is drawn for every pair.
        "paper": {
            "refine": {"referee": "intersection", "coin": "pair", "score_cutoff": None},
            "intra": {"select": "last"},
        },
        # One information node an Infomap module, and no decay: the release is the row "Ours -" of table 2.
        "as_released": {
            "refine": {"referee": "infomap_last", "coin": "pair", "decay": "none"},
            "intra": {"select": "silhouette"},
        },
    }
    NOT_IN_HASH = (
        "run",
        "track",
        "extract",
        "pool",
        "intra.labels",  # their content is part of the fingerprint
        "neighbors.similarity",
        "data.root",
        "data.cache_folder",
        "data.cache_limit_gib",
        "data.read_timeout_s",
        "evaluate",
    )

    def also_determining(self) -> tuple[str, ...]:
        """Return `run.workers` where the batch, or what batch norm sees, depends on it."""
        depends = self.scale == "weak" or self.model.batch_norm == "local"
        return ("run.workers",) if depends else ()

    @property
    def makes_labels(self) -> bool:
        """Whether stage 1 is part of this run."""
        return self.refine.enabled and self.intra.labels is None

    def encoder(self, statistics: Statistics = IMAGENET) -> EncoderSettings:
        """Return what the encoder needs; it sees images by `statistics`."""
        return EncoderSettings(self.seed, self.model, self.augment.as_drawn(statistics), self.numerics)

    @property
    def camera_training(self) -> Settings:
        """What the encoder of a camera needs, whatever the number of workers."""
        return Settings(self.encoder(), self.temperature, self.sampler, self.optimizer)

    @property
    def training(self) -> Settings:
        """What the encoder of all cameras needs: under `scale: weak` the batch grows with the workers."""
        if self.scale == "strong":
            return self.camera_training
        workers, rate = self.run.workers, self.optimizer.learning_rate
        factor = {"linear": workers, "square_root": math.sqrt(workers), "constant": 1.0}
        return replace(
            self.camera_training,
            sampler=replace(self.sampler, identities=self.sampler.identities * workers),
            optimizer=replace(self.optimizer, learning_rate=rate * factor[self.optimizer.weak_rule]),
        )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield combinations of sections that cannot work."""
        if self.neighbors.k1 == "auto" and "dbscan" in (self.intra.method, self.inter.method):
            yield "neighbors.k1", "auto is a share of a cluster's images, which dbscan does not know: give it"
        if self.neighbors.keep == "within_eps" and "dbscan" not in (self.intra.method, self.inter.method):
            yield "neighbors.keep", "within_eps is for dbscan, and no stage clusters by it; keep all"
        batch, ghost, workers = self.training.sampler.batch_size, self.model.ghost_size, self.run.workers
        grouped = self.model.batch_norm == "ghost"
        if grouped and 1 < ghost <= self.sampler.instances:
            yield (
                "model.ghost_size",
                f"a group of {ghost} images is one cluster (sampler.instances={self.sampler.instances}), and "
                "batch norm over it removes what tells it from the others; use a multiple",
            )
        yield from sharing_problems(batch, self.model, workers)
        yield from self.numerics.problems_with(self.model)
        if self.refine.start < self.refine.end:
            yield "refine.end", f"is {self.refine.end}, above refine.start={self.refine.start}"
