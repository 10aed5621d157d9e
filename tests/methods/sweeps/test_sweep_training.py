"""What trials that train share: done once for those that it is the same for, and given to these alone."""

from contextlib import suppress
from pathlib import Path

import pytest
from sweeping import SWEEP, options, run_file

from raid.errors import InputError
from raid.methods.sweeps import training
from raid.methods.sweeps.definition import SharedStage, widest
from raid.methods.sweeps.planning import planned
from raid.methods.sweeps.training import shared_results, shared_settings
from raid.sweep_folder import Axis

PREPARED = []


def takes(config):
    return config.refine.enabled and config.intra.labels is None


def prepare(config, backend, folder: Path) -> Path:
    PREPARED.append((folder.name, config.seed, config.refine.horizon))
    return folder / "local_labels.parquet"


def fail(config, backend, folder: Path) -> Path:
    raise InputError("data.root: nothing is there")


STAGE = SharedStage("labels", "intra.labels", takes, prepare)


@pytest.fixture
def base(tmp_path, monkeypatch):
    def in_here(work, numbers, **how):
        for number in numbers:
            with suppress(InputError):  # a trial that fails stops no other
                work(number, {}, lambda value, epochs: None)

    monkeypatch.setattr(training, "run_trials", in_here)
    PREPARED.clear()
    base, _, _ = planned(SWEEP, options(run_file(tmp_path, tmp_path / "images"), num_seeds=2))
    return base


def trials_of(base):
    return planned(SWEEP, options(base.folder.path.parent / "tiny.yaml", num_seeds=2))[2]


def test_a_stage_is_done_once_a_seed_and_given_to_those_that_it_applies_to(base):
    trials = trials_of(base)
    found = shared_results((STAGE,), base, trials, 2)
    assert found == {
        f"labels_seed{seed}": base.folder.shared / f"labels_seed{seed}" / "local_labels.parquet"
        for seed in (1, 2)
    }
    assert [name for name, _, _ in PREPARED] == ["labels_seed1", "labels_seed2"]
    for point, seed in trials.values():
        given = shared_settings(base, (STAGE,), found, point, seed)
        wanted = {} if point["refine.decay"] == "off" else {"intra.labels": str(found[f"labels_seed{seed}"])}
        assert given == wanted


def test_what_is_there_is_not_done_again_and_what_failed_is(base):
    trials = trials_of(base)
    found = shared_results((STAGE,), base, trials, 2)
    base.folder.write_shared("labels_seed2", None, "it broke")
    PREPARED.clear()
    assert shared_results((STAGE,), base, trials, 2) == found
    assert [name for name, _, _ in PREPARED] == ["labels_seed2"]


def test_what_tells_results_apart_makes_one_each_and_the_largest_serves_all(base):
    apart = SharedStage("labels", "intra.labels", takes, prepare, of=("refine.horizon",))
    shared_results((apart,), base, trials_of(base), 2)
    assert sorted(name for name, _, _ in PREPARED) == sorted(
        f"labels_seed{seed}_horizon{horizon}" for seed in (1, 2) for horizon in (1.0, 3.0)
    )
    PREPARED.clear()
    largest = SharedStage("labels", "intra.labels", takes, prepare, largest=("refine.horizon",))
    shared_results((largest,), base, trials_of(base), 2)
    assert [horizon for _, _, horizon in PREPARED] == [3.0, 3.0]


def test_a_later_stage_begins_with_the_results_of_those_before(base):
    later = SharedStage("later", "data.cache_folder", lambda config: config.intra.labels is not None, prepare)
    found = shared_results((STAGE, later), base, trials_of(base), 2)
    assert sorted(found) == ["labels_seed1", "labels_seed2", "later_seed1", "later_seed2"]


def test_a_stage_that_fails_stops_the_sweep_with_its_reason(base):
    failing = SharedStage("labels", "intra.labels", takes, fail)
    with pytest.raises(InputError, match=r"labels_seed1, which trials share: data.root: nothing is there"):
        shared_results((failing,), base, trials_of(base), 2)


def test_the_largest_value_is_that_of_the_points_or_of_what_may_be_drawn():
    axes = (Axis("a.b", (3, 9, 4)), Axis("c.d", (1.0, 2.0), low=0.5, high=5.0), Axis("e.f", (1,)))
    assert widest(axes, ("a.b", "c.d"), []) == {"a.b": 9, "c.d": 5.0}
    points = [{"a.b": 3, "c.d": 4.5, "e.f": 1}, {"a.b": 4, "c.d": 1.0, "e.f": 1}]
    assert widest(axes, ("a.b", "c.d"), points) == {"a.b": 4, "c.d": 4.5}
