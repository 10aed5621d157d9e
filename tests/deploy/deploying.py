"""What the tests of deploy/ look at: its values, the manifests that are written of them, and their pods."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "values.yaml").read_text())

sys.path.append(str(DEPLOY))
WRITE, GRAFANA = import_module("write"), import_module("grafana")

Document = dict[str, Any]


def written(folder: Path, **changed: Any) -> Path:
    """Write all files into `folder` with some values changed, and return it."""
    for name, text in WRITE.texts({**VALUES, **changed}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def manifests(deploy: Path = DEPLOY) -> Iterator[tuple[Path, Document]]:
    """Yield every Kubernetes object, with the file that it is in."""
    for folder in ("kuberay", "mlflow", "monitoring"):
        for file in sorted((deploy / folder).glob("*.yaml")):
            for document in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader):
                if "kind" in document:  # Prometheus's own configuration has none
                    yield file, document


def of_kind(kind: str, deploy: Path = DEPLOY) -> dict[str, Document]:
    """Return the objects of a kind by the names of their files, where a file has one."""
    return {file.stem: document for file, document in manifests(deploy) if document["kind"] == kind}


def ray_clusters(deploy: Path = DEPLOY) -> dict[str, Document]:
    """Return the spec of every Ray cluster by the name of its file."""
    jobs = {name: job["spec"]["rayClusterSpec"] for name, job in of_kind("RayJob", deploy).items()}
    return jobs | {name: cluster["spec"] for name, cluster in of_kind("RayCluster", deploy).items()}


def ray_pods(cluster: Document) -> Iterator[Document]:
    """Yield the pods of head and workers."""
    yield cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]["spec"]


def pods(document: Any) -> Iterator[Document]:
    """Yield every pod's specification in an object."""
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for value in document.values():
            yield from pods(value)
    elif isinstance(document, list):
        for value in document:
            yield from pods(value)


def environment(container: Document) -> dict[str, str | None]:
    """Return the variables of a container; None: by reference."""
    return {each["name"]: each.get("value") for each in container.get("env", [])}


def gibibytes(quantity: str) -> float:
    """Return a quantity of memory of the manifests."""
    return float(quantity.removesuffix("Gi"))
