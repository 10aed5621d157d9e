"""YAML as a configuration may be written, by whomever: the only module that reads YAML."""

from pathlib import Path
from typing import Any

import yaml

from raid.errors import InputError

# Far more than a configuration has, and read within seconds.
_MOST_BYTES, _MOST_VALUES = 2**18, 100_000
Tree = dict[str, Any]


def read_mapping(file: Path | str) -> Tree:
    """Return what a YAML file says.

    Raises:
        InputError: it cannot be read; or as in `parse_mapping`.
    """
    try:
        with Path(file).open("rb") as opened:
            return parse_mapping(opened.read(_MOST_BYTES + 1), str(file))
    except OSError as error:
        hint = "; a run file comes before the overrides" if "=" in str(file) else ""
        raise InputError(f"{file}: cannot read this configuration file: {error.strerror}{hint}") from error


def parse_mapping(text: str | bytes, name: str) -> Tree:
    """Return what a text, found in `name`, says.

    Raises:
        InputError: it is not YAML, no mapping, or larger than a configuration can be.
    """
    if len(text) > _MOST_BYTES:
        raise InputError(f"{name}: is larger than {_MOST_BYTES // 1024} KiB: no configuration")
    try:
        content = yaml.load(text, _Careful)
    except RecursionError as error:
        raise InputError(f"{name}: not YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2024-13-01
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: not YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{name}: holds a {type(content).__name__}; wanted `section: values`")
    return content


def read_value(text: str) -> Any:
    """Return the value that a text is.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is none.
    """
    return yaml.load(text, _Careful)


class _Careful(yaml.SafeLoader):
    """Refuses what YAML takes: keys that a mapping holds twice, and aliases that would fill the memory.

    Of two equal keys YAML would silently take the last.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _num_values(node, {}) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"more than {_MOST_VALUES:,} values, with its aliases written out",
                node.start_mark,
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _num_values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Return how many values a node has with its aliases written out; `known` are those of others by id."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    key = id(node)
    if key not in known:
        known[key] = None  # until it is: what finds itself in itself has no end
        pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
        known[key] = 1 + sum(_num_values(below, known) for pair in pairs for below in pair)
    number = known[key]
    if number is None:
        raise yaml.constructor.ConstructorError(None, None, "a value that contains itself", node.start_mark)
    return number
