"""The gauges of a run, without a cluster; tests/methods/test_reported_figures.py has what methods report."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray")
from raid.distributed import ray_backend, ray_metrics
from raid.distributed.ray_backend import TrainGroup
from raid.distributed.ray_metrics import METRICS, show

RUN = {"run": "market", "method": "icsr"}


class FakeGauge:
    """Keeps what it is set to; refuses what Ray's refuses."""

    made: list["FakeGauge"]

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] = ()) -> None:
        self.name, self.description, self.tag_keys = name, description, tag_keys
        self.values: list[tuple[float, dict[str, str]]] = []
        self.made.append(self)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert type(value) in (int, float)
        assert set(tags) == set(self.tag_keys)
        self.values.append((value, tags))


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeGauge]]:
    FakeGauge.made = []
    monkeypatch.setattr("ray.util.metrics.Gauge", FakeGauge)
    ray_metrics._gauge.cache_clear()
    yield FakeGauge.made
    ray_metrics._gauge.cache_clear()


def shown(gauges: list[FakeGauge]) -> dict[str, Any]:
    return {gauge.name: gauge.values[-1][0] for gauge in gauges}


def test_figures_in_the_table_are_shown_with_the_run_s_name_and_method(gauges):
    show(4, {"train/loss": 2.5, "eval/mAP": 0.3, "time/images_per_s": 80, "not/there": 1.0}, RUN)
    assert shown(gauges) == {
        "raid_epoch": 5.0,
        "raid_loss": 2.5,
        "raid_map": 0.3,
        "raid_images_per_second": 80.0,
    }
    assert {tuple(tags.items()) for gauge in gauges for _, tags in gauge.values} == {tuple(RUN.items())}


def test_a_gauge_is_made_once_and_keeps_what_an_epoch_without_it_did_not_say(gauges):
    show(0, {"train/loss": 2.5, "eval/mAP": 0.3}, RUN)
    show(1, {"train/loss": 2.0}, RUN)
    assert len(gauges) == 3
    assert shown(gauges) == {"raid_epoch": 2.0, "raid_loss": 2.0, "raid_map": 0.3}


def test_ray_takes_every_name_tag_and_description_of_the_table():
    from ray.util.metrics import Gauge

    for metric in METRICS.values():
        made = Gauge(metric.name, description=metric.description, tag_keys=ray_metrics.TAGS)
        assert made.info["description"].endswith(".")
        assert not made._discard_metric


def test_names_are_the_project_s_and_say_the_unit_that_prometheus_has_names_for():
    names = [metric.name for metric in METRICS.values()]
    assert len(set(names)) == len(names)
    for metric in METRICS.values():
        assert re.fullmatch(r"raid_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_seconds") == (metric.unit == "seconds")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_worker_alone_shows_what_all_report(rank, gauges, monkeypatch):
    reported = []
    monkeypatch.setattr(ray_backend.ray.train, "report", reported.append)
    TrainGroup(rank, 2, None).report(2, {"train/loss": 1.5}, RUN)
    assert reported == [{"train/loss": 1.5, "epoch": 2}]
    assert shown(gauges) == ({"raid_epoch": 3.0, "raid_loss": 1.5} if rank == 0 else {})
