"""Crops out of a tracker's boxes: what is cut is what a slow reading of the format cuts."""

import re
from pathlib import Path

import numpy as np
import pytest
from pictures import bomb, noise
from PIL import Image

from raid.cli import main
from raid.data.samples import Samples

WIDTH, HEIGHT, FRAMES = 60, 40, 5


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    return [noise(WIDTH, HEIGHT, seed=frame) for frame in range(FRAMES)]


@pytest.fixture
def video(tmp_path: Path, pixels) -> Path:
    """A sequence of five frames with lossless pictures and no boxes yet."""
    return write_video(tmp_path / "street", pixels)


def write_video(folder: Path, pixels: list[np.ndarray], images: str = "img1", suffix: str = ".png") -> Path:
    (folder / images).mkdir(parents=True)
    for frame, picture in enumerate(pixels, start=1):
        Image.fromarray(picture).save(folder / images / f"{frame:06d}{suffix}")
    return folder


def write_boxes(folder: Path, *lines: str, name: str = "gt/gt.txt") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def imported(out: Path, *arguments: object) -> Samples:
    """Import the sequences and options that are given."""
    texts = list(map(str, arguments))
    first = next((place for place, text in enumerate(texts) if text.startswith("--")), len(texts))
    texts.insert(first, str(out))
    assert main(["data", "import-mot", *texts, "--format", "png"]) == 0
    return Samples.read(out / "manifest.parquet")


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["data", "import-mot", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("raid: ")


def crop(samples: Samples, row: int) -> np.ndarray:
    return np.asarray(Image.open(samples.root / samples.paths[row]))


def test_random_boxes_are_cut_as_a_slow_reading_cuts_them(video, pixels, tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines, expected, empty = [], {}, 0
    for line in range(1, 201):
        frame, of = int(rng.integers(1, FRAMES + 1)), int(rng.integers(-1, 7))
        left, top, width, height = (round(float(value), 2) for value in rng.uniform(-30, 70, 4))
        lines.append(f"{frame},{of},{left},{top},{width},{height},{rng.random():.3f},-1,-1,-1")
        rows = [y for y in range(HEIGHT) if round(top) <= y < round(top + height)]
        columns = [x for x in range(WIDTH) if round(left) <= x < round(left + width)]
        if rows and columns:
            expected[line] = (frame, of, pixels[frame - 1][np.ix_(rows, columns)])
        else:
            empty += 1
    write_boxes(video, *lines, name="det/det.txt")
    samples = imported(tmp_path / "crops", video)
    assert f"left out: {empty} outside the frame, or empty" in capsys.readouterr().out
    assert min(empty, len(expected)) > 40
    assert len(samples) == len(expected)
    for row, (path, identity) in enumerate(
        zip(samples.paths, samples.table["identity"].to_pylist(), strict=True)
    ):
        found = re.fullmatch(r"street/(\d{6})_(nobody|id\d)_(\d+)\.png", path)
        frame, of, cut = expected[int(found[3])]
        assert int(found[1]) == frame
        assert (identity, found[2]) == ((None, "nobody") if of == -1 else (of, f"id{of}"))
        np.testing.assert_array_equal(crop(samples, row), cut)
    assert samples.camera_names == ("street",)
    assert set(samples.cameras.tolist()) == {0}
    assert samples.splits == ("train",)


def test_the_manifest_is_one_that_commands_take(video, tmp_path, capsys):
    write_boxes(video, "1,7,5,5,20,30,1,1,1.0", "3,7,8,5,20,30,1,1,0.4", "3,9,30,2,20,30,1,1,1")
    out = tmp_path / "new" / "crops"
    assert main(["data", "import-mot", str(video), str(out), "--quality", "80"]) == 0
    assert capsys.readouterr().out == f"{out}/manifest.parquet: 3 crops of 2 identities, 1 cameras\n"
    assert main(["data", "check", str(out / "manifest.parquet")]) == 0
    checked = capsys.readouterr().out
    assert "train       3           2        1" in checked
    assert sorted(path.name for path in out.iterdir()) == ["manifest.parquet", "street"]
    assert [path.name for path in out.parent.iterdir()] == ["crops"]
    with Image.open(out / "street" / "000001_id7_1.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (20, 30))


def test_sequences_are_cameras_and_share_no_identity(tmp_path, pixels):
    one, two = (write_video(tmp_path / name, pixels) for name in ("one", "two"))
    write_boxes(one, "1,7,0,0,9,9", "1,3,9,9,9,9", "2,-1,0,0,9,9")
    write_boxes(two, "1,7,0,0,9,9", "5,7,9,9,9,9", "5,90071992547409,9,9,9,9")
    samples = imported(tmp_path / "crops", one, two, "--camera", "2")
    people = zip(samples.paths, samples.table["identity"].to_pylist(), samples.cameras.tolist(), strict=True)
    assert list(people) == [
        ("one/000001_id3_2.png", 0, 2),
        ("one/000001_id7_1.png", 1, 2),
        ("one/000002_nobody_3.png", None, 2),
        ("two/000001_id7_1.png", 2, 3),
        ("two/000005_id7_2.png", 2, 3),
        ("two/000005_id90071992547409_3.png", 3, 3),
    ]
    assert samples.camera_names == ("0", "1", "one", "two")


def test_the_readmes_commands(tmp_path, pixels, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = re.findall(r"<!-- run by tests/data/test_mot.py -->\n```sh\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("door", "hall")):
        write_boxes(write_video(Path("videos", name), [noise(40, 80, seed=seed)]), "1,5,0,0,30,70")
    for line in block.splitlines():
        program, *arguments = line.split()
        assert (program, main(arguments)) == ("raid", 0)
    assert "crops/manifest.parquet: 2 crops of 2 identities, 2 cameras" in capsys.readouterr().out


TRUTH = (
    "1,1,0,0,10,20,1,1,1.0",
    "1,2,0,0,10,30,1,7,0.5",
    "2,3,0,0,10,30,0,8,1.0",
    "3,4,0,0,10,30,1,1,0.2",
    "3,5,0,25,10,30,1,1,0.9",  # of which 15 rows are in the frame
    "5,6,0,0,10,30,1,12,1.0",
)


@pytest.mark.parametrize(
    ("options", "kept", "left_out"),
    [
        ([], {1, 2, 4, 5, 6}, "1 marked as not to be considered"),
        (["--min-confidence", "0"], {1, 2, 3, 4, 5, 6}, ""),
        (["--min-confidence", "0.5"], {1, 2, 4, 5, 6}, "1 below --min-confidence"),
        (["--min-height", "16"], {1, 2, 4, 6}, "1 below --min-height"),
        (["--min-visibility", "0.5"], {1, 2, 5, 6}, "1 below --min-visibility"),
        (["--classes", "1,7"], {1, 2, 4, 5}, "1 of other classes"),
        (["--every", "2"], {1, 2, 4, 5, 6}, "1 in other frames (--every)"),
        (["--every", "4"], {1, 2, 6}, "3 in other frames (--every)"),
    ],
)
def test_which_boxes_are_taken(video, tmp_path, capsys, options, kept, left_out):
    write_boxes(video, *TRUTH)
    samples = imported(tmp_path / "crops", video, *options)
    assert set(samples.identities.tolist()) == kept
    said = [line.removeprefix("left out: ") for line in capsys.readouterr().out.splitlines()[1:]]
    assert (left_out in said) if left_out else said == []


def test_where_boxes_and_frames_are_is_found_or_given(tmp_path, pixels, capsys):
    video = write_video(tmp_path / "street", pixels, "pictures", ".bmp")
    Image.fromarray(pixels[0]).save(video / "pictures" / "000001.png")
    (video / "seqinfo.ini").write_text("[Sequence]\nname=street\nimDir=pictures\nimExt=.bmp\nframeRate=14\n")
    write_boxes(video, "1,1,0,0,9,9", name="det/det.txt")
    assert imported(tmp_path / "a", video).identities.tolist() == [1]
    write_boxes(video, "1,2,0,0,9,9")
    assert imported(tmp_path / "b", video).identities.tolist() == [2]
    write_boxes(video, "1,3,0,0,9,9", name="mine.txt")
    assert imported(tmp_path / "c", video, "--boxes", "mine.txt").identities.tolist() == [3]
    (video / "mine.txt").rename(tmp_path / "elsewhere.txt")
    (video / "pictures").rename(tmp_path / "frames")
    elsewhere = ["--boxes", tmp_path / "elsewhere.txt", "--frames", tmp_path / "frames"]
    assert imported(tmp_path / "d", video, *elsewhere).identities.tolist() == [3]
    other = write_video(tmp_path / "other", pixels)
    write_boxes(other, "1,2,0,0,9,9")
    assert "is not a file inside" in refused(capsys, video, other, tmp_path / "e", *elsewhere)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3", r"line 3: '1,2,3' is not frame,id,left,top,width,height,confidence,x,y,z"),
        ("1,2,3,4,5,6,7,8,9,10,11", "line 3: .* is not frame,id"),
        ("1,2,3,4,5,6,1", "line 3 has 7 values, the lines before it 9"),
        ("1,2,x,4,5,6,1,1,1", "line 3: left is 'x': not a number"),
        ("1,2,3,nan,5,6,1,1,1", "line 3: top is 'nan': not a number"),
        ("1,2,3,4,,6,1,1,1", "line 3: width is '': not a number"),
        ("1,2,3,4,5,inf,1,1,1", "line 3: height is inf: too large"),
        ("1,2,1e300,4,5,6,1,1,1", "line 3: left is 1e300: too large"),
        ("1e18,2,3,4,5,6,1,1,1", "line 3: frame is 1e18: too large"),
        ("1," + "9" * 400 + ",3,4,5,6,1,1,1", "line 3: id is 9{40}: too large"),
        ("1.5,2,3,4,5,6,1,1,1", "line 3: frame is 1.5: wanted a whole number from 0"),
        ("-1,2,3,4,5,6,1,1,1", "line 3: frame is -1: wanted a whole number from 0"),
        ("1,-2,3,4,5,6,1,1,1", "line 3: id is -2: wanted a whole number from -1"),
        ("1,2,3,4,5,6,one,1,1", "line 3: confidence is 'one': not a number"),
        (
            "9,2,3,4,5,6,1,1,1",
            r"img1: there is no picture of frame 9, of which .* has a box \(line 3\)",
        ),
        ("1,2,=cmd|'/C calc'!A0,4,5,6,1,1,1", "line 3: left is .*: not a number"),
        ("x" * 50_000, "line 3: 'x{40}' is not frame"),
    ],
)
def test_a_line_that_is_malformed_is_named(video, tmp_path, capsys, line, message):
    file = write_boxes(video, "1,1,0,0,9,9,1,1,1", "", line)
    before = sorted(tmp_path.rglob("*"))
    found = refused(capsys, video, tmp_path / "crops")
    assert re.search(message, found), found
    assert str(file) in found
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_work_is_one_line_and_leaves_nothing(video, tmp_path, capsys):
    out = tmp_path / "crops"
    write_boxes(video, "1,1,0,0,9,9,0.5,-1,-1,-1", "3,1,0,0,9,9,0.5,-1,-1,-1")
    frame = video / "img1" / "000003.png"
    whole = frame.read_bytes()

    def attempt(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        line = refused(capsys, *arguments)
        assert sorted(tmp_path.rglob("*")) == before
        return line

    assert "nowhere: there is no such folder (of a sequence" in attempt(tmp_path / "nowhere", out)
    assert "leave out --classes and --min-visibility" in attempt(video, out, "--classes", "1")
    assert "no box is left: 2 below --min-confidence" in attempt(video, out, "--min-confidence", "0.6")
    assert "no box is left: 2 below --min-height" in attempt(video, out, "--min-height", "10")
    assert "none.txt: cannot be read: No such file" in attempt(video, out, "--boxes", "none.txt")
    assert "none: there is no such folder; name that of the fr" in attempt(video, out, "--frames", "none")
    assert "2 sequences are called street" in attempt(video, video, out)
    for damaged, reason in (
        (b"", "cannot identify"),
        (whole[:-200], "truncated|broken"),
        (bomb(), "exceeds"),
    ):
        frame.write_bytes(damaged)
        assert re.search(rf"000003\.png: .*({reason}).*; mend the frame", attempt(video, out))
    frame.write_bytes(whole)
    (video / "img1" / "3.jpg").write_bytes(whole)
    assert "img1: 000003.png and 3.jpg are both of frame 3" in attempt(video, out)
    (video / "img1" / "3.jpg").unlink()
    for content, reason in (
        ("[Sequence]\nimDir=../../secrets\n", "is not a file inside"),
        ("[Sequence]\nimDir=/etc\n", "is not a file inside"),
        ("no ini", "not a sequence's description"),
        ("[Other]\n", "not a sequence's description"),
        ("[Sequence]\nimDir=%(imDir)s\n", r"%\(imDir\)s: there is no such folder"),
    ):
        (video / "seqinfo.ini").write_text(content)
        assert re.search(reason, attempt(video, out)), content
    (video / "seqinfo.ini").unlink()
    out.mkdir()
    (out / "mine").write_text("mine")
    assert "crops: is there and not empty; choose another folder" in attempt(video, out)
    assert "cannot be written" in attempt(video, out / "mine" / "below")
    (out / "mine").unlink()
    assert main(["data", "import-mot", str(video), str(out)]) == 0  # into an empty folder


@pytest.mark.parametrize(
    "options", [["--quality=0"], ["--camera=-1"], ["--every=0"], ["--min-confidence=nan"]]
)
def test_options_that_are_none(video, tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        main(["data", "import-mot", str(video), str(tmp_path / "crops"), *options])
    assert "is not a" in capsys.readouterr().err
