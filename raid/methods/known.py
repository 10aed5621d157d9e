"""The methods by their names: what a command is told, and what a run folder or a model says it is of."""

from typing import TypeAlias

from raid.errors import InputError
from raid.methods.icsr_config import IcsrConfig
from raid.methods.mar_config import MarConfig

MethodConfig: TypeAlias = IcsrConfig | MarConfig
METHODS = ("icsr", "mar")


def config_of(method: str) -> type[IcsrConfig] | type[MarConfig]:
    """Return the configuration's class.

    Raises:
        InputError: there is no such method.
    """
    match method:
        case "icsr":
            return IcsrConfig
        case "mar":
            return MarConfig
    raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
