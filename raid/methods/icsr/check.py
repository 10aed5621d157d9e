"""What a configuration of ICSR asks for, compared with the images there are."""

import logging
from importlib.util import find_spec

import numpy as np

from raid.data.samples import Samples, camera_name
from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.memory import ClusterTask, cluster_bytes, usual_entries, what_would_fit
from raid.methods.inputs import Inputs
from raid.methods.sections import auto_k1

logger = logging.getLogger(__name__)


def check(config: IcsrConfig, inputs: Inputs) -> None:
    """Compare the configuration with the images; warn of what is adjusted.

    Raises:
        InputError: a combination that cannot work.
    """
    if config.model.batch_norm == "local" and config.run.workers > 1:
        logger.warning("model.batch_norm=local: the result depends on run.workers=%d", config.run.workers)
    if config.evaluate.multi_query and (inputs.retrieval is None or inputs.retrieval.multi_query is None):
        logger.warning(
            "evaluate.multi_query: the set has no further images of its queries (Market-1501's gt_bbox is "
            "read with data.multi_query=true): there will be no figures of it"
        )
    train = inputs.train
    if config.inter.method != "dbscan":
        _check_number("inter", config.inter.num_clusters, len(train), f"{len(train)} training images", config)
    _warn_of_neighbourhoods("inter", config, [(len(train), config.inter.num_clusters, "the training set")])
    if config.refine.enabled:
        _check_refinement(config, train)


def check_memory(config: IcsrConfig, train: Samples, dimensions: int, available: int) -> None:
    """Compare what the largest clusterings hold with the memory of the machine that does them.

    Args:
        config: of the run.
        train: its training images.
        dimensions: D of the features.
        available: bytes.

    Raises:
        InputError: there is too little of it.
    """
    tasks = {"training images": ClusterTask.inter(config, len(train), dimensions)}
    if config.makes_labels:
        largest = int(np.unique(train.cameras, return_counts=True)[1].max())
        tasks["images of one camera"] = ClusterTask.intra(config, largest, dimensions)
    for what, task in tasks.items():
        entries = usual_entries(task.num_images, task.sizes[0])
        needed = cluster_bytes(task, entries)
        if needed > available:
            raise InputError(
                f"data.root: to cluster {task.num_images} {what} takes about {needed / 2**30:.1f} GiB, and "
                f"the machine has {available / 2**30:.1f}; {what_would_fit(task, entries, available)} "
                "(`raid plan` says what every step needs)"
            )


def _check_refinement(config: IcsrConfig, train: Samples) -> None:
    if config.refine.referee == "infomap_last" and find_spec("infomap") is None:
        raise InputError(
            "refine.referee: infomap_last needs the package infomap: pip install 'raid[infomap]', "
            "or choose another referee"
        )
    if not train.has_cameras:
        raise InputError(
            "data.root: some training images have no camera, and ICSR trains one encoder a camera; "
            "give the cameras, or train the baseline with refine.enabled=false"
        )
    if not config.makes_labels:
        return
    shares = []
    for camera, count in zip(*np.unique(train.cameras, return_counts=True), strict=True):
        name, clusters = camera_name(train.camera_names, camera), config.intra.clusters_of(count)
        if count == 1:
            logger.warning("camera %s has one image: it is a local cluster by itself", name)
            continue
        if config.intra.method != "dbscan":
            _check_number("intra", clusters, count, f"the {count} images of camera {name}", config)
        shares.append((count, clusters, f"camera {name}"))
    _warn_of_neighbourhoods("intra", config, shares)


def _check_number(stage: str, num_clusters: int, count: int, what: str, config: IcsrConfig) -> None:
    share = "" if stage == "inter" else ", or for a share such as n//5"
    if num_clusters > count:
        raise InputError(f"{stage}.num_clusters: {num_clusters} clusters of {what}; ask for fewer{share}")
    if num_clusters == count and config.sampler.singletons == "skip":
        raise InputError(
            f"{stage}.num_clusters: as many clusters as there are images ({what}), and "
            "sampler.singletons=skip draws none of one image; ask for fewer"
        )


def _warn_of_neighbourhoods(stage: str, config: IcsrConfig, sets: list[tuple[int, int, str]]) -> None:
    """Warn of neighbourhoods that are larger than a set, or than its clusters (images, clusters, name)."""
    k1 = config.neighbors.k1
    if k1 == "auto":
        return
    for count, _, name in sets:
        if k1 > count:
            logger.warning("neighbors.k1: %d is clipped to the %d images of %s", k1, count, name)
    method = config.intra.method if stage == "intra" else config.inter.method
    if method == "dbscan":
        return
    smaller = [(count / clusters, auto_k1(count, clusters)) for count, clusters, _ in sets]
    smaller = [(size, best) for size, best in smaller if k1 > 1.5 * max(size, 4)]
    if smaller:
        size, best = min(smaller)
        logger.warning(
            "neighbors.k1: %d neighbours, and an average %s cluster has %.0f images: neighbourhoods reach "
            "into other people; neighbors.k1=auto would take %d",
            k1,
            "local" if stage == "intra" else "global",
            size,
            best,
        )
