"""Configuration: frozen dataclasses filled from a YAML file and `a.b=c` overrides, all checked at once.

A section is a subclass of `Schema`; a field is `name: Annotated[type, "its meaning"] = default`. A
default stands on its field and nowhere else. `load` is called at the edge only: ops and losses take
plain values.
"""

import difflib
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from raid.errors import InputError
from raid.yaml_text import Tree, parse_mapping, read_mapping, read_value


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Base of every section: unknown keys are refused, impossible combinations are named by path."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    # Named sets of values that stand between the defaults and the file: `preset: NAME`.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Paths that may differ between a run and its resumption: they do not change the result.
    NOT_IN_HASH: ClassVar[tuple[str, ...]] = ()

    def also_determining(self) -> tuple[str, ...]:
        """Return the paths under NOT_IN_HASH that, with these values, do change the result."""
        return ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (path below this section, what is impossible and what to do)."""
        return iter(())


S = TypeVar("S", bound=Schema)
_MOST_SHOWN = 200  # characters of a wrong value


def load(
    schema: type[S], file: Path | str | None = None, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> S:
    """Build a configuration: defaults, then the preset, then the file, then the overrides.

    Args:
        schema: the section class of a whole configuration.
        file: a YAML file that holds only what differs from the defaults.
        overrides: `a.b=c` texts (c is YAML), or a mapping from `a.b` to a value (Ray Tune's form).

    Raises:
        InputError: one line for each problem of the whole configuration, naming its path.
    """
    return _resolved(schema, read_mapping(file) if file is not None else {}, overrides)


def loads(schema: type[S], text: str, name: str, overrides: Iterable[str] | Mapping[str, Any] = ()) -> S:
    """Build a configuration from the text of a file, found in `name`; otherwise as `load`."""
    return _resolved(schema, parse_mapping(text, name), overrides)


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Return {"a.b": value} of `a.b=c` texts, the form in which `load` takes both.

    Raises:
        InputError: a text is not of this form.
    """
    return dict(_parsed(texts))


def as_run_file(text: str, name: str, overrides: Mapping[str, Any]) -> str:
    """Return the text of a run file that says what the one in `name` does, and the overrides.

    Args:
        text: YAML that holds only what differs from the defaults; its comments are lost.
        name: of the file, for errors.
        overrides: values by `a.b`.

    Raises:
        InputError: the text is not YAML, or an override is below a value.
    """
    tree = parse_mapping(text, name)
    for path, value in overrides.items():
        _put(tree, path, _plain(value))
    return yaml.safe_dump(tree, sort_keys=False)


def _resolved(schema: type[S], given: Tree, overrides: Iterable[str] | Mapping[str, Any]) -> S:
    for path, value in _parsed(overrides):
        _put(given, path, value)
    tree = _merge(_preset(schema, given), given)
    config, wrong = _validate(schema, tree)
    lines = [f"{path}: {message}" for path, message in wrong.items()]
    if config is None:
        # Leave out what is wrong, so that impossible combinations elsewhere are reported with it.
        for path in wrong:
            _drop(tree, path)
        config, _ = _validate(schema, tree)
    if config is not None:
        # Not of what was left out: its default may be what does not fit.
        lines += [f"{path}: {message}" for path, message in _combinations(config) if path not in wrong]
    if lines:
        raise InputError("\n".join(lines))
    assert config is not None
    return config


def flatten(config: Schema) -> dict[str, Any]:
    """Return {"a.b": value} of a resolved configuration, plain values only (paths as text)."""
    return dict(_flat(config))


def read_flat(file: Path | str) -> dict[str, Any]:
    """Return {"a.b": value} of what a YAML file says, whatever schema it is of: for showing, not for use.

    Raises:
        InputError: the file cannot be read, or is not YAML.
    """
    return dict(_flat_tree(read_mapping(file)))


def to_yaml(config: Schema) -> str:
    """Return the resolved configuration as YAML text that `load` reads back."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def determining(config: Schema) -> dict[str, Any]:
    """Return {"a.b": value} of what determines the result: all but NOT_IN_HASH."""
    return {
        path: value
        for path, value in flatten(config).items()
        if path in config.also_determining()
        or not any(path == skip or path.startswith(f"{skip}.") for skip in config.NOT_IN_HASH)
    }


def config_hash(config: Schema) -> str:
    """Hash what determines the result."""
    return hash_of(determining(config))


def hash_of(values: Mapping[str, Any]) -> str:
    """Hash plain values by "a.b"."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class FieldDescription:
    """One field as `raid config` prints it."""

    path: str
    type: str
    default: str
    meaning: str


def describe(schema: type[Schema], prefix: str = "") -> Iterator[FieldDescription]:
    """Yield every field of `schema` and of the sections below it, in order."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in fields(schema):
        annotation, meaning = _unwrap(hints[field.name])
        path = f"{prefix}{field.name}"
        if is_dataclass(annotation):
            yield from describe(typing.cast(type[Schema], annotation), f"{path}.")
        else:
            default = "(required)" if field.default is MISSING else _text(field.default)
            yield FieldDescription(path, _type_name(annotation), default, meaning)


def describe_sections(schema: type[Schema], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and meaning of every section below `schema`, in order."""
    hints = typing.get_type_hints(schema)
    for field in fields(schema):
        section = hints[field.name]
        if is_dataclass(section):
            path = f"{prefix}{field.name}"
            yield path, (section.__doc__ or "").strip().splitlines()[0]
            yield from describe_sections(typing.cast(type[Schema], section), f"{path}.")


def _parsed(overrides: Iterable[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"{text}: an override is written path=value, for example refine.horizon=1")
        try:
            yield path, read_value(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: {_shown(value)} is not a YAML value; quote a text") from error


def _put(tree: Tree, path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            raise InputError(f"{path}: {section} is a value in the file, not a section")
        # A copy: with YAML's anchors two sections may be one dictionary.
        tree[section] = dict(below)
        tree = tree[section]
    tree[name] = value


def _drop(tree: Tree, path: str) -> None:
    *sections, name = path.split(".")
    for section in sections:
        below = tree.get(section)
        if not isinstance(below, dict):
            tree.pop(section, None)
            return
        tree = below
    tree.pop(name, None)


def _preset(schema: type[Schema], given: Tree) -> Tree:
    name = given.get("preset", "default")
    return json.loads(json.dumps(schema.PRESETS.get(name, {}))) if isinstance(name, str) else {}


def _merge(base: Tree, over: Tree) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


@functools.cache  # to build it takes four fifths of a load
def _adapter(schema: type) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _validate(schema: type[S], tree: Tree) -> tuple[S | None, dict[str, str]]:
    try:
        return _adapter(typing.cast(type, schema)).validate_python(tree), {}
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for problem in error.errors():
            path, message = _explain(schema, dict(problem))
            # A field that may be of two types has a problem with each.
            wrong[path] = f"{wrong[path]}; or: {message}" if path in wrong else message
        return None, wrong


def _explain(schema: type[Schema], problem: dict[str, Any]) -> tuple[str, str]:
    section, path = schema, []
    for part in problem["loc"]:
        names = {field.name for field in fields(section)}
        path.append(str(part))
        if part not in names:
            if problem["type"] == "unexpected_keyword_argument":
                return ".".join(path), _unknown(str(part), names)
            break
        annotation, _ = _unwrap(typing.get_type_hints(section, include_extras=True)[part])
        if not is_dataclass(annotation):
            break  # what follows in `loc` names members of a union, not fields
        section = typing.cast(type[Schema], annotation)
    if problem["type"] == "missing":
        return ".".join(path), "is required"
    if problem["type"] == "dataclass_type":
        return ".".join(
            path
        ), f"is a section: wanted fields and values below it, got {_shown(problem['input'])}"
    return ".".join(path), f"{problem['msg']}, got {_shown(problem['input'])}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out a number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return (
        f"unknown key; did you mean {close[0]}?"
        if close
        else f"unknown key; known: {', '.join(sorted(known))}"
    )


def _combinations(section: Schema, prefix: str = "") -> Iterator[tuple[str, str]]:
    for path, message in section.problems():
        yield f"{prefix}{path}", message
    for field in fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Schema):
            yield from _combinations(value, f"{prefix}{field.name}.")


def _unwrap(annotation: Any) -> tuple[Any, str]:
    if typing.get_origin(annotation) is typing.Annotated:
        bare, *metadata = typing.get_args(annotation)
        bare, inner = _unwrap(bare)
        return bare, next((m for m in metadata if isinstance(m, str)), inner)
    return annotation, ""


def _type_name(annotation: Any) -> str:
    annotation, _ = _unwrap(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(argument) for argument in arguments)
    if origin is not None:
        inner = ", ".join("..." if a is Ellipsis else _type_name(a) for a in arguments)
        return f"{origin.__name__}[{inner}]"
    if annotation is type(None):
        return "none"
    name = str(annotation.__name__)
    return {"str": "text", "Path": "path"}.get(name, name)


def _text(value: Any) -> str:
    text = str(yaml.safe_dump(_plain(value), default_flow_style=True))
    return text.strip().removesuffix("\n...").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below) for below in value]
    return str(value) if isinstance(value, Path) else value


def _flat_tree(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat_tree(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _flat(section: Schema, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Schema):
            yield from _flat(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _plain(value)
