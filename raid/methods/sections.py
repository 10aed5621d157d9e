"""Sections of the configuration that the methods share: the images, the network, what is learnt and how."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from raid.config import Schema
from raid.data.augment import Augmentation
from raid.data.reading import READ_TIMEOUT_S
from raid.data.statistics import IMAGENET, Statistics
from raid.models.backbone import BackboneName, PoolName
from raid.protocols import Options

Share = Annotated[float, Field(ge=0, le=1)]

# The options of section data that mean something to some layouts alone.
_BELONGS_TO = {
    "pattern": ("folder",),
    "splits": ("folder",),
    "multi_query": ("market1501",),
    "distractors": ("market1501",),
    "with_validation": ("msmt17",),
    "boxes": ("cuhk03",),
    "protocol": ("cuhk03",),
    "split_number": ("cuhk03", "viper"),
}


@dataclass(frozen=True, kw_only=True)
class ImageSet(Schema):
    """Where a set of images is and which of them belong to it."""

    layout: Annotated[
        Literal["market1501", "dukemtmc", "msmt17", "cuhk03", "viper", "folder", "table", "manifest"],
        "how `root` is read: a published set as it is unpacked (market1501: any set in its folders), any "
        "folder by `pattern`, a CSV or Parquet table, or a manifest that raid wrote",
    ] = "market1501"
    root: Annotated[Path | None, "folder of the images; the file itself for table and manifest"] = None
    pattern: Annotated[
        str | None,
        "layout folder: regular expression searched in the relative path, with the named groups "
        "identity, camera and split (each optional)",
    ] = None
    splits: Annotated[
        dict[str, Literal["train", "query", "gallery", "multi_query"]] | None,
        "layout folder: what the text captured as split means",
    ] = None
    multi_query: Annotated[
        bool, "layout market1501: gt_bbox too, the pictures that are averaged into a query"
    ] = False
    distractors: Annotated[bool, "layout market1501: the 500,000 pictures of `images` in the gallery"] = False
    with_validation: Annotated[
        bool, "layout msmt17: train on list_val too, as the papers do; false: on list_train alone"
    ] = True
    boxes: Annotated[
        Literal["detected", "labelled"], "layout cuhk03: a detector's boxes, or those drawn by hand"
    ] = "detected"
    protocol: Annotated[
        Literal["new", "classic"], "layout cuhk03: 767 people trained on and 700 tested, or 1,367 and 100"
    ] = "new"
    split_number: Annotated[
        NonNegativeInt, "which of the random splits: 0 to 19 (layout cuhk03, classic), 0 to 9 (viper)"
    ] = 0
    on_error: Annotated[
        Literal["fail", "skip"], "an unreadable or truncated image: stop, or leave it out with a count"
    ] = "fail"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what cannot be read."""
        if self.root is None:
            yield "root", "is required: the folder of the images, or the file that lists them"
        if self.layout == "folder" and self.pattern is None:
            yield "pattern", r"is required by layout folder, for example (?P<identity>\d+)_c(?P<camera>\d+)"
        for name, layouts in _BELONGS_TO.items():
            # A default may stand in a file that raid wrote.
            if self.layout not in layouts and getattr(self, name) != getattr(ImageSet, name):
                yield name, f"belongs to layout {' and '.join(layouts)} alone"
        yield from self._split_problems()

    def _split_problems(self) -> Iterator[tuple[str, str]]:
        number, most = self.split_number, {"cuhk03": 19, "viper": 9}.get(self.layout)
        if self.layout == "cuhk03" and self.protocol == "new" and number:
            yield "split_number", "the new protocol has one split; set data.protocol=classic, or leave it out"
        elif most is not None and number > most:
            yield "split_number", f"is {number}; the splits are 0 to {most}"


@dataclass(frozen=True, kw_only=True)
class Data(ImageSet):
    """The set that is trained on and evaluated, and how its images are read."""

    height: Annotated[PositiveInt, "image height in pixels"] = 256
    width: Annotated[PositiveInt, "image width in pixels"] = 128
    cache_folder: Annotated[Path, "folder of the decoded-image cache"] = Path("runs/cache")
    cache_limit_gib: Annotated[NonNegativeFloat, "a larger set is decoded on the fly"] = 64.0
    read_timeout_s: Annotated[PositiveFloat, "a file that does not come in so many seconds stops the run"] = (
        READ_TIMEOUT_S
    )


@dataclass(frozen=True, kw_only=True)
class Model(Schema):
    """The network."""

    backbone: Annotated[BackboneName, "architecture"] = "resnet50"
    weights: Annotated[str, "starting weights: imagenet, none, or the path of a state dict"] = "imagenet"
    last_stride: Annotated[Literal[1, 2], "stride of the last stage"] = 1
    pool: Annotated[PoolName, "pooling of the last map"] = "gem"
    neck: Annotated[bool, "batch normalisation of the pooled features"] = True
    final_relu: Annotated[bool, "false: the last map without its ReLU, features have both signs"] = True
    batch_norm: Annotated[
        Literal["ghost", "sync", "local"],
        "statistics over groups of the global batch, over all of it, or over what one worker holds "
        "(local: the result depends on the number of workers)",
    ] = "ghost"
    ghost_size: Annotated[PositiveInt, "images of a ghost group"] = 16

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what cannot be built."""
        if self.weights == "imagenet" and (self.backbone == "resnet10" or self.backbone.endswith("_ibn_a")):
            yield "weights", f"torchvision has no ImageNet weights for {self.backbone}: give a file or none"
        if self.pool == "gem" and not self.final_relu:
            yield "pool", "gem loses what is negative, which final_relu=false keeps: use average"
        if self.batch_norm == "ghost" and self.ghost_size < 2:
            yield "ghost_size", "a batch norm over one image has no variance: use 2 or more"


def sharing_problems(
    batch: int,
    model: Model,
    workers: int,
    *,
    of_sets: tuple[int, ...] = (),
    ghost_path: str = "model.ghost_size",
) -> Iterator[tuple[str, str]]:
    """Yield (path, message) of batches that ghost groups or workers cannot share evenly.

    Args:
        batch: images of the global batch.
        model: with the ghost size of the batch.
        workers: that share it.
        of_sets: images of each set in it, of which every group or worker takes the same share.
        ghost_path: of the ghost size.
    """
    ghost, grouped = model.ghost_size, model.batch_norm == "ghost"
    if grouped and batch % ghost:
        yield ghost_path, f"the batch of {batch} images is not whole groups of {ghost}"
        return
    parts = batch // ghost if grouped else math.gcd(batch, *of_sets)
    if grouped and any(number % parts for number in of_sets):
        shares = " and ".join(map(str, of_sets))
        yield ghost_path, f"{shares} images cannot be shared evenly by {parts} groups of {ghost}"
    elif parts % workers:
        legal = ", ".join(str(n) for n in range(1, parts + 1) if parts % n == 0)
        what = f"groups of {ghost}" if grouped else "images"
        yield (
            "run.workers",
            f"{workers} workers cannot share the {parts} {what} of a batch evenly; can: {legal}",
        )
    normed = batch // workers if model.batch_norm == "local" else batch
    if not grouped and normed < 2:
        yield "model.batch_norm", "a batch norm over one image has no variance: use a larger batch"


@dataclass(frozen=True, kw_only=True)
class Augment(Schema):
    """Augmentation of the training images (ICSR section 3.1, as Cluster-Contrast)."""

    flip: Annotated[Share, "probability of a horizontal flip"] = 0.5
    pad: Annotated[NonNegativeInt, "black pixels added on every side before the random crop"] = 10
    erase_probability: Annotated[Share, "probability of erasing a rectangle"] = 0.5
    erase_area: Annotated[tuple[Share, Share], "range of the rectangle's share of the image"] = (0.02, 0.4)

    def as_drawn(self, statistics: Statistics = IMAGENET) -> Augmentation:
        """Return what draws and applies it, with the normalisation by `statistics`.

        A method's own section may have more fields; all are called as the augmentation calls them.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Augmentation(**own, mean=statistics.mean, std=statistics.std)


def crop_problems(augment: Augment, data: Data) -> Iterator[tuple[str, str]]:
    """Yield (path, message) of a random crop that is larger than the padded images it is taken from."""
    drawn = augment.as_drawn()
    if min(drawn.slack(data.height, data.width)) < 0:
        height, width = drawn.crop_size(data.height, data.width)
        yield (
            "augment.input_size",
            f"a crop of {height} x {width} is larger than images of data.height={data.height}, "
            f"data.width={data.width} with augment.pad={drawn.pad}",
        )


@dataclass(frozen=True, kw_only=True)
class Sampler(Schema):
    """How the global batch is drawn: P clusters times K images."""

    identities: Annotated[PositiveInt, "P: clusters of a batch"] = 16
    instances: Annotated[PositiveInt, "K: images of a cluster"] = 4
    camera_aware: Annotated[bool, "take a cluster's other images from other cameras where there are any"] = (
        True
    )
    singletons: Annotated[
        Literal["keep_one", "skip", "repeat"],
        "a cluster of one image: one row (further draws fill the batch), none, or K times the same",
    ] = "keep_one"

    @property
    def batch_size(self) -> int:
        """Images of the global batch."""
        return self.identities * self.instances


@dataclass(frozen=True, kw_only=True)
class Optimizer(Schema):
    """Adam with a stepwise learning rate."""

    learning_rate: Annotated[PositiveFloat, "at the first epoch"] = 3.5e-4
    weight_decay: Annotated[NonNegativeFloat, "on all parameters"] = 5e-4
    step_epochs: Annotated[PositiveInt, "epochs between two drops of the learning rate"] = 20
    gamma: Annotated[PositiveFloat, "factor of a drop"] = 0.1
    weak_rule: Annotated[
        Literal["linear", "square_root", "constant"],
        "scale weak: the learning rate times W, its square root, or as it is, on W workers",
    ] = "linear"


@dataclass(frozen=True, kw_only=True)
class Neighbors(Schema):
    """The search for neighbours, and the k-reciprocal Jaccard distance (methods.md 2.4)."""

    k1: Annotated[
        PositiveInt | Literal["auto"],
        "neighbours, the image itself included; clipped to a small camera; auto: 0.6 times the images of an "
        "average cluster, 6 to 30",
    ] = 30
    k2: Annotated[PositiveInt, "neighbours averaged in the query expansion"] = 6
    search: Annotated[
        Literal["exact", "approximate"],
        "approximate: compare an image with the lists nearest to it alone, for sets of many 100,000 images; "
        "the share of the true neighbours that are found is the figure neighbors/recall",
    ] = "exact"
    probes: Annotated[
        PositiveInt, "approximate: lists of about 256 images that an image is compared with"
    ] = 96
    similarity: Annotated[
        Literal["memory", "disk"],
        "where the similarity is kept while a clustering needs it; disk: in a folder of its own under "
        "data.cache_folder; the result is the same",
    ] = "memory"
    keep: Annotated[
        Literal["all", "within_eps"],
        "within_eps: where a stage clusters by dbscan, only what that looks at of the similarity; the labels "
        "are the same, and the silhouette takes all other pairs for wholly apart",
    ] = "all"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield impossible neighbourhoods."""
        if self.k1 != "auto" and self.k2 > self.k1:
            yield "k2", f"is {self.k2}, more than k1={self.k1}"

    def of(self, num_images: int, num_clusters: int) -> tuple[int, int]:
        """Return k1 and k2 for a set; no neighbourhood is larger than the set."""
        k1 = auto_k1(num_images, num_clusters) if self.k1 == "auto" else self.k1
        k1 = min(k1, num_images)
        return k1, min(self.k2, k1)


def auto_k1(num_images: int, num_clusters: int) -> int:
    """Return the neighbours that a Jaccard neighbourhood is best made of: 0.6 of a cluster's images, 6 to 30.

    Neighbourhoods that are larger than a cluster reach into others, and those of a handful are noise. On
    simulated sets of 5 to 60 images an identity the best k1 is a third to two thirds of the images.
    """
    return min(30, max(6, round(0.6 * num_images / num_clusters)))


@dataclass(frozen=True, kw_only=True)
class Clustering(Schema):
    """How a stage groups features into pseudo labels; `num_clusters` is the stage's own."""

    method: Annotated[
        Literal["agglomerative", "dbscan", "kmeans"],
        "average linkage or DBSCAN on the Jaccard distance, or k-means on the features; dbscan finds the "
        "number of clusters and leaves outliers out",
    ] = "agglomerative"
    eps: Annotated[float, Field(gt=0, lt=1), "dbscan: largest Jaccard distance between neighbours"] = 0.6
    min_samples: Annotated[PositiveInt, "dbscan: neighbours, itself included, that make a core image"] = 4
    restarts: Annotated[PositiveInt, "kmeans: starts, the best of which is kept"] = 10


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    """Retrieval on the query and gallery images, where there are any."""

    every: Annotated[NonNegativeInt, "epochs between evaluations; the last is always one; 0: only it"] = 1
    flip: Annotated[bool, "features of an image and of its mirror image, added"] = False

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the model is evaluated after `epoch` (0-based) of `epochs`."""
        return epoch + 1 == epochs or (self.every > 0 and (epoch + 1) % self.every == 0)
