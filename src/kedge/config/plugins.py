"""What other packages bring: their entry points of a group, found without importing any of them."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from kedge.errors import ConfigError


def plugins(group: str) -> dict[str, EntryPoint]:
    """Entry points by name. What two packages bring under one name is the first one's on ``sys.path``."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, point)
    return found


def package_of(point: EntryPoint) -> str:
    """Name and version of the package that brings it."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an installed package"


def load(point: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        ConfigError: it cannot be imported; the package is named.
    """
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{point.name}: {package_of(point)} brings it ({point.value}), and it cannot be loaded: {error}; update "
            "that package, or uninstall it"
        ) from error
