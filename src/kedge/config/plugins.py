"""Classes by name: those of kedge, and what other packages bring, which is found without importing any of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Generic, TypeVar, get_origin

from kedge.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Subclasses of one class, by name. Packages bring more of them under entry points of a group,
    ``[project.entry-points."kedge.tasks"]`` and ``name = "module:Class"``."""

    called: str
    """What one of them is, for messages."""
    base: type
    group: str
    built_in: Mapping[str, type[T]]

    def names(self) -> list[str]:
        """Of all of them, the built-in ones first. Nothing of another package is imported for it."""
        return list(dict.fromkeys([*self.built_in, *plugins(self.group)]))

    def get(self, name: str, *, otherwise: str = "") -> type[T]:
        """The class of this name.

        Args:
            name: as :meth:`names` has it.
            otherwise: how else one can be named, for the message.

        Raises:
            ConfigError: there is none, or it cannot be loaded, or is not what it should be.
        """
        if name in self.built_in:
            return self.built_in[name]
        installed = plugins(self.group)
        if name not in installed:
            from kedge.config.settings import nearest  # and with it pydantic, which `kedge --help` does without

            raise ConfigError(f"no {self.called} is called {name!r}; {nearest(name, self.names())}{otherwise}")
        return self.checked(load(installed[name]), f"{name}: {package_of(installed[name])} brings it, and it")

    def checked(self, found: Any, what: str) -> type[T]:
        """``found``, where it is one of them.

        Args:
            found: anything.
            what: begins the message.

        Raises:
            ConfigError: it is no subclass, or has not all that one has.
        """
        base = f"{self.base.__module__}.{self.base.__name__}"
        fits = isinstance(found, type) and issubclass(found, self.base)
        if not fits:
            raise ConfigError(f"{what} is no {self.called}, which is a subclass of {base}")
        missing = [f"{name}()" for name in sorted(getattr(found, "__abstractmethods__", ()))]
        expected = [name for name, kind in self.base.__annotations__.items() if _of_class(kind)]
        missing += [name for name in expected if not hasattr(found, name)]
        if missing:
            needs = f"give {found.__name__} {', '.join(missing)}, as {base} has it"
            raise ConfigError(f"{what} is no whole {self.called}: {needs}")
        return found


def _of_class(annotation: Any) -> bool:
    return get_origin(annotation) is ClassVar or annotation is ClassVar


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
    except Exception as error:  # another's code may fail in any way; the package is named
        raise ConfigError(
            f"{point.name}: {package_of(point)} brings it ({point.value}), and it cannot be loaded: {error}; update "
            "that package, or uninstall it"
        ) from error
