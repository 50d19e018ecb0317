"""``kedge loop``."""

from typing import Annotated, get_args

import typer

from kedge.cli.arguments import Overrides, RecipeFile, read
from kedge.cli.screen import console
from kedge.errors import KedgeError


def loop(
    recipe: RecipeFile,
    overrides: Overrides = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="ARROW", help="Stop after feedback, reward, ppo, evaluate, gate, or canary."),
    ] = None,
) -> None:
    """Feedback -> reward model -> PPO -> gate -> canary, round by round; goes on wherever it was stopped."""
    found = read(recipe, overrides, "loop")
    try:
        from kedge.serving.loop.loop import Loop
        from kedge.serving.loop.rounds import Arrow
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge loop: {error.name} is not installed; pip install 'kedge[serve]'") from None
    if until is not None and until not in get_args(Arrow):
        raise KedgeError(f"--until: {until!r} is none of {', '.join(get_args(Arrow))}")
    job = Loop(found, console)
    ended = job.run(until=until)  # type: ignore[arg-type]
    if ended == "canary":
        _print("the trial goes on; start kedge loop again to see what became of it")
    _print(f"policy: {job.policy}")


def _print(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)
