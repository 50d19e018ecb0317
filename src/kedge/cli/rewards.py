"""``kedge rewards``."""

from typing import Annotated

import typer

from kedge.cli.screen import console, quiet


def rewards(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its settings. Default: list all.")] = None,
) -> None:
    """The rewards there are: what each is, its arguments, its range; or the settings of one."""
    quiet()
    from kedge.rewards.listing import listed, settings_of_kind

    print(listed() if name is None else settings_of_kind(name, width=max(40, min(console.width, 120) - 1)))
