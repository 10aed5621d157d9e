"""From the data section of a configuration to samples and decoded images."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raid.data import cuhk03, dukemtmc, folder, market1501, msmt17, table, viper
from raid.data.images import Images, open_images
from raid.data.packed import open_pack, origin_of
from raid.data.samples import OnError, Samples
from raid.errors import InputError
from raid.evaluate import RetrievalSet
from raid.methods.sections import BELONGS_TO, Data, ImageSet
from raid.protocols import PROTOCOLS, Protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a method trains on and, where the set has a query and a gallery, is evaluated on.

    `facts` and `fingerprint` are those of the whole set: see `Samples`.
    """

    train: Samples
    train_images: Images
    retrieval: RetrievalSet | None
    fingerprint: str
    facts: dict[str, str]

    @property
    def origins(self) -> dict[str, Any]:
        """What a run is recorded with of a pack's origin, see `origins_of`."""
        return origins_of(data=self.train)


def load_samples(data: Data, *, on_error: OnError | None = None) -> Samples:
    """Read the manifest of the set that `data` describes.

    Args:
        data: where the set is, and how it is read.
        on_error: in place of the section's own.

    Raises:
        InputError: nothing is there, or it is not of the layout.
    """
    assert data.root is not None  # Data.problems
    if data.layout == "pack":
        return _of_pack(data, data.root)
    root = Path(data.root).expanduser()  # the shell leaves the ~ of data.root=~/set alone
    on_error = on_error or data.on_error
    match data.layout:
        case "market1501":
            return market1501.load(
                root, multi_query=data.multi_query, distractors=data.distractors, on_error=on_error
            )
        case "dukemtmc":
            return dukemtmc.load(root, on_error=on_error)
        case "msmt17":
            return msmt17.load(root, with_validation=data.with_validation, on_error=on_error)
        case "cuhk03":
            return cuhk03.load(
                root,
                boxes=data.boxes,
                protocol=data.protocol,
                split_number=data.split_number,
                on_error=on_error,
            )
        case "viper":
            return viper.load(root, split_number=data.split_number, on_error=on_error)
        case "folder":
            assert data.pattern is not None  # Data.problems
            return folder.load(root, data.pattern, splits=data.splits, on_error=on_error)
        case "table":
            return table.load(root, on_error=on_error)
        case "manifest":
            return Samples.read(root)


def origin(data: Data) -> dict[str, Any]:
    """Return how a set is read, by field: what a pack of it remembers."""
    return {name: getattr(data, name) for name in ("layout", *BELONGS_TO)}


def layout_of(samples: Samples, data: Data) -> str:
    """Return the layout that a set was read by; of a pack, that of its origin."""
    return str(origin_of(samples).get("layout", data.layout))


def origins_of(**sets: Samples) -> dict[str, Any]:
    """Return how packs were read before they were packed, by field of the configuration: `data.layout`, ...

    A run is recorded with these, and so is the same run wherever its images are. Other sets have none.

    Args:
        sets: by section.
    """
    return {
        f"{section}.{name}": value
        for section, samples in sets.items()
        for name, value in origin_of(samples).items()
        if name in ("layout", *BELONGS_TO)  # and nothing else, whatever a pack says
    }


def _of_pack(data: Data, root: Path | str) -> Samples:
    """Open a pack, of a set that was read as the options of its layout say, where they are given."""
    samples = open_pack(
        root,
        cache_folder=data.cache_folder,
        limit_gib=data.fetch_limit_gib,
        timeout_s=data.read_timeout_s,
    )
    packed = origin_of(samples)
    for name in BELONGS_TO:
        wanted = getattr(data, name)
        if wanted != getattr(ImageSet, name) and wanted != packed.get(name):
            raise InputError(
                f"data.{name}: is {wanted!r}, and the pack {root} was made with {packed.get(name)!r}: leave "
                "it out, or pack the set again"
            )
    return samples


def open_inputs(data: Data, *, multi_query: bool = False) -> Inputs:
    """Read the set, decode its images once, and take its splits apart.

    Args:
        data: where the set is.
        multi_query: open the images that multi-query averages too, where there are any.

    Raises:
        InputError: the set has no training images, or its images cannot be read or evaluated.
    """
    samples = load_samples(data)
    if "train" not in samples.splits:
        raise InputError(
            f"data.root: {data.root} has no training images (splits: {', '.join(samples.splits)})"
        )
    train, train_images = _open(samples, "train", data)
    retrieval = open_retrieval(samples, data, multi_query=multi_query)
    return Inputs(train, train_images, retrieval, samples.fingerprint(), samples.facts)


def open_retrieval(samples: Samples, data: Data, *, multi_query: bool = False) -> RetrievalSet | None:
    """Decode the query and gallery images of a set once; None where it has none.

    Args:
        samples: the whole set.
        data: its section.
        multi_query: as in `open_inputs`.

    Raises:
        InputError: no query has a match, the images cannot be read, or the protocol that the set names is
            not known.
    """
    protocol = protocol_of(samples, data)
    classic = protocol == "cuhk03_classic"  # its test images are queries and gallery both
    if not {"gallery", *([] if classic else ["query"])} <= set(samples.splits):
        return None
    gallery = _open(samples, "gallery", data)
    query = gallery if classic else _open(samples, "query", data)
    retrieval = RetrievalSet(*query, *gallery, protocol=protocol)
    if multi_query and "multi_query" in samples.splits:
        further, images = _open(samples, "multi_query", data)
        retrieval = replace(retrieval, multi_query=further, multi_query_images=images)
    _check_matches(retrieval.query, retrieval.gallery, data)
    return retrieval


def protocol_of(samples: Samples, data: Data) -> Protocol:
    """Return the protocol that the set is evaluated by.

    Raises:
        InputError: the set names another, or one that needs cameras it has not.
    """
    named = samples.facts.get("protocol", "standard")
    for protocol in PROTOCOLS:
        if named == protocol:
            if protocol == "cuhk03_classic" and not samples.has_cameras:
                raise InputError(
                    f"data.root: {data.root}: CUHK03's classic protocol needs the camera of every image: "
                    "without them each query is a match of its own"
                )
            return protocol
    raise InputError(
        f"data.root: {data.root}: unknown protocol {named!r}; a set may name {', '.join(PROTOCOLS)}"
    )


def _check_matches(query: Samples, gallery: Samples, data: Data) -> None:
    """Find out before the training that there will be something to evaluate."""
    with_cameras = query.has_cameras and gallery.has_cameras
    if not with_cameras and (query.cameras.max() >= 0 or gallery.cameras.max() >= 0):
        logger.warning(
            "data.root: %s: some query or gallery images have no camera, so pictures of the same camera "
            "count as matches: mAP is higher for it",
            data.root,
        )
    seen: dict[int, set[int]] = {}
    for identity, camera in zip(gallery.identities.tolist(), gallery.cameras.tolist(), strict=True):
        seen.setdefault(identity, set()).add(camera)
    for identity, camera in zip(query.identities.tolist(), query.cameras.tolist(), strict=True):
        if identity != -1 and seen.get(identity, set()) - ({camera} if with_cameras else set()):
            return
    raise InputError(
        f"data.root: {data.root}: no query has its identity in the gallery (at another camera); "
        "give identities, or a set of training images alone"
    )


def _open(samples: Samples, split: str, data: Data) -> tuple[Samples, Images]:
    return open_part(samples.split(split), data)


def open_part(part: Samples, data: Data) -> tuple[Samples, Images]:
    """Decode the images of a part of a set once, as section `data` says; return what could be decoded."""
    return open_images(
        part,
        height=data.height,
        width=data.width,
        cache_folder=data.cache_folder,
        cache_limit_gib=data.cache_limit_gib,
        on_error=data.on_error,
        read_timeout_s=data.read_timeout_s,
    )
