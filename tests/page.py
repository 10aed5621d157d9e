"""Reads a report as a browser would: a tree of elements, and charts back into numbers."""

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list["Node | str"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag: str, style: str = "") -> list["Node"]:
        """The elements below with this tag and, where given, this class."""
        return [
            node
            for node in self.walk()
            if node is not self and node.tag == tag and (not style or style in node.classes)
        ]

    def one(self, tag: str, style: str = "") -> "Node":
        (node,) = self.all(tag, style)
        return node

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Tree(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open[-1].tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(text: str) -> Node:
    """Return the tree; an end tag that is missing, or one too many, fails."""
    tree = _Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == [tree.root], f"<{tree.open[-1].tag}> is not ended"
    return tree.root


def read(path: Path) -> Node:
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    return parse(text)


def check_policy(tree: Node) -> None:
    """Fail unless nothing can be loaded, sent or run but the page's own script, known by its hash."""
    (policy,) = [
        node.attributes["content"]
        for node in tree.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    script = tree.one("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    assert script.attributes == {}
    assert not [word for word in ("fetch(", "http", "innerHTML", "eval(", "import") if word in script.text]


def section(page: Node, anchor: str) -> Node:
    (node,) = [node for node in page.all("section") if node.attributes["id"] == anchor]
    return node


@dataclass
class Chart:
    """A chart as it is seen.

    Attributes:
        legend: what it says of each series, by name.
        told: (x, shown value) by series, as the pointer is answered.
        drawn: (x, y) by series, measured between the ticks.
        resolution: height of a pixel, of y, at the most.
    """

    title: str
    label: str
    legend: dict[str, str]
    told: dict[str, list[tuple[float, str]]]
    drawn: dict[str, list[tuple[float, float]]]
    resolution: float


def charts(node: Node) -> dict[str, Chart]:
    figures = [figure for figure in node.all("figure") if figure.all("svg", "chart")]
    read = [_chart(figure) for figure in figures]
    assert len({chart.title for chart in read}) == len(read)
    return {chart.title: chart for chart in read}


def value_of(text: str) -> float:
    """5, 0.25, 40 % -> a number; shares in percent as shares."""
    number = text.replace("\N{NO-BREAK SPACE}", " ")
    return float(number.removesuffix(" %")) / 100 if number.endswith(" %") else float(number)


def _chart(figure: Node) -> Chart:
    svg = figure.one("svg", "chart")
    logarithmic = "logarithmic" in svg.attributes["aria-label"]
    x_ticks = [
        (float(n.attributes["x"]), value_of(n.text)) for n in svg.all("text", "tick") if "middle" in n.classes
    ]
    y_ticks = [
        (float(n.attributes["y"]) - 3.5, value_of(n.text))
        for n in svg.all("text", "tick")
        if "end" in n.classes
    ]
    assert len(x_ticks) >= 1
    assert len(y_ticks) >= 2
    told: dict[str, list[tuple[float, str]]] = {}
    drawn: dict[str, list[tuple[float, float]]] = {}
    for circle in svg.all("circle", "hit"):
        name, x, shown = re.fullmatch(r"(.*), \w+ ([\d.]+): (.*)", circle.one("title").text).groups()
        told.setdefault(name, []).append((float(x), shown))
        y = _measured(float(circle.attributes["cy"]), y_ticks, logarithmic)
        drawn.setdefault(name, []).append((float(x), y))
        if len(x_ticks) > 1:
            assert (
                abs(_measured(float(circle.attributes["cx"]), x_ticks, False) - float(x))
                < 0.02 * x_ticks[-1][1]
            )
    (low, bottom), (high, top) = y_ticks[0], y_ticks[-1]
    legend = {li.one("span").text: li.one("b").text for li in figure.one("ul", "legend").all("li")}
    return Chart(
        figure.one("figcaption").text,
        svg.attributes["aria-label"],
        legend,
        told,
        drawn,
        0.6 * (top - bottom) / abs(high - low) * (10 if logarithmic else 1),
    )


def _measured(pixel: float, ticks: list[tuple[float, float]], logarithmic: bool) -> float:
    (start, low), (end, high) = ticks[0], ticks[-1]
    share = (pixel - start) / (end - start)
    if logarithmic:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def pixels(images: Any, count: int) -> np.ndarray:
    """All images of a set, (count, H, W, 3), to find shown ones among them."""
    return images.gather(np.arange(count)).numpy().transpose(0, 2, 3, 1).astype(float)


def closest(item: Node, images: np.ndarray) -> int:
    """The row of the image that an item shows."""
    return int(np.argmin(np.abs(images - pixels_of(item)).mean(axis=(1, 2, 3))))


def pixels_of(item: Node) -> np.ndarray:
    """The picture that an item shows, (H, W, 3)."""
    kind, data = item.one("img").attributes["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))), float)
