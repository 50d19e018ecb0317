"""``kedge control``: a stage's command, that takes an environment's id in place of a recipe too, and films agents."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.arguments import Overwrite, read
from kedge.cli.screen import console
from kedge.errors import KedgeError
from kedge.recipes.stages.control import ControlStage


def control(
    target: Annotated[str | None, typer.Argument(metavar="ENV | RECIPE.toml", help="CartPole-v1, or a recipe.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="n_envs=8")] = None,
    watch: Annotated[Path | None, typer.Option(metavar="RUN", help="Render the agent of a run as a GIF.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the agent that was saved last.")] = False,
) -> None:
    r"""PPO on a Gymnasium task, with the same mathematics. Needs kedge\[control]."""
    stage = ControlStage()
    if missing := stage.missing():
        raise KedgeError(missing)
    if watch is not None:
        if target is not None or overrides or overwrite or resume:
            raise KedgeError("--watch RUN stands alone: the agent, and what it was trained on, are in the run")
        from kedge.control.agent import Agent
        from kedge.control.pictures import film

        frames = film(Agent.load(watch), watch / "watched.gif")
        console.print(f"{watch}/watched.gif: {frames} frames", highlight=False, markup=False)
        return
    if target is None:
        raise KedgeError("name an environment or a recipe: kedge control CartPole-v1")
    flags = {"overwrite": overwrite, "resume": resume}
    if target.endswith(".toml"):
        job = stage.job(read(Path(target), overrides, stage.name), **flags)
    else:
        job = stage.job_of(target, overrides or [], **flags)
    stage.show(job.train(), job, console)
