"""Simulated cameras: the place each one watches, the way it sees people, and how it renders colours."""

import io
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from raid.data.figures import Placement
from raid.data.people import Colour, Pose

_GROUNDS: tuple[Colour, ...] = (
    (148, 146, 140), (132, 134, 126), (160, 156, 149), (124, 124, 127), (150, 144, 138), (138, 140, 141),
)  # fmt: skip
_WALLS: tuple[Colour, ...] = (
    (84, 104, 72), (152, 116, 98), (128, 136, 146), (186, 182, 172), (104, 98, 90), (80, 96, 88),
    (168, 156, 128), (142, 140, 138),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera of the network.

    Attributes:
        response: colours seen for colours there (3, 3) float32.
        exposure: factor of the light.
        gamma: exponent of the tone curve.
        haze: share of white veil.
        blur: sigma, in shares of the image height.
        resolution: share of the image's rows that the sensor resolves.
        light: direction and strength of the illumination gradient over the image (x, y).
        facing: usual angle of the people who pass (radians).
        pitch: see `people.Placement`.
        jpeg_quality: of the files.
        backdrop: the place, wider and higher than an image.
    """

    response: np.ndarray
    exposure: float
    gamma: float
    haze: float
    blur: float
    resolution: float
    light: tuple[float, float]
    facing: float
    pitch: float
    jpeg_quality: int
    backdrop: Image.Image


def draw_camera(
    generator: np.random.Generator, *, place: int, strength: float, height: int, width: int
) -> Camera:
    """Draw a camera for images of `height` x `width` pixels.

    Args:
        generator: random numbers.
        place: number of the place; neighbouring numbers differ in ground and walls.
        strength: 0 all cameras render colours alike and sharply, 1 they differ as real ones do.
        height: of the images.
        width: of the images.
    """
    mixing = np.eye(3) + strength * generator.normal(0, 0.025, (3, 3))
    gains = np.exp(strength * generator.normal(0, 0.05, 3))
    return Camera(
        response=(mixing * gains[:, None]).astype(np.float32),
        exposure=1.15 * math.exp(strength * generator.normal(0, 0.1)),
        gamma=math.exp(strength * generator.normal(0, 0.1)),
        haze=strength * generator.uniform(0, 0.08),
        blur=strength * generator.uniform(0, 0.006),
        resolution=1 - strength * generator.uniform(0, 0.5),
        light=(strength * generator.normal(0, 0.2), strength * generator.normal(0, 0.15)),
        facing=generator.uniform(0, 2 * math.pi),
        pitch=generator.uniform(0, 0.25),
        jpeg_quality=int(generator.integers(70, 94)),
        backdrop=draw_backdrop(generator, place, height, width),
    )


def draw_backdrop(generator: np.random.Generator, place: int, height: int, width: int) -> Image.Image:
    """Draw the place that a camera watches, RGB of 1.4 x 6 images' size."""
    size = (6 * width, int(1.4 * height))
    horizon = float(generator.uniform(0.25, 0.55))
    backdrop = Image.new("RGB", size, _GROUNDS[place % len(_GROUNDS)])
    pen = ImageDraw.Draw(backdrop)
    _draw_houses(pen, generator, size, horizon)
    _draw_ground(pen, generator, size, horizon)
    _draw_wall(pen, generator, size, horizon)
    _draw_objects(pen, generator, size, horizon)
    backdrop = backdrop.filter(ImageFilter.GaussianBlur(height / 128))
    grain = generator.uniform(0.015, 0.05)
    texture = (
        1 + grain * smooth_noise(generator, size, height // 20) + grain * smooth_noise(generator, size, 3)
    )
    return Image.fromarray((np.asarray(backdrop) * texture[..., None]).clip(0, 255).astype(np.uint8))


def smooth_noise(generator: np.random.Generator, size: tuple[int, int], grain: int) -> np.ndarray:
    """Return noise of about unit strength, smooth over `grain` pixels, (height, width) float32."""
    cells = (size[1] // max(grain, 1) + 2, size[0] // max(grain, 1) + 2)
    coarse = generator.normal(size=cells).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _draw_ground(
    pen: ImageDraw.ImageDraw, generator: np.random.Generator, size: tuple[int, int], horizon: float
) -> None:
    """Lay a path and joints that run to a vanishing point."""
    width, height = size
    top = horizon * height
    colour = _tint(generator, _GROUNDS[generator.integers(len(_GROUNDS))], 0.9)
    far, near = top + 0.25 * (height - top), top + generator.uniform(0.45, 0.9) * (height - top)
    pen.polygon([(0, far), (width, far), (width, near), (0, near)], fill=colour)
    joint = _tint(generator, colour, 0.8)
    for x in np.arange(-width, 2 * width, width / generator.integers(10, 30)):
        pen.line(
            [(width / 2 + (x - width / 2) * 0.5, top), (x, height)], fill=joint, width=max(1, height // 120)
        )


def _draw_houses(
    pen: ImageDraw.ImageDraw, generator: np.random.Generator, size: tuple[int, int], horizon: float
) -> None:
    """Build a row of walls, so that one camera sees people in front of several colours."""
    edges = [0.0, *sorted(generator.uniform(0, size[0], generator.integers(2, 5))), float(size[0])]
    for left, right in pairwise(edges):
        colour = _tint(generator, _WALLS[generator.integers(len(_WALLS))], 1.0)
        pen.rectangle((left, 0, right, horizon * size[1]), fill=colour)


def _draw_wall(
    pen: ImageDraw.ImageDraw, generator: np.random.Generator, size: tuple[int, int], horizon: float
) -> None:
    """Put windows, or bushes, on the walls."""
    width, height = size
    top = horizon * height
    step = width / generator.integers(8, 20)
    windows = generator.random() < 0.5
    colour = _tint(generator, (60, 70, 84) if windows else (58, 82, 46), 1.0)
    for x in np.arange(0, width, step):
        if windows:
            pen.rectangle((x, 0.15 * top, x + 0.55 * step, 0.8 * top), fill=colour)
        else:
            radius = step * generator.uniform(0.4, 0.9)
            y = top - generator.uniform(0, 0.6) * top
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_tint(generator, colour, 1.0))


def _draw_objects(
    pen: ImageDraw.ImageDraw, generator: np.random.Generator, size: tuple[int, int], horizon: float
) -> None:
    """Stand posts, boxes and parked cars in front of the wall."""
    width, height = size
    top = horizon * height
    for _ in range(generator.integers(6, 14)):
        x, foot = generator.uniform(0, width), top + generator.uniform(0, 0.3) * (height - top)
        colour = _tint(generator, (110, 108, 106), generator.uniform(0.4, 1.7))
        breadth, rise = (
            (0.03, 0.9)
            if generator.random() < 0.4
            else (generator.uniform(0.15, 0.5), generator.uniform(0.1, 0.3))
        )
        pen.rectangle((x, foot - rise * height, x + breadth * height, foot), fill=colour)


def _tint(generator: np.random.Generator, colour: Colour, factor: float) -> Colour:
    red, green, blue = (
        (np.array(colour) * factor + generator.normal(0, 10, 3)).clip(0, 255).astype(int).tolist()
    )
    return red, green, blue


def expose(
    camera: Camera, picture: np.ndarray, generator: np.random.Generator, *, light: float = 1.0
) -> bytes:
    """Take the image: from colours there (H, W, 3) float32 in 0..1 to the bytes of a JPEG file.

    Args:
        camera: the camera.
        picture: what is in front of it.
        generator: random numbers (the sensor's noise).
        light: factor of the light when the image is taken.
    """
    height, width = picture.shape[:2]
    across, down = np.linspace(-1, 1, width)[None, :, None], np.linspace(-1, 1, height)[:, None, None]
    gradient = 1 + camera.light[0] * across + camera.light[1] * down
    seen = (picture * (gradient * light * camera.exposure)).astype(np.float32) @ camera.response.T
    seen = camera.haze * 0.8 + (1 - camera.haze) * seen.clip(0, 1) ** camera.gamma
    image = Image.fromarray((255 * seen.clip(0, 1)).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(camera.blur * height))
    small = (max(8, round(width * camera.resolution)), max(16, round(height * camera.resolution)))
    image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    noisy = np.asarray(image) + generator.normal(0, 2.5, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=camera.jpeg_quality)
    return file.getvalue()


@dataclass(frozen=True)
class Passage:
    """One person's way past one camera, from which the frames of a track are taken.

    Attributes:
        angle: of the body to the camera (radians).
        phase: of the walk in the first frame (radians).
        stride: see `people.Pose`.
        bent: see `people.Pose`.
        scale: body height as a share of the image's.
        shift: of the middle of the body from the middle of the image (x, y), in image heights.
        corner: of the crop of the backdrop, as a share of the room there is (x, y).
        light: factor of the light.
    """

    angle: float
    phase: float
    stride: float
    bent: float
    scale: float
    shift: tuple[float, float]
    corner: tuple[float, float]
    light: float


def draw_passage(generator: np.random.Generator, camera: Camera) -> Passage:
    """Draw how somebody walks past `camera`: mostly its usual way, sometimes the opposite one."""
    turned = math.pi if generator.random() < 0.3 else 0.0
    return Passage(
        angle=camera.facing + turned + generator.normal(0, 0.5),
        phase=generator.uniform(0, 2 * math.pi),
        stride=generator.uniform(0.12, 0.42),
        bent=generator.uniform(0.0, 1.0),
        scale=generator.normal(0.93, 0.035),
        shift=(generator.normal(0, 0.015), generator.normal(0, 0.015)),
        corner=(generator.random(), generator.random()),
        light=math.exp(generator.normal(0, 0.12)),
    )


def next_frame(passage: Passage, generator: np.random.Generator, number: int) -> Passage:
    """Return the passage at its frame `number`: a few steps further and boxed anew by the detector."""
    step = 0.015 * number * math.sin(passage.angle)
    shift_x, shift_y = generator.normal(passage.shift, 0.008)
    return replace(
        passage,
        angle=passage.angle + generator.normal(0, 0.1),
        phase=passage.phase + 1.1 * number + generator.normal(0, 0.2),
        scale=passage.scale + generator.normal(0, 0.015),
        shift=(shift_x, shift_y),
        corner=(
            min(max(passage.corner[0] + step, 0), 1),
            min(max(passage.corner[1] + generator.normal(0, 0.03), 0), 1),
        ),
        light=passage.light * math.exp(generator.normal(0, 0.02)),
    )


def pose(passage: Passage) -> Pose:
    """Return the pose of the walker."""
    return Pose(passage.angle, passage.phase, passage.stride, passage.bent)


def placement(passage: Passage, camera: Camera, height: int, width: int) -> Placement:
    """Return where the walker stands on a canvas of `height` x `width` pixels."""
    top = (1 - passage.scale) / 2 + passage.shift[1]
    return Placement(
        width / 2 + passage.shift[0] * height, top * height, passage.scale * height, camera.pitch
    )


def crop_backdrop(camera: Camera, passage: Passage, height: int, width: int) -> np.ndarray:
    """Return the part of the backdrop behind the walker, (height, width, 3) float32 in 0..1."""
    full_width, full_height = camera.backdrop.size
    left = int(passage.corner[0] * (full_width - width))
    top = int(passage.corner[1] * (full_height - height))
    crop = camera.backdrop.crop((left, top, left + width, top + height))
    return np.asarray(crop, dtype=np.float32) / 255
