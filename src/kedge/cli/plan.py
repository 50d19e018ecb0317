"""``kedge plan``."""

from typing import Annotated

import typer
from rich.markup import escape

from kedge.cli.arguments import Overrides, RecipeFile, read
from kedge.cli.screen import console
from kedge.errors import KedgeError


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpu: Annotated[str | None, typer.Option(metavar="24GB", help="Plan for a GPU of this memory.")] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="In place of the recipe's models.")] = None,
    flops: Annotated[str | None, typer.Option(metavar="312T", help="FLOP/s. Default: measured.")] = None,
    bandwidth: Annotated[str | None, typer.Option(metavar="2TB", help="Bytes a second. Default: measured.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: bytes and seconds.")] = False,
) -> None:
    """What the recipe's jobs will need, before anything is loaded: memory, seconds, and what would make them fit."""
    asked = read(recipe, overrides)
    from kedge.inspection.machine import read_bytes, read_rate
    from kedge.inspection.plan_table import plan_view
    from kedge.recipes.fitting import plans
    from kedge.recipes.registry import STAGES
    from kedge.storage.writing import strict_json

    found = dict(
        plans(
            asked,
            gpu=None if gpu is None else read_bytes(gpu, option="--gpu"),
            model=model,
            flops=None if flops is None else read_rate(flops, option="--flops", unit="flop"),
            bandwidth=None if bandwidth is None else read_rate(bandwidth, option="--bandwidth", unit="b"),
        )
    )
    if not found:
        *some, last = [f"[{name}]" for name, stage in STAGES.built_in.items() if stage.trains]
        raise KedgeError(f"{recipe}: no table to plan; there are {', '.join(some)} and {last}")
    errors = [error for error in found.values() if isinstance(error, KedgeError)]
    if len(errors) == len(found):
        raise errors[0]
    if as_json:
        plain = {k: {"error": str(v)} if isinstance(v, KedgeError) else v.as_dict() for k, v in found.items()}
        print(strict_json(plain, indent=2))
        return
    for stage, planned in found.items():
        if isinstance(planned, KedgeError):
            console.print(f"{stage}: {escape(str(planned))}\n", style="yellow", highlight=False)
        else:
            console.print(plan_view(planned), "")
