"""Trials that cluster stored features: no training, no GPU, and what they have in common is made once.

All trials read the same features and the same table of neighbours, searched once at the largest k1; those
of one (k1, k2) share the Jaccard similarity and the merge tree of average linkage. All of it is in shared
memory, which no trial copies (`raid.methods.icsr.clustering_trials`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raid.distributed.ray_memo import Memo, begin
from raid.distributed.ray_pool import RayPool
from raid.distributed.ray_tune import Need, Tell
from raid.errors import InputError
from raid.files import atomic_path
from raid.methods.icsr.clustering_trials import Trial, check_trials, outcome_of, stability
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import load_samples, open_inputs
from raid.methods.known import MethodConfig
from raid.methods.pool_extraction import extract_on_pool
from raid.methods.sections import Data
from raid.methods.sweeps.neighborhoods import keys_of, make, rows_of, search
from raid.methods.sweeps.planning import Planned
from raid.methods.sweeps.points import grid
from raid.methods.sweeps.trial import Base, RunTrial
from raid.methods.trained import Trained
from raid.run_folder import RunFolder
from raid.sweep_folder import ENDED

Ints = NDArray[np.int64]
Stage: TypeAlias = Literal["global", "local"]
METHOD = "clustering"  # of the trials' run folders


@dataclass(frozen=True, eq=False)
class ImagesOf:
    """What is known of the N training images, in whose order the rows of the features are.

    Attributes:
        identities: (N,), -1 = unknown; None: nobody is known.
        cameras: (N,); None: a set without.
        fingerprint: of the images.
        number: N.
    """

    identities: Ints | None
    cameras: Ints | None
    fingerprint: str
    number: int

    @staticmethod
    def read(data: Data) -> "ImagesOf":
        """Read the set's list of training images, not the images.

        Raises:
            InputError: it has none, or cannot be read.
        """
        samples = load_samples(data)
        if "train" not in samples.splits:
            raise InputError(f"data.root: {data.root} has no training images")
        train = samples.split("train")
        known = (train.identities >= 0).any()
        return ImagesOf(
            train.identities if known else None,
            train.cameras if train.has_cameras else None,
            train.fingerprint(),
            len(train),
        )

    def parts(self, stage: Stage) -> list[Ints]:
        """Return the rows of what is clustered by itself: of all images, or of each camera's."""
        if stage == "global":
            return [np.arange(self.number)]
        if self.cameras is None:
            raise InputError("--stage local: the set has no cameras")
        return [np.flatnonzero(self.cameras == camera) for camera in np.unique(self.cameras)]


@dataclass(frozen=True)
class Clustering:
    """A sweep whose trials cluster the same stored features.

    Attributes:
        sources: of the features of the training images: .npy of (N, D) float32 unit rows, or a model that
            extracts them; those of a second epoch say how stable clusters are.
        stage: all images at once, as stage 2 does; or each camera's on their own, as stage 1 does.
    """

    sources: tuple[Path, ...]
    stage: Stage

    trains: ClassVar = False

    def need(self, config: MethodConfig) -> Need:
        """Return what a trial takes of the cluster: the CPUs of one worker."""
        return Need(workers=1, threads=config.numerics.threads, device="cpu", pool=0)

    @contextmanager
    def trials(self, base: Base, planned: Planned, at_once: int) -> Iterator[RunTrial]:
        """Begin the search for neighbours, and give what clusters by them.

        Raises:
            InputError: the features are not those of the training images, or a trial cannot be run.
        """
        points = planned.values() or [(point, base.record.seeds[0]) for point in grid(base.record.axes)]
        configs = [_icsr(base.config(point, seed)) for point, seed in points]
        images = ImagesOf.read(configs[0].data)
        parts = images.parts(self.stage)
        tried = [[trial_of(config, self.stage, len(rows)) for config in configs] for rows in parts]
        for rows, trials in zip(parts, tried, strict=True):
            check_trials(trials, len(rows))
        files = [
            stored_features(source, base.folder.shared / f"features_{place}.npy", configs[0], images, at_once)
            for place, source in enumerate(self.sources)
        ]
        # On the CPUs of all trials of a node: none can cluster before its neighbours are there.
        tables = begin(search, files, parts, tried, base.shares * configs[0].numerics.threads)
        linked = any(trial.how.method == "agglomerative" for trial in tried[0])
        # What has ended asks for nothing again, and what Optuna will draw is not known.
        ended = {trial.number for trial in base.folder.trials() if trial.state in ENDED}
        left = [place for place, number in enumerate(planned) if number not in ended]
        keys = keys_of(parts, [[trials[place] for place in left] for trials in tried], len(files))
        of_a_trial = len(parts) * len(files)
        memo = Memo.start(make, files, parts, tables, linked, at_most=of_a_trial * at_once, order=keys)
        try:
            yield ClusteringRun(self.stage, images, parts, files, memo)
        finally:
            memo.close()


@dataclass(frozen=True, eq=False)
class ClusteringRun:
    """Clusters and scores the features; leaves the figures as those of one epoch, and labels.npy.

    Attributes:
        stage: see `Clustering`.
        images: whose features they are.
        parts: rows of what is clustered by itself.
        files: of the features.
        memo: of what trials share.
    """

    stage: Stage
    images: ImagesOf
    parts: list[Ints]
    files: list[Path]
    memo: Memo

    def __call__(self, base: Base, number: int, point: Mapping[str, Any], seed: int, tell: Tell) -> None:
        """Run a trial; it takes seconds, so that one that was interrupted is begun anew."""
        path = base.folder.run(number).path
        config = _icsr(base.config(point, seed, {"run.folder": str(path)}))
        labels, figures = self._clustered(0, config, seed)
        if len(self.files) > 1:
            figures["cluster/churn"] = 1.0 - stability(labels, self._clustered(1, config, seed)[0])
        fingerprint = self.images.fingerprint
        folder = RunFolder.open(path, config, fingerprint, method=METHOD, resume=False, fresh=True)
        with atomic_path(path / "labels.npy") as temporary, temporary.open("wb") as file:
            np.save(file, labels)
        folder.record_epoch({"epoch": 0, **figures}, [])
        if (value := figures.get(base.record.objective.key)) is not None:
            tell(value, 1)

    def _clustered(self, place: int, config: IcsrConfig, seed: int) -> tuple[Ints, dict[str, float]]:
        """Return labels, different in every part, and figures over all parts."""
        labels = np.full(self.images.number, -1, np.int64)
        found: list[tuple[dict[str, float], int]] = []
        for part, rows in enumerate(self.parts):
            trial = trial_of(config, self.stage, len(rows))
            k1, k2 = trial.neighbors.of(len(rows), trial.num_clusters)
            outcome = outcome_of(
                self.memo.get((place, part, k1, k2)),
                trial,
                rows_of(self.files[place], rows),
                seed=seed,
                identities=None if self.images.identities is None else self.images.identities[rows],
                cameras=None if self.images.cameras is None else self.images.cameras[rows],
            )
            above = labels.max() + 1
            labels[rows] = np.where(outcome.labels < 0, -1, outcome.labels + above)
            found.append((outcome.figures, len(rows)))
        return labels, _together(found)


def trial_of(config: IcsrConfig, stage: Stage, num_images: int) -> Trial:
    """Return how a part of so many images is clustered."""
    if stage == "global":
        return Trial(config.neighbors, config.inter, config.inter.num_clusters)
    return Trial(config.neighbors, config.intra, config.intra.clusters_of(num_images))


def stored_features(source: Path, made: Path, config: IcsrConfig, images: ImagesOf, processes: int) -> Path:
    """Return the file of the features of the training images, extracted once where `source` is a model.

    Raises:
        InputError: they are not (N, D) float32 unit rows, or not of so many images.
    """
    file = source.absolute()
    if source.suffix != ".npy":
        if not made.exists():
            _extract(source, made, config, processes)
        file = made
    try:
        features = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--features: {source}: cannot be read as .npy: {error}") from error
    if features.ndim != 2 or features.dtype != np.float32 or len(features) != images.number:
        raise InputError(
            f"--features: {source} holds {features.dtype} of shape {features.shape}; wanted are float32, "
            f"a row for each of the {images.number} training images of data.root"
        )
    lengths = np.linalg.norm(features, axis=1)
    if not np.allclose(lengths, 1.0, atol=1e-3):  # NaN is not, either
        raise InputError(f"--features: {source}: its rows are not of length 1: {lengths.min():g} at least")
    return file


def _extract(source: Path, made: Path, config: IcsrConfig, processes: int) -> None:
    """Extract the features of the training images by a model, on a pool."""
    trained = Trained.read(source)
    settings = trained.config.encoder(trained.statistics)
    images = open_inputs(config.data).train_images
    pool = RayPool.start(processes, threads=config.numerics.threads)
    try:
        features = extract_on_pool(trained.network(settings), settings, images, pool)
    finally:
        pool.close()
    with atomic_path(made) as temporary, temporary.open("wb") as file:
        np.save(file, features.numpy().astype(np.float32, copy=False))


_SUMS = ("cluster/num", "cluster/outliers", "cluster/singletons")
_LARGEST = ("cluster/size_max", "cluster/largest")


def _together(parts: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Return the figures of several parts as one: counts added up, shares weighted by the images."""
    if len(parts) == 1:
        return dict(parts[0][0])
    keys = set.intersection(*(set(figures) for figures, _ in parts))
    sizes = [size for _, size in parts]
    together = {}
    for key in sorted(keys):
        values = [figures[key] for figures, _ in parts]
        if key in _SUMS:
            together[key] = sum(values)
        elif key in _LARGEST:
            together[key] = max(values)
        else:
            together[key] = float(np.average(values, weights=sizes))
    return together


def _icsr(config: MethodConfig) -> IcsrConfig:
    assert isinstance(config, IcsrConfig)
    return config
