"""``kedge plan``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from kedge.cli.arguments import Overrides, RecipeFile, read
from kedge.cli.screen import console
from kedge.errors import KedgeError

if TYPE_CHECKING:
    from kedge.recipes.recipe import Recipe


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpu: Annotated[str | None, typer.Option(metavar="24GB", help="Plan for a GPU of this memory.")] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="In place of the recipe's models.")] = None,
    flops: Annotated[str | None, typer.Option(metavar="312T", help="FLOP/s. Default: measured.")] = None,
    bandwidth: Annotated[str | None, typer.Option(metavar="2TB", help="Bytes a second. Default: measured.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Of several processes: memory a rank, traffic.")] = None,
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="In all; again for another number: 8, 64, 512.")] = None,
    sampler: Annotated[str, typer.Option(metavar="vllm", help="Servers write the answers, on GPUs of their own.")] = "",
    staleness: Annotated[int | None, typer.Option(min=0, help="Steps that they may be ahead.")] = None,
    assume: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="network=50GB, disk, utilisation, servers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: bytes and seconds.")] = False,
) -> None:
    """What the recipe's jobs will need, before anything is loaded: memory, seconds, and what would make them fit."""
    asked = read(recipe, overrides)
    speeds = {"gpu": gpu, "model": model, "flops": flops, "bandwidth": bandwidth}
    if processes or gpus:
        _several(asked, processes, gpus or [], sampler, staleness, assume or [], speeds, as_json)
        return
    for option, value in {"--sampler": sampler, "--staleness": staleness, "--assume": assume}.items():
        if value:
            raise KedgeError(f"{option}: is about several processes; give --processes or --gpus")
    from kedge.inspection.plan_table import plan_view
    from kedge.recipes.fitting import plans
    from kedge.recipes.registry import STAGES
    from kedge.storage.writing import strict_json

    found = dict(
        plans(
            asked,
            **_read(speeds),
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


def _read(speeds: Mapping[str, str | None]) -> dict[str, Any]:
    from kedge.inspection.machine import read_bytes, read_rate

    gpu, flops, bandwidth = (speeds[name] for name in ("gpu", "flops", "bandwidth"))
    return {
        "gpu": None if gpu is None else read_bytes(gpu, option="--gpu"),
        "model": speeds["model"],
        "flops": None if flops is None else read_rate(flops, option="--flops", unit="flop"),
        "bandwidth": None if bandwidth is None else read_rate(bandwidth, option="--bandwidth", unit="b"),
    }


def _several(
    recipe: "Recipe",
    processes: int | None,
    gpus: Sequence[int],
    sampler: str,
    staleness: int | None,
    assume: Sequence[str],
    speeds: Mapping[str, str | None],
    as_json: bool,
) -> None:
    """Plans of several processes."""
    from kedge.inspection.cluster import Assumptions, Layout
    from kedge.inspection.cluster_table import cluster_view
    from kedge.recipes.fitting import simulations
    from kedge.storage.writing import strict_json

    if sampler not in ("", "vllm"):
        raise KedgeError(f"--sampler: vllm, or nothing where the processes write themselves, not {sampler!r}")
    if staleness is not None and not sampler:
        raise KedgeError("--staleness: nobody is ahead where the processes write themselves; give --sampler vllm")
    layouts: list[Layout | int] = [*gpus]
    if processes is not None:
        fewer = [count for count in gpus if count < processes + bool(sampler)]
        if fewer:
            raise KedgeError(f"--gpus {fewer[0]}: are fewer than --processes {processes} and the servers want")
        layouts = [Layout(processes, count - processes if sampler else 0) for count in gpus]
        layouts = layouts or [Layout(processes, int(bool(sampler)))]
    assumed = Assumptions.read(assume)
    found = simulations(recipe, layouts, assumed, servers=bool(sampler), staleness=staleness, **_read(speeds))
    plain: dict[str, Any] = {}
    for stage, job, simulated in found:
        if isinstance(simulated, KedgeError):
            plain[stage] = {"error": str(simulated)}
            if not as_json:
                console.print(f"{stage}: {escape(str(simulated))}\n", style="yellow", highlight=False)
            continue
        plain[stage] = {"assumed": asdict(assumed), "layouts": [each.as_dict() for each in simulated]}
        if not as_json:
            console.print(cluster_view(job, simulated, assumed), "")
    if as_json:
        print(strict_json(plain, indent=2))
