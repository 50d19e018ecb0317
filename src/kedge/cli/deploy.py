"""``kedge deploy``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kedge.cli.screen import console
from kedge.errors import KedgeError


def deploy(
    to: Annotated[str, typer.Option(help="The server: http://127.0.0.1:8000")],
    admin_key_file: Annotated[Path, typer.Option(help="Its first line is an administrator's key.")],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run, model folder or hub id.")] = None,
    canary: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Try it on this share of the people first: 0.1")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Let the version that is tried answer everybody.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Let the version that is tried, or else the present one, go.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say what answers, and how a canary stands.")] = False,
) -> None:
    """Let a server answer with new weights, on trial or at once, or with those before them."""
    if [run is not None, promote, rollback, status].count(True) != 1:
        raise KedgeError("kedge deploy: name a run, or say --promote, --rollback or --status; one of them")
    if canary is not None and (run is None or not 0 < canary < 1):
        raise KedgeError("--canary: a share between 0 and 1, of a run that is named")
    try:
        from kedge.serving.http import deploying
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge deploy: {error.name} is not installed; pip install 'kedge[serve]'") from None
    if run is not None:
        told = deploying.deployed(run, to, admin_key_file, None if canary is None else {"share": canary})
    elif promote:
        told = deploying.promoted(to, admin_key_file)
    elif rollback:
        told = deploying.rolled_back(to, admin_key_file)
    else:
        told = deploying.versions_of(to, admin_key_file)
    _show(told)


def _show(told: dict[str, Any]) -> None:
    live, tried = told["live"], told["canary"]
    _print(f"version {live['version']} answers: {live['source']}")
    if tried is not None:
        _print(f"version {tried['version']} is tried on {tried['share']:.0%} of the people: {tried['source']}")
        for name, row in tried["measures"].items():
            present, candidate = row["present"], row["candidate"]
            if present["count"] and candidate["count"]:
                interval = row["difference"]
                apart = "" if interval is None else f", apart by {interval[0]:+.3g} to {interval[1]:+.3g}"
                _print(
                    f"  {name}: {candidate['mean']:.3g} of {candidate['count']:,}, against {present['mean']:.3g} of "
                    f"{present['count']:,}{apart}"
                )
    for each in told["history"][-1:]:
        why = f" ({each['why']})" if each["why"] else ""
        _print(f"last: version {each['version']} {each['did']}{why}")


def _print(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)
