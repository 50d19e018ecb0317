"""``kedge doctor``."""

import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from kedge.cli.arguments import Overrides, RecipeFile, read
from kedge.cli.screen import console


def doctor(
    recipe: RecipeFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Check a PPO recipe before it runs: text, models, reward, one update, a checkpoint. Exit status 1 on a failure."""
    asked = read(recipe, overrides, "ppo", too=["reward"])
    from kedge.inspection.tables import findings_table
    from kedge.recipes.jobs import doctor_job
    from kedge.storage.writing import strict_json

    # What a reward function prints is no part of what the doctor says.
    with tempfile.TemporaryDirectory(prefix="kedge-doctor-") as scratch, redirect_stdout(sys.stderr):
        findings = doctor_job(asked, Path(scratch))
    failed = sum(finding.status == "fail" for finding in findings)
    if as_json:
        print(strict_json({"recipe": str(recipe), "failed": failed, "findings": [f.as_dict() for f in findings]}))
    else:
        console.print(findings_table(findings, title=escape(f"kedge doctor {recipe}")))
        warned = sum(finding.status == "warn" for finding in findings)
        console.print(f"{failed} failed, {warned} to look at", highlight=False)
    raise typer.Exit(1 if failed else 0)
