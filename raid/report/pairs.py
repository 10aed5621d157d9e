"""The sections with pictures of MAR's training: nearest reference agents, mined pairs."""

from collections.abc import Iterator

from raid.report.charts import percent
from raid.report.controls import article, camera_of, cameras_of, controls
from raid.report.markup import Html, element
from raid.report.panels import note
from raid.report.pictures import GONE, Side, picture
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
    else:
        of, source = run.mar.multilabels, run.mar.training.source
        target = cameras_of(run.mar.training.target, of["target_rows"].tolist())
        agents = cameras_of(source, of["source_rows"].ravel().tolist())
        yield controls([("query", "Target camera", target), ("gallery", "Source camera", agents)])
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
    camera = _camera(run.mar.target, target)
    at = "" if camera is None else f", camera {camera}"
    return article(f"Image {target + 1}{at}: {held}", items, order=sample, camera=camera)


def _agent(agent: int, row: int, value: float, share: float, source: Side | None) -> Html:
    shown = picture(row, f"agent {agent + 1}", source)
    bar = element("i", class_="likelihood", style=f"width:{100 * share:.0f}%", aria_hidden="true")
    what = element("small", f"agent {agent + 1}")
    return element("li", what, shown, bar, element("b", percent(value)), data_camera=_camera(source, row))


def _camera(of: Side | None, row: int) -> str | None:
    return None if of is None else camera_of(of[0], row)


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
    else:
        rows = [row for kind in ("positives", "negatives") for pair in last[kind] for row in pair["rows"]]
        cameras = cameras_of(run.mar.training.target, rows)
        yield controls([("pair", "Camera of one of the two", cameras)], what="pairs")
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
    one, other = (_camera(run.mar.target, row) for row in pair["rows"])
    if one is not None or other is not None:
        told.append(element("small", f"cameras {one or '?'}, {other or '?'}"))
    shown = (element("div", *pictures), element("b", f"{sign}{people}"), *told)
    return element("li", *shown, class_=verdict or None, data_camera=one, data_other=other)
