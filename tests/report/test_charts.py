import math
import re

import numpy as np
import page
import pytest

from raid.report.charts import Axes, Series, Stack, line_chart, number, percent, stacked_bars, thinned
from raid.report.heat import heat_map
from raid.report.markup import Html, element, join
from raid.report.panels import seconds_text
from raid.report.scale import fitted, linear, logarithmic
from raid.report.style import HEAT_STEPS, NUM_LOOKS, style

# Markup


def test_text_is_escaped_once_and_markup_is_not():
    inner = element("b", "<&>", title='"x"')
    assert inner == '<b title="&quot;x&quot;">&lt;&amp;&gt;</b>'
    assert element("p", inner, " & ") == f"<p>{inner} &amp; </p>"
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_text_that_was_put_together_with_markup_is_text_again():
    assert element("p", element("b", "x") + "<i>") == "<p>&lt;b&gt;x&lt;/b&gt;&lt;i&gt;</p>"


def test_attributes():
    shown = element("path", class_="a b", aria_hidden="true", viewBox="0 0", x=1.26, y=2.0, id=None)
    assert shown == '<path class="a b" aria-hidden="true" viewBox="0 0" x="1.3" y="2"></path>'
    assert element("img", src="a") == '<img src="a">'


# Scales


@pytest.mark.parametrize("seed", range(30))
def test_a_fitted_scale_covers_its_values_and_ends_on_ticks(seed):
    rng = np.random.default_rng(seed)
    values = (rng.uniform(-1, 1, 5) * 10.0 ** rng.integers(-4, 6)).tolist()
    scale = fitted(values, 100, 0, zero=bool(seed % 2))
    assert scale.ticks[0] == pytest.approx(scale.low)
    assert scale.ticks[-1] == pytest.approx(scale.high)
    assert 2 <= len(scale.ticks) <= 8
    if seed % 2:
        assert scale.low <= 0
    for value in values:
        assert -1e-6 <= scale(value) <= 100 + 1e-6
    assert (scale(scale.low), scale(scale.high)) == (100, 0)
    assert scale((scale.low + scale.high) / 2) == pytest.approx(50)
    assert max(values) - min(values) > 0.2 * (scale.high - scale.low) or seed % 2


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-9, 1e6, 1e17])
def test_one_value_alone_has_a_scale(value, zero):
    scale = fitted([value, np.nextafter(value, np.inf)], 100, 0, zero=zero)
    assert 0 <= scale(value) <= 100
    assert len(scale.ticks) >= 2
    assert 0 <= linear(value, value, 0, 10)(value) <= 10


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1, 6, [1, 2, 3, 4, 5, 6]),
        (1, 1, [1]),
        (1, 2, [1, 2]),
        (1, 50, [1, 10, 20, 30, 40, 50]),
        (0.5, 3.5, [1, 2, 3]),
        (5, 50, [5, 10, 20, 30, 40, 50]),
        (1, 20000, [1, 5000, 10000, 15000, 20000]),
    ],
)
def test_whole_numbers_have_whole_ticks(low, high, ticks):
    assert list(linear(low, high, 0, 100, whole=True).ticks) == ticks


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([8, 325], 5, 500), ([1, 1], 1, 2), ([0.3, 40000], 0.2, 50000), ([10], 10, 20)],
)
def test_a_logarithmic_scale_runs_from_tick_to_tick(values, low, high):
    scale = logarithmic(values, 0, 100)
    assert (scale.low, scale.high) == (pytest.approx(low), pytest.approx(high))
    assert scale(math.sqrt(low * high)) == pytest.approx(50)
    assert 2 <= len(scale.ticks) <= 7
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


# Charts


def parsed(chart: Html) -> page.Chart:
    (found,) = page.charts(page.parse(chart)).values()
    return found


def test_a_series_without_points_is_left_out():
    lines = [Series("here", [(1, 0.5), (2, 0.25)]), Series("missing", [])]
    chart = parsed(line_chart("Title", lines, Axes("epoch", "share", (0, 1))))
    assert chart.legend == {"here": "0.250"}
    assert chart.drawn["here"] == [(1, pytest.approx(0.5, abs=0.01)), (2, pytest.approx(0.25, abs=0.01))]
    assert chart.label == (
        "Title. share against epoch. here: 0.500 at epoch 1, 0.250 at epoch 2, between 0.250 and 0.500."
    )


def test_nothing_to_draw_is_nothing():
    assert line_chart("Title", [Series("missing", [])], Axes("epoch", "share")) == ""
    assert line_chart("Title", [Series("none", [(1, 0.0)])], Axes("epoch", "n", logarithmic=True)) == ""
    assert stacked_bars("Title", [Stack("missing", [], 0)], Axes("epoch", "seconds")) == ""


def test_a_line_goes_through_its_values():
    points = [(float(x), math.sin(x)) for x in range(1, 30)]
    tree = page.parse(line_chart("Title", [Series("sine", points)], Axes("epoch", "y")))
    (line,) = tree.one("svg", "chart").all("path", "line")
    vertices = [tuple(map(float, pair.split())) for pair in line.attributes["d"][1:].split("L")]
    hits = [
        (float(node.attributes["cx"]), float(node.attributes["cy"])) for node in tree.all("circle", "hit")
    ]
    assert vertices == hits
    marks = [node.attributes["transform"] for node in tree.one("svg", "chart").all("path", "mark")]
    assert len(marks) == 10  # every third of 29, so that they can be told apart
    x, y = hits[-1]
    assert f"translate({x:.1f} {y:.1f})" in marks  # the last is the result


def test_series_differ_by_more_than_colour():
    lines = [Series(f"s{look}", [(1, look)], look) for look in range(5)]
    tree = page.parse(line_chart("Title", lines, Axes("epoch", "y"))).one("svg", "chart")
    assert len({mark.attributes["d"] for mark in tree.all("path", "mark")}) == 5
    dashed = page.parse(line_chart("Title", [Series("s", [(1, 1)], dashed=True)], Axes("epoch", "y")))
    assert dashed.one("svg", "chart").all("path", "dashed")
    assert dashed.one("svg", "chart").all("path", "hollow")


def test_bars_of_epochs_that_a_stage_is_missing_from():
    stacks = [Stack("a", [(1, 10.0), (3, 10.0)], 0), Stack("b", [(1, 5.0), (2, 5.0), (3, 5.0)], 1)]
    svg = page.parse(stacked_bars("Title", stacks, Axes("epoch", "s", show=number))).one("svg", "chart")
    upper = [rect.attributes for rect in svg.all("g", "c1")[0].all("rect")]
    bottoms = [float(rect["y"]) + float(rect["height"]) for rect in upper]
    assert bottoms[0] == bottoms[2] < bottoms[1]  # the second stands on the axis


def test_bars_of_pieces_between_edges():
    axes = Axes("score", "pairs", show=number, show_x=lambda x: f"{x - 0.125:.2f} to {x + 0.125:.2f}")
    stack = Stack("a", [(0.125, 0.0), (0.375, 4.0), (0.625, 8.0), (0.875, 0.0)], 0)
    drawn = stacked_bars("Title", [stack], axes, width=0.25, rule=("threshold", 0.5))
    svg = page.parse(drawn).one("svg", "chart")
    ticks = {
        node.text: float(node.attributes["x"]) for node in svg.all("text", "tick") if "middle" in node.classes
    }
    assert (min(ticks.values()), max(ticks.values())) == (ticks["0"], ticks["1"])
    bars = [rect.attributes for rect in svg.all("rect")]
    middles = [float(bar["x"]) + float(bar["width"]) / 2 for bar in bars]
    wide = ticks["1"] - ticks["0"]
    assert [(x - ticks["0"]) / wide for x in middles] == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=1e-3)
    assert [float(bar["width"]) for bar in bars] == pytest.approx([40.0] * 4)
    assert svg.all("rect")[1].one("title").text == "a, score 0.25 to 0.50: 4"
    assert svg.attributes["aria-label"].endswith("In all: a 12. threshold: score 0.5.")
    cut = float(svg.one("path", "cut").attributes["d"][1:].split()[0])
    assert (cut - ticks["0"]) / wide == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("place", [-0.1, 1.1, math.nan])
def test_a_rule_beside_the_bars_is_not_drawn(place):
    drawn = stacked_bars(
        "Title", [Stack("a", [(0.25, 1.0), (0.75, 1.0)], 0)], Axes("x", "y"), width=0.5, rule=("r", place)
    )
    assert page.parse(drawn).all("path", "cut") == []
    assert "r:" not in drawn


def test_a_long_line_keeps_its_ends_and_peaks():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_001)
    values[777], values[15_000] = 50.0, -50.0
    points = list(enumerate(values.tolist()))
    kept = thinned(points)
    assert len(kept) <= 602
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {points[777], points[15_000]} <= set(kept)
    assert thinned(points[:500]) == points[:500]


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (0.123456, "0.1235"), (1234.5, "1234"), (1e-5, "1e-05"), (float("nan"), "nan"), (0, "0")],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"), (1.25, "1.2 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"),
        (59.6, "1 min 0 s"), (185, "3 min 5 s"), (3599.7, "1 h 0 min"), (7800, "2 h 10 min"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert seconds_text(seconds) == text


def test_percent_does_not_break():
    assert percent(0.4691) == "46.9\N{NO-BREAK SPACE}%"


def test_a_matrix_with_gaps_and_of_one_camera():
    values = np.array([[1, 0.5, np.nan], [0.5, 1, np.nan], [np.nan] * 3])
    tree = page.parse(heat_map("Title", "camera", ["a", "b", "c"], values))
    cells = [[cell.text for cell in row.all("td")] for row in tree.one("tbody").all("tr")]
    assert cells == [["1", "0.50", "–"], ["0.50", "1", "–"], ["–"] * 3]
    alone = page.parse(heat_map("Title", "camera", ["a"], np.ones((1, 1))))
    assert alone.one("td").text == "1"


# Colours


def modes() -> list[dict[str, str]]:
    light, of_system, chosen = re.findall(r":root[^{}]*\{(.*?)\}", style())
    assert of_system == chosen
    return [dict(pair.split(":", 1) for pair in mode.strip(";").split(";")) for mode in (light, chosen)]


def luminance(color: str) -> float:
    if color.startswith("rgb"):
        parts = [int(part) for part in re.findall(r"\d+", color)]
    else:
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[i : i + 2], 16) for i in (0, 2, 4)]
    shares = [p / 255 / 12.92 if p <= 10 else ((p / 255 + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * shares[0] + 0.7152 * shares[1] + 0.0722 * shares[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", modes(), ids=["light", "dark"])
def test_text_and_lines_can_be_seen(mode):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for text in ("--text", "--muted", "--right", "--wrong", "--link"):
        for page_color in ("--page", "--card"):
            assert contrast(mode[text], mode[page_color]) >= 4.5, (text, page_color)
    for look in range(NUM_LOOKS):
        assert contrast(mode[f"--c{look}"], mode["--card"]) >= 3, look
    for step in range(HEAT_STEPS):
        assert contrast(mode[f"--h{step}"], mode[f"--t{step}"]) >= 4.5, step


def test_both_modes_name_the_same_colours():
    light, dark = modes()
    assert light.keys() == dark.keys()
    used = set(re.findall(r"var\((--\w+)\)", style()))
    assert used <= light.keys()


def test_a_rule_across_lines_and_a_value_of_one_s_own():
    points = [(-0.5, 0.1), (0.0, 0.4), (0.75, 0.2)]
    axes = Axes("alike", "share", zero=True, whole=False, show_x="{:.2f}".format)
    line = Series("one", points, marked=False, value="3 of 4")
    chart = page.parse(line_chart("Alike", [line], axes, rule=("limit", 0.25)))
    svg = chart.one("svg", "chart")
    ticks = [
        (float(tick.attributes["x"]), float(tick.text))
        for tick in svg.all("text", "tick")
        if "middle" in tick.classes
    ]
    assert [value for _, value in ticks] == [-0.4, -0.2, 0, 0.2, 0.4, 0.6]
    (low, first), (high, last) = ticks[0], ticks[-1]
    expected = low + (0.25 - first) / (last - first) * (high - low)
    (rule,) = svg.all("path", "cut")
    assert float(re.match(r"M([\d.]+) ", rule.attributes["d"])[1]) == pytest.approx(expected, abs=0.11)
    assert "limit: alike 0.25" in svg.attributes["aria-label"]
    assert chart.one("ul", "legend").one("b").text == "3 of 4"
    outside = page.parse(line_chart("Alike", [line], axes, rule=("limit", 0.8)))
    assert not outside.all("path", "cut")
