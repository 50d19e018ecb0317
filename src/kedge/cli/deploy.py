"""``kedge deploy``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console
from kedge.errors import KedgeError


def deploy(
    to: Annotated[str, typer.Option(help="The server: http://127.0.0.1:8000")],
    admin_key_file: Annotated[Path, typer.Option(help="Its first line is an administrator's key.")],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run, model folder or hub id.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Let the version before answer again.")] = False,
) -> None:
    """Let a server answer with new weights, or with those before them."""
    if (run is None) is not rollback:
        raise KedgeError("kedge deploy: name a run, or say --rollback; one of the two")
    try:
        from kedge.serving.http.deploying import deployed, rolled_back
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge deploy: {error.name} is not installed; pip install 'kedge[serve]'") from None
    told = rolled_back(to, admin_key_file) if run is None else deployed(run, to, admin_key_file)
    live = told["live"]
    console.print(f"version {live['version']} answers: {live['source']}", soft_wrap=True, markup=False, highlight=False)
