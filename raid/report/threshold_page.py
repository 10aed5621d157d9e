"""A threshold as one page: how alike the pairs are, what it accepts and rejects, and others beside it."""

from collections.abc import Iterator, Mapping

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
    rule = ("threshold", chosen.threshold)
    as_share = Axes("similarity", "share of its pairs", zero=True, show=_share, ticks=whole_percent,
                    show_x="{:.3f}".format, whole=False)  # fmt: skip
    as_rate = Axes("threshold", "share, logarithmic", logarithmic=True, show=_share, ticks=whole_percent,
                   show_x="{:.3f}".format, whole=False)  # fmt: skip
    yield grid(
        [
            line_chart(
                "How alike pairs are",
                [
                    Series("genuine: one person", list(zip(middles, genuine, strict=True)), 0, marked=False),
                    Series(
                        "impostors: two people",
                        list(zip(middles, impostor, strict=True)),
                        1,
                        dashed=True,
                        marked=False,
                    ),
                ],
                as_share,
                rule=rule,
                note="Each kind by its own number of pairs. What is right of the line is accepted.",
            ),
            line_chart(
                "Errors by the threshold",
                [
                    Series("genuine rejected", list(zip(places, rejected, strict=True)), 0, marked=False),
                    Series(
                        "impostors accepted",
                        list(zip(places, accepted, strict=True)),
                        1,
                        dashed=True,
                        marked=False,
                    ),
                ],
                as_rate,
                rule=rule,
                note="They cross at the equal error rate. Where a line ends, there are no more.",
            ),
        ]
    )


def _thresholds(verification: Verification, chosen: Rates) -> Iterator[Html]:
    head = ("FAR", "threshold", "95 %", "TAR", "95 %", "impostors accepted")
    yield table(
        "Thresholds by the share of impostors that they may accept",
        head,
        [_row(rates, rates is chosen) for rates in verification.rates],
        note="Intervals by the bootstrap over people, for pairs are not independent of each other; those of "
        "thresholds are too wide rather than too narrow. A threshold that few impostors pass is not known "
        "well, whatever its interval.",
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
