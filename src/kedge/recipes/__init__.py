"""What a recipe file may say, the stages there are, and from a recipe to its jobs and their plans."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.recipes.recipe import Recipe
    from kedge.recipes.registry import stage_called
    from kedge.recipes.stage import Stage

__all__ = ["Recipe", "Stage", "stage_called"]

_HOMES = {"Recipe": "kedge.recipes.recipe", "Stage": "kedge.recipes.stage", "stage_called": "kedge.recipes.registry"}

__getattr__, __dir__ = lazily(__name__, _HOMES)
