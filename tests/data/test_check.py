import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from pictures import bomb, encoded, exif, noise, photo
from PIL import Image

from raid.cli import main
from raid.data import folder
from raid.data.check import Report, check
from raid.data.findings import EXAMPLES, KINDS
from raid.data.samples import Samples

PATTERN = r"(?P<split>train|query|gallery)/(?:(?P<identity>-?\d+)_)?(?:c(?P<camera>\d+)_)?"


def jpeg(seed: int, **options: object) -> bytes:
    return encoded(photo(20, 40, seed), "JPEG", **options)


def clean() -> dict[str, bytes]:
    """Two identities to train on and two to find, each at two cameras."""
    names = [
        *(f"train/{identity}_c{camera}_a.jpg" for identity in (1, 2) for camera in (1, 2)),
        *(f"query/{identity}_c1_a.jpg" for identity in (3, 4)),
        *(f"gallery/{identity}_c2_a.jpg" for identity in (3, 4)),
    ]
    return {name: jpeg(seed) for seed, name in enumerate(names)}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Report]:
    """Check the clean set with these files beside it, or in place of its own."""

    def checked(more: dict[str, bytes] | None = None, *, pattern: str = PATTERN) -> Report:
        root = write(tmp_path / "set", clean() | (more or {}))
        return check(folder.load(root, pattern, on_error="unread"), num_threads=2)

    return checked


def found(report: Report) -> dict[str, list[str]]:
    """The examples of every finding, but what every set of one query a person has."""
    for finding in report.findings:
        assert len(finding.examples) == min(finding.count, EXAMPLES)
    usual = ("one_camera_query", "one_camera_gallery")
    return {finding.name: list(finding.examples) for finding in report.findings if finding.name not in usual}


def test_a_clean_set_has_nothing_to_mend(checked, tmp_path: Path) -> None:
    report = checked()
    assert found(report) == {}
    usual = [(finding.name, finding.count, finding.kind.severity) for finding in report.findings]
    assert usual == [("one_camera_query", 2, "info"), ("one_camera_gallery", 2, "info")]
    assert report.count("error") == report.count("warning") == 0
    rendered = tiny.write_images(tmp_path / "tiny")
    assert check(folder.load(rendered, tiny.PATTERN, on_error="unread")).findings == []


def cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


UNKNOWN = "layout not recognised: all images below the folder, no identities, no cameras"
TEST_HALF = ["query/0003_c1s1_1.jpg", "bounding_box_test/0003_c2s1_1.jpg"]
LARGE = encoded(photo(1200, 1000), "JPEG")


@pytest.mark.parametrize(
    ("name", "data", "kind", "example"),
    [
        ("9_c1_.jpg", b"", "empty", "zero bytes"),
        ("9_c1_.jpg", b"no image", "unreadable", "is not an image that PIL can open"),
        ("9_c1_.jpg", jpeg(9)[:50], "unreadable", "is not an image that PIL can open"),
        ("9_c1_.jpg", jpeg(9)[:-2], "truncated", None),
        ("9_c1_.jpg", LARGE[:-2], "truncated", None),
        ("9_c1_.png", cut(encoded(Image.fromarray(noise(64, 64)), "PNG")), "truncated", None),
        ("9_c1_.png", bomb(), "unreadable", None),
        ("9_c1_.tif", encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "unreadable", None),
    ],
    ids=["empty", "text", "header", "end", "large", "png", "bomb", "float"],
)
def test_a_damaged_file_is_an_error(checked, name, data, kind, example) -> None:
    # A whole picture of the identity at each camera, or it would be one of one camera.
    report = checked({"train/9_c1_b.jpg": jpeg(10), "train/9_c2_b.jpg": jpeg(11), f"train/{name}": data})
    (examples,) = found(report).values()
    assert list(found(report)) == [kind]
    assert KINDS[kind].severity == "error"
    (line,) = examples
    assert line.startswith(f"train/{name}: ")
    assert example is None or line == f"train/{name}: {example}"


def grey(width: int = 20, height: int = 40) -> Image.Image:
    return photo(width, height, 9).convert("L")


@pytest.mark.parametrize(
    ("name", "data", "kinds"),
    [
        ("b.png", jpeg(9), {"wrong_suffix": "{} is JPEG"}),
        ("b.jpg", encoded(photo(20, 40, 9), "PNG"), {"wrong_suffix": "{} is PNG"}),
        ("b.JPEG", jpeg(9), {}),
        ("b.jpg.jpg", jpeg(9), {}),
        ("b.jpg", encoded(grey(), "JPEG"), {"grey_saved": "{}"}),
        ("b.jpg", encoded(grey().convert("RGB"), "JPEG"), {"grey_coded": "{}"}),
        ("b.jpg", encoded(grey(1200, 1000).convert("RGB"), "JPEG"), {"grey_coded": "{}"}),
        ("b.jpg", LARGE, {}),
        ("b.jpg", jpeg(9, exif=exif(6)), {"rotated": "{}"}),
        ("b.jpg", jpeg(9, exif=exif(1)), {}),
        ("b.tif", encoded(photo(20, 40, 9), "TIFF", exif=exif(8)), {"rotated": "{}"}),
        ("b.png", encoded(Image.fromarray(noise(9, 9, 4)), "PNG"), {"transparent": "{}"}),
        ("b.png", encoded(photo(20, 40).quantize(9), "PNG"), {"palette": "{}"}),
        (
            "b.png",
            encoded(photo(20, 40).quantize(9), "PNG", transparency=0),
            {"transparent": "{}", "palette": "{}"},
        ),
        ("b.jpg", encoded(Image.fromarray(noise(9, 9, 4), "CMYK"), "JPEG"), {"cmyk": "{}"}),
        (
            "b.png",
            encoded(Image.fromarray(noise(9, 9, 1).astype(np.uint16)), "PNG"),
            {"grey_saved": "{}", "sixteen_bit": "{}"},
        ),
        (
            "b.tif",
            encoded(photo(9, 9), "TIFF", save_all=True, append_images=[photo(9, 9)]),
            {"more_frames": "{}"},
        ),
    ],
)
def test_odd_files_are_found_and_are_no_errors(checked, name, data, kinds) -> None:
    path = f"train/1_c1_{name}"
    report = checked({path: data})
    assert found(report) == {kind: [text.format(path)] for kind, text in kinds.items()}
    assert report.count("error") == 0


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"train/1_c1_b.jpg": jpeg(0)}, {"duplicates": ["train/1_c1_a.jpg = train/1_c1_b.jpg"]}),
        (
            {"train/2_c1_b.jpg": jpeg(0)},
            {
                "label_conflict": ["train/1_c1_a.jpg = train/2_c1_b.jpg (2 identities)"],
                "duplicates": ["train/1_c1_a.jpg = train/2_c1_b.jpg"],
            },
        ),
        (
            {"gallery/3_c1_b.jpg": jpeg(4)},
            {"query_gallery_overlap": ["gallery/3_c1_b.jpg = query/3_c1_a.jpg"]},
        ),
        (
            {"train/3_c1_b.jpg": jpeg(4), "train/3_c2_b.jpg": jpeg(20)},
            {
                "train_test_identities": ["identity 3: train/3_c1_b.jpg and query/3_c1_a.jpg"],
                "train_test_duplicates": ["query/3_c1_a.jpg = train/3_c1_b.jpg"],
            },
        ),
        (
            {"gallery/2_c1_b.jpg": jpeg(20)},
            {"train_test_identities": ["identity 2: train/2_c1_a.jpg and gallery/2_c1_b.jpg"]},
        ),
        ({"gallery/-1_c1_b.jpg": jpeg(20), "train/-1_c1_b.jpg": jpeg(21)}, {}),
        (
            {"gallery/-1_c1_b.jpg": jpeg(0)},
            {"train_test_duplicates": ["gallery/-1_c1_b.jpg = train/1_c1_a.jpg"]},
        ),
        ({"train/5_c2_a.jpg": jpeg(20)}, {"one_camera_train": ["identity 5: train/5_c2_a.jpg"]}),
        ({"query/6_c2_a.jpg": jpeg(20)}, {"no_match": ["query/6_c2_a.jpg"]}),
        ({"query/3_c2_b.jpg": jpeg(20)}, {"no_match": ["query/3_c2_b.jpg"]}),
        ({"train/c1_a.jpg": jpeg(20)}, {"unlabelled": ["train/c1_a.jpg"]}),
        ({"query/c1_a.jpg": jpeg(20)}, {"no_match": ["query/c1_a.jpg"]}),
        # Without a camera in query or gallery, an image of the same camera counts as a match.
        ({"train/1_a.jpg": jpeg(20)}, {"some_cameras": ["train/1_a.jpg"]}),
        ({"query/3_a.jpg": jpeg(20), "query/3_c2_b.jpg": jpeg(21)}, {"some_cameras": ["query/3_a.jpg"]}),
        # Two empty files are no duplicates.
        (
            {"train/1_c1_b.jpg": b"", "train/2_c1_b.jpg": b""},
            {"empty": [f"train/{n}_c1_b.jpg: zero bytes" for n in (1, 2)]},
        ),
    ],
)
def test_faults_between_images_are_found_and_named(checked, more, kinds) -> None:
    assert found(checked(more)) == kinds


def test_sets_of_one_camera_and_of_none(checked) -> None:
    split = "(?P<split>train|query|gallery)/"
    report = checked(pattern=split + r"(?P<identity>\d)_c\d_(?P<camera>a)")
    assert found(report)["single_camera"] == ["all 8 images"]
    assert found(report)["no_match"] == ["query/3_c1_a.jpg", "query/4_c1_a.jpg"]
    report = checked(pattern=split + r"(?P<identity>\d)")
    assert {name: len(examples) for name, examples in found(report).items()} == {"no_cameras": 8}


def test_what_a_set_is_made_of(checked) -> None:
    report = checked({"gallery/-1_c3_b.jpg": encoded(photo(30, 40, 9), "JPEG"), "gallery/c3_.jpg": b"x"})
    assert report.images == 10
    assert report.splits == [
        {"split": "train", "images": 4, "identities": 2, "cameras": 2},
        {"split": "query", "images": 2, "identities": 2, "cameras": 1},
        {"split": "gallery", "images": 4, "identities": 2, "cameras": 2},
    ]
    assert report.cameras == [
        {"camera": 0, "name": "1", "images": {"query": 2, "train": 2}, "identities": 4},
        {"camera": 1, "name": "2", "images": {"gallery": 2, "train": 2}, "identities": 4},
        {"camera": 2, "name": "3", "images": {"gallery": 2}, "identities": 0},
    ]
    assert report.sizes == {
        "width": {"min": 20, "p5": 20, "median": 20, "p95": 30, "max": 30},
        "height": {"min": 40, "p5": 40, "median": 40, "p95": 40, "max": 40},
        "height/width": {"min": 1.333, "p5": 1.333, "median": 2.0, "p95": 2.0, "max": 2.0},
        "commonest": {"20 x 40": 8, "30 x 40": 1},
    }


def test_the_fingerprint_is_the_manifests(checked, tmp_path: Path) -> None:
    report = checked({"train/1_c1_b.jpg": b"no image"})
    samples = folder.load(tmp_path / "set", PATTERN, on_error="skip")
    assert report.fingerprint == samples.fingerprint()
    assert check(samples).fingerprint == samples.fingerprint()
    text = dict.fromkeys(clean(), b"no image")
    write(tmp_path / "none", text)
    report = check(folder.load(tmp_path / "none", PATTERN, on_error="unread"))
    assert (report.fingerprint, report.sizes) == (None, None)
    assert report.to_text().endswith("1 kind of error, 0 kinds of warning")


def test_files_that_contradict_the_manifest(tmp_path: Path) -> None:
    root = write(tmp_path / "set", clean())
    samples = folder.load(root, PATTERN)
    (root / "train/1_c1_a.jpg").write_bytes(jpeg(30))
    (root / "train/2_c1_a.jpg").unlink()
    report = check(samples)
    assert found(report) == {
        "unreadable": ["train/2_c1_a.jpg: No such file or directory"],
        "changed": ["train/1_c1_a.jpg"],
    }
    assert report.fingerprint == samples.fingerprint()


def test_examples_are_limited_and_counts_are_not(checked) -> None:
    report = checked({f"train/1_c1_{number}.jpg": b"" for number in range(EXAMPLES + 7)})
    (empty,) = (finding for finding in report.findings if finding.name == "empty")
    assert (empty.count, len(empty.examples)) == (EXAMPLES + 7, EXAMPLES)
    assert "\n         - and 1,002 more\n" in report.to_text()


def test_the_worst_comes_first_with_what_to_do(checked) -> None:
    assert [kind.severity for kind in KINDS.values()] == sorted(
        (kind.severity for kind in KINDS.values()), key=["error", "warning", "info"].index
    )
    lines = checked({"train/1_c1_b.png": jpeg(9), "train/1_c1_c.jpg": b""}).to_text().splitlines()
    start = lines.index("ERROR    empty (1): files of zero bytes")
    assert lines[start + 1].startswith("         to do: mend them")
    assert lines[start + 2] == "         - train/1_c1_c.jpg: zero bytes"
    assert lines[start + 4].startswith("WARNING  wrong_suffix (1): files whose suffix")
    assert "train         6           2        2" in lines
    assert "2           2      0        2           4" in lines
    assert lines[-1] == "1 kind of error, 1 kind of warning"


def fields(root: Path) -> list[str]:
    return [f"root={root}", "layout=folder", f"pattern={PATTERN}"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write(tmp_path / "own", clean())


def test_the_json_has_these_keys(own: Path, tmp_path: Path, capsys) -> None:
    write(own, {"train/1_c1_b.jpg": b""})
    file = tmp_path / "report.json"
    assert main(["data", "check", *fields(own), "--json", str(file), "--workers=3"]) == 1
    assert capsys.readouterr().out.startswith(f"own: 9 images below {own}\nlayout folder\nfingerprint ")
    report = json.loads(file.read_text())
    assert list(report) == [
        *("format", "name", "root", "facts", "fingerprint", "images"),
        *("splits", "cameras", "sizes", "findings", "counts"),
    ]
    assert report["format"] == 1
    assert report["facts"] == {"layout": "folder"}
    assert report["counts"] == {"error": 1, "warning": 0, "info": 2}
    assert report["findings"][0] == {
        "name": "empty",
        "count": 1,
        "severity": "error",
        "meaning": KINDS["empty"].meaning,
        "advice": KINDS["empty"].advice,
        "examples": ["train/1_c1_b.jpg: zero bytes"],
    }
    assert main(["data", "check", "--json=-", *fields(own)]) == 1
    assert json.loads(capsys.readouterr().out) == report


def test_the_set_may_be_named_in_any_way(own: Path, tmp_path: Path, capsys) -> None:
    """A manifest, the fields, a folder with fields; each has the manifest's fingerprint."""
    manifest, table = tmp_path / "own.parquet", own / "own.csv"
    assert main(["data", "prepare", str(manifest), *fields(own)]) == 0
    rows = [f"{name},{name[-10]},{name[-7]},{name.split('/')[0]}" for name in clean()]
    table.write_text("\n".join(["path,identity,camera,split", *rows]))
    capsys.readouterr()
    expected = Samples.read(manifest).fingerprint()
    for given in (
        [str(manifest)],
        fields(own),
        [str(own), *fields(own)[1:]],
        [str(own), fields(own)[2]],
        [str(table)],
    ):
        assert main(["data", "check", *given]) == 0
        out = capsys.readouterr().out
        assert f"fingerprint {expected}\n" in out
        assert out.endswith("0 kinds of error, 0 kinds of warning\n")


def msmt17_files(train: str, test: str) -> list[str]:
    """Return the names of a set of one picture a list, and of its lists."""
    parts = [(train, "train"), (train, "val"), (test, "query"), (test, "gallery")]
    pictures = [
        f"{folder}/0000/0000_000_{n + 1:02}_0303morning_0008_0.jpg" for n, (folder, _) in enumerate(parts)
    ]
    return [*pictures, *(f"{folder}/../list_{part}.txt" for folder, part in parts)]


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (["photos/a.jpg"], [UNKNOWN]),
        (["Visits/cam_a/me.jpg", "cam_a/you.jpg"], [UNKNOWN]),
        (["bounding_box_train/0002_c1s1_1.jpg", *TEST_HALF], ["layout market1501"]),
        (["bounding_box_train/0002_c1_f1.jpg", *TEST_HALF], ["layout dukemtmc"]),
        (["bounding_box_train/0002_c15_1.jpg", *TEST_HALF], ["layout msmt17", "version V1 repacked"]),
        (msmt17_files("train", "test"), ["layout msmt17", "version V1"]),
        (
            msmt17_files("MSMT17_V2/mask_train_v2", "MSMT17_V2/mask_test_v2"),
            ["layout msmt17", "version V2"],
        ),
        (["cam_a/000_0.bmp", "cam_a/001_0.bmp", "cam_b/000_90.bmp", "cam_b/001_90.bmp"], ["layout viper"]),
    ],
)
def test_a_folder_alone_is_recognised(tmp_path: Path, capsys, names, facts) -> None:
    root = tmp_path / "set"
    write(root, {name: jpeg(number) for number, name in enumerate(names) if not name.endswith(".txt")})
    pictures = (name for name in names if "0303morning" in name)
    for name in names:
        if name.endswith(".txt"):
            (root / name).resolve().write_text("/".join(next(pictures).split("/")[-2:]) + " 0\n")
    assert main(["data", "check", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(facts) <= set(lines)
    assert any(line.startswith("version") for line in lines) == any("version" in fact for fact in facts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["none"], "none: there is no such file"),
        (["empty"], "empty: no image file below this folder"),
        (["root=empty"], "empty: no folder bounding_box_train here"),
        (["empty", "layot=folder"], "layot: unknown key; did you mean layout?"),
        (["empty", "layout=folder"], "pattern: is required by layout folder"),
        (["empty/notes.txt"], "empty/notes.txt: not a Parquet file"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path: Path, capsys, monkeypatch, given, message) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"empty/notes.txt": b"nothing"})
    assert main(["data", "check", *given]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert errors.startswith(f"raid: {message}"), errors


def test_a_json_that_cannot_be_written(own: Path, capsys) -> None:
    assert main(["data", "check", *fields(own), "--json", str(own)]) == 2
    assert capsys.readouterr().err.startswith(f"raid: {own}: cannot be written: ")
