"""``kedge chat``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError


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
    quiet()
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
