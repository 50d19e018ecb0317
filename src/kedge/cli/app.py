"""The command line: all commands together, and how they end. A command reads its arguments, calls one thing below, and
shows what came of it.

Everything that needs torch is imported inside the commands: ``kedge --help`` answers at once.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kedge import __version__
from kedge.cli.arguments import WithSettings
from kedge.cli.audit import audit
from kedge.cli.chat import chat
from kedge.cli.control import control
from kedge.cli.deploy import deploy
from kedge.cli.doctor import doctor
from kedge.cli.export import export
from kedge.cli.feedback import feedback
from kedge.cli.label_next import label_next
from kedge.cli.launch import launch
from kedge.cli.loop import loop
from kedge.cli.new import new
from kedge.cli.plan import plan
from kedge.cli.quickstart import quickstart
from kedge.cli.rewards import rewards
from kedge.cli.runs import runs
from kedge.cli.score import score
from kedge.cli.screen import console
from kedge.cli.serve import serve
from kedge.cli.settings import settings_of
from kedge.cli.stages import OfAPackage, command_of, help_of
from kedge.cli.tasks import task, tasks
from kedge.config.plugins import package_of, plugins
from kedge.errors import KedgeError, Stopped
from kedge.recipes.registry import STAGES, TAKEN, names

OWN_COMMANDS: Mapping[str, Callable[..., None]] = {"control": control, "loop": loop}
"""Of stages whose command takes more than a recipe, or does more than one job."""


def program() -> typer.Typer:
    """All commands, those of stages that other packages bring too."""
    app = typer.Typer(
        help="PPO for language models, from preferences to a served model.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    app.command()(quickstart)
    for name, stage in STAGES.built_in.items():
        if name in OWN_COMMANDS:
            app.command(name)(OWN_COMMANDS[name])
        else:
            app.command(name, cls=WithSettings, help=help_of(name))(command_of(name, resumes=stage.resumes))
    for name, point in plugins(STAGES.group).items():
        if name not in (*STAGES.built_in, *TAKEN):
            about = f"The recipe's {name} table, a stage of {package_of(point)}."
            app.command(name, cls=OfAPackage, help=about)(command_of(name))
    app.command(cls=WithSettings)(launch)
    app.command(cls=WithSettings)(doctor)
    app.command()(chat)
    app.command()(serve)
    app.command()(deploy)
    app.command()(feedback)
    app.command()(audit)
    app.command(cls=WithSettings)(plan)
    app.command()(export)
    app.command()(runs)
    app.add_typer(new, name="new")
    app.command()(rewards)
    app.command()(tasks)
    app.command(cls=WithSettings)(task)
    app.command()(score)
    app.command("label-next")(label_next)
    app.command("settings")(settings_of(names()))
    return app


def main() -> None:
    """The entry point: what the user can mend is said in one message, with exit status 2."""
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ):
        # Tensors of all lengths leave a GPU's memory in pieces that no longer fit, unless it may grow in one.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    stderr = Console(stderr=True, soft_wrap=True, quiet=console.quiet)
    try:
        program()()
    except Stopped as stopped:
        stderr.print(f"{escape(str(stopped))}\n{escape(_how_to_go_on(sys.argv[1:]))}", highlight=False)
        sys.exit(stopped.exit_status)
    except KedgeError as error:
        who = _whose(error)
        if who:  # of several processes this one alone knows of it
            stderr.quiet = False
        stderr.print(f"{who}[bold red]error:[/] {escape(_as_typed(str(error), sys.argv[1:]))}", highlight=False)
        sys.exit(error.exit_status)
    finally:
        _leave()


def _as_typed(message: str, words: Sequence[str]) -> str:
    """A message that speaks to who calls from Python, for who types a command."""
    if words[:1] == ["task"]:  # the one command with an option in place of a setting
        message = message.replace("run=...", "--run FOLDER")
    return message.replace("resume=True", "--resume").replace("overwrite=True", "--overwrite")


def _how_to_go_on(words: Sequence[str]) -> str:
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    if words[:1] == ["quickstart"]:  # minutes only
        return f"begin anew: {shlex.join(['kedge', *kept, '--overwrite'])}"
    resumes = [] if words[:1] == ["loop"] else ["--resume"]  # which always does
    return f"go on: {shlex.join(['kedge', *kept, *resumes])}"


def _whose(error: KedgeError) -> str:
    """What begins a message that the first process does not say; nothing where it does."""
    if "WORLD_SIZE" not in os.environ:
        return ""
    from kedge.parallel import joined

    rank = joined().rank
    return f"process {rank}: " if rank and not error.known_to_all else ""


def _leave() -> None:
    if "WORLD_SIZE" in os.environ:  # torch is imported for this only where several processes are
        from kedge.parallel import leave

        leave()


def _version(value: bool) -> None:
    if value:
        console.print(__version__)
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass
