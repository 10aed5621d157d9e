"""Retrieval figures of a model or of ready features on a set's query and gallery images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.samples import Samples
from raid.ops.ranking import Ranking, rank


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
        cameras = self.query.has_cameras and self.gallery.has_cameras
        return rank(
            query_features,
            self.query.identities,
            self.query.cameras if cameras else None,
            gallery_features,
            self.gallery.identities,
            self.gallery.cameras if cameras else None,
            ap=ap,
        )


def metrics(ranking: Ranking) -> dict[str, float]:
    """Return the ranking under the project's metric keys, as shares of 1."""
    cmc = ranking.cmc
    ranks = {f"eval/rank{k}": float(cmc[min(k, len(cmc)) - 1]) for k in (1, 5, 10)}
    return {"eval/mAP": float(ranking.mAP), **ranks, "eval/mINP": float(ranking.mINP)}
