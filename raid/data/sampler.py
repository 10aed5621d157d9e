"""Batches of P clusters times K images, those of a cluster from different cameras; shuffled batches.

The former are ICSR's (methods.md 2.7), the latter MAR's, which knows no clusters.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Singletons = Literal["keep_one", "skip", "repeat"]


def camera_aware_batches(
    labels: Ints,
    cameras: Ints | None,
    *,
    identities: int = 16,
    instances: int = 4,
    num_batches: int,
    generator: np.random.Generator,
    camera_aware: bool = True,
    singletons: Singletons = "keep_one",
) -> Ints:
    """Draw the rows of the global batches of an epoch (ICSR, as Cluster-Contrast).

    The clusters come in random order, all once before any twice. Each gives a random anchor and K-1
    images of other cameras, or of the anchor's when there are no others. The draws are one stream that
    is cut into batches: where single-image clusters give fewer rows, further draws fill the batch.

    Args:
        labels: (N,) clusters; -1 = not drawn.
        cameras: (N,), or None: every other image of the cluster counts as one of another camera.
        identities: P.
        instances: K.
        num_batches: batches of the epoch.
        generator: of the random numbers.
        camera_aware: False ignores the cameras.
        singletons: what a cluster of one image gives: its one row, nothing, or K times the row.

    Returns:
        (num_batches, P*K) int64 rows of `labels`.

    Raises:
        ValueError: no cluster can be drawn.
    """
    clusters = [rows for rows in _clusters(labels) if len(rows) > 1 or singletons != "skip"]
    if not clusters:
        raise ValueError("no cluster to draw from: every image is left out or alone in its cluster")
    aware = cameras if camera_aware else None
    batch_size = identities * instances
    drawn: list[Ints] = []
    missing = num_batches * batch_size
    for rows in _in_random_order(clusters, generator):
        if missing <= 0:
            break
        repeats = instances if singletons == "repeat" else 1
        drawn.append(_draw(rows, aware, instances, generator) if len(rows) > 1 else np.repeat(rows, repeats))
        missing -= len(drawn[-1])
    stream = np.concatenate([np.empty(0, dtype=np.int64), *drawn])
    return stream[: num_batches * batch_size].reshape(num_batches, batch_size)


def shuffled_batches(
    num_images: int,
    batch_size: int,
    *,
    first: int,
    num_batches: int,
    stream_of: Callable[[int], np.random.Generator],
) -> Ints:
    """Cut shuffled passes over all images into batches; what is left at a pass's end is dropped.

    Batch b, counted over the whole run, belongs to pass b // (num_images // batch_size). The rows of a
    batch depend on its number alone, so an epoch can begin and end within a pass. No image is twice in a
    batch, or in a pass.

    Args:
        num_images: N.
        batch_size: images of the global batch.
        first: number of the first batch, 0 at the run's beginning.
        num_batches: how many.
        stream_of: makes the random numbers of a pass, the same whenever it is asked.

    Returns:
        (num_batches, batch_size) int64 rows 0..N-1.

    Raises:
        ValueError: fewer images than a batch holds, or a batch of none.
    """
    if not 1 <= batch_size <= num_images:
        raise ValueError(
            f"a batch from {num_images} images holds 1 to {num_images} of them, not {batch_size}"
        )
    per_pass = num_images // batch_size
    passes = range(first // per_pass, -(-(first + num_batches) // per_pass))
    rows = [stream_of(number).permutation(num_images)[: per_pass * batch_size] for number in passes]
    batches = np.concatenate([np.empty(0, dtype=np.int64), *rows]).reshape(-1, batch_size)
    start = first - passes.start * per_pass
    return batches[start : start + num_batches]


def singleton_share(labels: Ints) -> float:
    """Return the share of the clusters that hold one image; 0 without clusters."""
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1]
    return float(np.mean(sizes == 1)) if len(sizes) else 0.0


def _clusters(labels: Ints) -> list[Ints]:
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[rows])) + 1
    return [part for part in np.split(rows, starts) if len(part)]


def _in_random_order(clusters: list[Ints], generator: np.random.Generator) -> Iterator[Ints]:
    while True:
        for cluster in generator.permutation(len(clusters)):
            yield clusters[cluster]


def _draw(rows: Ints, cameras: Ints | None, instances: int, generator: np.random.Generator) -> Ints:
    """Return an anchor among `rows` and K-1 of the others."""
    anchor = rows[generator.integers(len(rows))]
    others = rows[rows != anchor]
    if cameras is not None:
        elsewhere = others[cameras[others] != cameras[anchor]]
        others = elsewhere if len(elsewhere) else others
    # K-1 others would do, but the published sampler asks for K before it stops repeating.
    chosen = generator.choice(others, instances - 1, replace=len(others) < instances)
    return np.concatenate([[anchor], chosen])
