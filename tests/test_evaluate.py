from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raid.data.samples import Record, Samples
from raid.errors import InputError
from raid.evaluate import (
    CMC_PLACES,
    RetrievalSet,
    camera_record,
    camera_similarity,
    final_record,
    load_record,
    metrics,
    save_record,
)
from raid.ops.ranking import Ranking, average_precision
from raid.protocols import Options

# (identity, camera); the queries look along the first axis and along the second.
QUERY = [(1, 0), (2, 0)]
GALLERY = [(1, 0), (1, 1), (2, 1), (3, 1), (1, 2), (2, 0), (-1, 1)]
# Similarity of the gallery to the first query and to the second.
TO_QUERIES = [(0.99, 0.0), (0.8, 0.1), (0.1, 0.9), (0.9, 0.2), (0.3, 0.4), (0.2, 0.95), (0.95, 0.25)]


def samples_of(folder: Path, split: str, people: list[tuple[int, int | None]]) -> Samples:
    folder.mkdir(exist_ok=True)
    records = []
    for i, (identity, camera) in enumerate(people):
        name = f"{split}_{i:02d}.png"
        Image.new("RGB", (4, 8), (i, 0, 0)).save(folder / name)
        records.append(Record(name, identity, camera, split))
    return Samples.scan(folder, records, name="hand-made")


def features() -> tuple[np.ndarray, np.ndarray]:
    query = np.eye(3, dtype=np.float32)[:2]
    gallery = np.array([(a, b, (1 - a * a - b * b) ** 0.5) for a, b in TO_QUERIES], dtype=np.float32)
    return query, gallery


def retrieval(folder: Path, *, query_cameras: int = 2, gallery_cameras: int = 7) -> RetrievalSet:
    """The set with the cameras of so many of its first images known."""
    sides = []
    for split, people, known in (("query", QUERY, query_cameras), ("gallery", GALLERY, gallery_cameras)):
        known_people = people[:known] + [(identity, None) for identity, _ in people[known:]]
        sides += [samples_of(folder / split, split, known_people), None]
    return RetrievalSet(*sides)


def test_a_hand_made_set_with_cameras(tmp_path):
    ranking = retrieval(tmp_path).rank(*features(), Options())
    # First query: 0.99 is its own camera's, 0.95 is junk; then 3 | 1 at 0.8 | 1 at 0.3 | 2. Hits 2 and 3.
    # Second query: 0.95 is its own camera's; then 2 at 0.9 | ... Hit 1.
    assert metrics(ranking) == {
        "eval/mAP": pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2),
        "eval/rank1": 0.5,
        "eval/rank5": 1.0,
        "eval/rank10": 1.0,  # of six places
        "eval/mINP": pytest.approx((2 / 3 + 1) / 2),
    }
    assert ranking.num_valid == 2


@pytest.mark.parametrize(("query", "gallery"), [(0, 0), (2, 0), (0, 7), (2, 6), (1, 7)])
def test_without_all_cameras_on_both_sides_no_item_is_left_out_for_its_camera(tmp_path, query, gallery):
    ranking = retrieval(tmp_path, query_cameras=query, gallery_cameras=gallery).rank(*features(), Options())
    # First query: 1 at 0.99 | 3 | 1 at 0.8 | 1 at 0.3: hits 1, 3 and 4. Second: 2 at 0.95 and 0.9: 1 and 2.
    found = metrics(ranking)
    assert found["eval/mAP"] == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3 + 1) / 2)
    assert found["eval/rank1"] == 1.0
    assert found["eval/mINP"] == pytest.approx((3 / 4 + 1) / 2)


def test_the_variant_of_average_precision_is_passed_on(tmp_path):
    sets = retrieval(tmp_path)
    trapezoid = metrics(sets.rank(*features(), Options(ap="market_trapezoid")))
    assert trapezoid["eval/mAP"] == pytest.approx((((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2 + 1) / 2)
    with pytest.raises(ValueError, match="unknown ap"):
        sets.rank(*features(), Options(ap="other"))


def test_metric_keys_and_ranks():
    found = metrics(Ranking(mAP=0.25, cmc=np.arange(1, 21) / 20, mINP=0.125, num_valid=3))
    assert found == {
        "eval/mAP": 0.25,
        "eval/rank1": 1 / 20,
        "eval/rank5": 5 / 20,
        "eval/rank10": 10 / 20,
        "eval/mINP": 0.125,
    }
    assert all(type(value) is float for value in found.values())


def test_a_gallery_shorter_than_a_rank_answers_with_its_last_place():
    found = metrics(Ranking(mAP=1.0, cmc=np.array([0.5, 0.75]), mINP=1.0, num_valid=4))
    assert [found[f"eval/rank{k}"] for k in (1, 5, 10)] == [0.5, 0.75, 0.75]


class People:
    """Stands for samples where only identities and cameras are asked for."""

    has_cameras = True

    def __init__(self, identities: np.ndarray, cameras: np.ndarray) -> None:
        self.identities, self.cameras = identities, cameras

    def __len__(self) -> int:
        return len(self.identities)


def random_set(
    seed: int, queries: int = 40, gallery: int = 90
) -> tuple[RetrievalSet, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sides, features = [], []
    for count in (queries, gallery):
        sides += [People(rng.integers(-1, 9, count), rng.integers(0, 3, count)), None]
        rows = rng.standard_normal((count, 5)).astype(np.float32)
        features.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return RetrievalSet(*sides), *features


def slow_list(sets: RetrievalSet, query: np.ndarray, gallery: np.ndarray, i: int) -> list[int]:
    """What counts for query i, best first."""
    identity, camera = sets.query.identities[i], sets.query.cameras[i]
    counted = [
        (-float(query[i] @ gallery[j]), j)
        for j, (other, where) in enumerate(zip(sets.gallery.identities, sets.gallery.cameras, strict=True))
        if other != -1 and not (other == identity and where == camera)
    ]
    return [j for _, j in sorted(counted)]


@pytest.mark.parametrize("seed", range(4))
def test_the_record_equals_a_slow_reference(seed):
    sets, query, gallery = random_set(seed)
    record = final_record(sets, query, gallery, Options(), num_shown=7)
    expected, first = np.full(len(query), np.nan), np.zeros(len(query), np.int64)
    for i, identity in enumerate(sets.query.identities):
        places = slow_list(sets, query, gallery, i)
        hits = np.flatnonzero(sets.gallery.identities[places] == identity)
        if identity != -1 and len(hits):
            expected[i] = average_precision(hits)
            first[i] = hits[0] + 1
    assert np.isnan(expected).any()
    np.testing.assert_allclose(record["average_precision"], expected)
    np.testing.assert_array_equal(record["first_match"], first)
    assert record["first_match"].dtype == np.int64
    # Best first, then around the middle, then from the worst up.
    valid = np.flatnonzero(~np.isnan(expected))
    order = valid[np.argsort(-expected[valid], kind="stable")]
    middle = (len(order) - 3) // 2
    chosen = [*order[:3], *order[middle : middle + 3], *order[::-1][:3]]
    np.testing.assert_array_equal(record["shown_rows"], chosen)
    assert record["shown_kind"].tolist() == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    for row, i in enumerate(chosen):
        places = slow_list(sets, query, gallery, i)[:7]
        np.testing.assert_array_equal(record["list_rows"][row], places)
        np.testing.assert_allclose(record["list_similarity"][row], gallery[places] @ query[i], rtol=1e-5)
        np.testing.assert_array_equal(
            record["list_right"][row], sets.gallery.identities[places] == sets.query.identities[i]
        )


def test_the_first_match_of_other_protocols():
    sets, query, gallery = random_set(3)
    standard = final_record(sets, query, gallery, Options())["first_match"]
    both_ways = final_record(replace(sets, protocol="viper"), query, gallery, Options())
    np.testing.assert_array_equal(both_ways["first_match"], standard)  # of the queries alone
    drawn = RetrievalSet(sets.gallery, None, sets.gallery, None, protocol="cuhk03_classic")
    assert "first_match" not in final_record(drawn, gallery, gallery, Options())


def test_the_record_agrees_with_the_metrics(tmp_path):
    sets, query, gallery = random_set(9)
    record = final_record(sets, query, gallery, Options(ap="market_trapezoid"))
    found = metrics(sets.rank(query, gallery, Options(ap="market_trapezoid")))
    assert np.nanmean(record["average_precision"]) == pytest.approx(found["eval/mAP"])
    assert [record["cmc"][k - 1] for k in (1, 5, 10)] == [found[f"eval/rank{k}"] for k in (1, 5, 10)]
    assert len(record["cmc"]) == CMC_PLACES == 50
    assert record["list_rows"].shape == (9, 10)
    assert record["num_gallery"] == 90


def test_the_order_of_the_gallery_changes_its_rows_only():
    sets, query, gallery = random_set(3)
    order = np.random.default_rng(0).permutation(len(gallery))
    people = People(sets.gallery.identities[order], sets.gallery.cameras[order])
    shuffled = RetrievalSet(sets.query, None, people, None)
    plain = final_record(sets, query, gallery, Options())
    other = final_record(shuffled, query, gallery[order], Options())
    assert plain.keys() == other.keys()
    np.testing.assert_array_equal(order[other.pop("list_rows")], plain.pop("list_rows"))
    for key, values in plain.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, other[key], rtol=1e-5)
        else:
            np.testing.assert_array_equal(values, other[key])


@pytest.mark.parametrize(
    ("valid", "kinds"),
    [
        (1, ["best"]),
        (2, ["best", "worst"]),
        (3, ["best", "median", "worst"]),
        (5, ["best", "median", "worst"]),
        (6, ["best"] * 2 + ["median"] * 2 + ["worst"] * 2),
        (9, ["best"] * 3 + ["median"] * 3 + ["worst"] * 3),
    ],
)
def test_few_queries_are_shown_once_each(valid, kinds):
    identities = np.arange(1, 11)
    features = np.eye(10, dtype=np.float32)
    queries = People(np.where(np.arange(10) < valid, identities, -1), np.zeros(10, np.int64))
    gallery = People(identities, np.ones(10, np.int64))
    record = final_record(RetrievalSet(queries, None, gallery, None), features, features, Options())
    assert record["shown_kind"].tolist() == kinds
    assert len(set(record["shown_rows"].tolist())) == len(kinds)
    assert set(record["shown_rows"].tolist()) <= set(range(valid))
    assert len(record["cmc"]) == 10  # of a gallery of so many


def test_a_gallery_shorter_than_a_list_leaves_places_empty(tmp_path):
    record = final_record(retrieval(tmp_path), *features(), Options())
    # The first query: without its own camera's and junk. Rows 3, 1, 4, 5, 2 by similarity.
    row = record["shown_rows"].tolist().index(0)
    assert record["list_rows"][row].tolist() == [3, 1, 4, 5, 2] + [-1] * 5
    assert record["list_right"][row].tolist() == [False, True, True] + [False] * 7
    assert np.isnan(record["list_similarity"][row]).tolist() == [False] * 5 + [True] * 5


def test_similarity_of_cameras_equals_a_slow_reference():
    rng = np.random.default_rng(1)
    rows, cameras = rng.standard_normal((60, 4)).astype(np.float32), rng.integers(-1, 4, 60)
    cameras[cameras == 2] = 3  # nobody has been at camera 2
    found = camera_similarity(rows, cameras)
    assert found.shape == (4, 4)
    assert found.dtype == np.float64
    for a in range(4):
        for b in range(4):
            if 2 in (a, b):
                assert np.isnan(found[a, b])
                continue
            one, other = (sum(rows[i].astype(float) for i in range(60) if cameras[i] == c) for c in (a, b))
            expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert found[a, b] == pytest.approx(expected)
    np.testing.assert_array_equal(found, found.T)
    assert camera_similarity(rows, np.full(60, -1)).shape == (0, 0)


def test_a_record_of_cameras_has_their_names(tmp_path):
    people = samples_of(tmp_path / "a", "train", GALLERY)
    record = camera_record(np.eye(7, 4, dtype=np.float32) + 0.1, people)
    assert record["camera_similarity"].shape == (3, 3)
    assert record["camera_names"].tolist() == ["0", "1", "2"]
    named = Samples(people.root, people.table.replace_schema_metadata(
        {"raid.camera_names": '["hall", "door", "yard", "roof"]'}
    ), "named")  # fmt: skip
    assert camera_record(np.ones((7, 4), np.float32), named)["camera_names"].tolist() == [
        "hall", "door", "yard",
    ]  # fmt: skip


def test_without_cameras_there_is_no_record_of_them(tmp_path):
    people = samples_of(tmp_path / "a", "train", [(1, None), (2, 0)])
    assert camera_record(np.ones((2, 4), np.float32), people) == {}


def test_a_record_is_read_back(tmp_path):
    sets, query, gallery = random_set(0)
    record = final_record(sets, query, gallery, Options())
    save_record(tmp_path / "run" / "evaluation.npz", record)
    read = load_record(tmp_path / "run" / "evaluation.npz")
    assert read.keys() == record.keys()
    for key, values in record.items():
        np.testing.assert_array_equal(read[key], values)
        assert read[key].dtype == values.dtype
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["evaluation.npz"]


def test_objects_are_neither_written_nor_read(tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        save_record(tmp_path / "evaluation.npz", {"cmc": objects})
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "evaluation.npz", cmc=objects)
    with pytest.raises(InputError, match=r"evaluation\.npz: not a record"):
        load_record(tmp_path / "evaluation.npz")


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_record_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "evaluation.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"evaluation\.npz: not a record") as raised:
        load_record(tmp_path / "evaluation.npz")
    assert "\n" not in str(raised.value)
