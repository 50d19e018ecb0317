"""``kedge audit``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console
from kedge.errors import KedgeError


def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As kedge serve --audit writes it.")],
    expect: Annotated[
        str | None, typer.Option(help="A head that was noted elsewhere: it, and all before it, must be there.")
    ] = None,
) -> None:
    """Whether a guard's log is whole: no line of it changed, missing, or in another place."""
    try:
        from kedge.serving.guard.audit import check_audit
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge audit: {error.name} is not installed; pip install 'kedge[serve]'") from None
    chain = check_audit(file, expect)
    torn = f", {chain.torn} of them about a line that a kill had cut off" if chain.torn else ""
    since = f"; {chain.added} since the one that was expected" if expect is not None else ""
    console.print(
        f"{file}: whole; {chain.count} lines{torn}{since}\nhead {chain.head}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
