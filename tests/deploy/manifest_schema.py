"""What a manifest may say: by KubeRay's definitions where they are at hand, and by the project's own list.

The definitions hold Kubernetes' pods, services and rules of network policies as well, so that other objects
are looked at too. The list, manifest_fields.txt, has every field that the manifests use and its type: what is
not in there is a mistake of theirs, or belongs into it.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from deploying import REPOSITORY, Document
from jsonschema import Draft202012Validator

DEFINITIONS = REPOSITORY.parent / "shared" / "data" / "kuberay"
LIST = Path(__file__).with_name("manifest_fields.txt")
SOURCES = ("list", "definitions") if DEFINITIONS.is_dir() else ("list",)
TYPES = {str: "string", bool: "boolean", int: "integer"}
# Their keys are data.
MAPS = ("labels", "matchLabels", "rayStartParams", "requests", "limits")
CLUSTER = ("RayCluster", "spec")
POD = (*CLUSTER, "headGroupSpec", "template")
CLAIM = (*POD, "spec", "volumes", "[]", "ephemeral", "volumeClaimTemplate", "spec")
# Where a definition has what other objects are made of.
PIECES = {
    ("RayCluster",): ("RayCluster",),
    ("RayJob",): ("RayJob",),
    ("Service",): (*CLUSTER, "headGroupSpec", "headService"),
    ("Deployment", "spec", "template"): POD,
    ("StatefulSet", "spec", "template"): POD,
    ("StatefulSet", "spec", "volumeClaimTemplates", "[]", "spec"): CLAIM,
    ("NetworkPolicy", "spec", "ingress"): (*CLUSTER, "networkPolicy", "head", "ingressRules"),
    ("PersistentVolumeClaim", "spec"): CLAIM,
}


def problems(document: Document, source: str) -> list[str]:
    """Return what is wrong with an object, each with where it is."""
    if source == "list":
        known = listed()
        used = {f"{document['kind']} {field}" for field in fields(document)}
        return sorted(f"{field}: not in {LIST.name}" for field in used - known)
    return [
        f"{'.'.join(map(str, (*path, *error.absolute_path)))}: {error.message}"
        for path, schema in PIECES.items()
        if path[0] == document["kind"]
        for value in at(document, path[1:])
        for error in validator(schema).iter_errors(value)
    ]


def at(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield what is at a path of an object; `[]` stands for each of a list."""
    if not path:
        yield value
    elif path[0] == "[]":
        for each in value:
            yield from at(each, path[1:])
    else:
        yield from at(value[path[0]], path[1:])


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Yield path and type of every field that is used."""
    if isinstance(value, dict):
        for name, below in value.items():
            is_key = path.rpartition(".")[2] in MAPS
            yield from fields(below, f"{path}.*" if is_key else f"{path}.{name}".lstrip("."))
        if not value:
            yield f"{path} object"
    elif isinstance(value, list):
        for below in value:
            yield from fields(below, f"{path}[]")
    else:
        yield f"{path} {TYPES[type(value)]}"


def listed() -> set[str]:
    """Return the lines of the list: kind, path and type."""
    return set(LIST.read_text().splitlines())


@functools.cache
def _schema(kind: str) -> dict[str, Any]:
    file = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    with file.open() as stream:
        content = yaml.load(stream, Loader=yaml.CSafeLoader)
    (version,) = (each for each in content["spec"]["versions"] if each["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


@functools.cache
def validator(path: tuple[str, ...]) -> Draft202012Validator:
    """Return what checks a field of an object of KubeRay's, the kind first in its path."""
    schema = _schema(path[0])
    for name in path[1:]:
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    return Draft202012Validator(strict(schema))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that refuses fields that it does not know, where Kubernetes would drop them."""
    found = dict(schema)
    if "properties" in schema:
        found["properties"] = {name: strict(below) for name, below in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    if "items" in schema:
        found["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = strict(schema["additionalProperties"])
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found
