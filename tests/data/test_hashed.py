"""Hashed manifests: nothing tells who is who without the key, and evaluation comes to the same."""

import json
import logging
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import thin_resnet
import tiny
from PIL import Image

from raid.cli import main
from raid.config import to_yaml
from raid.data import hashed
from raid.data.hashed import copy_renamed, fresh_key, hash_identities, read_key
from raid.data.samples import Record, Samples, content_hash, relabel
from raid.distributed.checkpoint import write_tensors
from raid.errors import InputError
from raid.methods.encoder import starting_weights

KEY = b"0123456789abcdef"


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("hashed") / "images")


def of(root: Path, identities: list[int | None]) -> Samples:
    paths = sorted(str(path.relative_to(root)) for path in root.glob("*/*.png"))
    records = [Record(path, who, 0, "train") for path, who in zip(paths, identities, strict=False)]
    return Samples.scan(root, records, name="some", on_error="unread")


def prepared(out: Path, root: Path, *options: object) -> Samples:
    layout = [f"root={root}", "layout=folder", f"pattern={tiny.PATTERN}"]
    assert main(["data", "prepare", str(out), *layout, *map(str, options)]) == 0
    return Samples.read(out)


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["data", "prepare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("raid: ")


def test_a_code_is_the_keyed_hash_of_the_identity(root):
    samples = hash_identities(of(root, [7, -1, 8, None, 7]), KEY)
    # openssl dgst -sha256 -hmac KEY of the text, its first 53 bits
    seven = 3562444786810089
    codes = samples.table["identity"].to_pylist()
    assert codes == [seven, -1, codes[2], None, seven]
    assert 0 <= codes[2] < 2**53
    assert codes[2] != seven
    assert samples.table.schema == of(root, [1]).table.schema
    assert samples.paths == of(root, [1] * 5).paths


def test_the_order_of_codes_is_not_that_of_the_identities(root):
    identities = list(range(60))
    codes = hash_identities(of(root, identities), KEY).identities
    assert len(set(codes.tolist())) == 60
    # Of random orders 1 in 10^7 has a rank correlation above 0.64.
    assert abs(np.corrcoef(np.argsort(np.argsort(codes)), identities)[0, 1]) < 0.64
    others = hash_identities(of(root, identities), b"another key of 16").identities
    assert set(codes.tolist()).isdisjoint(others.tolist())


def test_sets_hashed_with_one_key_can_be_joined_and_others_cannot(root, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(KEY + b"\n")
    options = ["--hash-identities", "--identity-key", key]
    one = prepared(tmp_path / "one.parquet", root, *options)
    two = prepared(tmp_path / "two.parquet", root, f"pattern={tiny.WITHOUT_TEST_IMAGES}", *options)
    original = prepared(tmp_path / "original.parquet", root)
    code_of = dict(zip(original.identities.tolist(), one.identities.tolist(), strict=True))
    np.testing.assert_array_equal(one.identities, hash_identities(original, KEY).identities)
    train = original.split("train").identities
    assert two.identities.tolist() == [code_of[who] for who in train.tolist()]
    fresh = [prepared(tmp_path / f"{k}.parquet", root, "--hash-identities").identities for k in range(2)]
    for codes in fresh:
        assert len(set(codes.tolist())) == len(code_of)
        assert set(codes.tolist()).isdisjoint(one.identities.tolist())
    assert set(fresh[0].tolist()).isdisjoint(fresh[1].tolist())
    for file in tmp_path.glob("*.parquet"):
        assert KEY not in file.read_bytes()


def test_two_identities_of_one_code_are_an_error(root, monkeypatch):
    monkeypatch.setattr(hashed, "_BITS", 2)
    with pytest.raises(InputError, match="two identities have the same code; hash them with another key"):
        hash_identities(of(root, list(range(5))), KEY)


def test_nothing_but_the_identities_changes_where_the_pictures_stay(root, tmp_path, caplog):
    original = prepared(tmp_path / "original.parquet", root)
    with caplog.at_level(logging.WARNING):
        found = prepared(tmp_path / "hashed.parquet", root, "--hash-identities")
    for name in set(original.table.column_names) - {"identity"}:
        assert found.table[name] == original.table[name]
    pairs = set(zip(original.identities.tolist(), found.identities.tolist(), strict=True))
    assert len(pairs) == len(set(original.identities.tolist())) == len(set(found.identities.tolist()))
    a, b = relabel(original.identities), relabel(found.identities)
    np.testing.assert_array_equal(a[:, None] == a, b[:, None] == b)  # labels are permuted, no more
    assert (found.root, found.camera_names, found.facts) == (root, original.camera_names, original.facts)
    assert found.fingerprint() != original.fingerprint()


def test_without_a_copy_it_is_said_that_paths_tell_who_it_is(root, tmp_path, capsys):
    prepared(tmp_path / "hashed.parquet", root, "--hash-identities")
    (line,) = capsys.readouterr().err.splitlines()
    assert "the paths are not, such as gallery/0001_c1_1.png; --copy FOLDER" in line


def test_copies_are_the_same_pictures_under_names_that_tell_nothing(root, tmp_path, capsys):
    out = tmp_path / "copies"
    original = prepared(tmp_path / "original.parquet", root)
    capsys.readouterr()
    found = prepared(tmp_path / "hashed.parquet", root, "--hash-identities", "--copy", out)
    assert capsys.readouterr().err == ""
    assert found.root == out
    assert sorted(path.name for path in out.iterdir()) == found.paths
    for row, path in enumerate(found.paths):
        content = content_hash((out / path).read_bytes())
        assert path == f"{content}_{row:07d}.png"
        assert found.table["content"][row].as_py() == content
    # The same images of the same people at the same cameras; and the order is another.
    names = ("content", "camera", "split")

    def rows(samples: Samples) -> list[tuple[object, ...]]:
        return list(zip(*(samples.table[name].to_pylist() for name in names), strict=True))

    assert sorted(rows(found)) == sorted(rows(original))
    assert rows(found) != rows(original)
    code_of = dict(zip(found.table["content"].to_pylist(), found.identities.tolist(), strict=True))
    codes = [code_of[content] for content in original.table["content"].to_pylist()]
    a, b = relabel(original.identities), relabel(np.array(codes))
    np.testing.assert_array_equal(a[:, None] == a, b[:, None] == b)
    text = (tmp_path / "hashed.parquet").read_bytes()
    for told in (b"0001_c1", b"gallery/", str(root).encode()):
        assert told in (tmp_path / "original.parquet").read_bytes()
        assert told not in text
    assert main(["data", "check", str(tmp_path / "hashed.parquet")]) == 0


def test_a_picture_that_is_there_twice_is_copied_twice(tmp_path):
    root = tmp_path / "twice"
    root.mkdir()
    for name in ("b.JPG", "a.jpg", "c.exe"):
        Image.new("RGB", (4, 8), "red").save(root / name, "JPEG")
    records = [Record(path.name, 3, None, "train") for path in root.iterdir()]
    found = copy_renamed(Samples.scan(root, records, name="twice"), tmp_path / "out")
    content = content_hash((root / "a.jpg").read_bytes())
    stems = [f"{content}_{row:07d}" for row in range(3)]
    assert [Path(path).stem for path in found.paths] == stems
    assert sorted(Path(path).suffix for path in found.paths) == ["", ".jpg", ".jpg"]


def test_evaluation_comes_to_the_same_figures(root, tmp_path, capsys):
    config = tiny.config(root, tmp_path / "run", numerics__threads=1)
    model = tmp_path / "run" / "model.pt"
    write_tensors(model, {"model": starting_weights(config.training.encoder), "config": to_yaml(config)})
    # Who is seen is drawn: of whom the pictures show, random weights are right throughout.
    drawn = np.random.default_rng(0).integers(-1, 9, 90)
    people = prepared(tmp_path / "people.parquet", root)
    place = people.table.column_names.index("identity")
    people = replace(people, table=people.table.set_column(place, "identity", pa.array(drawn)))
    people.write(tmp_path / "original.parquet")
    of_manifest = ["layout=manifest", f"root={tmp_path / 'original.parquet'}", "pattern=null"]
    prepared(tmp_path / "hashed.parquet", root, *of_manifest, "--hash-identities")
    copying = ["--hash-identities", "--copy", tmp_path / "copies"]
    prepared(tmp_path / "copied.parquet", root, *of_manifest, *copying)
    figures = {}
    for name in ("original", "hashed", "copied"):
        out = tmp_path / f"{name}.json"
        assert main(["evaluate", str(model), str(tmp_path / f"{name}.parquet"), "--out", str(out)]) == 0
        figures[name] = json.loads(out.read_text())["sets"][0]["figures"]
    assert figures["hashed"] == figures["original"]
    assert figures["copied"] == pytest.approx(figures["original"], abs=1e-12)
    assert 0 < figures["original"]["eval/mAP"] < 1


def test_the_readmes_commands(root, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = re.findall(r"<!-- run by tests/data/test_hashed.py -->\n```sh\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    original = prepared(Path("mine.parquet"), root)
    make_key, prepare = block.splitlines()
    subprocess.run(["sh", "-c", make_key], check=True)
    program, *arguments = prepare.split()
    assert (program, main(arguments)) == ("raid", 0)
    found = Samples.read(Path("hashed.parquet"))
    key = read_key(Path("identities.key"))
    assert set(found.identities.tolist()) == set(hash_identities(original, key).identities.tolist())
    assert found.root == tmp_path / "hashed_photos"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; make one: head -c 32 /dev/urandom > "),
        (b"", "is no key: wanted 16 to 4096 random bytes"),
        (b"short\n", "is no key"),
        (b"0123456789abcde\r\n\n", "is no key"),
        (b"x" * 4097, "is no key"),
    ],
)
def test_keys_that_are_none(root, tmp_path, capsys, content, message):
    key, out = tmp_path / "key", tmp_path / "out.parquet"
    if content is not None:
        key.write_bytes(content)
    line = refused(capsys, out, f"root={root}", "--hash-identities", "--identity-key", key)
    assert message in line
    assert not out.exists()


def test_a_key_is_the_bytes_of_its_file(tmp_path):
    (tmp_path / "key").write_bytes(b"\n \x00" + KEY + b"\r\n")
    assert read_key(tmp_path / "key") == b"\n \x00" + KEY
    assert len({fresh_key() for _ in range(5)}) == 5


def test_what_cannot_work_leaves_nothing(root, tmp_path, capsys):
    out, copies = tmp_path / "out.parquet", tmp_path / "copies"
    layout = [f"root={root}", "layout=folder", f"pattern={tiny.PATTERN}"]
    for option in (["--identity-key", tmp_path / "key"], ["--copy", copies]):
        assert f"{option[0]}: is for --hash-identities; add that" in refused(capsys, out, *layout, *option)
    hashing = ["--hash-identities", "--copy", copies]
    (tmp_path / "file").write_text("mine")
    assert re.search(
        "--copy: .*file: is there and not empty",
        refused(capsys, out, *layout, "--hash-identities", "--copy", tmp_path / "file"),
    )
    below = tmp_path / "file" / "below"
    assert "cannot be written" in refused(capsys, out, *layout, "--hash-identities", "--copy", below)
    (tmp_path / "file").unlink()
    # A manifest whose pictures have changed since.
    samples = prepared(tmp_path / "in.parquet", root)
    contents = samples.table["content"].to_pylist()
    contents[50] = "0" * 32
    place = samples.table.column_names.index("content")
    field = samples.table.schema.field("content")
    replace(samples, table=samples.table.set_column(place, field, pa.array(contents))).write(
        tmp_path / "in.parquet"
    )
    of_manifest = ["layout=manifest", f"root={tmp_path / 'in.parquet'}"]
    assert "has changed since the manifest was made" in refused(capsys, out, *of_manifest, *hashing)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
