"""Bytes that MAR holds beside the network and its activations, by the docstrings of what holds them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from raid.methods.fitting import changes_that_fit, enough_workers
from raid.methods.mar.config import MarConfig
from raid.methods.mar.multilabel_table import is_too_large
from raid.methods.mar.start import mines_by_agreement
from raid.ops.multilabel import AGREEMENT_ROWS, num_similar

_SAMPLED = 20_000  # images that stand for all where those are too many


@dataclass(frozen=True)
class MarSizes:
    """What the memory of a run depends on beside its configuration.

    Attributes:
        images: N of the target's training half.
        people: P reference persons.
        dimensions: D of the features.
    """

    images: int
    people: int
    dimensions: int


def table_bytes(config: MarConfig, sizes: MarSizes, device: torch.device) -> tuple[float, bool]:
    """Return what each worker holds of the multilabels' table, and whether that is a part of its rows."""
    if not mines_by_agreement(config):
        return 0.0, False
    whole = sizes.images * sizes.people * _itemsize(config)
    workers, choice = config.run.workers, config.multilabel.table
    if choice == "sharded" or (choice == "auto" and is_too_large(whole, workers, device)):
        return float(whole / workers), workers > 1
    return float(whole), False


def start_bytes(config: MarConfig, sizes: MarSizes) -> float:
    """Return what the first worker's look at all target images takes, without the table.

    The features, and their multilabels twice: while they are made (and those of a camera copied), and, in
    float32, where a pool shares them to compare them.
    """
    item, multilabels = _itemsize(config), float(sizes.images * sizes.people)
    seen = 2 * item * multilabels
    if mines_by_agreement(config):
        seen = max(seen, (item + 4) * multilabels + agreement_bytes(config, sizes))
    return item * sizes.images * sizes.dimensions + seen


def first_worker_bytes(config: MarConfig, sizes: MarSizes, device: torch.device) -> float:
    """Return what the first worker's machine holds of the multilabels when stage 2 begins."""
    table = 0.0 if device.type == "cuda" else table_bytes(config, sizes, device)[0]
    return start_bytes(config, sizes) + table


def agreement_bytes(config: MarConfig, sizes: MarSizes) -> float:
    """Return what the agreements of all pairs take above the multilabels, see `agreement_quantile`."""
    rows, copied = sizes.images, 0.0
    if config.mining.start != "exact":
        rows = min(rows, config.mining.start)
        copied = 4.0 * rows * sizes.people
    block = min(rows, AGREEMENT_ROWS)
    kept = num_similar(max(1, num_pairs(rows)), config.mining.ratio)
    return copied + 4.0 * block * (rows + sizes.people) + 3 * 4.0 * kept


def num_pairs(num_rows: int) -> int:
    """Return how many pairs there are of so many rows."""
    return num_rows * (num_rows - 1) // 2


def dense_agreement_bytes(num_rows: int) -> float:
    """Return what the release holds to begin with: the distances of all pairs, in float64."""
    return 8.0 * num_pairs(num_rows)


def adaptation_bytes(config: MarConfig, sizes: MarSizes) -> float:
    """Return what the losses and the agents of a step of stage 2 take on each worker, as measured."""
    rows = config.batch_size
    return float(_itemsize(config) * sizes.people * (12 * rows + 8 * sizes.dimensions))


def pretraining_bytes(config: MarConfig, sizes: MarSizes) -> float:
    """Return what the softmax and the classifier of a step of stage 1 take on each worker."""
    rows = config.pretraining.batch_size
    return float(_itemsize(config) * sizes.people * (4 * rows + 4 * sizes.dimensions))


def what_would_fit(config: MarConfig, needed: Callable[[MarConfig], float], available: float) -> str:
    """Return, in words, with what change to the configuration a step fits into `available` bytes.

    Args:
        config: with which it does not.
        needed: bytes that one process takes for the step.
        available: bytes.
    """

    def sharded(config: MarConfig) -> MarConfig:
        return replace(config, multilabel=replace(config.multilabel, table="sharded"))

    def sampled(config: MarConfig) -> MarConfig:
        return replace(config, mining=replace(config.mining, start=_SAMPLED))

    changes = {
        "multilabel.table=sharded": sharded,
        **enough_workers(config, lambda more: needed(sharded(more)) <= available),
        f"mining.start={_SAMPLED}": sampled,
    }
    return changes_that_fit(config, changes, needed, available)


def _itemsize(config: MarConfig) -> int:
    return config.encoder().dtype.itemsize
