"""Check a set before it is trained on: every file is decoded, once, and what is found is told with advice."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raid.data.findings import Finding, Row, find
from raid.data.inspection import Inspection, inspect
from raid.data.samples import NUM_THREADS, Samples, progress

_FORMAT = 1  # of the JSON: raised when a key changes its meaning or goes
_BATCH = 64  # files that a thread takes at a time
_SHOWN = 5  # examples of a finding in the text
_QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Report:
    """What a check found; all of it can be written as JSON."""

    name: str
    root: str
    facts: Mapping[str, str]  # version and the like
    fingerprint: str | None  # as of the manifest; None: no file is an image
    images: int
    splits: list[dict[str, Any]]  # split, images, identities, cameras
    cameras: list[dict[str, Any]]  # camera (None: not known), name, images by split, identities
    sizes: dict[str, Any] | None  # quantiles of width, height, height/width, and the commonest
    findings: list[Finding]  # worst first

    def count(self, severity: str) -> int:
        """Return how many kinds of finding of a severity there are."""
        return sum(finding.kind.severity == severity for finding in self.findings)

    def to_json(self) -> str:
        """Return everything, with up to 1000 examples of a finding."""
        findings = [
            {"name": found.name, "count": found.count, **vars(found.kind), "examples": found.examples}
            for found in self.findings
        ]
        counts = {severity: self.count(severity) for severity in _SEVERITIES}
        values = {"format": _FORMAT, **vars(self), "findings": findings, "counts": counts}
        return json.dumps(values, indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """Return it to be read in a terminal, the worst first."""
        parts = [self._head(), *map(_paragraph, self.findings), *self._tables()]
        counts = [_plural(self.count(severity), severity) for severity in _SEVERITIES[:2]]
        return "\n\n".join([*parts, ", ".join(counts)])

    def _head(self) -> str:
        lines = [f"{self.name}: {self.images:,} images below {self.root}"]
        lines += [f"{name} {value}" for name, value in self.facts.items()]
        return "\n".join([*lines, f"fingerprint {self.fingerprint or 'none: no file is an image'}"])

    def _tables(self) -> Iterator[str]:
        keys = ("split", "images", "identities", "cameras")
        yield _table(keys, [[row[key] for key in keys] for row in self.splits])
        splits = [row["split"] for row in self.splits]
        yield _table(
            ("camera", *splits, "identities"),
            [
                [row["name"], *(row["images"].get(split, 0) for split in splits), row["identities"]]
                for row in self.cameras
            ],
        )
        if self.sizes is not None:
            quantiles = [[key, *self.sizes[key].values()] for key in ("width", "height", "height/width")]
            yield _table(("pixels", *_QUANTILES), quantiles)
            shown = ", ".join(f"{size} ({times:,})" for size, times in self.sizes["commonest"].items())
            yield f"commonest sizes (width x height): {shown}"


def check(samples: Samples, *, num_threads: int = NUM_THREADS) -> Report:
    """Decode every image of a set and report on the set.

    Files are read by threads and forgotten; what is kept is a record of some hundred bytes a file.

    Args:
        samples: of a manifest, whose contents are compared, or not yet read (on_error="unread").
        num_threads: files read at a time.
    """
    inspections = list(_inspected(samples, num_threads))
    columns = [samples.table[name].to_pylist() for name in ("path", "identity", "camera", "split", "content")]
    rows = [Row(*values) for values in zip(*columns, inspections, strict=True)]
    return Report(
        name=samples.name,
        root=str(samples.root),
        facts=samples.facts,
        fingerprint=_fingerprint(samples, inspections),
        images=len(rows),
        splits=[_split(split, rows) for split in samples.splits],
        cameras=_cameras(rows, samples.camera_names),
        sizes=_sizes(inspections),
        findings=find(rows),
    )


def _inspected(samples: Samples, num_threads: int) -> Iterator[Inspection]:
    paths = samples.paths
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]

    def work(batch: list[str]) -> list[Inspection]:
        return [inspect(samples.root, path) for path in batch]

    with ThreadPoolExecutor(num_threads) as pool:
        inspections = (inspection for batch in pool.map(work, batches) for inspection in batch)
        yield from progress(inspections, len(paths), f"checking {samples.name}")


def _fingerprint(samples: Samples, inspections: Sequence[Inspection]) -> str | None:
    """Return the manifest's, or that of the manifest which `raid data prepare` would write."""
    table = samples.table
    if "" not in table["content"].to_pylist():
        return samples.fingerprint()
    images = [row for row, inspection in enumerate(inspections) if inspection.width]
    if not images:
        return None
    contents = pa.array([inspection.content for inspection in inspections])
    index = table.column_names.index("content")
    read = Samples(samples.root, table.set_column(index, table.field(index), contents), samples.name)
    return read.take(images).fingerprint()


def _split(split: str, rows: Sequence[Row]) -> dict[str, Any]:
    chosen = [row for row in rows if row.split == split]
    cameras = {row.camera for row in chosen} - {None}
    return {
        "split": split,
        "images": len(chosen),
        "identities": len({row.identity for row in chosen} - {None, -1}),
        "cameras": len(cameras),
    }


def _cameras(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    images = Counter((row.camera, row.split) for row in rows)
    identities: dict[int | None, set[int | None]] = {}
    for row in rows:
        identities.setdefault(row.camera, set()).add(row.identity)
    return [
        {
            "camera": camera,
            "name": "unknown" if camera is None else names[camera] if camera < len(names) else str(camera),
            "images": {
                split: count for (of, split), count in sorted(images.items(), key=str) if of == camera
            },
            "identities": len(identities[camera] - {None, -1}),
        }
        for camera in sorted(identities, key=lambda camera: (camera is None, camera or 0))
    ]


def _sizes(inspections: Sequence[Inspection]) -> dict[str, Any] | None:
    sizes = np.array([(file.width, file.height) for file in inspections if file.width], dtype=np.int64)
    if not len(sizes):
        return None
    width, height = sizes.T
    columns = {"width": width, "height": height, "height/width": np.round(height / width, 3)}
    commonest = Counter(map(tuple, sizes.tolist())).most_common(3)
    return {
        name: dict(
            zip(
                _QUANTILES,
                np.quantile(values, list(_QUANTILES.values()), method="nearest").tolist(),
                strict=True,
            )
        )
        for name, values in columns.items()
    } | {"commonest": {f"{size[0]} x {size[1]}": times for size, times in commonest}}


def _paragraph(finding: Finding) -> str:
    kind = finding.kind
    lines = [
        f"{kind.severity.upper():8} {finding.name} ({finding.count:,}): {kind.meaning}",
        *([f"         to do: {kind.advice}"] if kind.advice else []),
        *(f"         - {example}" for example in finding.examples[:_SHOWN]),
    ]
    more = finding.count - _SHOWN
    return "\n".join([*lines, f"         - and {more:,} more"] if more > 0 else lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    texts = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    )


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plural(count: int, word: str) -> str:
    return f"{count} kind{'' if count == 1 else 's'} of {word}"
