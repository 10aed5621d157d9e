"""Simulated person images as JPEG files in Market-1501's layout.

No picture of a real person is involved: figures in patterned clothes (`raid.data.people`) walk past
cameras with a place and colours of their own (`raid.data.scene`). Every identity, camera, track and image
draws from its own stream of random numbers, so that none depends on how many others are drawn.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from raid.data import figures, people, scene
from raid.data.people import Person
from raid.data.scene import Camera, Passage
from raid.data.streams import stream
from raid.errors import InputError

SETTINGS_FILE = "synthetic.json"
# To be raised whenever the same settings give other files, so that old folders are not taken for new ones.
_VERSION = 1
_SUPERSAMPLING = 2


class _Purpose(IntEnum):
    """What random numbers are for; the values are part of what a seed means."""

    PERSON = 0
    PALETTE = 1
    CAMERA = 2
    VISITS = 3
    TRACK = 4
    IMAGE = 5
    STRANGER = 6
    JUNK = 7


@dataclass(frozen=True)
class Settings:
    """What determines the files.

    Attributes:
        seed: of all random numbers.
        num_identities: people in the train and the test half together.
        num_cameras: cameras.
        height: of the images (pixels).
        width: of the images (pixels).
        min_frames: fewest images of an identity at a camera; one of a test identity's is its query.
        max_frames: most images of an identity at a camera.
        camera_strength: how much the cameras differ in colours and sharpness (0: not at all).
        lookalike_share: share of the identities that wear the same colours as another one in other
            patterns and cuts.
        distractor_share: people of no identity (0000) in the gallery, per test identity.
        junk_share: junk boxes (-1) in the gallery, per test identity.
        occlusion_share: share of the tracks in which something hides part of the person.
    """

    seed: int = 0
    num_identities: int = 160
    num_cameras: int = 6
    height: int = 128
    width: int = 64
    min_frames: int = 2
    max_frames: int = 4
    camera_strength: float = 1.0
    lookalike_share: float = 0.2
    distractor_share: float = 1.0
    junk_share: float = 0.5
    occlusion_share: float = 0.15


@dataclass(frozen=True)
class Shot:
    """One image to be rendered: identity (-1 junk, 0 nobody's), camera and number, both from 0."""

    identity: int
    camera: int
    number: int


def write_market1501(out: Path, settings: Settings) -> None:
    """Write a data set in Market-1501's layout to the folder `out`: as a whole, or not at all.

    A folder that already holds the same settings is left as it is; the same settings give the same bytes.

    Raises:
        InputError: a setting is out of range, or `out` holds something else.
    """
    _validate(settings)
    if _already_written(out, settings):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        for folder, name, content in render_files(settings):
            (temporary / folder).mkdir(exist_ok=True)
            (temporary / folder / name).write_bytes(content)
        (temporary / SETTINGS_FILE).write_text(_description(settings))
        temporary.chmod(0o755)
        _move(temporary, out, settings)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def render_files(settings: Settings) -> Iterator[tuple[str, str, bytes]]:
    """Yield (folder, file name, content) of every image."""
    world = World(settings)
    for folder, shot in world.shots():
        yield folder, world.file_name(shot), world.render(shot)


class World:
    """The people, cameras and tracks that settings describe; every image can be rendered by itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def cameras(self) -> list[Camera]:
        """Return the cameras."""
        settings = self.settings
        return [
            scene.draw_camera(
                self._random(_Purpose.CAMERA, camera),
                place=camera + settings.seed,
                strength=settings.camera_strength,
                height=settings.height,
                width=settings.width,
            )
            for camera in range(settings.num_cameras)
        ]

    def lookalike(self, identity: int) -> int:
        """Return the identity that wears the same colours as `identity`, or `identity` itself if none does.

        Within each half (train, test) the first identities are paired.
        """
        half = self.settings.num_identities // 2
        start, size = (1, half) if identity <= half else (half + 1, self.settings.num_identities - half)
        paired = 2 * round(self.settings.lookalike_share * size / 2)
        offset = identity - start
        return start + (offset ^ 1) if offset < paired else identity

    def person(self, identity: int) -> Person:
        """Return the person of an identity (from 1)."""
        other = self.lookalike(identity)
        palette = people.draw_palette(self._random(_Purpose.PALETTE, min(identity, other)))
        variant = None if other == identity else int(identity > other)
        return people.draw_person(self._random(_Purpose.PERSON, identity), palette, variant=variant)

    def visited_cameras(self, identity: int) -> list[int]:
        """Return the cameras, at least 2, that see an identity."""
        generator = self._random(_Purpose.VISITS, identity)
        count = generator.integers(2, self.settings.num_cameras + 1)
        return sorted(generator.permutation(self.settings.num_cameras)[:count].tolist())

    def num_frames(self, identity: int, camera: int) -> int:
        """Return the number of images of an identity at a camera."""
        generator = self._random(_Purpose.VISITS, identity, camera)
        return int(generator.integers(self.settings.min_frames, self.settings.max_frames + 1))

    def query_frame(self, identity: int, camera: int) -> int:
        """Return which of a test identity's images at a camera is the query."""
        frames = self.num_frames(identity, camera)
        return int(self._random(_Purpose.VISITS, identity, camera, 1).integers(frames))

    def shots(self) -> Iterator[tuple[str, Shot]]:
        """Yield the folder of every image and what it shows."""
        settings = self.settings
        for identity in range(1, settings.num_identities + 1):
            for camera in self.visited_cameras(identity):
                query = self.query_frame(identity, camera)
                for number in range(self.num_frames(identity, camera)):
                    test_folder = "query" if number == query else "bounding_box_test"
                    in_train = identity <= settings.num_identities // 2
                    folder = "bounding_box_train" if in_train else test_folder
                    yield folder, Shot(identity, camera, number)
        for identity, share in ((0, settings.distractor_share), (-1, settings.junk_share)):
            for number in range(round(share * settings.num_identities / 2)):
                yield "bounding_box_test", Shot(identity, number % settings.num_cameras, number)

    def file_name(self, shot: Shot) -> str:
        """Return the name that Market-1501 would give the image."""
        label = str(shot.identity) if shot.identity < 0 else f"{shot.identity:04d}"
        if shot.identity > 0:
            generator = self._random(_Purpose.TRACK, shot.identity, shot.camera, 1)
            sequence = int(generator.integers(1, 4))
            frame = int(generator.integers(1, 90000)) + 25 * shot.number
        else:
            sequence, frame = 1, 25 * (shot.number + 1)
        return f"{label}_c{shot.camera + 1}s{sequence}_{frame:06d}_{shot.number % 4 + 1:02d}.jpg"

    def render(self, shot: Shot) -> bytes:
        """Render one image as the bytes of a JPEG file."""
        camera = self.cameras[shot.camera]
        if shot.identity > 0:
            track = self._random(_Purpose.TRACK, shot.identity, shot.camera)
            image = self._random(_Purpose.IMAGE, shot.identity, shot.camera, shot.number)
            person: Person | None = self.person(shot.identity)
        else:
            purpose = _Purpose.STRANGER if shot.identity == 0 else _Purpose.JUNK
            track = image = self._random(purpose, shot.number)
            person = _stranger(track)
        passage = scene.draw_passage(track, camera)
        passage = scene.next_frame(passage, image, shot.number if shot.identity > 0 else 0)
        if shot.identity < 0:
            person, passage = _spoil(person, passage, image)
        hidden = track.random() < self.settings.occlusion_share
        picture = self._compose(camera, passage, person, _occluder(track) if hidden else None, image)
        return scene.expose(camera, picture, image, light=passage.light)

    def _compose(
        self,
        camera: Camera,
        passage: Passage,
        person: Person | None,
        passer_by: tuple[Person, float] | None,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Put the figures before the backdrop: (H, W, 3) float32 in 0..1."""
        height, width = self.settings.height, self.settings.width
        picture = scene.crop_backdrop(camera, passage, height, width)
        size = width * _SUPERSAMPLING, height * _SUPERSAMPLING
        spot = scene.placement(passage, camera, size[1], size[0])
        walkers = [] if person is None else [(person, spot)]
        if passer_by is not None:
            other, offset = passer_by
            walkers.append(
                (other, figures.Placement(spot.x + offset * spot.height, spot.y, spot.height, spot.pitch))
            )
        for who, where in walkers:
            layer = figures.draw_figure(who, scene.pose(passage), where, size).reduce(_SUPERSAMPLING)
            picture = _lay_over(picture, layer, generator)
        return picture

    def _random(self, purpose: _Purpose, *numbers: int) -> np.random.Generator:
        return stream(self.settings.seed, purpose, *numbers)


def _stranger(generator: np.random.Generator) -> Person:
    return people.draw_person(generator, people.draw_palette(generator))


def _occluder(generator: np.random.Generator) -> tuple[Person, float]:
    """Return a passer-by and how far beside the person (in body heights) they are."""
    return _stranger(generator), float(generator.choice([-1, 1]) * generator.uniform(0.16, 0.28))


def _spoil(
    person: Person | None, passage: Passage, generator: np.random.Generator
) -> tuple[Person | None, Passage]:
    """Turn a good box into junk: nobody in it, or a part of a body."""
    if generator.random() < 0.5:
        return None, passage
    shift = float(generator.uniform(-0.25, 0.25)), float(generator.uniform(-0.6, 0.6))
    return person, replace(passage, scale=float(generator.uniform(1.2, 2.2)), shift=shift)


def _lay_over(picture: np.ndarray, layer: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Lay a figure over a picture, darker where its body turns away from the light and in folds."""
    figure = np.asarray(layer, dtype=np.float32) / 255
    alpha = figure[..., 3:]
    height, width = alpha.shape[:2]
    inner = (
        np.asarray(layer.getchannel("A").filter(ImageFilter.GaussianBlur(height / 40)), dtype=np.float32)
        / 255
    )
    folds = scene.smooth_noise(generator, (width, height), max(2, height // 24))
    shade = 0.62 + 0.4 * inner + 0.05 * folds
    shadow = 1 - 0.35 * inner[..., None] * np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return picture * shadow * (1 - alpha) + figure[..., :3] * shade[..., None] * alpha


def _validate(settings: Settings) -> None:
    lowest = {"seed": 0, "num_identities": 4, "num_cameras": 2, "height": 16, "width": 8, "min_frames": 2}
    for name, least in lowest.items():
        if getattr(settings, name) < least:
            raise InputError(f"{name}: {getattr(settings, name)} is too small; give at least {least}")
    if settings.num_identities > 9999:
        raise InputError("num_identities: file names have four digits for it; give at most 9999")
    if settings.max_frames < settings.min_frames:
        raise InputError(f"max_frames: {settings.max_frames} is less than min_frames, {settings.min_frames}")
    for name in ("camera_strength", "lookalike_share", "distractor_share", "junk_share", "occlusion_share"):
        value = getattr(settings, name)
        most = 1.0 if name in ("lookalike_share", "occlusion_share") else math.inf
        if not 0 <= value <= most:
            raise InputError(f"{name}: {value} is out of range; give a number from 0 to {most:g}")


def _description(settings: Settings) -> str:
    return json.dumps({"version": _VERSION, **asdict(settings)}, indent=2) + "\n"


def _already_written(out: Path, settings: Settings) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    file = out / SETTINGS_FILE
    if not file.is_file():
        raise InputError(f"{out}: exists and is no rendered data set; remove it or choose another folder")
    if file.read_text() != _description(settings):
        raise InputError(
            f"{out}: was rendered with other settings (see {SETTINGS_FILE}); remove it or choose another"
        )
    return True


def _move(temporary: Path, out: Path, settings: Settings) -> None:
    try:
        os.rename(temporary, out)
    except OSError:
        # Another process may have been quicker with the same settings.
        if not _already_written(out, settings):
            raise
