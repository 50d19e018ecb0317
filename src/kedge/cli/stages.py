"""The commands of stages: ``kedge NAME RECIPE.toml [key=value]...``, the same for each."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kedge.cli.arguments import Overrides, Overwrite, RecipeFile, Resume, WithSettings, read
from kedge.cli.screen import console
from kedge.errors import KedgeError
from kedge.recipes.registry import stage_called


class OfAPackage(WithSettings):
    """The command of a stage that another package brings, which is imported only when it is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.help = help_of(str(self.name))
        if not stage_called(str(self.name)).resumes:
            self.params = [each for each in self.params if each.name != "resume"]
        super().format_help(ctx, formatter)


def help_of(name: str) -> str:
    """What a stage's command does, in a line."""
    return f"{stage_called(name).about} (the recipe's {name} table)."


def command_of(name: str, *, resumes: bool = True) -> Callable[..., None]:
    """The function behind the command.

    Args:
        name: of the stage.
        resumes: whether it takes ``--resume``.
    """

    def command(
        recipe: RecipeFile, overrides: Overrides = None, overwrite: Overwrite = False, resume: Resume = False
    ) -> None:
        _done(name, recipe, overrides, overwrite, resume)

    def beginning_anew(recipe: RecipeFile, overrides: Overrides = None, overwrite: Overwrite = False) -> None:
        _done(name, recipe, overrides, overwrite, resume=False)

    return command if resumes else beginning_anew


def _done(name: str, path: Path, overrides: list[str] | None, overwrite: bool, resume: bool) -> None:
    recipe = read(path, overrides, name)
    stage = stage_called(name)
    if resume and not stage.resumes:
        raise KedgeError(f"--resume: [{name}] cannot go on from where it stopped; --overwrite begins anew")
    job = stage.job(recipe, overwrite=overwrite, resume=resume)
    with ExitStack() as at_the_end:
        at_the_end.callback(getattr(job, "close", lambda: None))  # what some hold: servers, threads
        stage.show(job.train(), job, console)
