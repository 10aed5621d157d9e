"""The section on SLSR's clusters of training images."""

from collections.abc import Iterator

import numpy as np

from raid.ops.smoothing import identity_sets
from raid.report.charts import Axes, percent
from raid.report.markup import Html
from raid.report.panels import grid, note, table
from raid.report.run import Run
from raid.report.scatter import Cloud, scatter
from raid.report.style import NUM_LOOKS

_MOST_POINTS = 2000


def none_made(run: Run) -> str | None:
    """Return why a run makes no clusters, and nothing of them; None: it does."""
    if run.config.get("finetuning.epochs") == 0:
        return "This run ends with the baseline: finetuning.epochs is 0."
    if run.config.get("generated.label") == "none":
        return "Nothing is generated: generated.label is none."
    return None


def clusters(run: Run) -> Iterator[Html]:
    """Yield silhouettes by the number of clusters, who is in the clusters, and where they lie."""
    if not run.slsr.clusters:
        yield note(none_made(run) or "The images have not been clustered yet.")
        return
    of = "the last convolution's map" if run.config.get("clusters.features") == "map" else "pooled features"
    mean = float(run.slsr.clusters["silhouette"])
    yield note(
        f"k-means on the baseline's {of} of the training images: {run.slsr.num_clusters} clusters, of a mean "
        f"silhouette of {percent(mean)}. Cluster 0 is gans/cluster_00 in the run's folder."
    )
    yield grid([_plane(run), _members(run), _silhouettes(run)])


def _silhouettes(run: Run) -> Html:
    """Return the paper's table 1."""
    found = run.slsr.clusters
    rows = [
        (f"{k} (used)" if k == run.slsr.num_clusters else str(k), percent(features), percent(plane))
        for k, features, plane in zip(
            found["numbers"].tolist(),
            found["silhouette_features"].tolist(),
            found["silhouette_plane"].tolist(),
            strict=True,
        )
    ]
    said = (
        "Features: of clusters of the features, the ones used. Plane: of other clusters, made on the two "
        "principal components, as the paper's table 1 has it; a plane flatters them."
    )
    return table("Silhouette", ("clusters", "features", "plane"), rows, note=said) if rows else Html()


def _members(run: Run) -> Html:
    """Return images and identities (C_i) of every cluster, and how many identities are in several."""
    found, least = run.slsr.clusters, int(run.config.get("generated.min_images", 1))
    images = found["clusters"].astype(np.int64)
    _, identities = np.unique(found["labels"], return_inverse=True)
    num_identities = int(identities.max()) + 1
    sets = identity_sets(
        images,
        identities,
        num_clusters=run.slsr.num_clusters,
        num_identities=num_identities,
        min_images=least,
    )
    memberships = sets.sum(axis=0)
    rows = [
        (
            f"{cluster}",
            str(int((images == cluster).sum())),
            percent(float((images == cluster).mean())),
            str(int(held.sum())),
            str(int((held & (memberships == 1)).sum())),
        )
        for cluster, held in enumerate(sets)
    ]
    said = (
        f"|C|: identities with {'an image' if least == 1 else f'at least {least} images'} in the cluster, "
        f"which its generated images may be labelled by. {int((memberships > 1).sum())} of "
        f"{num_identities} identities are in several clusters"
    )
    nobody = int((memberships == 0).sum())
    said += f", {nobody} in none." if nobody else "."
    return table("Clusters", ("cluster", "images", "share", "|C|", "only here"), rows, note=said)


def _plane(run: Run) -> Html:
    """Return the paper's figure 4."""
    found, clouds = run.slsr.clusters, []
    for cluster in range(run.slsr.num_clusters):
        points = found["plane"][found["clusters"] == cluster]
        if len(points):
            told = f"{len(points)} images"
            clouds.append(Cloud(f"cluster {cluster}", str(cluster), points, told, cluster % NUM_LOOKS))
    axes = Axes("first principal component", "second principal component")
    return scatter("Clusters in the plane", clouds, axes, most=_MOST_POINTS)
