from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raid.data.samples import Record, Samples
from raid.evaluate import RetrievalSet, metrics
from raid.ops.ranking import Ranking

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
    ranking = retrieval(tmp_path).rank(*features(), ap="noninterp")
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
    ranking = retrieval(tmp_path, query_cameras=query, gallery_cameras=gallery).rank(
        *features(), ap="noninterp"
    )
    # First query: 1 at 0.99 | 3 | 1 at 0.8 | 1 at 0.3: hits 1, 3 and 4. Second: 2 at 0.95 and 0.9: 1 and 2.
    found = metrics(ranking)
    assert found["eval/mAP"] == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3 + 1) / 2)
    assert found["eval/rank1"] == 1.0
    assert found["eval/mINP"] == pytest.approx((3 / 4 + 1) / 2)


def test_the_variant_of_average_precision_is_passed_on(tmp_path):
    sets = retrieval(tmp_path)
    trapezoid = metrics(sets.rank(*features(), ap="market_trapezoid"))
    assert trapezoid["eval/mAP"] == pytest.approx((((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2 + 1) / 2)
    with pytest.raises(ValueError, match="unknown ap"):
        sets.rank(*features(), ap="other")


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
