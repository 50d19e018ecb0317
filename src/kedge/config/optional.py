"""Libraries that not everybody needs, imported when somebody does."""

from importlib import import_module
from typing import Any

from kedge.errors import ConfigError


def needed(module: str, who: str, extra: str = "rewards") -> Any:
    """The module.

    Args:
        module: as it is imported.
        who: wants it, for the message.
        extra: of kedge, that brings it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"{who}: {error}; pip install 'kedge[{extra}]'") from None
