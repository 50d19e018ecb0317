"""``kedge feedback``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console
from kedge.errors import KedgeError


def feedback(
    database: Annotated[str, typer.Argument(metavar="DATABASE", help="As kedge serve --feedback has it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .jsonl file to write.")],
    form: Annotated[
        str,
        typer.Option("--as", help="preferences, demonstrations, ratings, everything, argilla, or label-studio."),
    ] = "preferences",
) -> None:
    """What people said of a server's answers, as training reads it."""
    try:
        from kedge.serving.people.store import Store
        from kedge.serving.people.tables import open_database
        from kedge.serving.people.training_data import FORMS
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge feedback: {error.name} is not installed; pip install 'kedge[serve]'") from None
    if form not in FORMS:
        raise KedgeError(f"--as: {form!r} is none of {', '.join(FORMS)}")
    if "://" not in database and not Path(database).is_file():
        raise KedgeError(f"{database}: there is no such file")
    if output.exists():
        raise KedgeError(f"--output: {output} is there already; name another file")
    store = Store(open_database(database))
    try:
        lines = [json.dumps(row, ensure_ascii=False) for row in FORMS[form](store.rows())]
    finally:
        store.close()
    output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    console.print(f"{len(lines)} rows in {output}", soft_wrap=True, markup=False, highlight=False)
