"""``kedge tasks`` and ``kedge task``."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.arguments import Overwrite
from kedge.cli.screen import console, quiet
from kedge.errors import ConfigError

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value]...", help="sft.epochs=1, reward.epochs=2, ppo.kl_coef=0.1, ..."),
]


def tasks() -> None:
    """The tasks there are: what each is, and the data that it needs."""
    quiet()
    from rich.table import Table

    from kedge.tasks import find_task, task_names

    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("task", "what it is", "needs"):
        table.add_column(heading, overflow="fold")
    for name in task_names():
        found = find_task(name)
        table.add_row(name, (inspect.getdoc(found) or "").partition("\n")[0], found.needs or "nothing")
    console.print(table, markup=False)


def task(
    what: Annotated[str, typer.Argument(metavar="TASK", help="One of `kedge tasks`, or path/to/file.py:Class.")],
    overrides: Settings = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where its data is.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder to work in. Default: runs/tasks/TASK.")] = None,
    model: Annotated[str | None, typer.Option(help="What to begin with, in place of the task's own.")] = None,
    seeds: Annotated[int, typer.Option(help="How often all of it is done, each time with another seed.")] = 1,
    held_out: Annotated[int, typer.Option(help="Held-out rows that are answered, at most.")] = 500,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the stages that are done; go on with the rest.")
    ] = False,
) -> None:
    """SFT -> PPO -> answers to held-out rows, beside a baseline's."""
    quiet()
    from kedge.config.settings import override
    from kedge.tasks.found import new_task
    from kedge.tasks.running import run_task
    from kedge.tasks.shown import result_examples, result_table

    for option, count in (("--seeds", seeds), ("--held-out", held_out)):
        if count < 1:
            raise ConfigError(f"{option}: at least 1, got {count}")
    settings = override({}, overrides or [])
    options = {"data": data, "run": run, "model": model, "seeds": seeds, "held_out": held_out}
    if typed := sorted(settings.keys() & options):
        raise ConfigError(f"{typed[0]}: an option; write --{typed[0].replace('_', '-')} {settings[typed[0]]}")
    if unknown := settings.keys() - {"sft", "reward", "ppo"}:
        raise ConfigError(f"{min(unknown)!r}: a task has settings of sft, reward and ppo; write sft.{min(unknown)}=...")
    job = new_task(what, data)
    folder = run or Path("runs/tasks") / job.name
    result = run_task(
        job, folder, seeds=range(seeds), held_out=held_out, model=model, sft=settings.get("sft"),
        reward=settings.get("reward"), ppo=settings.get("ppo"), overwrite=overwrite, resume=resume,
    )  # fmt: skip
    console.print(result_table(job, result))
    console.print(result_examples(job, result, 3))
    console.print(f"everything is in {folder}/", markup=False, soft_wrap=True, highlight=False)
