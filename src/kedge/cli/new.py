"""``kedge new``: something to begin with."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError

new = typer.Typer(
    help="Something to begin with: a small model of your own texts, or the support desk.", no_args_is_help=True
)


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
    quiet()
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
    quiet()
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
