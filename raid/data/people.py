"""Simulated people: what an identity looks like, and a pose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Colour = tuple[int, int, int]
Pattern = Literal[
    "plain", "horizontal", "vertical", "checks", "dots", "logo", "two_tone", "band", "sash", "open"
]
HairStyle = Literal["short", "long", "bun", "bald", "cap"]
LowerCut = Literal["trousers", "slim", "shorts", "skirt", "long_skirt"]
Bag = Literal["none", "backpack", "handbag", "shoulder"]

_SKIN: tuple[Colour, ...] = ((236, 200, 175), (222, 180, 148), (196, 146, 112), (140, 96, 68), (92, 62, 46))
_HAIR: tuple[Colour, ...] = ((22, 20, 20), (48, 34, 26), (92, 62, 38), (176, 142, 88), (150, 148, 146))
_UPPER: tuple[Colour, ...] = (
    (28, 28, 32), (238, 238, 236), (132, 134, 138), (186, 32, 40), (34, 50, 112), (64, 120, 196),
    (40, 112, 62), (228, 196, 60), (226, 126, 156), (196, 172, 134), (112, 58, 130), (226, 118, 40),
    (110, 30, 40), (96, 180, 176),
)  # fmt: skip
_LOWER: tuple[Colour, ...] = (
    (26, 26, 30), (44, 56, 94), (92, 116, 156), (120, 120, 122), (178, 156, 118), (226, 224, 218),
    (88, 62, 46), (74, 84, 52), (150, 44, 52),
)  # fmt: skip
_SHOES: tuple[Colour, ...] = ((24, 24, 26), (232, 232, 230), (110, 74, 48), (170, 40, 44), (60, 70, 110))
_LOWER_PATTERNS: tuple[Pattern, ...] = ("plain", "plain", "plain", "checks", "horizontal", "band")


@dataclass(frozen=True)
class Palette:
    """The colours of one person, RGB in 0..255."""

    skin: Colour
    hair: Colour
    upper: Colour
    accent: Colour
    lower: Colour
    shoes: Colour
    bag: Colour


@dataclass(frozen=True)
class Person:
    """What all pictures of one identity have in common.

    Attributes:
        palette: colours.
        build: breadth relative to the average.
        period: of the patterns, in body heights.
        upper_end: y at which the upper garment ends (a coat reaches further than a shirt).
        sleeve_end: share of the arm that the sleeve covers.
    """

    palette: Palette
    build: float
    hair_style: HairStyle
    upper_pattern: Pattern
    period: float
    upper_end: float
    sleeve_end: float
    contrasting_sleeves: bool
    lower_cut: LowerCut
    lower_pattern: Pattern
    bag: Bag


@dataclass(frozen=True)
class Pose:
    """How a person stands to the camera.

    Attributes:
        angle: 0 faces the camera, pi shows the back, pi/2 walks to the right (radians).
        phase: of the walking cycle (radians).
        stride: largest angle of the thighs (radians).
        bent: bend of the elbows (radians).
    """

    angle: float
    phase: float
    stride: float
    bent: float


def draw_palette(generator: np.random.Generator) -> Palette:
    """Draw the colours of a person; two people may come out alike, as they do in the street."""

    def pick(colours: Sequence[Colour]) -> Colour:
        shifted = np.array(colours[int(generator.integers(len(colours)))]) + generator.normal(0, 9, 3)
        red, green, blue = (int(value) for value in shifted.clip(0, 255))
        return red, green, blue

    upper = pick(_UPPER)
    accent = max((pick(_UPPER) for _ in range(3)), key=lambda colour: math.dist(colour, upper))
    return Palette(
        pick(_SKIN), pick(_HAIR), upper, accent, pick(_LOWER), pick(_SHOES), pick((*_LOWER, *_UPPER))
    )


def draw_person(generator: np.random.Generator, palette: Palette, *, variant: int | None = None) -> Person:
    """Draw a person in the colours of `palette`.

    Args:
        generator: random numbers.
        palette: colours.
        variant: people of different variants (0 or 1) differ in pattern, cut and bag; None: any.
    """

    def pick(choices: tuple[str, ...]) -> str:
        # A variant sees every other choice, so that the two variants have none in common.
        allowed = choices if variant is None else choices[variant::2]
        return allowed[generator.integers(len(allowed))]

    coat = generator.random() < 0.25
    return Person(
        palette=palette,
        build=float(generator.uniform(0.8, 1.25)),
        hair_style=pick(get_args(HairStyle)),  # type: ignore[arg-type]
        upper_pattern=pick(get_args(Pattern)),  # type: ignore[arg-type]
        period=float(generator.uniform(0.06, 0.11)),
        upper_end=float(generator.uniform(0.6, 0.7) if coat else generator.uniform(0.48, 0.54)),
        sleeve_end=float(generator.choice([0.35, 1.0, 1.0])),
        contrasting_sleeves=bool(generator.random() < 0.2),
        lower_cut=pick(get_args(LowerCut)),  # type: ignore[arg-type]
        lower_pattern=_LOWER_PATTERNS[generator.integers(len(_LOWER_PATTERNS))],
        bag=pick(get_args(Bag)),  # type: ignore[arg-type]
    )
