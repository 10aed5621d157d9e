"""What Prometheus scrapes and Grafana shows: metrics that exist, from ports that are open."""

import json
import re
from typing import Any

import pytest
import yaml
from deploying import DEPLOY, GRAFANA, VALUES, of_kind, ray_clusters, ray_pods

from raid.distributed.ray_metrics import METRICS, TAGS

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "monitoring" / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
NAMES = {f"ray_{metric.name}" for metric in METRICS.values()}


def queried(text: str) -> set[str]:
    """The project's metrics that a query names."""
    return set(re.findall(r"\b[a-z_]*raid_\w+", text))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_metrics_that_exist_of_the_chosen_runs(panel):
    assert panel["targets"]
    for target in panel["targets"]:
        assert queried(target["expr"])
        assert queried(target["expr"]) <= NAMES
        chosen = [f'{tag}=~"${tag}"' for tag in TAGS]
        for selector in re.findall(r"\{(.*?)\}", target["expr"]):
            assert sorted(selector.split(", ")) == sorted(chosen)
    assert panel["description"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_metric_is_in_a_panel():
    assert {name for panel in PANELS for t in panel["targets"] for name in queried(t["expr"])} == NAMES


def test_a_panel_of_a_metric_that_is_not_there_cannot_be_written(monkeypatch):
    monkeypatch.setitem(GRAFANA.PANELS, "Typing mistake", ("train/los",))
    with pytest.raises(KeyError, match="train/los"):
        GRAFANA.dashboard()


def test_a_panel_has_one_unit():
    for title, shown in GRAFANA.PANELS.items():
        units = {METRICS[each].unit for each in shown if " / " not in each}
        assert len(units - {"none"}) <= 1, title


def test_what_is_shown_can_be_chosen_by_the_tags_of_the_metrics():
    queries = {each["name"]: each.get("query", "") for each in DASHBOARD["templating"]["list"]}
    for tag in TAGS:
        assert queries[tag] == f"label_values(ray_raid_epoch, {tag})"
        assert queried(queries[tag]) <= NAMES
    assert "datasource" in queries


def test_panels_do_not_overlap():
    places = [tuple(panel["gridPos"].values()) for panel in PANELS]
    assert len(set(places)) == len(PANELS) == len(GRAFANA.PANELS)
    assert all(x + width <= 24 and y % height == 0 for x, y, width, height in places)


def test_prometheus_scrapes_a_port_that_every_node_of_ray_has():
    (monitor,) = of_kind("PodMonitor").values()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for cluster in ray_clusters().values():
        for pod in ray_pods(cluster):
            ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == VALUES["ports"]["metrics"]
    assert monitor["spec"]["selector"] == {
        "matchLabels": {"ray.io/is-ray-node": "yes"}
    }  # KubeRay's own label
    assert endpoint["interval"] == VALUES["monitoring"]["interval"]


def test_prometheus_without_kubernetes_finds_the_nodes_where_ray_lists_them():
    ray_constants = pytest.importorskip("ray._private.ray_constants")
    config = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yaml").read_text())
    (scrape,) = config["scrape_configs"]
    (place,) = scrape["file_sd_configs"]
    assert place["files"] == [f"/tmp/ray/{ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
