"""What the workers of every method report of their epochs, and that it is what the cluster's metrics show."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import small_network
import tiny
from mar_steps import configured

from raid.distributed.backend import LocalBackend
from raid.distributed.fanout import InProcess
from raid.distributed.group import Group
from raid.distributed.ray_metrics import METRICS, TAGS
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.run_folder import RunFolder
from raid.spans import pace

Report = tuple[int, Mapping[str, float], Mapping[str, str]]


@dataclass(frozen=True)
class Listening(Group):
    """One worker, whose reports are kept."""

    reports: list[Report] = field(default_factory=list)

    def report(self, epoch: int, figures: Mapping[str, float], run: Mapping[str, str]) -> None:
        self.reports.append((epoch, dict(figures), run))


class ListeningBackend(LocalBackend):
    """This process, whose worker's reports are kept."""

    def __init__(self) -> None:
        super().__init__(workers=1, threads=1, on_gpu=False)
        self.group = Listening(0, 1)

    def run_workers(self, function: Callable[..., None], *arguments: Any) -> None:
        function(self.group, InProcess(), *arguments)


def configs(sets: Path, folder: Path) -> Iterator[MethodConfig]:
    target = sets / "target"
    yield tiny.config(target, folder / "icsr", neighbors__search="approximate", sampler__identities=4)
    yield configured(sets, folder / "mar")
    yield tiny.slsr_config(target, folder / "slsr", finetuning__batch_size=8)


@pytest.fixture(scope="module")
def reports(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Report]]:
    """Of a small run of every method."""
    found = {}
    with small_network.in_use():
        for config in configs(sets, tmp_path_factory.mktemp("reported")):
            backend = ListeningBackend()
            folder = known.run(config, backend, resume=False, fresh=False)
            found[config.method] = backend.group.reports
            recorded = {epoch["epoch"]: epoch for epoch in folder.metrics()}
            for epoch, figures, _ in backend.group.reports:
                assert recorded[epoch] == json.loads(json.dumps({"epoch": epoch, **figures}))
    return found


def test_reports_name_the_run_and_its_method(reports):
    assert list(reports) == list(known.METHODS)
    for method, of_method in reports.items():
        assert len(of_method) >= 2
        for _, _, run in of_method:
            assert tuple(run) == TAGS
            assert run == {"run": method, "method": method}


def test_every_figure_that_the_cluster_shows_is_one_that_a_method_reports(reports):
    reported = {key for of_method in reports.values() for _, figures, _ in of_method for key in figures}
    assert set(METRICS) - {"epoch"} <= reported
    for of_method in reports.values():
        for _, figures, _ in of_method:
            assert all(type(figures[key]) in (int, float) for key in METRICS if key in figures)


# Images of a step, by method and by a figure that the stage's epochs alone have.
BATCHES = {
    ("icsr", "train/loss"): 4 * 2,
    ("mar", "pretraining/loss"): 16,
    ("mar", "train/loss"): 8 + 8,
    ("slsr", "baseline/loss"): 16,
    ("slsr", "train/loss"): 8,
}


@pytest.mark.parametrize(("method", "of_stage"), BATCHES)
def test_images_a_second_are_those_of_the_batch_in_the_time_of_a_step(reports, method, of_stage):
    epochs = [figures for _, figures, _ in reports[method] if of_stage in figures]
    assert epochs
    for figures in epochs:
        batch = figures["time/images_per_s"] * figures["time/step_s"]
        assert batch == pytest.approx(BATCHES[method, of_stage])
        share = figures["time/data_wait_s"] / figures["time/train_s"]
        assert 0 < figures["time/data_wait_share"] == share < 1


def test_a_run_that_goes_on_behind_the_last_step_of_an_epoch_has_trained_no_image():
    spans = {"time/train_s": 2.0, "time/data_wait_s": 0.5}
    nothing = {"time/step_s": 2.0, "time/images_per_s": 0.0, "time/data_wait_share": 0.25}
    assert pace(spans, 0, 64) == nothing
    assert pace(spans, 4, 64) == {**nothing, "time/step_s": 0.5, "time/images_per_s": 128.0}


def test_a_run_is_called_as_its_folder_and_a_trial_by_its_sweep_too():
    assert RunFolder(Path("/shared/runs/market")).name == "market"
    assert RunFolder(Path("/shared/runs/decay/trials/003")).name == "decay/003"
