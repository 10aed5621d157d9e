"""Keep the `k` best of many values a row, as they come: largest first, equal ones by lowest index."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows

# (values (R, k) float32, index (R, k) int32), every row falling; -inf and -1 where nothing came yet.
Best = tuple[NDArray[np.float32], NDArray[np.int32]]

_CHUNK_ROWS = 128
_LOOK = 64  # values compared with the threshold at a time; nearly always none of them passes
_LANES = 16  # the same in lists, of which some pass more often


def nothing_yet(num_rows: int, k: int) -> Best:
    """Return the table of `num_rows` rows to which nothing has come yet."""
    return np.full((num_rows, k), -np.inf, np.float32), np.full((num_rows, k), -1, np.int32)


def take_rows(tile: NDArray[np.float32], first_column: int, best: Best) -> None:
    """Offer to row r of `best` the values of row r of the tile.

    Args:
        tile: (R, C); what is NaN or -inf is never taken.
        first_column: index of the tile's column 0; tiles come by rising column, for ties.
        best: (R, k) tables, changed in place.
    """
    over_rows(
        lambda first, last: _take_rows(tile, first_column, *best, first, last),
        0,
        len(tile),
        chunk_rows=_CHUNK_ROWS,
    )


def take_columns(tile: NDArray[np.float32], first_row: int, best: Best) -> None:
    """Offer to row c of `best` the values of column c of the tile; see `take_rows`.

    Args:
        tile: (R, C).
        first_row: index of the tile's row 0; tiles come by rising row.
        best: (C, k) tables, changed in place.
    """
    over_rows(
        lambda first, last: _take_columns(tile, first_row, *best, first, last),
        0,
        tile.shape[1],
        chunk_rows=_CHUNK_ROWS,
    )


def take_listed(
    tile: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64], best: Best
) -> None:
    """Offer to row `rows[r]` of `best` the values of row r of the tile.

    Args:
        tile: at least (R, C); further rows and columns are not looked at.
        rows: (R,) rows of `best`, each once.
        columns: (C,) the indices of the tile's columns, rising; tiles may come in any order.
        best: tables, changed in place.
    """
    over_rows(
        lambda first, last: _take_listed(tile, rows, columns, *best, first, last),
        0,
        len(rows),
        chunk_rows=_CHUNK_ROWS,
    )


def merge(best: Best, later: Best) -> None:
    """Offer to each row of `best` the same row of `later`, a table of higher indices; in place."""
    over_rows(lambda first, last: _merge(*best, *later, first, last), 0, len(best[0]), chunk_rows=4096)


@compiled
def insert(values: NDArray[np.float32], index: NDArray[np.int32], value: float, place: int) -> None:
    """Put a value that belongs before the last one into its place; equal ones by index."""
    at = len(values) - 1
    while at > 0 and (values[at - 1] < value or (values[at - 1] == value and index[at - 1] > place)):
        values[at] = values[at - 1]
        index[at] = index[at - 1]
        at -= 1
    values[at] = value
    index[at] = place


@compiled
def _take_rows(
    tile: NDArray[np.float32],
    first_column: int,
    values: NDArray[np.float32],
    index: NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    for row in range(first, last):
        of_row = tile[row]
        threshold = values[row, -1]
        for start in range(0, of_row.size, _LOOK):
            stop = min(start + _LOOK, of_row.size)
            if _num_above(of_row[start:stop], threshold) == 0:
                continue
            for column in range(start, stop):
                if of_row[column] > threshold:
                    insert(values[row], index[row], of_row[column], first_column + column)
                    threshold = values[row, -1]


@compiled
def _take_columns(
    tile: NDArray[np.float32],
    first_row: int,
    values: NDArray[np.float32],
    index: NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    thresholds = values[first:last, -1].copy()
    for row in range(len(tile)):
        of_row = tile[row, first:last]
        for start in range(0, of_row.size, _LOOK):
            stop = min(start + _LOOK, of_row.size)
            if _num_above_each(of_row[start:stop], thresholds[start:stop]) == 0:
                continue
            for place in range(start, stop):
                if of_row[place] > thresholds[place]:
                    insert(values[first + place], index[first + place], of_row[place], first_row + row)
                    thresholds[place] = values[first + place, -1]


@compiled
def _num_above(values: NDArray[np.float32], threshold: float) -> Any:
    num = np.uint32(0)  # as wide as a value: compiled to compares and sums of whole vectors
    for place in range(values.size):
        num += np.uint32(values[place] > threshold)
    return num


@compiled
def _num_above_each(values: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Any:
    num = np.uint32(0)
    for place in range(values.size):
        num += np.uint32(values[place] > thresholds[place])
    return num


@compiled
def _take_listed(
    tile: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    values: NDArray[np.float32],
    index: NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    num_columns = columns.size
    for row in range(first, last):
        own_values, own_index = values[rows[row]], index[rows[row]]
        threshold = own_values[-1]
        for start in range(0, num_columns, _LANES):
            if start + _LANES <= num_columns:
                reach = 0
                for lane in range(_LANES):
                    reach += tile[row, start + lane] >= threshold
                if reach == 0:
                    continue
            for column in range(start, min(start + _LANES, num_columns)):
                value = tile[row, column]
                if value > threshold or (value == threshold and columns[column] < own_index[-1]):
                    insert(own_values, own_index, value, columns[column])
                    threshold = own_values[-1]


@compiled
def _merge(
    values: NDArray[np.float32],
    index: NDArray[np.int32],
    later_values: NDArray[np.float32],
    later_index: NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    for row in range(first, last):
        for place in range(later_values.shape[1]):
            if not later_values[row, place] > values[row, -1]:
                break
            insert(values[row], index[row], later_values[row, place], later_index[row, place])
