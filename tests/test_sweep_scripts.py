"""The scripts in tune/: what they search can be set, and the README's command lines are right."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from raid.commands import sweeping
from raid.commands.command_line import parse_with_overrides
from raid.config import describe, load
from raid.errors import InputError
from raid.methods import known
from raid.methods.sweeps.planning import planned

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted((REPOSITORY / "tune").glob("*.py"))
RUN_FILES = {
    "decay_schedule": "icsr_market1501",
    "clustering": "icsr_market1501",
    "mar_weights": "mar_market1501",
    "slsr_clusters": "slsr_market1501",
}


def module_of(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tune_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweeps_of(script: Path) -> list:
    module = module_of(script)
    return list(module.SWEEPS.values()) if hasattr(module, "SWEEPS") else [module.SWEEP]


SWEEPS = [sweep for script in SCRIPTS for sweep in sweeps_of(script)]


def test_every_script_is_known_here():
    assert {script.stem for script in SCRIPTS} == set(RUN_FILES) == {sweep.name for sweep in SWEEPS}


@pytest.mark.parametrize("sweep", SWEEPS, ids=[f"{sweep.name}-{sweep.axes[-1].path}" for sweep in SWEEPS])
def test_every_value_of_every_axis_can_be_set(sweep):
    schema = known.config_of(sweep.method)
    file = REPOSITORY / "jobs" / f"{RUN_FILES[sweep.name]}.yaml"
    paths = {field.path for field in describe(schema)}
    roots = {path: "images" for path in ("data.root", "source.root") if path in paths}
    for axis in sweep.axes:
        assert axis.path in paths
        ends = [] if axis.low is None else [axis.low, axis.high]
        for value in (*axis.values, *ends):
            load(schema, file, {**roots, **axis.overrides(value)})
        for path, values in axis.only.items():
            (other,) = [each for each in sweep.axes if each.path == path]
            assert set(values) < set(other.values)


@pytest.mark.parametrize("sweep", SWEEPS, ids=[f"{sweep.name}-{sweep.axes[-1].path}" for sweep in SWEEPS])
def test_who_looks_at_the_test_set_is_marked(sweep):
    for objective in sweep.objectives:
        assert objective.on_test_set == objective.key.startswith("eval/")
    assert not sweep.objectives[0].on_test_set  # the one that a reader sees first


def commands() -> list[str]:
    section = (REPOSITORY / "README.md").read_text().split("<!-- run by tests/test_sweep_scripts.py -->")[1]
    return re.findall(r"^python (tune/.*)$", section.split("```")[1], flags=re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_the_readmes_command_lines_plan_what_they_say(command, monkeypatch):
    script, *arguments = shlex.split(command)
    asked = []
    monkeypatch.setattr(sweeping, "_run", lambda sweep, options, kind: asked.append((sweep, options)))
    module = module_of(REPOSITORY / script)
    main = sweeping.main_clustering if hasattr(module, "SWEEPS") else sweeping.main
    monkeypatch.chdir(REPOSITORY)
    assert main(getattr(module, "SWEEPS", None) or module.SWEEP, arguments) == 0
    ((sweep, options),) = asked
    base, _, trials = planned(sweep, sweeping.asked(options))
    assert base.record.objective.name == options.objective
    if "--axes decay" in command:
        assert [(point["refine.decay"], seed) for point, seed in trials.values()] == [
            (decay, seed)
            for decay in ("off", "none", "linear", "exponential", "cosine")
            for seed in (1, 2, 3)
        ]
    if options.search != "optuna":
        assert trials
    else:
        assert not trials


def test_help_lists_what_is_searched_with_its_values():
    for sweep in SWEEPS:
        text = sweeping._parser(sweep).format_help()
        for axis in sweep.axes:
            assert f"{axis.path}: {', '.join(map(str, axis.values))}" in text


def test_an_objective_has_to_be_named():
    (sweep,) = sweeps_of(REPOSITORY / "tune" / "mar_weights.py")
    with pytest.raises(SystemExit):
        parse_with_overrides(sweeping._parser(sweep), ["jobs/mar_demo.yaml"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--features", "a.npy", "--objective", "churn"],
            "--objective churn: compares clusters of two epochs",
        ),
        (
            ["--features", "a", "b", "c", "--objective", "silhouette"],
            "--features: those of one epoch, or of two",
        ),
    ],
)
def test_features_of_as_many_epochs_as_the_objective_needs(arguments, message, monkeypatch):
    module = module_of(REPOSITORY / "tune" / "clustering.py")

    def run(sweep, options, kind):
        with pytest.raises(InputError, match=message):
            kind()

    monkeypatch.setattr(sweeping, "_run", run)
    assert sweeping.main_clustering(module.SWEEPS, ["jobs/icsr_demo.yaml", *arguments]) == 0
