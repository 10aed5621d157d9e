import io
import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raid.data import people, render
from raid.data.figures import Placement, draw_figure
from raid.data.render import Settings, Shot, World, write_market1501
from raid.errors import InputError

NAME = re.compile(r"(-1|\d{4})_c(\d+)s\d_\d{6}_\d{2}\.jpg")
SMALL = {"seed": 3, "num_identities": 12, "num_cameras": 3, "height": 32, "width": 16}
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("render") / "small"
    write_market1501(out, Settings(**SMALL))
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()
    }


def images_by_identity(root: Path, folder: str) -> dict[int, list[int]]:
    cameras = defaultdict(list)
    for file in (root / folder).iterdir():
        identity, camera = NAME.fullmatch(file.name).groups()
        cameras[int(identity)].append(int(camera))
    return cameras


def test_same_settings_give_the_same_bytes(small, tmp_path):
    write_market1501(tmp_path / "again", Settings(**SMALL))
    assert contents(tmp_path / "again") == contents(small)


def test_another_seed_gives_other_bytes(small, tmp_path):
    write_market1501(tmp_path / "other", Settings(**{**SMALL, "seed": 4}))
    first, second = set(contents(small).values()), set(contents(tmp_path / "other").values())
    assert not first & second


def test_an_image_does_not_depend_on_those_rendered_before():
    settings = Settings(**SMALL)
    world = World(settings)
    shots = [shot for _, shot in world.shots()]
    forward = {shot: world.render(shot) for shot in shots}
    assert all(World(settings).render(shot) == forward[shot] for shot in shots[::-7])
    more_people = World(replace(settings, lookalike_share=0.0, num_identities=40))
    fewer_people = World(replace(settings, lookalike_share=0.0))
    assert more_people.render(Shot(5, 1, 0)) == fewer_people.render(Shot(5, 1, 0))


def test_files_are_images_of_the_size_asked_for_with_names_that_parse(small):
    files = [file for folder in FOLDERS for file in (small / folder).iterdir()]
    assert len(files) > 60
    for file in files:
        assert NAME.fullmatch(file.name), file.name
        with Image.open(file) as image:
            assert (image.size, image.format, image.mode) == ((16, 32), "JPEG", "RGB")
    # No two images went to the same name.
    assert len(files) == len(list(World(Settings(**SMALL)).shots()))


def test_train_and_test_identities_are_disjoint_halves(small):
    train, query, gallery = (images_by_identity(small, folder) for folder in FOLDERS)
    assert set(train) == set(range(1, 7))
    assert set(query) == set(range(7, 13))
    assert set(gallery) == {-1, 0, *query}


def test_queries_are_one_an_identity_and_camera_and_have_a_match_at_another(small):
    query, gallery = (images_by_identity(small, folder) for folder in FOLDERS[1:])
    for identity, cameras in query.items():
        assert len(cameras) == len(set(cameras)) >= 2
        for camera in cameras:
            assert any(other != camera for other in gallery[identity])


def test_every_identity_is_seen_by_at_least_two_cameras_and_not_all_by_all():
    world = World(Settings(**{**SMALL, "num_identities": 40, "num_cameras": 5}))
    counts = [len(set(world.visited_cameras(identity))) for identity in range(1, 41)]
    assert min(counts) == 2
    assert max(counts) == 5


def test_a_fifth_of_the_identities_share_their_colours_but_not_their_looks():
    world = World(Settings(0, 160, 6, 128, 64))
    by_palette = defaultdict(list)
    for identity in range(1, 161):
        by_palette[world.person(identity).palette].append(identity)
    pairs = [group for group in by_palette.values() if len(group) > 1]
    assert sum(map(len, pairs)) == 32
    for first, second in pairs:
        assert (first <= 80) == (second <= 80)  # or training people would be seen again in the test
        one, other = world.person(first), world.person(second)
        assert one.upper_pattern != other.upper_pattern
        assert one.bag != other.bag
        assert one.lower_cut != other.lower_cut


def test_strong_cameras_differ_in_colour_and_weak_ones_do_not():
    def spread(strength):
        world = World(Settings(0, 20, 6, 32, 16, camera_strength=strength))
        responses = np.stack([camera.response for camera in world.cameras])
        return float(responses.std(axis=0).mean())

    assert spread(0.0) == 0.0
    assert 0 < spread(0.5) < spread(1.0)


def test_frames_of_a_track_resemble_each_other_more_than_other_tracks():
    world = World(Settings(0, 40, 4, 64, 32, occlusion_share=0.0))

    def pixels(shot):
        file = world.render(shot)
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image, dtype=np.float32)

    within, across = [], []
    for identity in range(1, 11):
        camera, other = world.visited_cameras(identity)[:2]
        start = pixels(Shot(identity, camera, 0))
        within.append(np.abs(start - pixels(Shot(identity, camera, 1))).mean())
        across.append(np.abs(start - pixels(Shot(identity, other, 0))).mean())
    assert np.mean(within) < 0.8 * np.mean(across)


def test_a_backpack_shows_from_behind_and_a_logo_from_the_front():
    palette = people.Palette(*[(shade, shade, 90) for shade in (40, 60, 80)], (255, 0, 0),
                             (100, 100, 90), (120, 120, 90), (0, 255, 0))  # fmt: skip
    person = people.Person(
        palette, 1.0, "short", "logo", 0.08, 0.5, 1.0, False, "trousers", "plain", "backpack"
    )

    def area(angle, colour):
        figure = draw_figure(person, people.Pose(angle, 0.0, 0.3, 0.3), Placement(64, 8, 240), (128, 256))
        return int((np.asarray(figure)[..., :3] == colour).all(-1).sum())

    assert area(0.0, palette.accent) > 100
    assert area(np.pi, palette.accent) == 0
    assert area(np.pi, palette.bag) > 3 * area(0.0, palette.bag)


def test_a_folder_with_the_same_settings_is_left_alone(small):
    before = {file: file.stat().st_mtime_ns for file in small.rglob("*")}
    write_market1501(small, Settings(**SMALL))
    assert {file: file.stat().st_mtime_ns for file in small.rglob("*")} == before


def test_a_folder_with_other_settings_or_contents_is_refused(small, tmp_path):
    with pytest.raises(InputError, match="other settings"):
        write_market1501(small, Settings(**{**SMALL, "seed": 9}))
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="no rendered data set"):
        write_market1501(tmp_path, Settings(**SMALL))
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_nothing_is_left_behind_when_rendering_fails(tmp_path, monkeypatch):
    def fail(self, shot):
        raise RuntimeError("out of paint")

    monkeypatch.setattr(render.World, "render", fail)
    with pytest.raises(RuntimeError, match="out of paint"):
        write_market1501(tmp_path / "set", Settings(**SMALL))
    assert list(tmp_path.iterdir()) == []


def test_the_settings_are_kept_beside_the_images(small):
    kept = json.loads((small / render.SETTINGS_FILE).read_text())
    assert kept.items() >= SMALL.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("num_identities", 3), ("num_identities", 10000), ("num_cameras", 1), ("height", 8),
     ("min_frames", 1), ("max_frames", 1), ("camera_strength", -0.1), ("lookalike_share", 1.5),
     ("camera_strength", float("nan"))],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(tmp_path, name, value):
    with pytest.raises(InputError, match=name):
        write_market1501(tmp_path / "set", Settings(**{**SMALL, name: value}))
    assert list(tmp_path.iterdir()) == []
