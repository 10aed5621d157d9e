"""Retrieval figures of a model or of ready features on a set's query and gallery images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.samples import Samples
from raid.errors import InputError
from raid.files import atomic_path
from raid.ops.ranked_lists import RankedLists, ranked_lists
from raid.ops.ranking import Ranking
from raid.protocols import Options, Protocol, Side, rank_protocol, rankings

Record = dict[str, NDArray[Any]]
Features = NDArray[np.float32]
CMC_PLACES = 50
_SHOWN_EACH = 3  # best, median and worst queries


@dataclass(frozen=True)
class RetrievalFeatures:
    """Unit rows of the images of a `RetrievalSet`, in their order.

    Attributes:
        query: (Q, D).
        gallery: (G, D).
        multi_query: (M, D), or None where the set has no such images open.
    """

    query: Features
    gallery: Features
    multi_query: Features | None = None


@dataclass(frozen=True)
class RetrievalSet:
    """Query and gallery, ready to be ranked: row i of the samples is row i of the images.

    Under protocol `cuhk03_classic` both are the same objects. `multi_query` are further images of the
    queries' people, where they were asked for.
    """

    query: Samples
    query_images: Images
    gallery: Samples
    gallery_images: Images
    multi_query: Samples | None = None
    multi_query_images: Images | None = None
    protocol: Protocol = "standard"

    def features(self, extract: Callable[[Images], Features]) -> RetrievalFeatures:
        """Return the features of all images by `extract`, which sees no image twice."""
        query = extract(self.query_images)
        same = self.gallery_images is self.query_images
        return RetrievalFeatures(
            query,
            query if same else extract(self.gallery_images),
            None if self.multi_query_images is None else extract(self.multi_query_images),
        )

    def figures(self, features: RetrievalFeatures, options: Options) -> dict[str, float]:
        """Return the figures of every protocol that applies, see `metrics`."""
        return {
            key: value
            for name, ranking in self.rankings(features, options).items()
            for key, value in metrics(ranking, name).items()
        }

    def rankings(self, features: RetrievalFeatures, options: Options) -> dict[str, Ranking]:
        """Return the ranking of every protocol that applies, by name (`raid.protocols.rankings`).

        Raises:
            ValueError: as `raid.ops.ranking.rank`.
        """
        query, gallery = self._sides(features.query, features.gallery)
        more = None
        if self.multi_query is not None and features.multi_query is not None:
            cameras = None if query.cameras is None else self.multi_query.cameras
            more = Side(features.multi_query, self.multi_query.identities, cameras)
        return rankings(query, gallery, more, protocol=self.protocol, options=options)

    def rank(self, query_features: Features, gallery_features: Features, options: Options) -> Ranking:
        """Rank the gallery for every query as the set's protocol has it."""
        sides = self._sides(query_features, gallery_features)
        return rank_protocol(*sides, protocol=self.protocol, options=options)

    def ranked_lists(
        self,
        rows: NDArray[np.int64],
        query_features: Features,
        gallery_features: Features,
        *,
        num_places: int,
    ) -> RankedLists:
        """Return the whole gallery's first places for the queries `rows` (S,); the features are of all."""
        query, gallery = self._sides(query_features, gallery_features)
        return ranked_lists(
            query.features[rows],
            query.identities[rows],
            None if query.cameras is None else query.cameras[rows],
            gallery.features,
            gallery.identities,
            gallery.cameras,
            num_places=num_places,
        )

    def _sides(self, query_features: Features, gallery_features: Features) -> tuple[Side, Side]:
        """Put features and labels together; cameras count where both sides have them."""
        cameras = self.query.has_cameras and self.gallery.has_cameras
        return (
            Side(query_features, self.query.identities, self.query.cameras if cameras else None),
            Side(gallery_features, self.gallery.identities, self.gallery.cameras if cameras else None),
        )


def metrics(ranking: Ranking, name: str = "", *, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return a ranking under the project's metric keys, as shares of 1: eval/mAP, eval/rank1 and so on.

    Args:
        ranking: of one protocol.
        name: of the protocol as in `raid.protocols.rankings`: eval/NAME/mAP and so on.
        ranks: places of the CMC; a gallery that is shorter answers with its last place.
    """
    prefix = f"eval/{name}/" if name else "eval/"
    shares = {f"{prefix}rank{k}": float(ranking.cmc[min(k, len(ranking.cmc)) - 1]) for k in ranks}
    return {f"{prefix}mAP": float(ranking.mAP), **shares, f"{prefix}mINP": float(ranking.mINP)}


def final_record(
    retrieval: RetrievalSet,
    query_features: Features,
    gallery_features: Features,
    options: Options,
    *,
    num_shown: int = 10,
) -> Record:
    """Return what a report shows of an evaluation, as plain arrays.

    The S shown queries are some of the best, the median and the worst by average precision, among those
    that have a match; S is 9, or less where fewer are valid. None is shown twice.

    Args:
        retrieval: Q queries and G gallery images.
        query_features: (Q, D) unit rows.
        gallery_features: (G, D) unit rows.
        options: of the evaluation; the record is of the single query, not re-ranked.
        num_shown: P, places of a list.

    Returns:
        `cmc` (min(50, G),) float64; `average_precision` (Q,) float64, NaN = not valid; `first_match` (Q,)
        int64, place of the first right one from 1, 0 = not valid (none where galleries are drawn, as a
        query has several); `num_gallery` ();
        `shown_rows` (S,) int64, rows of the queries; `shown_kind` (S,) text: best, median or worst;
        `list_rows` (S, P) int64, `list_similarity` (S, P) float32 and `list_right` (S, P) bool, as in
        `raid.ops.ranked_lists.RankedLists`.

    Raises:
        ValueError: as `raid.ops.ranking.rank`.
    """
    ranking = retrieval.rank(query_features, gallery_features, options)
    average_precisions = ranking.average_precisions[: len(query_features)]  # VIPeR's other direction follows
    first_matches = ranking.first_matches[: len(query_features)]
    kinds, rows = _chosen(average_precisions)
    lists = retrieval.ranked_lists(rows, query_features, gallery_features, num_places=num_shown)
    return {
        "cmc": ranking.cmc[:CMC_PLACES],
        "average_precision": average_precisions,
        **({"first_match": first_matches} if len(first_matches) else {}),
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
