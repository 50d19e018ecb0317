"""The kinds of reward there are: the built-in ones, those that other packages bring, and a user's own by its place."""

import inspect
from collections.abc import Mapping
from typing import Any

from kedge.config.plugins import load, plugins
from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.rewards.foreign import import_function, is_function_path
from kedge.rewards.function_spec import FunctionSpec
from kedge.rewards.model import ModelSpec
from kedge.rewards.spec import RewardSpec

GROUP = "kedge.rewards"
"""Entry points of packages that bring kinds: ``[project.entry-points."kedge.rewards"]``, ``name = "module:Class"``."""

BUILT_IN: Mapping[str, type[RewardSpec]] = {kind.SAID_BY: kind for kind in (FunctionSpec, ModelSpec)}


def kinds() -> dict[str, type[RewardSpec]]:
    """Those that have a name, built-in ones first.

    Raises:
        ConfigError: one that is installed cannot be loaded.
    """
    return {**BUILT_IN, **{name: kind_called(name) for name in plugins(GROUP) if name not in BUILT_IN}}


def kind_of(given: Mapping[str, Any]) -> type[RewardSpec]:
    """The kind that a table is of.

    Raises:
        ConfigError: there is no such kind, or the table does not say which.
    """
    if given.get("kind") not in (None, "none"):
        return kind_called(given["kind"])
    implied = [name for name in BUILT_IN if given.get(name) not in (None, "none")]
    if len(implied) == 1:
        return BUILT_IN[implied[0]]
    keys = dict.fromkeys(key for kind in BUILT_IN.values() for key in kind.model_fields)
    unknown = [key for key in given if key not in keys]
    if unknown and not implied:
        raise ConfigError("\n".join(f"{key}: unknown key; {nearest(key, [*keys])}" for key in unknown))
    raise ConfigError("a reward names either function= or model=, or another kind=")


def kind_called(kind: object) -> type[RewardSpec]:
    """The kind of this name, or at this place.

    Raises:
        ConfigError: there is none, or it cannot be loaded.
    """
    if not isinstance(kind, str):
        raise ConfigError(f"kind: a name, or package.module:Class, got {kind!r}")
    if kind in BUILT_IN:
        return BUILT_IN[kind]
    if is_function_path(kind):
        found: Any = import_function(kind)
    else:
        installed = plugins(GROUP)
        if kind not in installed:
            raise ConfigError(
                f"kind: no kind of reward is called {kind!r}; {nearest(kind, [*BUILT_IN, *installed])}; one of your "
                "own is named by its place, package.module:Class"
            )
        found = load(installed[kind])
    if not (isinstance(found, type) and issubclass(found, RewardSpec)):
        raise ConfigError(f"kind: {kind} is no kind of reward, which is a subclass of kedge.rewards.spec.RewardSpec")
    if inspect.isabstract(found):
        raise ConfigError(
            f"kind: {kind} cannot be built; give {found.__name__} a method build(self, loading) -> Reward"
        )
    return found
