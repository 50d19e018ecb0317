"""``kedge label-next``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError


def label_next(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Unlabelled pairs, chosen and rejected in any order.")],
    model: Annotated[list[str], typer.Option("--model", help="A reward model; two or more, trained apart.")],
    output: Annotated[Path, typer.Option("--output", help="Where to write the pairs, the best to label first.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many pairs.")] = 100,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the models' own code.")] = False,
) -> None:
    """Rank unlabelled pairs by what a label would tell: what an ensemble of reward models does not know."""
    quiet()
    if len(model) < 2:
        raise KedgeError("--model: give two or more reward models, trained with other seeds or on parts of the data")
    if output.exists() and not overwrite:
        raise KedgeError(f"{output}: there is something already; choose another file, or --overwrite")
    from kedge.data.files import read_rows
    from kedge.data.records import preferences
    from kedge.evaluation.acquisition import information, spread_out
    from kedge.models.reward_loading import load_reward_model
    from kedge.storage.writing import strict_json, write_text

    rows = read_rows(file)
    pairs = preferences(rows)
    margins = []
    for source in model:
        scorer = load_reward_model(source, trust_remote_code=trust_remote_code, merged=True)
        sides = scorer.score([pair.chosen for pair in pairs]), scorer.score([pair.rejected for pair in pairs])
        margins.append([a - b for a, b in zip(*sides, strict=True)])
    values = information(margins)
    taken = spread_out(pairs, values, count)
    lines = [strict_json(rows[i].columns | {"information": round(values[i], 6)}) for i in taken]
    write_text(output, "".join(f"{line}\n" for line in lines))
    mean = sum(values[i] for i in taken) / len(taken)
    of_all = f"{mean:.4f} nats a label; the mean of all is {sum(values) / len(pairs):.4f}"
    console.print(f"{output}: {len(taken)} of {len(pairs)} pairs; {of_all}", highlight=False, markup=False)
