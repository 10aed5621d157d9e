"""What holds for the configuration of every method, field by field."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from raid.config import Schema, config_hash, describe, flatten, load

# Of every method. Written out, not read from its NOT_IN_HASH: a field that leaves the hash must be put here
# as well, or with its method's own.
NOT_IN_HASH = {
    *("data.cache_folder", "data.cache_limit_gib", "data.fetch_limit_gib", "data.read_timeout_s"),
    "data.root",
    *("evaluate.ap", "evaluate.cuhk03", "evaluate.every", "evaluate.flip", "evaluate.multi_query"),
    *("evaluate.rerank", "evaluate.rerank_k1", "evaluate.rerank_k2", "evaluate.rerank_weight"),
    "evaluate.seed",
    "extract.on",
    *("pool.per_gpu", "pool.size"),
    "run.blur",
    *("run.checkpoint_minutes", "run.checkpoint_steps", "run.device", "run.folder", "run.keep_checkpoints"),
    *("run.min_workers", "run.profile", "run.retries", "run.step_timeout_s", "run.workers"),
    *("track.enabled", "track.experiment", "track.parent"),
}


def value_at(config: Schema, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def with_value(section: Schema, path: str, value: Any) -> Schema:
    name, _, below = path.partition(".")
    return replace(section, **{name: with_value(getattr(section, name), below, value) if below else value})


def other(value: Any) -> Any:
    """Another value; replaced in the dataclasses themselves, nobody checks whether it makes sense."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case tuple():
            return value[::-1]
    return f"{value}x"


def assert_described(schema: type[Schema]) -> None:
    """Fail unless every field says its type, its default and its meaning."""
    described, defaults = list(describe(schema)), flatten(schema())
    assert [field.path for field in described] == list(defaults)
    for field in described:
        assert field.meaning.strip(), field.path
        assert field.type, field.path
        assert "Annotated" not in field.type, field.path
        assert yaml.safe_load(field.default) == defaults[field.path], field.path


def not_in_hash(config: Schema) -> set[str]:
    """Return the fields of another value of which the hash is the same."""
    ignored = set()
    for field in describe(type(config)):
        changed = with_value(config, field.path, other(value_at(config, field.path)))
        assert flatten(changed) != flatten(config), field.path
        if config_hash(changed) == config_hash(config):
            ignored.add(field.path)
    return ignored


def changed_by(preset: str, schema: type[Schema], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a preset changes, and what to."""
    default = flatten(load(schema, overrides=given))
    config = flatten(load(schema, overrides={**given, "preset": preset}))
    assert config.pop("preset") == preset
    return {key: value for key, value in config.items() if value != default[key]}
