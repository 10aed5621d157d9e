"""`raid threshold`: from which similarity on two pictures are taken for one person."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raid import __version__
from raid.data.feature_file import FeatureFacts, FeatureFile, read_features
from raid.errors import InputError
from raid.files import write_json
from raid.ops.bootstrap import LEVEL
from raid.ops.verification import NUM_LEVELS, Curve, pair_curve
from raid.ops.verification_bootstrap import DRAWS
from raid.ops.verification_figures import Rates, Verification, verify
from raid.report.document import write_page
from raid.report.threshold_page import page

Ints = NDArray[np.int64]
Pairs = Literal["all", "cross-camera"]

FORMAT = 1
_USUAL_FARS = (0.1, 0.01, 0.001, 0.0001, 0.00001)
_FEW = 10  # accepted impostors that a threshold had better rest on


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold, and what it was found on.

    Attributes:
        chosen: at the false-accept rate that was asked for.
        verification: at others too, rising.
        pairs: which were compared.
        splits: of the images.
        num_images: that were compared.
        num_identities: on them.
        num_cameras: that the pairs are across; None: of all pairs.
        facts: of the features.
    """

    chosen: Rates
    verification: Verification
    pairs: Pairs
    splits: tuple[str, ...]
    num_images: int
    num_identities: int
    num_cameras: int | None
    facts: FeatureFacts

    def as_record(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        found = self.verification
        return {
            "format": FORMAT,
            "raid": __version__,
            "metric": "cosine",
            **_plain(self.chosen),
            "eer": found.eer,
            "auc": found.auc,
            "pairs": {"of": self.pairs, "genuine": found.num_genuine, "impostor": found.num_impostor},
            "level": LEVEL,
            "draws": DRAWS,
            "model": self.facts.model,
            "flip": self.facts.flip,
            "height": self.facts.height,
            "width": self.facts.width,
            "set": self.facts.name,
            "splits": list(self.splits),
            "images": self.num_images,
            "identities": self.num_identities,
            "cameras": self.num_cameras,
            "table": [_plain(rates) for rates in found.rates],
        }

    def as_text(self) -> str:
        """Return what the command prints."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found, chosen = self.verification, self.chosen
        across = "all pairs" if self.num_cameras is None else f"pairs across {self.num_cameras} cameras"
        yield (
            f"{self.facts.name}: {self.num_images:,} images of {self.num_identities:,} people "
            f"({', '.join(self.splits)}), {across}: {found.num_genuine:,} genuine, "
            f"{found.num_impostor:,} impostors"
        )
        yield f"{'FAR':<10}{'threshold':>10}{'95 %':>18}{'TAR':>9}{'95 %':>18}{'impostors':>13}"
        for rates in found.rates:
            (low, high), (least, most) = rates.threshold_interval, rates.tar_interval
            yield (
                f"{rates.far:<10g}{rates.threshold:>10.4f}{f'{low:.4f} to {high:.4f}':>18}"
                f"{100 * rates.tar:>7.1f} %{f'{100 * least:.1f} to {100 * most:.1f} %':>18}"
                f"{rates.num_accepted:>13,}"
            )
        yield f"equal error rate {100 * found.eer:.2f} %, area under the curve {found.auc:.4f}"
        yield f"intervals: {DRAWS:,} draws of the people; of thresholds too wide rather than too narrow"
        if chosen.num_accepted < _FEW:
            yield f"this threshold rests on {chosen.num_accepted} accepted impostors: too few to trust it far"
        if self.splits == ("train",):
            yield "if the model was trained on these people, it knows them too well: the rates are too good"
        yield (
            f"threshold {chosen.threshold:.6f} at a false-accept rate of {chosen.far:g}: one person where "
            "the cosine similarity is at least this"
        )


def find_threshold(
    path: Path,
    far: float,
    *,
    pairs: Pairs | None = None,
    json_file: Path | None = None,
    page_file: Path | None = None,
) -> str:
    """Find the threshold on a file of features, write what was asked for, and return all as text.

    Images of query and gallery alone are compared where there are any: a model knows its training's people
    better than others.

    Args:
        path: that `raid extract` wrote.
        far: share of the impostors that may be accepted.
        pairs: of different cameras, or all; None: of different cameras, where those are known.
        json_file: for the record.
        page_file: for the page.

    Raises:
        InputError: there are too few people or pairs, or a file cannot be read or written.
    """
    if not 0 < far < 1:
        raise InputError(f"--far: {far:g} is no share of the impostors: give one between 0 and 1, as 0.001")
    found = threshold_of(read_features(path), path, far, pairs)
    written = []
    if json_file is not None:
        write_json(json_file, found.as_record())
        written.append(f"stored in {json_file}")
    if page_file is not None:
        write_page(page_file, page(found.verification, found.chosen, found.facts.name, _facts(found)))
        written.append(f"page {page_file}")
    return "\n".join([found.as_text(), *written])


def threshold_of(file: FeatureFile, path: Path, far: float, pairs: Pairs | None) -> Threshold:
    """Return the threshold of a file of features; see `find_threshold`."""
    if pairs is None:
        pairs = "cross-camera" if file.has_cameras else "all"
    rows, splits = _rows(file, path, pairs)
    identities = file.identities[rows]
    cameras = file.cameras[rows] if pairs == "cross-camera" else None
    try:
        curve = pair_curve(file.features[rows], identities, cameras)
    except ValueError as error:
        raise InputError(f"{path}: {error}; make the file by `raid extract`") from error
    _check_pairs(path, curve, far, pairs)
    fars = sorted({far, *(usual for usual in _USUAL_FARS if usual * curve.num_impostor >= 1)}, reverse=True)
    verification = verify(file.features[rows], identities, cameras, curve, fars)
    return Threshold(
        chosen=verification.rates[fars.index(far)],
        verification=verification,
        pairs=pairs,
        splits=splits,
        num_images=len(rows),
        num_identities=len(np.unique(identities)),
        num_cameras=None if cameras is None else len(np.unique(cameras)),
        facts=file.facts,
    )


def _rows(file: FeatureFile, path: Path, pairs: Pairs) -> tuple[Ints, tuple[str, ...]]:
    """Return the rows that are compared, and their splits."""
    splits = np.array(file.splits)
    tested = splits != "train"
    known = (tested if tested.any() else ~tested) & (file.identities >= 0)
    if pairs == "cross-camera":
        known &= file.cameras >= 0
    rows = np.flatnonzero(known)
    num_people = len(np.unique(file.identities[rows]))
    if num_people == 0:
        with_camera = " and the camera" if pairs == "cross-camera" else ""
        raise InputError(
            f"{path}: no image whose identity{with_camera} is known: there are no pairs to learn from"
        )
    if num_people == 1:
        raise InputError(
            f"{path}: all images are of one identity: there is no impostor; give a set of several"
        )
    return rows, tuple(np.unique(splits[rows]).tolist())


def _check_pairs(path: Path, curve: Curve, far: float, pairs: Pairs) -> None:
    across = " of different cameras (--pairs all takes all)" if pairs == "cross-camera" else ""
    if not curve.num_genuine:
        raise InputError(f"{path}: no two images of one person make a pair{across}")
    if not curve.num_impostor:
        raise InputError(f"{path}: no images of two people make a pair{across}")
    if far * curve.num_impostor < 1 - 1e-9:
        raise InputError(
            f"--far: {far:g} takes {np.ceil(1 / far):,.0f} impostor pairs at least, and {path} has "
            f"{curve.num_impostor:,}{across}: the least that can be had is {1 / curve.num_impostor:.3g}"
        )
    if curve.level(far) == NUM_LEVELS:
        raise InputError(
            f"{path}: more than {far:g} of the impostor pairs have the similarity 1: one picture under two "
            "identities (`raid data check` finds them), or a model that has collapsed"
        )


def _plain(rates: Rates) -> dict[str, Any]:
    record = asdict(rates)
    intervals = {name: list(record.pop(f"{name}_interval")) for name in ("threshold", "tar")}
    return {**record, "intervals": intervals}


def _facts(found: Threshold) -> dict[str, str]:
    """Return what stands above the page."""
    of = "all" if found.num_cameras is None else f"across {found.num_cameras} cameras"
    return {
        "images": f"{found.num_images:,} ({', '.join(found.splits)})",
        "people": f"{found.num_identities:,}",
        "pairs": of,
        "genuine": f"{found.verification.num_genuine:,}",
        "impostors": f"{found.verification.num_impostor:,}",
        "image size": f"{found.facts.height} x {found.facts.width}",
        "mirror images": "added" if found.facts.flip else "not added",
        "model": found.facts.model[:12],
    }
