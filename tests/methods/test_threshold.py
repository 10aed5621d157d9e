"""`raid threshold` as users call it, on made-up features."""

import json
from pathlib import Path

import numpy as np
import page
import pyarrow as pa
import pytest

from raid import __version__
from raid.cli import main
from raid.data.feature_file import FeatureFacts, write_features
from raid.data.samples import Samples

STEP = 2.0**-20


def written(
    path: Path,
    features: np.ndarray,
    identities: list[int | None],
    cameras: list[int | None],
    splits: list[str] | None = None,
) -> Path:
    count = len(features)
    table = pa.table(
        {
            "path": pa.array([f"{row:05d}.png" for row in range(count)]),
            "identity": pa.array(identities, pa.int64()),
            "camera": pa.array(cameras, pa.int64()),
            "split": pa.array(splits or ["gallery"] * count),
        }
    )
    facts = FeatureFacts(
        model="ab" * 32,
        height=32,
        width=16,
        flip=True,
        dimension=features.shape[1],
        root="images",
        name="<made> up",
        camera_names=(),
        raid=__version__,
    )
    write_features(path, Samples(path.parent, table, "made up"), [features.astype(np.float32)], facts)
    return path


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty people, six pictures each, by three cameras; training images all alike, which are left out."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(40), 6)
    features = rng.normal(size=(40, 16))[identities] + 0.7 * rng.normal(size=(240, 16))
    features = np.concatenate([features, np.ones((5, 16))])
    labels = [*identities.tolist(), 1, 2, 3, -1, None]
    splits = [*["query"] * 40, *["gallery"] * 200, "train", "train", "train", "gallery", "gallery"]
    cameras = [row % 3 for row in range(245)]
    path = tmp_path_factory.mktemp("threshold") / "features.parquet"
    return written(path, unit(features), labels, cameras, splits)


def failed(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> str:
    assert main(["threshold", str(path), *options]) == 2
    return capsys.readouterr().err


def reference(file: Path, far: float, *, across: bool) -> tuple[float, float, int, int]:
    from raid.data.feature_file import read_features

    found = read_features(file)
    rows = [i for i in range(len(found)) if found.splits[i] != "train" and found.identities[i] >= 0]
    genuine, impostor = [], []
    for place, i in enumerate(rows):
        for j in rows[place + 1 :]:
            if across and found.cameras[i] == found.cameras[j]:
                continue
            similarity = float(found.features[i].astype(np.float64) @ found.features[j])
            (genuine if found.identities[i] == found.identities[j] else impostor).append(similarity)
    threshold = np.sort(impostor)[::-1][int(far * len(impostor))]
    return threshold, float(np.mean(np.array(genuine) > threshold)), len(genuine), len(impostor)


@pytest.mark.parametrize("pairs", ["cross-camera", "all"])
def test_record_is_that_of_all_pairs_one_by_one(people, tmp_path, pairs):
    out = tmp_path / "threshold.json"
    options = [] if pairs == "cross-camera" else ["--pairs", pairs]  # cameras are known
    assert main(["threshold", str(people), "--far", "0.01", "--json", str(out), *options]) == 0
    record = json.loads(out.read_text())
    threshold, tar, num_genuine, num_impostor = reference(people, 0.01, across=pairs == "cross-camera")
    assert threshold < record["threshold"] <= threshold + 1.5 * STEP
    assert record["tar"] == pytest.approx(tar, abs=1e-12)
    assert record["far"] == 0.01
    assert record["num_accepted"] == int(0.01 * num_impostor)
    assert record["pairs"] == {"of": pairs, "genuine": num_genuine, "impostor": num_impostor}
    (low, high), (least, most) = record["intervals"]["threshold"], record["intervals"]["tar"]
    assert low < record["threshold"] < high
    assert least < record["tar"] < most
    assert (record["model"], record["flip"], record["metric"]) == ("ab" * 32, True, "cosine")
    assert (record["height"], record["width"], record["raid"]) == (32, 16, __version__)
    assert (record["images"], record["identities"], record["splits"]) == (240, 40, ["gallery", "query"])
    assert record["cameras"] == (3 if pairs == "cross-camera" else None)
    assert 0 < record["eer"] < 0.2
    assert 0.9 < record["auc"] < 1
    assert [rates["far"] for rates in record["table"]] == [0.1, 0.01, 0.001, 0.0001]
    thresholds = [rates["threshold"] for rates in record["table"]]
    assert thresholds == sorted(thresholds)
    assert record["table"][1] == {name: record[name] for name in record["table"][1]}


def test_what_is_printed(people, capsys):
    assert main(["threshold", str(people)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "<made> up: 240 images of 40 people (gallery, query), pairs across 3 cameras: "
    )
    assert [line.split()[0] for line in lines[2:6]] == ["0.1", "0.01", "0.001", "0.0001"]
    assert "rests on" not in "\n".join(lines)
    assert "at a false-accept rate of 0.001: one person where" in lines[-1]
    assert main(["threshold", str(people), "--far", "0.0002"]) == 0
    assert "rests on 3 accepted impostors" in capsys.readouterr().out


def test_training_people_are_compared_when_there_are_no_others(tmp_path, capsys):
    features = unit(np.random.default_rng(0).normal(size=(20, 8)))
    file = written(tmp_path / "f", features, [0, 1] * 10, [None] * 20, ["train"] * 20)
    assert main(["threshold", str(file), "--far", "0.1"]) == 0
    assert "it knows them too well" in capsys.readouterr().out


def test_page(people, tmp_path):
    out = tmp_path / "new" / "threshold.html"
    assert main(["threshold", str(people), "--far", "0.01", "--page", str(out)]) == 0
    found = page.read(out)
    assert found.one("h1").text == "Threshold: <made> up"
    page.check_policy(found)
    places = [node.attributes.get(name, "#") for node in found.walk() for name in ("src", "href")]
    assert all(place.startswith(("#", "data:")) for place in places)
    similarities, errors = page.section(found, "similarities").all("svg", "chart")
    for chart in (similarities, errors):
        assert [text.text for text in chart.all("text", "label")][-1] == "threshold"
        assert len(chart.all("path", "line")) == 2
    shares: dict[str, float] = {}
    for circle in similarities.all("circle", "hit"):
        name, _, shown = circle.one("title").text.rpartition(": ")
        kind = name.split(",")[0]
        shares[kind] = shares.get(kind, 0.0) + page.value_of(shown)
    assert shares == {
        "genuine: one person": pytest.approx(1, abs=0.01),
        "impostors: two people": pytest.approx(1, abs=0.01),
    }
    rows = [[cell.text for cell in row.walk() if cell.tag in ("th", "td")] for row in found.all("tr")]
    assert [row[0] for row in rows] == [
        "FAR",
        "10\N{NO-BREAK SPACE}%",
        "1\N{NO-BREAK SPACE}% (chosen)",
        "0.1\N{NO-BREAK SPACE}%",
        "0.01\N{NO-BREAK SPACE}%",
    ]


@pytest.mark.parametrize(
    ("identities", "cameras", "options", "said"),
    [
        ([None] * 4, [0, 1, 0, 1], [], "no image whose identity and the camera is known"),
        ([-1] * 4, [None] * 4, [], "no image whose identity is known"),
        ([3] * 4, [0, 1, 0, 1], [], "all images are of one identity"),
        ([0, 1, 2, 3], [0, 1, 0, 1], [], "no two images of one person make a pair of different cameras"),
        ([0, 0, 1, 1], [0, 0, 0, 0], [], r"of different cameras \(--pairs all takes all\)"),
        ([0, 0, 1, 1], [0, 1, 0, 1], [], r"1,000 impostor pairs at least, and .* has 2 .* had is 0\.5"),
        ([0, 0, 1, 1], [0, 1, 0, 1], ["--far=0"], "--far: 0 is no share"),
        ([0, 0, 1, 1], [0, 1, 0, 1], ["--far=nan"], "--far: nan is no share"),
    ],
)
def test_sets_that_no_threshold_can_be_found_on(tmp_path, capsys, identities, cameras, options, said):
    file = written(tmp_path / "f.parquet", np.eye(4), identities, cameras)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(failed(capsys, file, *options))


def test_features_that_have_collapsed_and_others(tmp_path, capsys):
    alike = np.tile([[1.0, 0.0]], (4, 1))
    people = [0, 0, 1, 1], [0, 1, 0, 1]
    assert "have the similarity 1" in failed(capsys, written(tmp_path / "f", alike, *people), "--far=0.5")
    assert "unit rows" in failed(capsys, written(tmp_path / "g", 2 * alike, *people), "--far=0.5")
    assert "no such file" in failed(capsys, tmp_path / "h")


def test_an_image_without_a_camera_makes_all_pairs_count(tmp_path, capsys):
    features = unit(np.random.default_rng(0).normal(size=(20, 8)))
    file = written(tmp_path / "f", features, [0, 1] * 10, [*[0] * 19, None])
    assert main(["threshold", str(file), "--far", "0.1"]) == 0
    assert "(gallery), all pairs: 90 genuine, 100 impostors" in capsys.readouterr().out
