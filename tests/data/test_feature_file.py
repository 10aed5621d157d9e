import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raid.data.feature_file import FeatureFacts, read_features, write_features
from raid.data.samples import Record, Samples
from raid.errors import InputError

FACTS = FeatureFacts(
    model="ab" * 32,
    height=32,
    width=16,
    flip=True,
    dimension=3,
    root="some/where",
    name="made up",
    camera_names=("door", "hall"),
    raid="0.1.0",
)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    people = [(4, 0), (None, 1), (-1, None), (4, 1), (2, 0)]
    records = []
    for row, (identity, camera) in enumerate(people):
        Image.new("RGB", (2, 4), (row, 0, 0)).save(tmp_path / f"{row}.png")
        records.append(Record(f"{row}.png", identity, camera, "gallery" if row else "query"))
    return Samples.scan(tmp_path, records, name="made up")


def blocks(count: int = 5, dimension: int = 3) -> list[np.ndarray]:
    features = np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)
    return [features[:2], features[2:2], features[2:]]


def test_a_file_is_read_as_it_was_written(samples, tmp_path):
    file = tmp_path / "deep" / "features.parquet"
    write_features(file, samples, blocks(), FACTS)
    found = read_features(file)
    assert found.facts == FACTS
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, np.concatenate(blocks()))
    assert (len(found), found.paths) == (5, samples.paths)
    assert found.splits == ["query", *["gallery"] * 4]
    np.testing.assert_array_equal(found.identities, [4, -1, -1, 4, 2])
    np.testing.assert_array_equal(found.cameras, [0, 1, -1, 1, 0])
    assert found.table["identity"].to_pylist() == [4, None, -1, 4, 2]
    assert not found.has_cameras
    with pq.ParquetFile(file) as parquet:
        assert [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)] == [2, 3]


def test_the_order_is_the_samples_and_not_that_of_the_paths(samples, tmp_path):
    rows = [3, 0, 4]
    write_features(tmp_path / "f.parquet", samples.take(rows), [np.eye(3, dtype=np.float32)], FACTS)
    found = read_features(tmp_path / "f.parquet")
    assert found.paths == ["3.png", "0.png", "4.png"]
    assert found.has_cameras
    np.testing.assert_array_equal(found.features, np.eye(3))


def test_the_same_rows_are_the_same_bytes(samples, tmp_path):
    for name in ("one", "two"):
        write_features(tmp_path / name, samples, blocks(), FACTS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_that_is_not_finished_is_not_there(samples, tmp_path):
    with pytest.raises(AssertionError, match="2 rows of features, 5 samples"):
        write_features(tmp_path / "f.parquet", samples, blocks()[:1], FACTS)
    assert not list(tmp_path.glob("*f.parquet*"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(samples, tmp_path, value):
    parts = blocks()
    parts[2][1, 2] = value
    write_features(tmp_path / "f.parquet", samples, parts, FACTS)
    with pytest.raises(InputError, match=r"f\.parquet: the features of row 4 are not finite"):
        read_features(tmp_path / "f.parquet")


def test_other_files(samples, tmp_path):
    file = tmp_path / "f.parquet"
    with pytest.raises(InputError, match="no such file; `raid extract`"):
        read_features(file)
    file.write_bytes(b"PAR1 or so")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_features(file)
    samples.write(file)
    with pytest.raises(InputError, match=r"not a file of features that raid wrote \(its columns: path, "):
        read_features(file)
    write_features(file, samples.take([]), [], FACTS)
    with pytest.raises(InputError, match="has no rows"):
        read_features(file)
    write_features(file, samples, blocks(), FACTS)
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"f\.parquet: not a Parquet file, or a damaged one"):
        read_features(file)


@pytest.mark.parametrize(
    "change",
    [{"dimension": 4}, {"dimension": 0}, {"dimension": "3"}, {"model": None}, {"further": 1}, {"flip": 1}],
)
def test_metadata_that_do_not_fit(samples, tmp_path, change):
    file = tmp_path / "f.parquet"
    write_features(file, samples, blocks(), FACTS)
    facts = {**vars(FACTS), **change}
    pq.write_table(pq.read_table(file).replace_schema_metadata({b"raid": json.dumps(facts)}), file)
    with pytest.raises(InputError, match="not a file of features that raid wrote"):
        read_features(file)


def test_features_that_are_missing(samples, tmp_path):
    file = tmp_path / "f.parquet"
    write_features(file, samples, blocks(), FACTS)
    table = pq.read_table(file)
    column = pa.array(
        [[1, 2, 3], None, [1, 2, 3], [1, 2, 3], [1, 2, 3]], pa.list_(pa.field("element", pa.float32()), 3)
    )
    place = table.column_names.index("features")
    pq.write_table(table.set_column(place, "features", column), file)
    with pytest.raises(InputError, match="not a file of features that raid wrote"):
        read_features(file)


def test_a_path_that_leaves_the_root(samples, tmp_path):
    outside = replace(
        samples, table=samples.table.set_column(0, samples.table.schema.field(0), [["../x"] * 5])
    )
    write_features(tmp_path / "f.parquet", outside, blocks(), FACTS)
    with pytest.raises(InputError, match=r"'\.\./x' is not a file inside"):
        read_features(tmp_path / "f.parquet")
