from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raid.data import table
from raid.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, path in enumerate(["b.png", "in/a.png", "c.png"]):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 5), (number, 0, 0)).save(tmp_path / path)
    return tmp_path


def csv(root: Path, text: str) -> Path:
    file = root / "list.csv"
    file.write_text(text)
    return file


def test_csv(root: Path) -> None:
    samples = table.load(
        csv(root, "path,identity,camera,split\nb.png,7,12,train\nin/a.png,-1,3,gallery\nc.png,,3,query\n")
    )
    assert samples.paths == ["b.png", "c.png", "in/a.png"]
    assert samples.table["identity"].to_pylist() == [7, None, -1]
    np.testing.assert_array_equal(samples.cameras, [1, 0, 0])
    assert samples.camera_names == ("3", "12")
    assert samples.table["split"].to_pylist() == ["train", "query", "gallery"]
    assert samples.name == "list"
    assert samples.root == root


def test_parquet_equals_csv(root: Path) -> None:
    file = root / "list.parquet"
    # Floats: what pandas makes of integers with a gap.
    columns = {
        "path": ["b.png", "in/a.png", "c.png"],
        "identity": [7.0, float("nan"), -1.0],
        "camera": [12, 3, 3],
    }
    pq.write_table(pa.table(columns), file)
    samples = table.load(file)
    text = csv(root, "path,identity,camera\nb.png,7.0,12\nin/a.png,,3\nc.png,-1.0,3\n")
    assert samples.table["identity"].to_pylist() == [7, -1, None]
    assert table.load(text).fingerprint() == samples.fingerprint()


def test_optional_columns_and_own_names(root: Path) -> None:
    samples = table.load(
        csv(root, "file,who\nb.png,anna\nc.png,NA\n"), path_column="file", identity_column="who"
    )
    np.testing.assert_array_equal(samples.identities, [1, 0])
    assert not samples.has_cameras
    assert samples.splits == ("train",)
    with pytest.raises(InputError, match=r"no column 'pid' \(its columns: file, who\)"):
        table.load(root / "list.csv", path_column="file", identity_column="pid")


def test_a_missing_path_column_lists_those_there(root: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'path' \(its columns: image, camera\)"):
        table.load(csv(root, "image,camera\nb.png,1\n"))
    with pytest.raises(InputError, match="two columns 'path'"):
        table.load(csv(root, "path,path\nb.png,b.png\n"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("b.png,train\nnone.png,train", r"row 2: there is no file"),
        ("b.png,train\n,train", "row 2 has no path"),
        ("b.png,train\nc.png,val", "row 2 has split 'val'"),
        ("b.png,train\nc.png,", "row 2 has split ''"),
        ("b.png,train\n../c.png,train", "row 2.*not a file inside"),
        ("b.png,train\n/etc/passwd,train", "row 2.*not a file inside"),
        ("b.png,train\n./b.png,train", r"b\.png is listed 2 times"),
        ("b.png,train\nc.png", "cannot be read as a table"),
        ("b.png,\xff", "cannot be read|has split"),
    ],
)
def test_wrong_rows_are_named(root: Path, rows: str, message: str) -> None:
    file = root / "list.csv"
    file.write_bytes(f"path,split\n{rows}\n".encode("latin-1"))
    with pytest.raises(InputError, match=message) as raised:
        table.load(file)
    assert "\n" not in str(raised.value)


def test_missing_files_can_be_skipped(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = csv(root, "path,camera\nnone.png,5\nb.png,6\n")
    samples = table.load(file, on_error="skip")
    assert samples.paths == ["b.png"]
    assert "left out 1 of 2" in caplog.text


def test_root_and_absolute_paths(root: Path, tmp_path: Path) -> None:
    (root / "lists").mkdir()
    file = root / "lists" / "list.csv"
    file.write_text(f"path\nb.png\n{root}/c.png\n")
    assert table.load(file, root=root).paths == ["b.png", "c.png"]
    with pytest.raises(InputError, match=r"row 2"):
        table.load(file)


def test_other_files(root: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        table.load(root / "none.csv")
    with pytest.raises(InputError, match="a table is"):
        table.load(root / "b.png")
    with pytest.raises(InputError, match="no rows"):
        table.load(csv(root, "path,camera\n"))
    with pytest.raises(InputError, match="cannot be read as a table"):
        table.load(csv(root, ""))
    (root / "x.parquet").write_text("no")
    with pytest.raises(InputError, match="cannot be read as a table"):
        table.load(root / "x.parquet")
