"""The sections with pictures of MAR's training: nearest reference agents, mined pairs."""

from collections.abc import Iterator

from raid.report.charts import percent
from raid.report.markup import Html, element
from raid.report.panels import note
from raid.report.pictures import GONE, Side, picture, strip
from raid.report.reading import Epoch
from raid.report.run import Run


def agents(run: Run) -> Iterator[Html]:
    """Yield sample images with their nearest reference agents, the paper's figure 1."""
    if not run.mar.multilabels:
        yield note("Not recorded: it is at the end of MAR's training.")
        return
    yield note(
        "The soft multilabel (eq. 1) of some target images: the people of the source that they are most "
        "like, each by one of its images. The longer the bar, the higher the label likelihood; the longest "
        "is the row's highest."
    )
    if run.mar.training is None:
        yield note(GONE)
    for sample in range(len(run.mar.multilabels["target_rows"])):
        yield _multilabel(run, sample)


def _multilabel(run: Run, sample: int) -> Html:
    """Return a target image and its agents by falling likelihood."""
    found = run.mar.multilabels
    target, values = int(found["target_rows"][sample]), found["values"][sample].tolist()
    shown = picture(target, "target image", run.mar.target)
    items = [element("li", element("small", "target"), shown, class_="query")]
    items += [
        _agent(int(agent), int(row), value, value / max([*values, 1e-12]), run.mar.source)
        for agent, row, value in zip(
            found["agents"][sample], found["source_rows"][sample], values, strict=True
        )
    ]
    held = f"{len(values)} agents hold {percent(sum(values))} of its multilabel"
    return strip(f"Image {target + 1}: {held}", items)


def _agent(agent: int, row: int, value: float, share: float, source: Side | None) -> Html:
    shown = picture(row, f"agent {agent + 1}", source)
    bar = element("i", class_="likelihood", style=f"width:{100 * share:.0f}%", aria_hidden="true")
    return element("li", element("small", f"agent {agent + 1}"), shown, bar, element("b", percent(value)))


def pairs(run: Run) -> Iterator[Html]:
    """Yield pairs that were mined as positive and as hard negative, the paper's figure 3."""
    shown = [line for line in run.mar.mining if line["positives"] or line["negatives"]]
    if not shown:
        yield note("No pair has been recorded.")
        return
    last = shown[-1]
    yield note(
        f"Of the pairs mined in epoch {last['epoch'] + 1}, those whose features are most alike. "
        "✓ and a solid frame: the pair is what it was mined as; ✗ and a dashed frame: it is not; neither: "
        "nobody knows."
    )
    if run.mar.training is None:
        yield note(GONE)
    for kind, title, what in (
        ("positives", "Mined as positive", True),
        ("negatives", "Mined as hard negative", False),
    ):
        yield element("h3", title)
        yield element("ul", *(_pair(pair, what, run) for pair in last[kind]), class_="pairs")
        if not last[kind]:
            yield note("None.")


def _pair(pair: Epoch, positive: bool, run: Run) -> Html:
    """Return the two pictures of a pair and what is known of it."""
    verdict, sign = "", ""
    if pair["same"] is not None:
        right = pair["same"] == positive
        verdict, sign = ("right", "✓ ") if right else ("wrong", "✗ ")
    people = {True: "one person", False: "two persons", None: "people not known"}[pair["same"]]
    pictures = [picture(row, f"{people}, {verdict or 'mined'}", run.mar.target) for row in pair["rows"]]
    # Where the features are the guide, the score that parts the pairs is the similarity again.
    names = ("similarity", "agreement") if run.guide == "agreement" else ("similarity",)
    told = [element("small", f"{name} {pair[name]:.2f}") for name in names]
    return element(
        "li", element("div", *pictures), element("b", f"{sign}{people}"), *told, class_=verdict or None
    )
