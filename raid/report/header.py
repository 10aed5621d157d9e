"""What a reader should know first: which run it is, of which sets, and what came of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from raid.report.charts import percent
from raid.report.markup import Html, element, join
from raid.report.panels import seconds_text
from raid.report.reading import Epoch
from raid.report.run import Run

_FIGURES = {"mAP": "mAP", "rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mINP": "mINP"}
# What the first stage is called, and what is said of a run that has no more yet.
_FIRST_STAGES = {
    "mar": ("Source only", "This is the source alone: no image of the target has been trained on."),
    "slsr": ("Baseline", "This is stage 1, the baseline: no generated image has been trained on."),
}
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
    match run.method:
        case "mar":
            named = _mar(run.config)
        case "slsr":
            named = _slsr(run.config)
        case _:
            named = "ICSR" if run.refined else "Baseline"
    return f"{named}: {run.name}"


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


def _slsr(config: Mapping[str, Any]) -> str:
    if config.get("finetuning.epochs") == 0:
        return "Baseline"
    label = str(config.get("generated.label"))
    if label == "none":
        return "LSR" if config.get("finetuning.label_smoothing") else "Matched baseline"
    named = {"uniform": "LSRO", "all_in_one": "All in one"}.get(label, "SLSR")
    return f"{named}, clusters permuted (control)" if config.get("generated.control") == "permuted" else named


def _facts(run: Run) -> dict[str, Any]:
    spent = sum(seconds for points in run.times.values() for _, seconds in points)
    sets = _mar_sets(run) if run.method == "mar" else _one_set(run)
    return {
        "seed": run.config.get("seed"),
        "preset": run.config.get("preset"),
        **sets,
        "network": run.config.get("model.backbone"),
        "generated": _generated(run),
        "epochs": _epochs(run),
        "time": seconds_text(spent) if spent else None,
        "last epoch recorded": run.written.strftime("%Y-%m-%d %H:%M UTC"),
    }


def _generated(run: Run) -> str | None:
    """Return how many images SLSR has generated of how many clusters."""
    if not run.slsr.generated:
        return None
    counts = [count for count in run.slsr.generated["counts"] if count]
    return f"{sum(counts)} images of {len(counts)} clusters"


def _one_set(run: Run) -> dict[str, Any]:
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
        planned = {"icsr": _icsr_planned, "mar": _mar_planned, "slsr": _slsr_planned}[run.method]
        done += f" of {planned(run.config)}"
    gans = sum(any(key.startswith("gan/") for key in epoch) for epoch in run.epochs)
    stages = {"pretraining": len(run.pretrained), "baseline": len(run.baseline), "GANs": gans}
    parts = [f"{count} of them {name}" for name, count in stages.items() if count]
    return ", ".join([done, *parts])


def _icsr_planned(config: Mapping[str, Any]) -> int:
    return int(config.get("inter.epochs", 0))


def _mar_planned(config: Mapping[str, Any]) -> int:
    pretraining = 0 if config.get("pretraining.checkpoint") else config.get("pretraining.epochs", 0)
    return int(pretraining + config.get("training.epochs", 0))


def _slsr_planned(config: Mapping[str, Any]) -> int:
    """Return the epochs of all three trainings: those of a parent GAN come before its clusters' ones."""
    baseline = 0 if config.get("baseline.checkpoint") else config.get("baseline.epochs", 0)
    finetuning = config.get("finetuning.epochs", 0)
    made = finetuning and config.get("generated.label") != "none" and not config.get("generated.folder")
    gans = config.get("gan.epochs", 0) * (1 + (config.get("gan.parent") == "all_images"))
    return int(baseline + finetuning + (gans if made else 0))


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
            _first_stage(run, last),
            element("p", _best(best, last), class_="muted"),
        ]
    )


def _first_stage(run: Run, last: Epoch) -> Html:
    """Return what the first stage alone comes to, which the method has to beat."""
    name, alone = _FIRST_STAGES.get(run.method, ("", ""))
    found = [epoch for epoch in run.pretrained + run.baseline if "eval/mAP" in epoch]
    if not found:
        return Html()
    before = found[-1]
    if before is last:
        return element("p", alone)
    shown = ", ".join(
        f"{name} {percent(before[key])} ({100 * (last[key] - before[key]):+.1f})"
        for key, name in ((f"eval/{key}", name) for key, name in _FIGURES.items())
        if key in before and key in last
    )
    return element("p", f"{name}, epoch {before['epoch'] + 1} (and the points gained since): {shown}.")


def _best(best: Epoch, last: Epoch) -> str:
    if best["epoch"] == last["epoch"]:
        return "No epoch before it has a higher mAP."
    shown = ", ".join(
        f"{name} {percent(best[f'eval/{key}'])}" for key, name in _FIGURES.items() if f"eval/{key}" in best
    )
    return f"Best epoch {best['epoch'] + 1}: {shown}. Known by looking at the test set: not the result."
