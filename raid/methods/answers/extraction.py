"""`raid extract`: the features of a set into a Parquet file, block by block, on one process or many.

What is extracted is kept in parts beside the file until all are there: an extraction that was killed goes
on from them, and comes to the same bytes as one that was left alone.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raid import __version__
from raid.data.feature_file import FeatureFacts, Features, write_features
from raid.data.images import decoded_when_asked, undecodable
from raid.data.samples import Samples, skip_or_fail
from raid.distributed.backend import Backend
from raid.distributed.group import Group
from raid.errors import InputError
from raid.extract import block_size, extract
from raid.files import writing
from raid.methods.answers.parts import Part, Parts
from raid.methods.checking import data_of
from raid.methods.encoder import EncoderSettings
from raid.methods.evaluation import config_for
from raid.methods.inputs import load_samples
from raid.methods.known import MethodConfig
from raid.methods.pool_extraction import loaded_network
from raid.methods.sections import Data, ImageSet
from raid.methods.trained import Trained
from raid.ops.neighbors import Block, row_blocks

logger = logging.getLogger(__name__)

PART_ROWS = 4096  # images of a part, at most; whatever the processes
_SAY_EVERY_S = 15.0
_DATA = "data."


@dataclass(frozen=True, eq=False)
class Extraction:
    """An extraction in which no mistake was found.

    Attributes:
        trained: the model.
        config: of the model, and of the set.
        samples: N images.
        out: the file.
    """

    trained: Trained
    config: MethodConfig
    samples: Samples
    out: Path

    @property
    def batch_size(self) -> int:
        """Images that pass through the network at once: no memory is tried, for that decides the bits."""
        return block_size(self.config.numerics.extract_batch)

    @property
    def part_rows(self) -> int:
        """Images of a part: whole batches, so that they are those of `raid.extract.extract`."""
        return self.batch_size * max(1, PART_ROWS // self.batch_size)

    @property
    def blocks(self) -> list[Block]:
        """First row of every part, and the one after its last."""
        return row_blocks(len(self.samples), self.part_rows)


@dataclass(frozen=True)
class _Job:
    """What a process needs to extract any part; `version` names the weights."""

    settings: EncoderSettings
    weights: dict[str, Tensor]
    version: str
    checkpoint: str
    samples: Samples
    data: Data
    batch_size: int
    flip: bool
    device: str


def prepared(
    checkpoint: Path, samples: str, out: Path, overrides: Sequence[str] = (), *, overwrite: bool = False
) -> Extraction:
    """Read model and manifest, and find the mistakes that can be found before any work.

    Args:
        checkpoint: a run's model, or its folder.
        samples: manifest, table, folder or pack of the images, as `raid data check` takes them.
        out: the file to be written.
        overrides: `a.b=c` texts that go before the checkpoint's configuration, such as data.layout=.
        overwrite: `out` may be there, and is replaced at the end.

    Raises:
        InputError: see above.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file, such as {out / 'features.parquet'}")
    if out.exists() and Path(samples).exists() and out.samefile(samples):
        raise InputError(f"{out}: is the set itself; name another file for the features")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: is there already; --overwrite replaces it, or name another file")
    trained = Trained.read(checkpoint)
    # One process beside the pool: nothing is trained.
    own = ["run.workers=1", "run.min_workers=null"]
    config = config_for(trained.config, [*_of_set(samples, overrides), *own])
    trained.network(config.encoder(trained.statistics))  # weights that do not fit
    return Extraction(trained, config, load_samples(config.data), out)


def extract_file(extraction: Extraction, backend: Backend, *, fresh: bool = False) -> str:
    """Extract what is not there yet, put the parts together, and return what was written as one line.

    Args:
        extraction: see `prepared`.
        backend: whose pool extracts.
        fresh: throw away parts of an earlier extraction.

    Raises:
        InputError: the parts there are of another extraction, an image cannot be read (data.on_error=skip
            leaves it out), the features are not finite, or something cannot be written.

    Memory: a part's features, some at a time, and the manifest.
    """
    out, blocks = extraction.out, extraction.blocks
    backend.prepare(out.parent)
    with writing(out):
        with backend.pool(len(blocks)) as fanout:
            job = _job(extraction, on_gpu=backend.on_gpu)
            parts = Parts(out.with_name(f"{out.name}.parts"), _key(extraction, job))
            parts.open(fresh=fresh)
            missing = [number for number in range(len(blocks)) if not parts.has(number)]
            if len(missing) < len(blocks):
                logger.info(
                    "%s: %d of %d parts are there", parts.path, len(blocks) - len(missing), len(blocks)
                )
            todo = [blocks[number] for number in missing]
            found = fanout.map(extract_part, todo, fanout.share(job))
            for number, part in zip(missing, _told(found, todo, len(extraction.samples)), strict=True):
                if isinstance(part, InputError):
                    raise part
                parts.write(number, part)
        num_rows = _put_together(extraction, parts)
        parts.remove()
    return f"{out}: features of {num_rows:,} images"


def extract_part(block: Block, job: _Job) -> Part | InputError:
    """Return the features of the images start..stop-1, or what is wrong with them.

    A mistake is returned: raised in another process, it would come back with that one's stack.
    """
    start, stop = block
    samples = job.samples.take(np.arange(start, stop))
    failures: dict[int, str] = {}
    try:
        try:
            features = _features(samples, job)
        except InputError:
            if job.data.on_error == "fail":
                raise
            data = job.data
            failures = undecodable(samples, data.height, data.width, data.read_timeout_s)
            if not failures:
                raise
            samples = samples.take(np.setdiff1d(np.arange(len(samples)), list(failures)))
            features = _features(samples, job)
    except InputError as error:
        return error
    return Part(features, {start + row: reason for row, reason in failures.items()})


def _features(samples: Samples, job: _Job) -> Features:
    data = job.data
    images = decoded_when_asked(samples, data.height, data.width, read_timeout_s=data.read_timeout_s)
    device = torch.device(job.device)
    features = extract(
        loaded_network(job.settings, job.weights, job.version, device),
        images,
        group=Group.solo(),
        batch_size=job.batch_size,
        augmentation=job.settings.augmentation,
        device=device,
        dtype=job.settings.dtype,
        flip=job.flip,
    )
    if not bool(torch.isfinite(features).all()):
        raise InputError(f"{job.checkpoint}: its features are not finite: the training has diverged")
    return features.numpy().astype(np.float32, copy=False)


def _of_set(samples: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides, with section data's fields for the set at `samples` before them."""
    given = [text for text in overrides if text.startswith(_DATA)]
    if any(text.startswith(f"{_DATA}root=") for text in given):
        raise InputError("data.root: the set is named by SAMPLES; leave data.root out")
    data, _ = data_of([samples, *(text.removeprefix(_DATA) for text in given)])
    of_set = {field.name: getattr(data, field.name) for field in fields(ImageSet)}
    del of_set["on_error"]  # the model's, unless it is given
    values = {name: str(value) if isinstance(value, Path) else value for name, value in of_set.items()}
    return [*(f"{_DATA}{name}={json.dumps(value)}" for name, value in values.items()), *overrides]


def _job(extraction: Extraction, *, on_gpu: bool) -> _Job:
    trained, config = extraction.trained, extraction.config
    return _Job(
        config.encoder(trained.statistics),
        trained.weights,
        uuid.uuid4().hex,
        str(trained.path),
        extraction.samples,
        config.data,
        extraction.batch_size,
        config.evaluate.flip,
        "cuda" if on_gpu else "cpu",
    )


def _key(extraction: Extraction, job: _Job) -> dict[str, Any]:
    """Return what decides the bits of a part, by the words that a user knows."""
    config, statistics = extraction.config, extraction.trained.statistics
    return {
        "model": extraction.trained.fingerprint(),
        "network": asdict(job.settings.model),
        "colours": [list(statistics.mean), list(statistics.std)],
        "samples": extraction.samples.fingerprint(),
        "size": [config.data.height, config.data.width],
        "on_error": config.data.on_error,
        "flip": job.flip,
        "batch": [job.batch_size, extraction.part_rows],
        "numerics": [config.numerics.dtype, config.numerics.autocast, config.numerics.threads],
        "device": job.device,
        "versions": [__version__, torch.__version__],
    }


def _told(
    parts: Iterable[Part | InputError], blocks: Sequence[Block], total: int
) -> Iterator[Part | InputError]:
    """Yield the parts as they come, and say every some seconds how far it is."""
    begun = said = time.monotonic()
    left = sum(stop - start for start, stop in blocks)
    num_todo, before = left, total - left
    for part, (start, stop) in zip(parts, blocks, strict=True):
        yield part
        left -= stop - start
        now = time.monotonic()
        if now - said > _SAY_EVERY_S and left:
            rate = (num_todo - left) / (now - begun)
            logger.info(
                "%s of %s images, %.0f a second, %.0f s to go",
                f"{before + num_todo - left:,}",
                f"{total:,}",
                rate,
                left / rate,
            )
            said = now


def _put_together(extraction: Extraction, parts: Parts) -> int:
    """Write the parts as one file, one after the other; return how many rows it has."""
    samples, numbers = extraction.samples, range(len(extraction.blocks))
    failures = {row: reason for number in numbers for row, reason in parts.failures(number).items()}
    if failures:
        bad = [(samples.take([row]).paths[0], reason) for row, reason in failures.items()]
        skip_or_fail(bad, len(samples), root=samples.root, on_error="skip")
        samples = samples.take(np.setdiff1d(np.arange(len(samples)), list(failures)))
    blocks = (parts.read(number).features for number in numbers)
    write_features(extraction.out, samples, blocks, _facts(extraction, parts.read(0).features.shape[1]))
    return len(samples)


def _facts(extraction: Extraction, dimension: int) -> FeatureFacts:
    config, samples = extraction.config, extraction.samples
    return FeatureFacts(
        model=extraction.trained.fingerprint(),
        height=config.data.height,
        width=config.data.width,
        flip=config.evaluate.flip,
        dimension=dimension,
        root=str(samples.root),
        name=samples.name,
        camera_names=samples.camera_names,
        raid=__version__,
    )
