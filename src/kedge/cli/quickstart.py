"""``kedge quickstart``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.arguments import Overwrite
from kedge.cli.screen import console, quiet


def quickstart(
    run: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="All randomness comes from it.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Demonstrations -> SFT -> reward model -> PPO -> evaluation, on this machine, offline, in minutes."""
    quiet()
    from kedge.quickstart import quickstart as run_quickstart

    run_quickstart(run, seed=seed, overwrite=overwrite, console=console)
