"""``kedge feedback``."""

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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
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
    if output.exists() and not overwrite:
        raise KedgeError(f"{output}: there is something already; choose another file, or --overwrite")
    from kedge.storage.writing import strict_json, write_text

    store = Store(open_database(database))
    try:
        lines = [strict_json(row) for row in FORMS[form](store.rows())]
    finally:
        store.close()
    write_text(output, "".join(f"{line}\n" for line in lines))
    console.print(f"{len(lines)} rows in {output}", soft_wrap=True, markup=False, highlight=False)
