"""What a reader should know first: which run it is, of which sets, and what came of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from raid.report.charts import percent
from raid.report.markup import Html, element, join
from raid.report.panels import seconds_text
from raid.report.run import Epoch, Run

_FIGURES = {"mAP": "mAP", "rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mINP": "mINP"}
_SOURCE = "source_"  # before the name of a fact of the labelled set
# Auxiliary sets that include images meant for testing.
_WITH_TEST = {name: f"{name} (with its test identities)" for name in ("all", "msmt17_all")}


def header(run: Run) -> Html:
    """Return the heading, the facts and the result."""
    shown = [
        element("li", f"{name} ", element("b", str(value)))
        for name, value in _facts(run).items()
        if value is not None
    ]
    facts = element("ul", *shown, class_="facts")
    return element("header", element("h1", title(run)), facts, _unfinished(run), _result(run))


def title(run: Run) -> str:
    """Return what was run, by the name that the paper's ablation gives it, and its folder."""
    return f"{_mar(run.config) if run.method == 'mar' else _icsr(run)}: {run.name}"


def _icsr(run: Run) -> str:
    return "ICSR" if run.refined else "Baseline"


def _mar(config: Mapping[str, Any]) -> str:
    if config.get("training.epochs") == 0:
        return "Source only"
    named = "Feature-guided (our reading)" if config.get("mining.guide") == "feature" else "MAR"
    off = [name for name in ("mdl", "cml", "al", "rj") if config.get(f"losses.{name}") is False]
    if off[-2:] == ["al", "rj"]:
        off[-2:] = ["ral"]  # eq. 9: both together
    if off:
        named += f" without {' and '.join(name.upper() for name in off)}"
    return f"{named}, agents permuted (control)" if config.get("multilabel.control") == "permuted" else named


def _facts(run: Run) -> dict[str, Any]:
    spent = sum(seconds for points in run.times.values() for _, seconds in points)
    sets = _icsr_sets(run) if run.method == "icsr" else _mar_sets(run)
    return {
        "seed": run.config.get("seed"),
        "preset": run.config.get("preset"),
        **sets,
        "network": run.config.get("model.backbone"),
        "epochs": _epochs(run),
        "time": seconds_text(spent) if spent else None,
        "last epoch recorded": run.written.strftime("%Y-%m-%d %H:%M UTC"),
    }


def _icsr_sets(run: Run) -> dict[str, Any]:
    return {"data": run.config.get("data.root"), "set": ", ".join(_set(run.set)) or None}


def _mar_sets(run: Run) -> dict[str, Any]:
    target = {name: value for name, value in run.set.items() if not name.startswith(_SOURCE)}
    source = {
        name.removeprefix(_SOURCE): value for name, value in run.set.items() if name.startswith(_SOURCE)
    }
    auxiliary = run.config.get("auxiliary")
    return {
        "target": run.config.get("data.root"),
        "target set": ", ".join(_set(target)) or None,
        "source": run.config.get("source.root"),
        "source set": ", ".join(_set(source)) or None,
        "auxiliary": _WITH_TEST.get(str(auxiliary), auxiliary),
    }


def _set(facts: Mapping[str, str]) -> Iterator[str]:
    """Yield which set it is: its name, and its version, boxes, split or protocol where they are known."""
    for name, value in facts.items():
        if (name, value) != ("protocol", "standard"):
            yield value if name == "set" else f"{name.replace('_', ' ')} {value}"


def _epochs(run: Run) -> str:
    done = str(len(run.epochs))
    if not run.finished:
        done += f" of {run.config.get('inter.epochs') if run.method == 'icsr' else _planned(run.config)}"
    return f"{done}, {len(run.pretrained)} of them pretraining" if run.pretrained else done


def _planned(config: Mapping[str, Any]) -> int:
    pretraining = 0 if config.get("pretraining.checkpoint") else config.get("pretraining.epochs", 0)
    return int(pretraining + config.get("training.epochs", 0))


def _unfinished(run: Run) -> Html:
    if run.finished:
        return Html()
    return element(
        "p", element("b", "Unfinished: "), "the run has not ended; these are no results.", class_="alarm"
    )


def _result(run: Run) -> Html:
    """Return the figures of the last evaluated epoch, and the best one's with its warning."""
    evaluated = [epoch for epoch in run.epochs if "eval/mAP" in epoch]
    if not evaluated:
        return element("p", "No epoch has been evaluated" + ("." if run.finished else " yet."))
    last, best = evaluated[-1], max(evaluated, key=lambda epoch: float(epoch["eval/mAP"]))
    cards = [
        element("li", element("b", percent(last[f"eval/{key}"])), element("span", name))
        for key, name in _FIGURES.items()
        if f"eval/{key}" in last
    ]
    of = "The result: the last epoch" if run.finished else "The last evaluated epoch"
    return join(
        [
            element("p", element("b", f"{of}, {last['epoch'] + 1}"), class_="result"),
            element("ul", *cards, class_="cards"),
            _source_only(run, last),
            element("p", _best(best, last), class_="muted"),
        ]
    )


def _source_only(run: Run, last: Epoch) -> Html:
    """Return what the pretraining alone comes to, which MAR has to beat."""
    found = [epoch for epoch in run.pretrained if "eval/mAP" in epoch]
    if not found:
        return Html()
    before = found[-1]
    if before is last:
        return element("p", "This is the source alone: no image of the target has been trained on.")
    shown = ", ".join(
        f"{name} {percent(before[key])} ({100 * (last[key] - before[key]):+.1f})"
        for key, name in ((f"eval/{key}", name) for key, name in _FIGURES.items())
        if key in before and key in last
    )
    return element("p", f"Source only, epoch {before['epoch'] + 1} (and the points gained since): {shown}.")


def _best(best: Epoch, last: Epoch) -> str:
    if best["epoch"] == last["epoch"]:
        return "No epoch before it has a higher mAP."
    shown = ", ".join(
        f"{name} {percent(best[f'eval/{key}'])}" for key, name in _FIGURES.items() if f"eval/{key}" in best
    )
    return f"Best epoch {best['epoch'] + 1}: {shown}. Known by looking at the test set: not the result."
