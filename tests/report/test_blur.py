"""Reports whose pictures show nobody: `raid report --blur` and runs with run.blur."""

import made_up_mar
import made_up_slsr
import numpy as np
import page
import pytest
import tiny
from made_up import figures, recorded, written
from pictures import noise

from raid.cli import main
from raid.data.blurring import blurred
from raid.methods.slsr.grids import write_grid
from raid.report import pictures, write_report
from raid.run_folder import RunFolder


def sources(tree: page.Node) -> list[str]:
    return [node.attributes["src"] for node in tree.all("img")]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every picture as it is before it is encoded for a page."""
    found = []
    encode = pictures.jpeg_uri
    monkeypatch.setattr(
        pictures,
        "jpeg_uri",
        lambda image, quality: (found.append(np.asarray(image)), encode(image, quality))[1],
    )
    return found


def assert_blurred(found: list[np.ndarray]) -> None:
    """Each is 16 x 32, of two pixels a block."""
    for picture in found:
        assert picture.shape == (32, 16, 3)
        assert (blurred(picture) == picture).all()


def anew(folder: RunFolder, *options: str) -> page.Node:
    before = folder.report.read_bytes()
    try:
        assert main(["report", str(folder.path), *options]) == 0
        return page.read(folder.report)
    finally:
        folder.report.write_bytes(before)


@pytest.mark.parametrize(("name", "count"), [("run", 99), ("mar_run", 28 + 24 + 99)])
def test_the_command_blurs_every_picture_of_a_page(name, count, request, shown):
    folder = request.getfixturevalue(name)
    clear = sources(page.read(folder.report))
    shown.clear()  # the fixture's own
    blur = sources(anew(folder, "--blur"))
    assert len(blur) == len(clear) == len(shown) == count
    assert not set(blur) & set(clear)
    assert_blurred(shown)


def test_the_command_blurs_the_grids_of_gans(root, inputs, tmp_path, shown):
    config = made_up_slsr.config(root, tmp_path / "run")
    of_set = {"data.root": inputs.fingerprint}
    folder = made_up_slsr.recorded(config, made_up_slsr.epochs(), fingerprint=of_set)
    height, width = config.gan.height, config.gan.width
    for seed, path in enumerate(sorted(folder.gans.glob("*/*.png"))):
        write_grid(
            path, noise(width, 10 * height, seed=seed).reshape(10, height, width, 3).transpose(0, 3, 1, 2)
        )
    clear = sources(written(folder))
    shown.clear()
    blur = sources(anew(folder, "--blur"))
    assert len(blur) == len(clear) == len(shown) > 4
    assert not set(blur) & set(clear)
    for sheet in shown:
        assert sheet.shape == (2 * (height + 2) - 2, 8 * (width + 2) - 2, 3)
        for number in range(10):
            top, left = number // 8 * (height + 2), number % 8 * (width + 2)
            one = sheet[top : top + height, left : left + width]
            assert (blurred(one) == one).all()
            assert len(np.unique(one.reshape(-1, 3), axis=0)) > 50  # blurred by itself, not as a whole


def test_a_run_of_its_own_is_blurred_whatever_writes_its_page(root, inputs, tmp_path, shown):
    config = tiny.config(root, tmp_path / "run", run__blur=True)
    folder = recorded(config, inputs, [figures(0)])
    of_run = sources(written(folder, inputs.retrieval))
    assert len(of_run) == len(shown) == 99
    assert_blurred(shown)
    assert sources(anew(folder)) == of_run


def test_a_run_of_mar_is_blurred_too(source, root, both, sets, tmp_path, shown):
    config = made_up_mar.config(source, root, tmp_path / "run", run__blur=True)
    fingerprint = both.fingerprint(config)
    folder = made_up_mar.recorded(config, sets, [made_up_mar.figures(3)], fingerprint=fingerprint)
    shown.clear()
    write_report(folder, both.target.retrieval, sets)
    assert len(shown) > 20
    assert_blurred(shown)
