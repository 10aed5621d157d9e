"""The page of ranked lists, read back as a browser would."""

import base64
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import packs
import page
import pytest
from answers import Row, facts, feature_file, people, unit_rows
from PIL import Image
from test_content import references

from raid.data.blurring import blurred
from raid.data.feature_file import write_features
from raid.data.pixels import decode
from raid.data.samples import Record, Samples
from raid.errors import InputError
from raid.methods.answers.ranking import Wanted, answer, put_together, ranked
from raid.methods.answers.sides import opened
from raid.report import answer_lists, previews
from raid.report.answer_lists import AnswerLists, chosen

BAD = "<script>alert('1')</script>\"&amp;"


@pytest.fixture(autouse=True)
def no_picture_is_remembered():
    previews._preview.cache_clear()


def lists_of(file: Path, wanted: Wanted) -> AnswerLists:
    sides = opened(file, file, None)
    return put_together((sides.query.listed, sides.gallery.listed), ranked(sides, wanted))


def written(file: Path, wanted: Wanted, query: Path | None = None) -> page.Node:
    answer(query or file, file, wanted)
    assert wanted.page is not None
    return page.read(wanted.page)


def picture_of(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), 128, 64).transpose(1, 2, 0).astype(float)


def shown_picture(node: page.Node) -> np.ndarray:
    _, data = node.one("img").attributes["src"].split(",")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))), float)


def test_a_list_a_query_with_what_the_table_says(tmp_path):
    file = feature_file(tmp_path, people(45))
    wanted = Wanted(top=6, page=tmp_path / "p.html")
    tree, lists = written(file, wanted), lists_of(file, wanted)
    articles = tree.all("article", "list")
    assert len(articles) == len(lists.rows) == 15
    for query, article in enumerate(articles):
        data = article.attributes
        first, *items = article.one("ol", "strip").all("li")
        assert data["data-order"] == str(query)
        assert data.get("data-camera") == lists.query.cameras[query]
        assert data["data-top"] == f"{lists.scores[query, 0]:.6f}"
        precision = lists.average_precision[query]
        assert data.get("data-ap") == (f"{precision:.6f}" if np.isfinite(precision) else None)
        assert lists.query.paths[query] in article.one("p").text
        assert "query" in first.classes
        rows = [row for row in lists.rows[query].tolist() if row >= 0]
        assert len(items) == len(rows)
        for place, (row, item) in enumerate(zip(rows, items, strict=True)):
            verdict = {1: "right", 0: "wrong", -1: None}[int(lists.right[query, place])]
            sign = {"right": "✓ ", "wrong": "✗ ", None: ""}[verdict]
            assert item.classes == ([verdict] if verdict else [])
            assert item.one("b").text == f"{sign}{lists.scores[query, place]:.3f}"
            assert item.one("small").text == str(place + 1)
            assert item.attributes.get("data-camera") == lists.gallery.cameras[row]
            assert item.one("img").attributes["alt"].endswith(f": {lists.gallery.paths[row]}")
        of_first = {1: "right", 0: "wrong", -1: None}[int(lists.right[query, 0])]
        assert data.get("data-first") == of_first
    assert {article.attributes.get("data-first") for article in articles} == {"right", "wrong", None}


def test_the_pictures_are_those_of_the_paths(tmp_path):
    file = feature_file(tmp_path, people(12))
    tree = written(file, Wanted(top=3, page=tmp_path / "p.html"))
    images = {path.name: picture_of(path) for path in (tmp_path / "f_images").iterdir()}
    for item in tree.all("li"):
        if not item.all("img"):
            continue
        shown, name = shown_picture(item), item.one("img").attributes["alt"].split(": ")[1]
        differences = {other: np.abs(shown - image).mean() for other, image in images.items()}
        assert min(differences, key=differences.get) == name


def test_text_of_users_is_escaped_and_nothing_is_loaded(tmp_path):
    """Paths, camera names and file names that are markup, and names that are formulas."""
    names = [f"{BAD.replace('/', '∕')}{number}.png" for number in range(3)]
    rows: list[Row] = [(name, 1, 0, "train") for name in [*names, "=cmd().png"]]
    file = feature_file(tmp_path, rows, name=BAD.replace("/", "∕"), camera_names=(BAD,))
    tree = written(file, Wanted(same_camera="keep", page=tmp_path / "p.html"))
    page.check_policy(tree)
    assert [place for place in references(tree) if not place.startswith(("data:", "#"))] == []
    assert not {"iframe", "object", "embed", "base", "form"} & {node.tag for node in tree.walk()}
    assert not [name for node in tree.walk() for name in node.attributes if name.startswith("on")]
    assert names[0] in tree.all("article")[0].one("p").text
    assert BAD in tree.all("article")[0].one("p").text
    assert tree.all("article")[0].attributes["data-camera"] == BAD
    assert tree.one("h1").text == f"Ranked lists: {file.name}"


def test_of_many_lists_some_are_shown_from_the_worst_to_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_lists, "MOST_LISTS", 5)
    file = feature_file(tmp_path, people(60))
    wanted = Wanted(page=tmp_path / "p.html")
    tree, lists = written(file, wanted), lists_of(file, wanted)
    shown = [int(article.attributes["data-order"]) for article in tree.all("article")]
    assert shown == chosen(lists, 5).tolist() == sorted(shown)
    values = lists.average_precision
    order = sorted(range(20), key=lambda q: (2.0 if np.isnan(values[q]) else values[q], lists.scores[q, 0]))
    places = sorted(order.index(query) for query in shown)
    assert places == [round(float(place)) for place in np.linspace(0, 19, 5)]
    said = page.section(tree, "lists").text
    assert "5 of 20 lists are shown, chosen evenly from the worst average precision to the best" in said


def test_a_page_is_not_larger_than_its_cap(tmp_path, monkeypatch):
    file = feature_file(tmp_path, people(60))
    whole = written(file, Wanted(page=tmp_path / "p.html"))
    size = (tmp_path / "p.html").stat().st_size
    cap = size // 3
    monkeypatch.setattr(answer_lists, "MOST_BYTES", cap)
    fewer = written(file, Wanted(page=tmp_path / "p.html"))
    assert 3 <= len(fewer.all("article")) <= len(whole.all("article")) // 3
    overhead = 60_000  # style and script
    assert (tmp_path / "p.html").stat().st_size < cap + overhead
    assert f"{len(fewer.all('article'))} of 20 lists are shown" in page.section(fewer, "lists").text


def test_without_identities_nothing_is_right_or_wrong_and_no_precision_is_told(tmp_path):
    rows: list[Row] = [(f"{number}.png", None, None, "train") for number in range(6)]
    tree = written(feature_file(tmp_path, rows), Wanted(page=tmp_path / "p.html"))
    assert tree.all("ul", "cards") == []
    assert not {"right", "wrong"} & {style for node in tree.walk() for style in node.classes}
    choices = [node.attributes["value"] for node in tree.all("option")]
    assert choices == ["order 1", "top 1", "top -1"]
    assert "✓" not in page.section(tree, "lists").text


def test_pictures_that_are_gone_or_none_are_said_and_the_page_is_there(tmp_path, caplog):
    file = feature_file(tmp_path, people(9))
    images = tmp_path / "f_images"
    (images / "000.png").unlink()
    (images / "001.png").write_bytes(b"no picture")
    (images / "002.png").unlink()
    os.mkfifo(images / "002.png")  # whoever reads it waits
    tree = written(file, Wanted(same_camera="keep", page=tmp_path / "p.html"))
    gone = {node.attributes["title"].split(": ")[1] for node in tree.all("span", "gone")}
    assert gone == {"000.png", "001.png", "002.png"}
    assert "3 pictures cannot be shown, such as" in caplog.text


def test_pictures_that_have_moved_are_found_again(tmp_path):
    file = feature_file(tmp_path, people(9))
    (tmp_path / "f_images").rename(tmp_path / "elsewhere")
    page_file = tmp_path / "p.html"
    assert written(file, Wanted(page=page_file)).all("img") == []
    assert len(written(file, Wanted(page=page_file, root=str(tmp_path / "elsewhere"))).all("img")) > 9
    with pytest.raises(InputError, match=r"--root: .*there is no such folder"):
        answer(file, file, Wanted(page=page_file, root=str(tmp_path / "f_images")))


def test_pictures_of_a_pack_are_shown_and_for_a_table_it_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # shards are kept in runs/cache
    rows = people(9)
    file, images = feature_file(tmp_path, rows), tmp_path / "f_images"
    before = [node.attributes["src"] for node in written(file, Wanted(page=tmp_path / "p.html")).all("img")]
    samples = Samples.scan(images, [Record(*row) for row in rows], name="made up")
    packs.pack(samples, tmp_path / "pack", shard_mib=0.005)
    assert len(packs.shards_of(tmp_path / "pack")) > 1
    images.rename(tmp_path / "elsewhere")
    wanted = Wanted(page=tmp_path / "p.html", root=str(tmp_path / "pack"))
    assert [node.attributes["src"] for node in written(file, wanted).all("img")] == before
    write_features(file, samples, [unit_rows(len(rows))], facts(tmp_path / "pack"))
    tree = written(file, Wanted(page=tmp_path / "p.html"))
    assert [node.attributes["src"] for node in tree.all("img")] == before
    (tmp_path / "pack" / "pack.parquet").write_bytes(b"no index")
    answer(file, file, Wanted(out=tmp_path / "ranks.csv"))
    with pytest.raises(InputError, match="not the index of a pack"):
        answer(file, file, Wanted(page=tmp_path / "p.html"))


def detailed(seed: int, *, mirrored: bool) -> Image.Image:
    """A picture of 8 x 16 blocks with details in them, which may be mirrored each within its block."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(60, 180, (16, 8, 3)), np.ones((8, 8, 1), int))
    details = rng.integers(
        0, 60, (16, 8, 8, 8, 1)
    )  # row of blocks, row in it, column of blocks, column in it
    details = details[:, :, :, ::-1] if mirrored else details
    return Image.fromarray((blocks + details.reshape(128, 64, 1)).astype(np.uint8))


def test_blurred_pictures_have_no_detail(tmp_path):
    """Two galleries whose blocks have the same means give the same pictures."""
    pages = []
    rows: list[Row] = [(f"{number}.png", number, None, "train") for number in range(3)]
    for mirrored in (False, True):
        folder = tmp_path / str(mirrored)
        folder.mkdir()
        file = feature_file(folder, rows)
        for number in range(3):
            detailed(number, mirrored=mirrored).save(folder / "f_images" / f"{number}.png")
        for blur in (False, True):
            tree = written(file, Wanted(page=tmp_path / "p.html", blur=blur))
            pages.append([node.attributes["src"] for node in tree.all("img")])
        for node in page.section(tree, "lists").all("li"):
            shown = shown_picture(node)
            assert np.abs(shown - blurred(shown.astype(np.uint8))).mean() < 6  # JPEG's own
    clear, blur, other_clear, other_blur = pages
    assert blur == other_blur
    assert not set(clear) & set(other_clear)
