"""``kedge feedback``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console
from kedge.errors import KedgeError


def feedback(
    database: Annotated[str, typer.Argument(metavar="DATABASE", help="As kedge serve --feedback has it.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .jsonl file to write.")] = None,
    form: Annotated[
        str,
        typer.Option("--as", help="preferences, demonstrations, ratings, everything, argilla, or label-studio."),
    ] = "preferences",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    take_in: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="FILE.jsonl", help="Keep what is said there: everything, preferences, ratings."
        ),
    ] = None,
) -> None:
    """What people said of a server's answers, as training reads it; or more of that, from a file."""
    if (output is None) == (take_in is None):
        raise KedgeError("kedge feedback: --output FILE writes what is kept, --import FILE keeps more; one of them")
    try:
        from kedge.serving.people.importing import read_feedback
        from kedge.serving.people.store import Store
        from kedge.serving.people.tables import open_database
        from kedge.serving.people.training_data import FORMS
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge feedback: {error.name} is not installed; pip install 'kedge[serve]'") from None
    if form not in FORMS:
        raise KedgeError(f"--as: {form!r} is none of {', '.join(FORMS)}")
    if take_in is not None:
        rows = read_feedback(take_in)  # before a database is made for them
        store = Store(open_database(database))
        try:
            new = store.add(rows).result()
        finally:
            store.close()
        _print(f"{new} new rows of {len(rows)} in {database}")
        return
    assert output is not None
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
    _print(f"{len(lines)} rows in {output}")


def _print(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)
