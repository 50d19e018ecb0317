"""``kedge settings``."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from kedge.cli.screen import console


def settings_of(stages: Sequence[str]) -> Callable[..., None]:
    """The function behind the command, which names the tables that there are."""

    def settings(
        table: Annotated[str | None, typer.Argument(metavar=f"[{'|'.join(stages)}]", help="Default: all.")] = None,
    ) -> None:
        """Every setting with its default and its meaning."""
        from kedge.recipes.settings import settings_text

        print(settings_text(table, width=max(40, min(console.width, 120) - 1)))

    return settings
