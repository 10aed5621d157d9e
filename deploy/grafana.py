"""The Grafana dashboard of the project's own metrics, made of their table; `deploy/write.py` writes it."""

from collections.abc import Iterator
from typing import Any

from raid.distributed.ray_metrics import METRICS

WIDTH, HEIGHT, PER_ROW = 8, 8, 3
UNITS = {"seconds": "s", "ratio": "percentunit", "images/s": "short", "none": "short"}
CHOSEN = '{run=~"$run", method=~"$method"}'

# Panels by title: figures of metrics.jsonl, each shown as it is, or two that are divided.
PANELS: dict[str, tuple[str, ...]] = {
    "Epoch": ("epoch",),
    "Images a second": ("time/images_per_s",),
    "A training step": ("time/step_s",),
    "Share of the steps spent waiting for images": ("time/data_wait_s / time/train_s",),
    "Seconds of an epoch": (
        "time/startup_s",
        "time/extract_s",
        "time/cluster_s",
        "time/train_s",
        "time/evaluate_s",
        "time/checkpoint_s",
    ),
    "Retrieval": ("eval/mAP", "eval/rank1", "eval/mINP"),
    "Loss": ("train/loss", "pretraining/loss", "baseline/loss"),
    "Learning rate": ("train/learning_rate",),
    "Accuracy": (
        "pretraining/accuracy",
        "source/accuracy",
        "baseline/accuracy",
        "train/accuracy",
        "train/accuracy_generated",
    ),
    "ICSR: clusters": ("cluster/num",),
    "ICSR: health of the clusters": (
        "cluster/coverage",
        "cluster/largest",
        "cluster/camera_purity",
        "cluster/churn",
        "cluster/silhouette",
        "neighbors/recall",
    ),
    "ICSR: refinement": ("refine/discarded", "refine/discard_probability"),
    "MAR: parts of the loss": ("train/mdl", "train/cml", "train/al", "train/rj"),
    "MAR: pairs mined in a step": ("mining/positives", "mining/negatives"),
    "MAR: threshold": ("mining/threshold",),
    "MAR: nearest persons": ("multilabel/people",),
    "MAR: churn of the nearest persons": ("multilabel/churn",),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "title": "raid",
        "uid": "raid",
        "tags": ["raid", "ray"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": [_panel(number, title) for number, title in enumerate(PANELS)],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for tag in ("method", "run"):
        yield {
            "name": tag,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": f"label_values(ray_{METRICS['epoch'].name}, {tag})",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _panel(number: int, title: str) -> dict[str, Any]:
    shown = PANELS[title]
    parts = [[METRICS[key] for key in each.split(" / ")] for each in shown]
    unit = "percentunit" if len(parts[0]) > 1 else UNITS[parts[0][0].unit]
    return {
        "id": number + 1,
        "title": title,
        "description": "\n".join(metric.description for metrics in parts for metric in metrics),
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {
            "x": number % PER_ROW * WIDTH,
            "y": number // PER_ROW * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "expr": " / ".join(f"ray_{metric.name}{CHOSEN}" for metric in metrics),
                "legendFormat": "{{run}}" if len(shown) == 1 else f"{{{{run}}}} {each}",
            }
            for place, (each, metrics) in enumerate(zip(shown, parts, strict=True))
        ],
    }
