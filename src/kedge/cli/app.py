"""The commands. Each reads its arguments, calls one thing below, and shows what came of it."""

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from kedge import __version__
from kedge.errors import KedgeError, Stopped

if TYPE_CHECKING:
    from kedge.recipes.recipe import Recipe

# Everything that needs torch is imported inside the commands: `kedge --help` answers at once.

app = typer.Typer(
    help="PPO for language models, from preferences to a served model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of several processes the first one speaks

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer brings its own click, or none


class WithSettings(TyperCommand):
    """A command that takes key=value; who writes that as an option, as other programs have it, is told how."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            option = getattr(error, "option_name", None)
            if option and not getattr(error, "possibilities", None):
                error.message += f". A setting is given without dashes: {option.lstrip('-')}=..."  # type: ignore[attr-defined]
            raise


RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="The recipe; see docs/recipes.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key.path=value]...", help="ppo.kl_coef=0.1; see `kedge settings`.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run that is there and begin anew.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]


@app.command()
def quickstart(
    run: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="All randomness comes from it.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Demonstrations -> SFT -> reward model -> PPO -> evaluation, on this machine, offline, in minutes."""
    _quiet()
    from kedge.quickstart import quickstart as run_quickstart

    run_quickstart(run, seed=seed, overwrite=overwrite, console=console)


@app.command(cls=WithSettings)
def sft(recipe: RecipeFile, overrides: Overrides = None, overwrite: Overwrite = False, resume: Resume = False) -> None:
    """Supervised fine-tuning on demonstrations: the recipe's sft table."""
    _supervised("sft", _read(recipe, overrides, "sft"), overwrite=overwrite, resume=resume)


@app.command(cls=WithSettings)
def reward(
    recipe: RecipeFile, overrides: Overrides = None, overwrite: Overwrite = False, resume: Resume = False
) -> None:
    """A reward model from preferences: the recipe's reward table."""
    _supervised("reward", _read(recipe, overrides, "reward"), overwrite=overwrite, resume=resume)


@app.command(cls=WithSettings)
def ppo(recipe: RecipeFile, overrides: Overrides = None, overwrite: Overwrite = False, resume: Resume = False) -> None:
    """PPO of a policy against a reward: the recipe's ppo table."""
    read = _read(recipe, overrides, "ppo")
    from kedge.inspection.tables import comparison_table
    from kedge.recipes.jobs import ppo_job

    job = ppo_job(read, overwrite=overwrite, resume=resume)
    summary = job.train()
    if "after" in summary:
        console.print(comparison_table(summary, title="Before and after PPO"))
    elif not job.eval_prompts:  # else why it was left out has been said
        console.print(
            "no held-out prompts, so no before and after: set eval_size or eval_prompts in the recipe's table"
        )
    assert job.run is not None
    _say_where(job.run.path, f"{job.run.path}/policy", f"kedge chat {job.run.path}")


@app.command(cls=WithSettings)
def evaluate(recipe: RecipeFile, overrides: Overrides = None, overwrite: Overwrite = False) -> None:
    """One policy against another on the same prompts: the recipe's evaluate table."""
    read = _read(recipe, overrides, "evaluate")
    from kedge.inspection.tables import comparison_table, prompts_caption
    from kedge.recipes.jobs import evaluate_job

    comparison, folder, trained_on = evaluate_job(read, overwrite=overwrite)
    prompts = prompts_caption(trained_on)
    console.print(comparison_table(comparison.summary(), title="Baseline (before) and policy (after)", prompts=prompts))
    _say_where(folder, f"{folder}/samples.jsonl", None)


@app.command(cls=WithSettings)
def doctor(
    recipe: RecipeFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Check a PPO recipe before it runs: text, models, reward, one update, a checkpoint. Exit status 1 on a failure."""
    read = _read(recipe, overrides, "ppo", too=["reward"])
    from kedge.inspection.tables import findings_table
    from kedge.recipes.jobs import doctor_job
    from kedge.storage.writing import strict_json

    # What a reward function prints is no part of what the doctor says.
    with tempfile.TemporaryDirectory(prefix="kedge-doctor-") as scratch, redirect_stdout(sys.stderr):
        findings = doctor_job(read, Path(scratch))
    failed = sum(finding.status == "fail" for finding in findings)
    if as_json:
        print(strict_json({"recipe": str(recipe), "failed": failed, "findings": [f.as_dict() for f in findings]}))
    else:
        console.print(findings_table(findings, title=escape(f"kedge doctor {recipe}")))
        warned = sum(finding.status == "warn" for finding in findings)
        console.print(f"{failed} failed, {warned} to look at", highlight=False)
    raise typer.Exit(1 if failed else 0)


@app.command()
def control(
    target: Annotated[str | None, typer.Argument(metavar="ENV | RECIPE.toml", help="CartPole-v1, or a recipe.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="n_envs=8")] = None,
    watch: Annotated[Path | None, typer.Option(metavar="RUN", help="Render the agent of a run as a GIF.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the agent that was saved last.")] = False,
) -> None:
    r"""PPO on a Gymnasium task, with the same mathematics. Needs kedge\[control]."""
    _needs_gymnasium()
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
    from kedge.control.job import control_job, read_control

    name, settings = read_control(target, overrides or [])
    summary = control_job(name, settings, overwrite=overwrite, resume=resume)
    if "return" in summary:
        console.print(
            f"return {summary['return']:.2f} ± {summary['deviation']:.2f} over {summary['episodes']} episodes, "
            f"{summary['steps_per_second']:,} steps/s",
            highlight=False,
        )
    run = summary["run"]
    console.print(
        f"run: {run}\ncurve: {run}/curve.png\nnext: kedge control --watch {run}", highlight=False, markup=False
    )


def _needs_gymnasium() -> None:
    try:
        import gymnasium  # noqa: F401
    except ModuleNotFoundError:
        raise KedgeError("control tasks need Gymnasium: pip install 'kedge[control]'") from None


@app.command()
def chat(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, model folder or hub id.")],
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default: the run's; 0 is greedy.")] = None,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer. Default: the run's.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed and lines, same answers.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Talk to a policy in the terminal."""
    _quiet()
    from dataclasses import replace

    from kedge.models.language_model import load_language_model
    from kedge.sampling.local.engine import Engine
    from kedge.serving.chat import Chat, trained_sampling
    from kedge.serving.terminal import converse

    asked: dict[str, Any] = {"temperature": temperature, "max_new_tokens": max_new_tokens, "top_p": top_p}
    sampling = replace(trained_sampling(Path(run)), **{k: v for k, v in asked.items() if v is not None})
    lm = load_language_model(run, trust_remote_code=trust_remote_code)
    conversation = Chat(lm, Engine(lm), sampling, system=system, seed=seed)
    if system and not conversation.remembers:
        raise KedgeError(f"--system: the tokenizer of {run} has no chat template to say it in; leave it out")
    converse(conversation, console)


@app.command(cls=WithSettings)
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
    read = _read(recipe, overrides)
    from kedge.inspection.machine import read_bytes, read_rate
    from kedge.inspection.plan_table import plan_view
    from kedge.recipes.planning import plans
    from kedge.storage.writing import strict_json

    found = dict(
        plans(
            read,
            gpu=None if gpu is None else read_bytes(gpu, option="--gpu"),
            model=model,
            flops=None if flops is None else read_rate(flops, option="--flops", unit="flop"),
            bandwidth=None if bandwidth is None else read_rate(bandwidth, option="--bandwidth", unit="b"),
        )
    )
    if not found:
        raise KedgeError(f"{recipe}: no table to plan; there are [sft], [reward] and [ppo]")
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


@app.command()
def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Runs, or folders of runs. Default: runs.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only these, in tables and curves.")] = None,
    curves: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw them there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """List runs; two or more that are named are compared: settings that differ, last metrics, curves."""
    from kedge.runs import open_run, runs_in
    from kedge.runs.compare import compare, line_of, names_of
    from kedge.runs.tables import list_table, side_by_side
    from kedge.storage.writing import strict_json

    given = folders or [Path("runs")]
    if folders is None and not given[0].is_dir():
        raise KedgeError("there is no folder runs/ here; name runs, or folders of them")
    named = [run for folder in given for run in (runs_in(folder) if folder.is_dir() else []) or [open_run(folder)]]
    compared = compare(named, metric or ()) if len(given) > 1 else None
    if metric and compared is None and curves is None:
        raise KedgeError("--metric: name two or more runs to compare, or a file for --curves")
    if curves is not None:
        from kedge.runs.curves import draw_curves

        draw_curves(named, metric or (), curves)
    lines = [line_of(run) for run in named]
    if as_json:
        print(strict_json({"runs": [line.as_dict() for line in lines]} | (vars(compared) if compared else {})))
        return
    console.print(list_table(lines, names_of(named)))
    if compared is not None:
        console.print(side_by_side(compared.settings, compared.names, title="Settings that differ"))
        console.print(side_by_side(compared.metrics, compared.names, title="Last metrics"))
    if curves is not None:
        console.print(f"curves: {curves}", highlight=False, markup=False)


new = typer.Typer(
    help="Something to begin with: a small model of your own texts, or the support desk.", no_args_is_help=True
)
app.add_typer(new, name="new")


@new.command("model")
def new_model(
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="A data file, folder or hub id, or a .txt file.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where it goes.")] = Path("model"),
    column: Annotated[str | None, typer.Option(help="The only column to read. Default: all that hold texts.")] = None,
    kind: Annotated[str, typer.Option(metavar="llama|lstm", help="What it is.")] = "llama",
    vocabulary: Annotated[int, typer.Option(help="Tokens, at most.")] = 2048,
    hidden: Annotated[int, typer.Option(help="Width.")] = 128,
    layers: Annotated[int, typer.Option(help="Depth.")] = 2,
    heads: Annotated[int | None, typer.Option(help="Attention heads (llama). Default: 4.")] = None,
    positions: Annotated[int | None, typer.Option(help="Longest text, in tokens (llama). Default: 512.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """A small chat model of random weights, with a tokenizer made for your texts."""
    _quiet()
    if kind not in ("llama", "lstm"):
        raise KedgeError(f"--kind: llama or lstm, not {kind!r}")
    from kedge.tasks.starting import new_model as write_model
    from kedge.tasks.starting import parameters

    lm = write_model(
        texts,
        to,
        column=column,
        kind=kind,  # type: ignore[arg-type]
        vocabulary=vocabulary,
        hidden=hidden,
        layers=layers,
        heads=heads,
        positions=positions,
        seed=seed,
    )
    console.print(
        f"{to}: {parameters(lm) / 1e6:.1f} million random weights, {len(lm.tokenizer):,} tokens\n"
        f'next: teach it, with a recipe of [sft] model = "{to}" and your data (a model of 0.4 million weights learns '
        "well at learning_rate = 4e-3; larger ones want less)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@new.command("desk")
def new_desk(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where data/ and model/ go.")] = Path("runs/desk"),
    seed: Annotated[int, typer.Option(help="Of the data and the weights.")] = 0,
) -> None:
    """The support desk: data for every stage, and a model of random weights. What recipes/desk-*.toml begin from."""
    _quiet()
    from kedge.tasks.starting import new_desk as write_desk

    write_desk(folder, seed=seed)
    words = [] if folder == Path("runs/desk") else [f"model={folder}/model", f"data={folder}/data/demonstrations.jsonl"]
    command = shlex.join(["kedge", "sft", "recipes/desk-sft.toml", *words])
    console.print(
        f"{folder}/data: demonstrations, preferences, prompts\n{folder}/model: random weights\nnext: {command}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command()
def settings(
    table: Annotated[
        str | None, typer.Argument(metavar="[sft|reward|ppo|evaluate|control]", help="Default: all.")
    ] = None,
) -> None:
    """Every setting with its default and its meaning."""
    from kedge.recipes.settings import settings_text

    print(settings_text(table, width=max(40, min(console.width, 120) - 1)))


def main() -> None:
    """The entry point: what the user can mend is said in one message, with exit status 2."""
    stderr = Console(stderr=True, soft_wrap=True, quiet=console.quiet)
    try:
        app()
    except Stopped as stopped:
        stderr.print(f"{escape(str(stopped))}\n{escape(_how_to_go_on(sys.argv[1:]))}", highlight=False)
        sys.exit(stopped.exit_status)
    except KedgeError as error:
        stderr.print(f"[bold red]error:[/] {escape(_as_typed(str(error)))}", highlight=False)
        sys.exit(error.exit_status)
    finally:
        _leave()


def _as_typed(message: str) -> str:
    """A message that speaks to who calls from Python, for who types a command."""
    return message.replace("resume=True", "--resume").replace("overwrite=True", "--overwrite")


def _how_to_go_on(words: Sequence[str]) -> str:
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    if words[:1] == ["quickstart"]:  # minutes only
        return f"begin anew: {shlex.join(['kedge', *kept, '--overwrite'])}"
    return f"go on: {shlex.join(['kedge', *kept, '--resume'])}"


def _leave() -> None:
    if "WORLD_SIZE" in os.environ:  # torch is imported for this only where several processes are
        from kedge.parallel import leave

        leave()


def _version(value: bool) -> None:
    if value:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def _read(path: Path, overrides: list[str] | None, stage: str | None = None, too: Sequence[str] = ()) -> "Recipe":
    _quiet()
    from kedge.recipes.recipe import Recipe

    return Recipe(path, overrides or [], stage=stage, too=too)


def _supervised(stage: str, recipe: "Recipe", *, overwrite: bool, resume: bool) -> None:
    from kedge.inspection.tables import held_out_table
    from kedge.recipes.jobs import reward_job, sft_job

    job: Any = {"sft": sft_job, "reward": reward_job}[stage](recipe, overwrite=overwrite, resume=resume)
    summary = job.train()
    if "after" in summary:
        console.print(held_out_table(summary, title=f"{job.label}: {summary['steps']} steps"))
    else:
        console.print("nothing held out, so nothing to measure: set eval_size or eval_data in the recipe's table")
    folder = job.run.path
    result, then = {"sft": ("policy", f"kedge chat {folder}"), "reward": ("reward_model", None)}[stage]
    _say_where(folder, f"{folder}/{result}", then)


def _say_where(folder: Path, result: str, then: str | None) -> None:
    console.print(
        f"run: {folder}\nresult: {result}" + (f"\nnext: {then}" if then else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _quiet() -> None:
    """Loading bars and reports of libraries say nothing that our own errors do not."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
