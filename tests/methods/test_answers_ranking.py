"""`raid rank`: the table, against rules written out row by row."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import thin_resnet
import tiny
from answers import MODEL, Row, feature_file, people, unit_rows
from pictures import bomb

from raid.cli import main
from raid.commands.command_line import EXIT_INPUT_ERROR
from raid.config import to_yaml
from raid.data.feature_file import read_features
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.errors import InputError
from raid.methods.answers import ranking
from raid.methods.answers.ranking import Wanted, answer
from raid.methods.encoder import build_model
from raid.ops.ranking import average_precision

COLUMNS = (
    "query", "rank", "gallery", "score", "query_identity", "query_camera", "gallery_identity",
    "gallery_camera", "right",
)  # fmt: skip


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def counts(query: Row, item: Row, same_camera: str) -> bool:
    """Whether an item of the gallery is ranked for a query."""
    if same_camera == "keep":
        return True
    _, identity, camera, _ = query
    return item[1] != -1 and not (
        identity not in (None, -1) and item[1] == identity and camera is not None and item[2] == camera
    )


def verdict(query: Row, item: Row) -> str:
    known = query[1] not in (None, -1) and item[1] not in (None, -1)
    return str(query[1] == item[1]).lower() if known else ""


def text(value: object) -> str:
    return "" if value is None else str(value)


def slowly(
    queries: list[tuple[Row, np.ndarray]],
    gallery: list[tuple[Row, np.ndarray]],
    top: int,
    same_camera: str,
    *,
    others_alone: bool = False,
) -> list[dict[str, str]]:
    found = []
    for number, (query, feature) in enumerate(queries):
        scores = [float(np.float64(feature) @ other) for _, other in gallery]
        order = sorted(range(len(gallery)), key=lambda row: (-scores[row], row))
        ranked = [
            row
            for row in order
            if counts(query, gallery[row][0], same_camera) and not (others_alone and row == number)
        ]
        for place, row in enumerate(ranked[:top], start=1):
            item = gallery[row][0]
            found.append(
                dict(
                    zip(
                        COLUMNS,
                        (
                            query[0], str(place), item[0], scores[row], text(query[1]), text(query[2]),
                            text(item[1]), text(item[2]), verdict(query, item),
                        ),
                        strict=True,
                    )
                )
            )  # fmt: skip
    return found


def without_score(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "score": None}


def assert_equal(found: list[dict[str, str]], expected: list[dict[str, Any]]) -> None:
    assert [without_score(row) for row in found] == [without_score(row) for row in expected]
    assert all(len(row["score"].split(".")[1]) == 6 for row in found)
    assert [float(row["score"]) for row in found] == pytest.approx(
        [row["score"] for row in expected], abs=2e-6
    )


def paired(rows: list[Row], features: np.ndarray, split: str | None = None) -> list[tuple[Row, np.ndarray]]:
    return [(row, feature) for row, feature in zip(rows, features, strict=True) if split in (None, row[3])]


@pytest.mark.parametrize("same_camera", ["drop", "keep"])
def test_splits_of_one_file(tmp_path, same_camera, monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK_ROWS", 4)
    rows = people(60)
    file = feature_file(tmp_path, rows)
    answer(file, file, Wanted(top=7, same_camera=same_camera, out=tmp_path / "t.csv"))
    features = unit_rows(60)
    expected = slowly(paired(rows, features, "query"), paired(rows, features, "gallery"), 7, same_camera)
    found = read_csv(tmp_path / "t.csv")
    assert_equal(found, expected)
    assert len({row["right"] for row in found}) == 3
    scores = [(row["query"], row["score"]) for row in found]
    assert len(set(scores)) < len(scores)  # there are ties


@pytest.mark.parametrize("same_camera", ["drop", "keep"])
def test_without_splits_every_row_against_all_others(tmp_path, same_camera):
    rows = people(30, splits=("train",))
    file = feature_file(tmp_path, rows)
    answer(file, file, Wanted(top=40, same_camera=same_camera, out=tmp_path / "t.csv"))
    both = paired(rows, unit_rows(30))
    found = read_csv(tmp_path / "t.csv")
    assert_equal(found, slowly(both, both, 40, same_camera, others_alone=True))
    assert not [row for row in found if row["query"] == row["gallery"]]


def test_two_files_and_the_figures_over_the_whole_gallery(tmp_path):
    mine, theirs = people(15, seed=1), people(40, seed=2)
    one = feature_file(tmp_path, mine, unit_rows(15, 1), name="q")
    other = feature_file(tmp_path, theirs, unit_rows(40, 2))
    said = answer(one, other, Wanted(top=3, out=tmp_path / "t.csv"))
    gallery = paired(theirs, unit_rows(40, 2))
    assert_equal(read_csv(tmp_path / "t.csv"), slowly(paired(mine, unit_rows(15, 1)), gallery, 3, "drop"))
    precisions, firsts = [], []
    for query in paired(mine, unit_rows(15, 1)):
        right = [row["right"] == "true" for row in slowly([query], gallery, 40, "drop")]
        if any(right):
            precisions.append(average_precision(np.flatnonzero(right)))
            firsts.append(right[0])
    expected = f"mAP {100 * np.mean(precisions):.1f}\N{NO-BREAK SPACE}%, rank-1 {100 * np.mean(firsts):.1f}"
    assert said.startswith("15 queries, 40 gallery images, ")
    assert expected in said
    assert f"with a match {len(precisions)}\n" in said


def test_cameras_of_two_sets_are_the_same_by_name(tmp_path):
    """Camera 0 of the one is camera 1 of the other: the rule of the own camera goes by the name."""
    query: list[Row] = [("q.png", 1, 0, "query")]
    gallery: list[Row] = [("a.png", 1, 0, "gallery"), ("b.png", 1, 1, "gallery"), ("c.png", 2, 1, "gallery")]
    one = feature_file(tmp_path, query, unit_rows(1), name="q", camera_names=("hall",))
    other = feature_file(tmp_path, gallery, unit_rows(3, 1), camera_names=("door", "hall"))
    answer(one, other, Wanted(out=tmp_path / "t.csv"))
    found = {row["gallery"]: row["gallery_camera"] for row in read_csv(tmp_path / "t.csv")}
    assert found == {"a.png": "door", "c.png": "hall"}


def test_cameras_that_are_not_known_are_nobodys(tmp_path):
    """Two pictures of a person, one on each side, by cameras that nobody knows: perhaps not the same one."""
    rows: list[Row] = [("a.png", 1, None, "train"), ("b.png", 2, None, "train")]
    one, other = feature_file(tmp_path, rows, name="q"), feature_file(tmp_path, rows)
    answer(one, other, Wanted(out=tmp_path / "t.csv"))
    found = [(row["query"], row["gallery"]) for row in read_csv(tmp_path / "t.csv")]
    assert sorted(found) == [(mine, theirs) for mine in ("a.png", "b.png") for theirs in ("a.png", "b.png")]


def test_parquet_says_the_same_with_numbers_and_nulls(tmp_path):
    file = feature_file(tmp_path, people(60))
    for name in ("t.csv", "t.parquet"):
        answer(file, file, Wanted(top=5, out=tmp_path / name))
    table = pq.read_table(tmp_path / "t.parquet")
    assert tuple(table.column_names) == COLUMNS
    expected = read_csv(tmp_path / "t.csv")
    assert len(expected) == table.num_rows
    for row, line in zip(table.to_pylist(), expected, strict=True):
        shown = {name: text(value) for name, value in row.items()}
        shown |= {"score": f"{row['score']:.6f}", "right": shown["right"].lower()}
        assert shown == line
    assert table["right"].null_count > 0
    assert table["query_identity"].null_count > 0


def test_re_ranking_changes_the_order_and_not_the_scores(tmp_path):
    rows = people(60)
    file = feature_file(tmp_path, rows, unit_rows(60, exact=False))
    lists = {}
    for rerank in (False, True):
        answer(file, file, Wanted(rerank=rerank, out=tmp_path / "t.csv", top=40))
        found = read_csv(tmp_path / "t.csv")
        lists[rerank] = {(row["query"], row["gallery"]): float(row["score"]) for row in found}
    assert lists[True] == pytest.approx(lists[False], abs=2e-6)
    assert list(lists[True]) != list(lists[False])


def test_re_ranking_of_a_set_against_itself_is_refused(tmp_path):
    file = feature_file(tmp_path, people(9, splits=("train",)))
    with pytest.raises(InputError, match="--rerank: the queries are the gallery"):
        answer(file, file, Wanted(rerank=True, out=tmp_path / "t.csv"))
    assert not (tmp_path / "t.csv").exists()


HOSTILE = (
    '=cmd()|"x".png', "+1.png", "-1.png", "@SUM(A1).png", "\t=1.png", "a,b.png", "two\nlines.png", "'q.png",
)  # fmt: skip


def test_no_cell_of_text_is_a_formula_and_numbers_are_numbers(tmp_path):
    rows: list[Row] = [(name, -5, 0, "gallery") for name in HOSTILE]
    gallery = feature_file(tmp_path, rows, camera_names=("=1+1",))
    query = feature_file(tmp_path, [("-x.png", 3, None, "query")], name="q")
    answer(query, gallery, Wanted(out=tmp_path / "t.csv"))
    found = read_csv(tmp_path / "t.csv")
    assert {row["gallery"].removeprefix("'") for row in found} == {n.removeprefix("'") for n in HOSTILE}
    for row in found:
        assert not row["gallery"].startswith(("=", "+", "-", "@", "\t"))
        assert (row["query"], row["gallery_camera"]) == ("'-x.png", "'=1+1")
        assert (row["gallery_identity"], row["query_identity"]) == ("-5", "3")
        assert -1 <= float(row["score"]) <= 1
    answer(query, gallery, Wanted(out=tmp_path / "t.parquet"))
    assert set(pq.read_table(tmp_path / "t.parquet")["gallery"].to_pylist()) == set(HOSTILE)


def test_the_printed_table_steers_no_terminal(tmp_path, capsys):
    file = feature_file(tmp_path, [("\x1b[31mred.png", 1, None, "train"), ("b.png", 2, None, "train")])
    assert main(["rank", str(file), str(file)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == ",".join(COLUMNS)
    assert "\\x1b[31mred.png" in out
    assert "\x1b" not in out


def refused(*arguments: object) -> None:
    assert main(["rank", *map(str, arguments)]) == EXIT_INPUT_ERROR


def test_features_of_another_model_or_another_size_are_refused(tmp_path, capsys):
    gallery = feature_file(tmp_path, people(6))
    other = feature_file(tmp_path, people(6), name="other", model="b" * 64)
    refused(other, gallery)
    assert "of another model (bbbbbbbbbbbb)" in capsys.readouterr().err
    wide = feature_file(tmp_path, people(6), name="wide", width=64)
    refused(wide, gallery)
    assert "was extracted with width 64" in capsys.readouterr().err


def test_outputs_are_looked_at_first(tmp_path, capsys):
    file = feature_file(tmp_path, people(6))
    before = file.read_bytes()
    for option, name, said in (
        ("--out", "f.parquet", "is an input"),
        ("--out", "t.txt", "name a file that ends in .csv or .parquet"),
        ("--page", "t.csv", "name a file that ends in .html"),
        ("--out", "folder.csv", "is a folder"),
    ):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        refused(file, file, option, tmp_path / name)
        assert said in capsys.readouterr().err
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.parquet", "f_images", "folder.csv"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of random weights, and features of a set by `raid extract`."""
    folder = tmp_path_factory.mktemp("rank")
    root = tiny.write_images(folder / "images")
    config = tiny.config(root, folder / "run")
    with thin_resnet.in_use():
        model = build_model(config.training.encoder, Group.solo())
        write_tensors(folder / "run" / "model.pt", {"model": model.state_dict(), "config": to_yaml(config)})
        layout = ["data.layout=folder", f"data.pattern={tiny.PATTERN}"]
        assert main(["extract", str(folder / "run"), str(root), str(folder / "f.parquet"), *layout]) == 0
    return folder / "run", folder / "f.parquet"


def test_pictures_are_ranked_by_the_features_that_the_gallery_has_of_them(trained, tmp_path):
    run, features = trained
    images = features.parent / "images" / "query"
    out = tmp_path / "t.csv"
    with thin_resnet.in_use():
        said = answer(images, features, Wanted(top=90, out=out), checkpoint=run)
        assert said.startswith("15 queries, 90 gallery images\n")
        of_folder = read_csv(out)
        one = sorted(images.iterdir())[3]
        answer(one, features, Wanted(top=90, out=out), checkpoint=run)
    stored = read_features(features)
    rows = [path for path in stored.paths if path.startswith("query/")]
    assert [row["gallery"] for row in of_folder if row["rank"] == "1"] == rows
    assert {(row["query_identity"], row["right"]) for row in of_folder} == {("", "")}
    mine = stored.features[stored.paths.index(f"query/{one.name}")].astype(np.float64)
    expected = dict(zip(stored.paths, (stored.features @ mine).tolist(), strict=True))
    found = read_csv(out)
    assert {row["gallery"]: float(row["score"]) for row in found} == pytest.approx(expected, abs=2e-6)
    assert [without_score(row) for row in of_folder if row["query"] == one.name] == [
        without_score(row) for row in found
    ]


def test_a_checkpoint_that_did_not_make_the_gallery_is_refused(trained, tmp_path, capsys):
    run, _ = trained
    gallery = feature_file(tmp_path, people(6))
    with thin_resnet.in_use():
        refused(gallery.parent / "f_images", gallery, "--checkpoint", run)
    told = capsys.readouterr().err
    assert "not the model that" in told
    assert MODEL[:12] in told
    refused(gallery.parent / "f_images", gallery)
    assert "give it by --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no picture", "is not an image"), (b"", "is empty"), (bomb(), "decompression bomb")],
    ids=["text", "empty", "bomb"],
)
def test_a_query_that_is_no_picture_is_one_line(trained, tmp_path, capsys, content, said):
    run, features = trained
    query = tmp_path / "query.png"
    query.write_bytes(content)
    with thin_resnet.in_use():
        refused(query, features, "--checkpoint", run, "--page", tmp_path / "p.html")
    told = capsys.readouterr().err
    assert "query.png" in told
    assert said in told
    assert told.count("\n") == told.count("raid: ")
    assert not (tmp_path / "p.html").exists()


def test_a_folder_without_pictures_and_what_is_not_there(trained, tmp_path, capsys):
    run, features = trained
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", features, "--checkpoint", run)
    assert "there are no images" in capsys.readouterr().err
    refused(tmp_path / "nothing.png", features)
    assert "there is no such picture, folder or file of features" in capsys.readouterr().err


def test_a_large_gallery_is_ranked_in_lower_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK_NUMBERS", 120)
    seen = []
    blocks = ranking.distance_blocks
    monkeypatch.setattr(
        ranking,
        "distance_blocks",
        lambda *sides, block_rows: (seen.append(block_rows), blocks(*sides, block_rows=block_rows))[1],
    )
    file = feature_file(tmp_path, people(60))
    answer(file, file, Wanted(out=tmp_path / "t.csv"))
    assert seen == [3]  # of 40 distances each


def test_the_commands_of_the_readme(trained, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    mark = "<!-- run by tests/methods/test_answers_ranking.py -->\n"
    (block,) = re.findall(re.escape(mark) + r"```sh\n(.*?)```", text, re.DOTALL)
    run, features = trained
    images = features.parent / "images"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    (tmp_path / "photo.jpg").write_bytes((images / "query" / "0003_c1_0.png").read_bytes())
    (tmp_path / "runs" / "features.parquet").write_bytes(features.read_bytes())
    monkeypatch.chdir(tmp_path)
    with thin_resnet.in_use():
        for line in block.splitlines():
            assert main(line.split()[1:]) == 0
    out = capsys.readouterr().out
    assert "photo.jpg,1,query/0003_c1_0.png,1.000000,,,3,1," in out
    assert "15 queries, 30 gallery images, mAP" in out
    assert len(read_csv(tmp_path / "runs" / "ranks.csv")) == 15 * 20
    assert (tmp_path / "runs" / "lists.html").exists()
