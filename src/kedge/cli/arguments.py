"""Arguments that several commands take, and how a recipe is read from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from kedge.cli.screen import quiet

if TYPE_CHECKING:
    from kedge.recipes.recipe import Recipe

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer brings its own click, or none


class WithSettings(TyperCommand):
    """A command that takes key=value; who writes that as an option, as other programs have it, is told how."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            option = getattr(error, "option_name", None)
            if option and not getattr(error, "possibilities", None):
                error.message += f". A setting is given without dashes: {option.lstrip('-')}=..."  # type: ignore[attr-defined]
            raise


RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="The recipe; see docs/recipes.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key.path=value]...", help="ppo.kl_coef=0.1; see `kedge settings`.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run that is there and begin anew.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]


def read(path: Path, overrides: list[str] | None, stage: str | None = None, too: Sequence[str] = ()) -> "Recipe":
    """The recipe, for a command that reads this table of it, and those ``too``; or all."""
    quiet()
    from kedge.recipes.recipe import Recipe

    return Recipe(path, overrides or [], stage=stage, too=too)
