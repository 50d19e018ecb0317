"""Settings: what a configuration shares, their meaning in words, and what other libraries call them."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.config.settings import Config, Several, nearest, override, read_recipe, write_recipe

__all__ = ["Config", "Several", "nearest", "override", "read_recipe", "write_recipe"]

_HOMES = {
    "Config": "kedge.config.settings",
    "Several": "kedge.config.settings",
    "nearest": "kedge.config.settings",
    "override": "kedge.config.settings",
    "read_recipe": "kedge.config.settings",
    "write_recipe": "kedge.config.settings",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
