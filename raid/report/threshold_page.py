"""A threshold as one page: how alike the pairs are, what it accepts and rejects, and others beside it."""

from collections.abc import Iterator, Mapping, Sequence

from raid.ops.verification_figures import Rates, Verification, error_rates, histograms
from raid.report.charts import Axes, Series, line_chart, percent, whole_percent
from raid.report.document import document
from raid.report.markup import Html, element
from raid.report.panels import grid, note, table

_FOOTER = "Written by raid. A similarity above the threshold is not an identification."


def page(verification: Verification, chosen: Rates, name: str, facts: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        verification: of all pairs.
        chosen: one of its rates.
        name: of the set.
        facts: what was compared, in words.
    """
    title = f"Threshold: {name}"
    sections = [
        ("similarities", "Similarities", _similarities(verification, chosen)),
        ("thresholds", "Thresholds", _thresholds(verification, chosen)),
    ]
    return document(title, _header(title, verification, chosen, facts), sections, _FOOTER)


def _header(title: str, verification: Verification, chosen: Rates, facts: Mapping[str, str]) -> Html:
    shown = [element("li", f"{name} ", element("b", value)) for name, value in facts.items()]
    cards = {
        "threshold of the cosine similarity": f"{chosen.threshold:.4f}",
        "impostors accepted (FAR)": _share(chosen.num_accepted / verification.num_impostor),
        "genuine pairs accepted (TAR)": percent(chosen.tar),
        "equal error rate": percent(verification.eer),
        "area under the curve": f"{verification.auc:.4f}",
    }
    figures = [element("li", element("b", value), element("span", name)) for name, value in cards.items()]
    return element(
        "header",
        element("h1", title),
        element("ul", *shown, class_="facts"),
        element("ul", *figures, class_="cards"),
        note(
            "Two pictures are taken for one person where the cosine similarity of their features is at least "
            f"{chosen.threshold:.6f}: that accepts at most {_share(chosen.far)} of the pairs of two people."
        ),
    )


def _similarities(verification: Verification, chosen: Rates) -> Iterator[Html]:
    middles, genuine, impostor = (values.tolist() for values in histograms(verification.curve))
    places, accepted, rejected = (values.tolist() for values in error_rates(verification.curve))
    false_accepts = _share(chosen.num_accepted / verification.num_impostor)
    rule = ("threshold", chosen.threshold)
    genuine_kind, impostor_kind = "genuine: one person", "impostors: two people"
    pairs = line_chart(
        "How alike pairs are",
        [
            _line(genuine_kind, middles, genuine, f"{percent(chosen.tar)} accepted"),
            _line(impostor_kind, middles, impostor, f"{false_accepts} accepted"),
        ],
        _axes("similarity", "share of its pairs", logarithmic=False),
        rule=rule,
        note="Each kind by its own number of pairs. What is right of the line is accepted.",
    )
    errors = line_chart(
        "Errors by the threshold",
        [
            _line("genuine rejected", places, rejected, percent(1 - chosen.tar)),
            _line("impostors accepted", places, accepted, false_accepts),
        ],
        _axes("threshold", "share of its pairs, logarithmic", logarithmic=True),
        rule=rule,
        note="The lines cross at the equal error rate. Where one ends, there are no more errors.",
    )
    yield grid([pairs, errors])


def _line(name: str, places: Sequence[float], shares: Sequence[float], value: str) -> Series:
    look = 1 if name.startswith("impostors") else 0
    points = list(zip(places, shares, strict=True))
    return Series(name, points, look, dashed=look == 1, marked=False, value=value)


def _axes(x: str, y: str, *, logarithmic: bool) -> Axes:
    return Axes(
        x,
        y,
        zero=not logarithmic,
        logarithmic=logarithmic,
        show=_share,
        ticks="{:g}".format if logarithmic else whole_percent,
        show_x="{:.3f}".format,
        whole=False,
    )


def _thresholds(verification: Verification, chosen: Rates) -> Iterator[Html]:
    head = ("FAR", "threshold", "95 %", "TAR", "95 %", "impostors accepted")
    yield table(
        "By the share of impostors accepted",
        head,
        [_row(rates, rates is chosen) for rates in verification.rates],
        note="Intervals by the bootstrap over people, for pairs are not independent of each other; those of "
        "thresholds are too wide rather than too narrow, those of shares near 0 or 100 % too narrow. "
        "A threshold that few impostors pass is not known well, whatever its interval.",
    )


def _row(rates: Rates, is_chosen: bool) -> list[str]:
    (low, high), (least, most) = rates.threshold_interval, rates.tar_interval
    return [
        f"{_share(rates.far)}{' (chosen)' if is_chosen else ''}",
        f"{rates.threshold:.4f}",
        f"{low:.4f} to {high:.4f}",
        percent(rates.tar),
        f"{100 * least:.1f} to {percent(most)}",
        f"{rates.num_accepted:,}",
    ]


def _share(share: float) -> str:
    """Return a share in percent, with the digits that small ones need."""
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"
