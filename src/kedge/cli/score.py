"""``kedge score``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError


def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run of reward, a folder, or a hub id.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Texts, chats, prompts with completions, or pairs.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the rows with their scores there, a JSON line each.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Of several labels the one that is the score.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Score a file with a reward model."""
    quiet()
    if output is not None and output.exists() and not overwrite:
        raise KedgeError(f"{output}: there is something already; choose another file, or --overwrite")
    from kedge.data.files import read_rows
    from kedge.evaluation.scoring import score_rows, summed_up
    from kedge.models.reward_loading import load_reward_model
    from kedge.storage.writing import strict_json, write_text

    rows = read_rows(file)
    found = score_rows(load_reward_model(model, label=label, trust_remote_code=trust_remote_code, merged=True), rows)
    if output is not None:
        lines = [strict_json(row.columns | scores) for row, scores in zip(rows, found, strict=True)]
        write_text(output, "".join(f"{line}\n" for line in lines))
    else:
        for row, scores in zip(rows, found, strict=True):
            numbers = "  ".join(f"{value:9.3f}" for value in scores.values())
            console.print(f"{numbers}  {row.origin}", highlight=False, markup=False)
    for name, told in summed_up(rows, found).items():
        console.print(f"{name}: {told}", highlight=False, markup=False)
