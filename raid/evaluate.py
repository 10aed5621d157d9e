"""Retrieval figures of a model or of ready features on a set's query and gallery images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.samples import Samples
from raid.errors import InputError
from raid.files import atomic_path
from raid.ops.ranking import RankedLists, Ranking, rank, ranked_lists

Record = dict[str, NDArray[Any]]
_Labels = tuple[NDArray[np.int64], NDArray[np.int64] | None]
CMC_PLACES = 50
_SHOWN_EACH = 3  # best, median and worst queries


@dataclass(frozen=True)
class RetrievalSet:
    """Query and gallery, ready to be ranked: row i of the samples is row i of the images."""

    query: Samples
    query_images: Images
    gallery: Samples
    gallery_images: Images

    def rank(
        self, query_features: NDArray[np.float32], gallery_features: NDArray[np.float32], *, ap: str
    ) -> Ranking:
        """Rank the gallery for every query; same identity and camera left out where cameras exist."""
        queries, gallery = self._labels()
        return rank(query_features, *queries, gallery_features, *gallery, ap=ap)

    def ranked_lists(
        self,
        rows: NDArray[np.int64],
        query_features: NDArray[np.float32],
        gallery_features: NDArray[np.float32],
        *,
        num_places: int,
    ) -> RankedLists:
        """Return the first places of `rank` for the queries `rows` (S,); the features are of all."""
        (identities, cameras), gallery = self._labels()
        of_rows = (identities[rows], None if cameras is None else cameras[rows])
        return ranked_lists(query_features[rows], *of_rows, gallery_features, *gallery, num_places=num_places)

    def _labels(self) -> tuple[_Labels, _Labels]:
        """Return identities and cameras of the queries and of the gallery."""
        if self.query.has_cameras and self.gallery.has_cameras:
            return (
                (self.query.identities, self.query.cameras),
                (self.gallery.identities, self.gallery.cameras),
            )
        return (self.query.identities, None), (self.gallery.identities, None)


def metrics(ranking: Ranking) -> dict[str, float]:
    """Return the ranking under the project's metric keys, as shares of 1."""
    cmc = ranking.cmc
    ranks = {f"eval/rank{k}": float(cmc[min(k, len(cmc)) - 1]) for k in (1, 5, 10)}
    return {"eval/mAP": float(ranking.mAP), **ranks, "eval/mINP": float(ranking.mINP)}


def final_record(
    retrieval: RetrievalSet,
    query_features: NDArray[np.float32],
    gallery_features: NDArray[np.float32],
    *,
    ap: str,
    num_shown: int = 10,
) -> Record:
    """Return what a report shows of an evaluation, as plain arrays.

    The S shown queries are some of the best, the median and the worst by average precision, among those
    that have a match; S is 9, or less where fewer are valid. None is shown twice.

    Args:
        retrieval: Q queries and G gallery images.
        query_features: (Q, D) unit rows.
        gallery_features: (G, D) unit rows.
        ap: variant of average precision.
        num_shown: P, places of a list.

    Returns:
        `cmc` (min(50, G),) float64; `average_precision` (Q,) float64, NaN = not valid; `num_gallery` ();
        `shown_rows` (S,) int64, rows of the queries; `shown_kind` (S,) text: best, median or worst;
        `list_rows` (S, P) int64, `list_similarity` (S, P) float32 and `list_right` (S, P) bool, as in
        `raid.ops.ranking.RankedLists`.

    Raises:
        ValueError: as `raid.ops.ranking.rank`.
    """
    ranking = retrieval.rank(query_features, gallery_features, ap=ap)
    kinds, rows = _chosen(ranking.average_precisions)
    lists = retrieval.ranked_lists(rows, query_features, gallery_features, num_places=num_shown)
    return {
        "cmc": ranking.cmc[:CMC_PLACES],
        "average_precision": ranking.average_precisions,
        "num_gallery": np.array(len(gallery_features)),
        "shown_rows": rows,
        "shown_kind": kinds,
        "list_rows": lists.rows,
        "list_similarity": lists.similarity,
        "list_right": lists.right,
    }


def camera_record(features: NDArray[np.float32], samples: Samples) -> Record:
    """Return `camera_similarity` of N images and `camera_names`; nothing without cameras.

    Args:
        features: (N, D) unit rows.
        samples: the N images; a report calls them the gallery.
    """
    if not samples.has_cameras:
        return {}
    similarity = camera_similarity(features, samples.cameras)
    names = [*samples.camera_names, *map(str, range(len(samples.camera_names), len(similarity)))]
    return {"camera_similarity": similarity, "camera_names": np.array(names[: len(similarity)], np.str_)}


def camera_similarity(features: NDArray[np.float32], cameras: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosine similarity between the mean features of the cameras, (C, C).

    How alike the model finds the average picture of two cameras. Where both see the same people, a low
    value says that the model sees the camera in a picture, and that people are harder to find again across
    that pair; where they see other people, these differ too. The level means little (features of one
    network have much in common); the differences between pairs do.

    Args:
        features: (N, D) unit rows.
        cameras: (N,) 0-based, -1 = not known: left out. C is the largest, and one.

    Returns:
        Float64, symmetric; rows and columns of cameras without images are NaN.
    """
    means = np.full((cameras.max(initial=-1) + 1, features.shape[1]), np.nan)
    for camera in np.unique(cameras[cameras >= 0]):
        mean = features[cameras == camera].mean(axis=0, dtype=np.float64)
        means[camera] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    similarity: NDArray[np.float64] = means @ means.T
    return similarity


def save_record(path: Path, record: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays of `final_record` and `camera_record` (`RunFolder.evaluation`)."""
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **record)


def load_record(path: Path) -> Record:
    """Read what `save_record` wrote; nothing in it is executed.

    Raises:
        InputError: the file is missing, damaged, or holds other objects.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # damaged bytes make the reader raise nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path}: not a record of an evaluation: {reason}") from error


def _chosen(average_precisions: NDArray[np.float64]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return kind and row of some of the best (best first), median and worst (worst first) queries."""
    valid = np.flatnonzero(~np.isnan(average_precisions))
    order = valid[np.argsort(-average_precisions[valid], kind="stable")]
    each = max(1, min(_SHOWN_EACH, len(order) // 3))
    middle = (len(order) - each) // 2
    rows = {"best": order[:each], "worst": order[::-1][:each], "median": order[middle : middle + each]}
    shown: dict[int, str] = {}
    for kind, of_kind in rows.items():
        for row in of_kind.tolist():
            shown.setdefault(row, kind)
    kinds = sorted(shown.items(), key=lambda item: ("best", "median", "worst").index(item[1]))
    return np.array([kind for _, kind in kinds]), np.array([row for row, _ in kinds], np.int64)
