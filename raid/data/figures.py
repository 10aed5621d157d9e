"""Simulated people drawn with transparency.

Lengths are in body heights: x from the middle of the body to the right, y from the crown (0) down to the
soles (1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from raid.data.people import Colour, Pattern, Person, Pose

Ink = Colour | int
Point = tuple[float, float]

# What only the front of the upper garment shows.
_FRONT_PATTERNS: tuple[Pattern, ...] = ("logo", "open")


@dataclass(frozen=True)
class Placement:
    """Where a figure goes on its canvas: pixels of the crown, body height, and camera pitch (0 level)."""

    x: float
    y: float
    height: float
    pitch: float = 0.0

    def pixel(self, point: Point) -> Point:
        """Map a point in body heights to pixels; a high camera enlarges the head and shortens the legs."""
        x, y = point
        scale = self.height * (1 + self.pitch * (0.5 - y))
        return self.x + x * scale, self.y + (y + self.pitch * y * (1 - y)) * self.height


def draw_figure(person: Person, pose: Pose, placement: Placement, size: tuple[int, int]) -> Image.Image:
    """Draw `person` on a transparent RGBA canvas of `size` (width, height) pixels."""
    canvas = _Canvas(Image.new("RGBA", size), placement)
    far, near = (-1, 1) if math.sin(pose.angle) >= 0 else (1, -1)
    showing_back = math.cos(pose.angle) < -0.25
    if not showing_back:
        _draw_bag(canvas, person, pose)
    _draw_arm(canvas, person, pose, far)
    for side in (far, near):
        _draw_leg(canvas, person, pose, side)
    _draw_skirt(canvas, person, pose)
    _draw_torso(canvas, person, pose)
    _draw_head(canvas, person, pose)
    if showing_back:
        _draw_bag(canvas, person, pose)
    _draw_straps(canvas, person, pose)
    _draw_arm(canvas, person, pose, near)
    return canvas.image


class _Canvas:
    """A picture that is drawn on in body heights."""

    def __init__(self, image: Image.Image, placement: Placement) -> None:
        self.image = image
        self.pen = ImageDraw.Draw(image)
        self.placement = placement

    def polygon(self, points: Sequence[Point], fill: Ink) -> None:
        self.pen.polygon([self.placement.pixel(point) for point in points], fill=fill)

    def ellipse(self, centre: Point, radii: Point, fill: Ink) -> None:
        left, top = self.placement.pixel((centre[0] - radii[0], centre[1] - radii[1]))
        right, bottom = self.placement.pixel((centre[0] + radii[0], centre[1] + radii[1]))
        self.pen.ellipse((min(left, right), top, max(left, right), bottom), fill=fill)

    def limb(self, points: Sequence[Point], widths: Sequence[float], fill: Ink) -> None:
        """Draw a tapering limb through `points`, round at its joints."""
        for (start, end), (first, last) in zip(pairwise(points), pairwise(widths), strict=True):
            length = math.dist(start, end) or 1.0
            across = (end[1] - start[1]) / length / 2, (start[0] - end[0]) / length / 2
            self.polygon(
                [_moved(start, across, first), _moved(end, across, last),
                 _moved(end, across, -last), _moved(start, across, -first)],
                fill,
            )  # fmt: skip
        for point, width in zip(points, widths, strict=True):
            self.ellipse(point, (width / 2, width / 2), fill)

    def print_pattern(self, outline: Sequence[Point], pattern: Pattern, period: float, fill: Colour) -> None:
        """Print the part of `pattern` that lies inside the polygon `outline`."""
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        shapes = _pattern_shapes(pattern, period, (min(xs), min(ys), max(xs), max(ys)))
        if not shapes:
            return
        garment, ink, corner = self._mask(outline), self._mask(outline), self._corner(outline)
        garment.polygon(outline, 255)
        for shape in shapes:
            if len(shape) == 2:
                ink.ellipse(shape[0], shape[1], 255)
            else:
                ink.polygon(shape, 255)
        self.image.paste(fill, corner, ImageChops.multiply(garment.image, ink.image))

    def _corner(self, outline: Sequence[Point]) -> tuple[int, int]:
        """Return the upper left pixel of the part of the canvas that holds `outline`."""
        xs, ys = zip(*(self.placement.pixel(point) for point in outline), strict=True)
        return math.floor(min(xs)), math.floor(min(ys))

    def _mask(self, outline: Sequence[Point]) -> "_Canvas":
        """Return an empty mask of the part of the canvas that holds `outline`, in the same coordinates."""
        left, top = self._corner(outline)
        xs, ys = zip(*(self.placement.pixel(point) for point in outline), strict=True)
        size = (math.ceil(max(xs)) - left + 1, math.ceil(max(ys)) - top + 1)
        shifted = replace(self.placement, x=self.placement.x - left, y=self.placement.y - top)
        return _Canvas(Image.new("L", size), shifted)


def _moved(point: Point, direction: Point, by: float) -> Point:
    return point[0] + direction[0] * by, point[1] + direction[1] * by


def _rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _pattern_shapes(
    pattern: Pattern, period: float, box: tuple[float, float, float, float]
) -> list[list[Point]]:
    """List what is printed in `box` (left, top, right, bottom): polygons, or (centre, radii) of dots."""
    left, top, right, bottom = box
    height = bottom - top
    columns = np.arange(-4, 5) * period
    rows = np.arange(top + period / 2, bottom, period).tolist()
    match pattern:
        case "horizontal":
            return [_rectangle(left, y, right, y + period / 2) for y in rows]
        case "vertical":
            return [_rectangle(x - period / 4, top, x + period / 4, bottom) for x in columns]
        case "checks":
            half = period / 2
            return [_rectangle(x + shift, y + shift, x + shift + half, y + shift + half)
                    for x in columns for y in rows for shift in (0.0, half)]  # fmt: skip
        case "dots":
            return [[(x, y), (period / 3.4, period / 3.4)] for x in columns for y in rows]
        case "logo":
            return [_rectangle(-0.05, top + 0.28 * height, 0.05, top + 0.56 * height)]
        case "two_tone":
            return [_rectangle(left, top, right, top + 0.45 * height)]
        case "band":
            return [_rectangle(left, top + 0.5 * height, right, top + 0.72 * height)]
        case "sash":
            return [[(left, top), (left + 0.1, top), (right, bottom), (right - 0.1, bottom)]]
        case "open":
            return [[(-0.025, top), (0.025, top), (0.055, bottom), (-0.055, bottom)]]
        case "plain":
            return []


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def _breadth(person: Person, pose: Pose, wide: float, deep: float) -> float:
    """Return half the visible breadth of a body part `wide` from ahead and `deep` from the side."""
    return person.build * math.hypot(wide * math.cos(pose.angle), deep * math.sin(pose.angle))


def _draw_torso(canvas: _Canvas, person: Person, pose: Pose) -> None:
    shoulder, waist = _breadth(person, pose, 0.118, 0.075), _breadth(person, pose, 0.092, 0.072)
    hip = _breadth(person, pose, 0.1, 0.08) * (1.1 if person.upper_end > 0.55 else 1.0)
    end = person.upper_end
    outline: list[Point] = [
        (-0.035, 0.14), (-shoulder, 0.175), (-waist, 0.36), (-hip, end),
        (hip, end), (waist, 0.36), (shoulder, 0.175), (0.035, 0.14),
    ]  # fmt: skip
    canvas.polygon(outline, person.palette.upper)
    if person.upper_pattern not in _FRONT_PATTERNS or math.cos(pose.angle) > 0.2:
        canvas.print_pattern(outline, person.upper_pattern, person.period, person.palette.accent)


def _draw_arm(canvas: _Canvas, person: Person, pose: Pose, side: int) -> None:
    angle = -0.8 * pose.stride * math.sin(pose.phase) * side
    bend = pose.bent * (0.5 + 0.5 * side * math.sin(pose.phase))
    forward, across = math.sin(pose.angle), math.cos(pose.angle)
    shoulder = (side * 0.112 * person.build * across, 0.195)
    elbow = (
        shoulder[0] + 0.16 * math.sin(angle) * forward + side * 0.022 * across,
        shoulder[1] + 0.16 * math.cos(angle),
    )
    hand = (elbow[0] + 0.15 * math.sin(angle + bend) * forward, elbow[1] + 0.15 * math.cos(angle + bend))
    thickness = 0.052 * person.build
    canvas.limb([shoulder, elbow, hand], [thickness, 0.85 * thickness, 0.6 * thickness], person.palette.skin)
    sleeve = person.palette.accent if person.contrasting_sleeves else person.palette.upper
    wrist = (elbow[0] + 0.8 * (hand[0] - elbow[0]), elbow[1] + 0.8 * (hand[1] - elbow[1]))
    middle = ((shoulder[0] + elbow[0]) / 2, (shoulder[1] + elbow[1]) / 2)
    points = [shoulder, elbow, wrist] if person.sleeve_end == 1.0 else [shoulder, middle]
    canvas.limb(points, [1.15 * thickness, thickness, 0.8 * thickness][: len(points)], _shade(sleeve, 0.86))


def _draw_leg(canvas: _Canvas, person: Person, pose: Pose, side: int) -> None:
    forward, across = math.sin(pose.angle), math.cos(pose.angle)
    angle = pose.stride * math.sin(pose.phase) * side
    bend = 0.6 * pose.stride * max(0.0, math.cos(pose.phase) * side) + 0.5 * max(0.0, -angle)
    hip = (side * 0.048 * person.build * across, 0.5)
    knee = (hip[0] + 0.23 * math.sin(angle) * forward, hip[1] + 0.23 * math.cos(angle))
    ankle = (knee[0] + 0.22 * math.sin(angle - bend) * forward, knee[1] + 0.22 * math.cos(angle - bend))
    toe = (ankle[0] + 0.05 * forward, ankle[1] + 0.025)
    canvas.limb([ankle, toe], [0.05, 0.034], person.palette.shoes)
    thickness = 0.088 * person.build
    canvas.limb([hip, knee, ankle], [thickness, 0.06, 0.04], person.palette.skin)
    # The further leg lies in the shadow of the nearer one.
    colour = _shade(person.palette.lower, 1.0 if side * forward >= 0 else 0.82)
    match person.lower_cut:
        case "trousers":
            canvas.limb([hip, knee, ankle], [thickness, 0.8 * thickness, 0.07], colour)
        case "slim":
            canvas.limb([hip, knee, ankle], [0.95 * thickness, 0.06, 0.042], colour)
        case "shorts":
            canvas.limb([hip, knee], [1.05 * thickness, 0.085], colour)
    if person.lower_pattern != "plain" and person.lower_cut in ("trousers", "shorts"):
        half = 0.3 * thickness
        outline = [
            (hip[0] - half, hip[1]),
            (hip[0] + half, hip[1]),
            (knee[0] + half, knee[1]),
            (knee[0] - half, knee[1]),
        ]
        canvas.print_pattern(outline, person.lower_pattern, person.period, person.palette.accent)


def _draw_skirt(canvas: _Canvas, person: Person, pose: Pose) -> None:
    if person.lower_cut not in ("skirt", "long_skirt"):
        return
    end = 0.7 if person.lower_cut == "skirt" else 0.88
    top, hem = _breadth(person, pose, 0.088, 0.075), _breadth(person, pose, 0.125, 0.12)
    outline: list[Point] = [(-top, 0.45), (top, 0.45), (hem, end), (-hem, end)]
    canvas.polygon(outline, person.palette.lower)
    canvas.print_pattern(outline, person.lower_pattern, person.period, person.palette.accent)


def _draw_head(canvas: _Canvas, person: Person, pose: Pose) -> None:
    forward, facing = math.sin(pose.angle), math.cos(pose.angle)
    palette = person.palette
    canvas.limb([(0, 0.1), (0, 0.15)], [0.05, 0.055], _shade(palette.skin, 0.85))
    if person.hair_style == "long":
        end = 0.24 if facing < 0 else 0.2
        canvas.polygon(_rectangle(-0.05 - 0.02 * forward, 0.06, 0.05 - 0.02 * forward, end), palette.hair)
    if person.hair_style == "bun":
        canvas.ellipse((-0.045 * forward, 0.02), (0.028, 0.026), palette.hair)
    hair = palette.accent if person.hair_style == "cap" else palette.hair
    if person.hair_style == "bald":
        canvas.ellipse((0, 0.068), (0.046, 0.068), palette.skin)
        return
    canvas.ellipse((0, 0.066), (0.05, 0.066), hair)
    if facing > -0.5:  # the face turns away with the body
        canvas.ellipse((0.022 * forward, 0.085), (0.038 * min(1.0, 0.75 + facing), 0.05), palette.skin)
    if person.hair_style == "cap" and facing > -0.5:
        canvas.polygon(
            _rectangle(-0.04 + 0.03 * forward, 0.045, 0.04 + 0.04 * forward, 0.06), _shade(hair, 0.7)
        )


def _draw_bag(canvas: _Canvas, person: Person, pose: Pose) -> None:
    forward, across = math.sin(pose.angle), math.cos(pose.angle)
    colour = person.palette.bag
    match person.bag:
        case "backpack":
            # It hangs behind: on top of the back, or sticking out behind the chest from the side.
            half = max(0.085 * abs(across), 0.06)
            centre = -0.105 * forward
            canvas.polygon(_rectangle(centre - half, 0.19, centre + half, 0.41), colour)
            canvas.polygon(
                _rectangle(centre - 0.7 * half, 0.31, centre + 0.7 * half, 0.39), _shade(colour, 0.7)
            )
        case "handbag":
            centre = 0.165 * person.build * across
            canvas.polygon(_rectangle(centre - 0.055, 0.48, centre + 0.055, 0.6), colour)
            canvas.limb([(centre, 0.42), (centre, 0.49)], [0.015, 0.015], _shade(colour, 0.7))
        case "shoulder":
            centre = -0.12 * person.build * across
            canvas.polygon(_rectangle(centre - 0.06, 0.42, centre + 0.06, 0.55), colour)
        case "none":
            pass


def _draw_straps(canvas: _Canvas, person: Person, pose: Pose) -> None:
    across = math.cos(pose.angle)
    colour = _shade(person.palette.bag, 0.8)
    if person.bag == "backpack" and across > -0.25:
        for side in (-1, 1):
            x = side * 0.065 * across
            canvas.limb([(x, 0.165), (x * 1.1, 0.36)], [0.022, 0.018], colour)
    if person.bag == "shoulder":
        canvas.limb([(0.08 * across, 0.17), (-0.1 * across, 0.45)], [0.018, 0.018], colour)
