"""``kedge runs``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console
from kedge.errors import KedgeError


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Runs, or folders of runs. Default: runs.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only these, in tables and curves.")] = None,
    curves: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw them there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """List runs; two or more that are named are compared: settings that differ, last metrics, curves."""
    from kedge.runs import open_run, runs_in
    from kedge.runs.compare import compare, line_of, names_of
    from kedge.runs.tables import list_table, side_by_side
    from kedge.storage.writing import strict_json

    given = folders or [Path("runs")]
    if folders is None and not given[0].is_dir():
        raise KedgeError("there is no folder runs/ here; name runs, or folders of them")
    named = [run for folder in given for run in (runs_in(folder) if folder.is_dir() else []) or [open_run(folder)]]
    compared = compare(named, metric or ()) if len(given) > 1 else None
    if metric and compared is None and curves is None:
        raise KedgeError("--metric: name two or more runs to compare, or a file for --curves")
    if curves is not None:
        from kedge.runs.curves import draw_curves

        draw_curves(named, metric or (), curves)
    lines = [line_of(run) for run in named]
    if as_json:
        print(strict_json({"runs": [line.as_dict() for line in lines]} | (vars(compared) if compared else {})))
        return
    console.print(list_table(lines, names_of(named)))
    if compared is not None:
        console.print(side_by_side(compared.settings, compared.names, title="Settings that differ"))
        console.print(side_by_side(compared.metrics, compared.names, title="Last metrics"))
    if curves is not None:
        console.print(f"curves: {curves}", highlight=False, markup=False)
