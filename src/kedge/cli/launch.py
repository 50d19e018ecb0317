"""``kedge launch``."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.arguments import Overrides, Overwrite, RecipeFile, Resume, read
from kedge.errors import ConfigError
from kedge.launch.crew import Crew


def launch(
    recipe: RecipeFile,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="The table: ppo, sft, reward.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="In all. Default: one a GPU, or a node.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines of a Ray cluster, with as many processes each.")] = 1,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", envvar="RAY_ADDRESS", help="Of a Ray cluster; auto: this one's.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Start Ray here where there is no --address.")] = False,
    restarts: Annotated[int, typer.Option(min=0, help="So often the job goes on after a loss.")] = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train in several processes: on this machine or on a Ray cluster's. What they say is in launch.log too."""
    from kedge.launch.job import run_job
    from kedge.launch.log import Log

    stage = stage or _only_stage(recipe)
    asked = read(recipe, overrides, stage)
    if restarts and not getattr(asked.stages[stage], "checkpoint_every", 0):
        raise ConfigError(f"--restarts {restarts}: [{stage}] keeps nothing to go on from; set checkpoint_every")
    words = [stage, str(recipe), *(overrides or [])]
    words += ["--overwrite"] * overwrite + ["--resume"] * resume
    log = Log(Path(asked.run_path(stage)).expanduser(), lambda line: print(line, flush=True))
    with ExitStack() as at_the_end:
        on_ray = ray or nodes > 1 or address is not None
        crews = _on_ray(address, nodes, processes, at_the_end) if on_ray else _here(processes)
        run_job(words, crews, log, restarts=restarts)


def _here(processes: int | None) -> Callable[[int], Crew]:
    from kedge.launch.crew import LocalCrew

    if processes is None:
        import torch

        processes = max(1, torch.cuda.device_count())
    count = processes
    return lambda attempt: LocalCrew(count)


def _on_ray(address: str | None, nodes: int, processes: int | None, at_the_end: ExitStack) -> Callable[[int], Crew]:
    from kedge.launch.on_ray import Cluster

    cluster = Cluster(address, processes or 1)
    at_the_end.callback(cluster.close)
    layout = cluster.layout(nodes, processes)
    return lambda attempt: (cluster.crew_of_what_is_left if attempt else cluster.crew)(layout)


def _only_stage(recipe: Path) -> str:
    """The table that trains.

    Raises:
        ConfigError: there are several, or none.
    """
    from kedge.config.settings import read_recipe
    from kedge.recipes.registry import names, stage_called

    there = read_recipe(recipe)
    trained = [name for name in names() if name in there and stage_called(name).trains]
    if len(trained) == 1:
        return trained[0]
    listed = ", ".join(f"--stage {name}" for name in trained)
    raise ConfigError(f"{recipe}: {f'which table? {listed}' if trained else 'no table that trains'}")
