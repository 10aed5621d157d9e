"""Indices of packs that lie: nothing is believed, and nothing is written where they say."""

import pyarrow.parquet as pq
import pytest
from packs import forge, images_of, opened, shards_of

from raid.data.packed import INDEX
from raid.errors import InputError


def first_shard(**values):
    return lambda record: record["shards"][0].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (first_shard(name="../shard-00000.parquet"), "a shard cannot be called '../shard"),
        (first_shard(name="/etc/passwd"), "a shard cannot be called '/etc/passwd'"),
        (first_shard(name="shard-00000.parquet\n"), "a shard cannot be called"),
        (first_shard(name=3), "not the index of a pack"),
        (first_shard(sha256="../../" + "0" * 58), "has no SHA-256"),
        (first_shard(bytes=-1), "cannot have"),
        (first_shard(bytes=True), "cannot have"),
        (first_shard(bytes=1e9), "cannot have"),
        (first_shard(bytes=10), "an image is outside its shard"),
        (first_shard(rows=10**15), "do not have the rows"),
        (first_shard(rows=1), "do not have the rows"),
        (lambda record: record["shards"].pop(), "do not have the rows"),
        (lambda record: record["shards"].clear(), "do not have the rows"),
        (lambda record: record.update(shards=None), "not the index of a pack"),
        (lambda record: record.update(format=2), "of format 2, and this raid reads 1"),
    ],
)
def test_a_hostile_record_of_the_shards_is_refused(out, cache, change, said):
    forge(out, change)
    with pytest.raises(InputError, match=said) as raised:
        opened(out, cache)
    assert str(raised.value).startswith(f"{out}/pack.parquet: ")
    assert "\n" not in str(raised.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"path": ["../../x.png"]}, "is not a file inside"),
        ({"path": ["/etc/passwd"]}, "not relative"),
        ({"path": ["zzz.png"]}, "not sorted"),
        ({"offset": [-4]}, "outside its shard"),
        ({"offset": [2**62]}, "outside its shard"),
        ({"size": [2**63 - 1]}, "outside its shard"),
        ({"size": [0]}, "outside its shard"),
        ({"shard": [1]}, "do not have the rows"),
        ({"shard": [-1]}, "do not have the rows"),
        ({"split": ["test"]}, "column split has 'test'"),
    ],
)
def test_a_hostile_column_of_the_index_is_refused(out, cache, columns, said):
    ((name, (value,)),) = columns.items()
    forge(out, **{name: [value, *pq.read_table(out / INDEX)[name].to_pylist()[1:]]})
    with pytest.raises(InputError, match=said) as raised:
        opened(out, cache)
    assert "\n" not in str(raised.value)


def test_an_image_that_begins_in_its_shard_and_ends_behind_it_is_refused(out, cache):
    table = pq.read_table(out / INDEX)
    last = sum(shard == 0 for shard in table["shard"].to_pylist()) - 1
    size = shards_of(out)[0].stat().st_size
    for behind in (0, 1):
        offsets = table["offset"].to_pylist()
        offsets[last] = size - table["size"].to_pylist()[last] + behind
        forge(out, offset=offsets)
        if behind:
            with pytest.raises(InputError, match="outside its shard"):
                opened(out, cache)
        else:
            opened(out, cache)


@pytest.mark.parametrize("column", ["offset", "size", "content"])
def test_an_image_that_is_elsewhere_in_its_shard_is_refused(out, cache, column, caplog):
    values = pq.read_table(out / INDEX)[column].to_pylist()
    values[0] = values[1] if column == "content" else values[0] - 1
    forge(out, **{column: values})
    with pytest.raises(InputError, match=r"shard-00000\.parquet: does not hold query/000\.png where"):
        images_of(opened(out, cache))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"{}" * 50])
def test_an_index_that_is_no_parquet_is_refused(out, cache, content):
    (out / INDEX).write_bytes(content)
    with pytest.raises(InputError, match=r"pack\.parquet: not the index of a pack"):
        opened(out, cache)


@pytest.mark.parametrize("value", [b"[1, 2]", b"3", b"{", b"\xff"])
def test_an_origin_that_is_none_is_refused(out, cache, value):
    table = pq.read_table(out / INDEX)
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"raid.origin": value}), out / INDEX
    )
    with pytest.raises(InputError, match=r"pack\.parquet: not the index of a pack: "):
        opened(out, cache)


def test_a_manifest_is_not_an_index(samples, out, cache):
    samples.write(out / INDEX)
    with pytest.raises(InputError, match=r"pack\.parquet: not the index of a pack"):
        opened(out, cache)
