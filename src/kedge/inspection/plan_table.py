"""Plans for the terminal: memory by role and kind, a column a phase; then what to change."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kedge.inspection.plan import ALLOCATOR_KEEPS, Plan, seconds_of

KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "KV cache")

# Share of the peak below which a row is left out; "together" has it all the same.
SHOWN = 0.001


def plan_view(plan: Plan) -> Group:
    """The whole plan of one job."""
    job = plan.job
    title = Text(f"{job.stage}: {job.model} on {job.machine.device}", "italic")
    parts: list[RenderableType] = [title, _phases(plan), _verdict(plan)]
    if not plan.fits:
        parts.append(_advice(plan))
    return Group(*parts)


def amount(size: float) -> str:
    """Bytes, for people."""
    for unit, bytes_ in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"


def as_overrides(stage: str, settings: Mapping[str, Any]) -> str:
    """As one would type them."""
    return " ".join(f"{stage}.{key}={_typed(value)}" for key, value in settings.items())


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _phases(plan: Plan) -> Table:
    # One unit for the whole table, so that it fits a terminal of 80 columns with all phases.
    unit, size_of = ("GiB", 2**30) if plan.peak >= 8 * 2**30 else ("MiB", 2**20)

    def shown(size: int) -> str:
        return "" if not size else f"{size / size_of:,.0f}" if size >= 1000 * size_of else f"{size / size_of:.1f}"

    table = Table(header_style="bold")
    table.add_column(unit, no_wrap=True)
    for phase in plan.phases:
        table.add_column(phase.name, justify="right", no_wrap=True)
    seen = {account for phase in plan.phases for account, size in phase.held.items() if size > SHOWN * plan.peak}
    roles = dict.fromkeys(role for phase in plan.phases for role, _ in phase.held)
    rows = [(role, kind) for role in roles for kind in KINDS if (role, kind) in seen]
    for i, (role, kind) in enumerate(rows):
        sizes = [phase.held.get((role, kind), 0) for phase in plan.phases]
        last = i + 1 == len(rows) or rows[i + 1][0] != role
        table.add_row(f"{role} {kind}", *map(shown, sizes), end_section=last)
    table.add_row("together", *(shown(phase.peak) for phase in plan.phases), style="bold")
    if plan.job.machine.speeds is not None:
        table.add_row("seconds", *(_seconds(phase.seconds) for phase in plan.phases))
    return table


def _verdict(plan: Plan) -> Text:
    worst = max(plan.phases, key=lambda phase: phase.peak)
    machine = plan.job.machine
    limit = amount(machine.free) + (" free" if machine.free < machine.total else "")
    said = Text(f"peak {amount(plan.peak)} ({worst.name}) of {limit}: ")
    said.append("it fits" if plan.fits else "it does not fit", "bold green" if plan.fits else "bold red")
    if (seconds := seconds_of(plan.phases)) is not None:
        said.append(f"; about {_seconds(seconds)} s a step")
        if plan.job.stage == "ppo":
            said.append(" with answers of full length, without reward functions")
    if plan.tight:
        said.append(f"\nThe C library may keep up to {ALLOCATOR_KEEPS:g} times that from the system. ")
        said.append("MALLOC_TRIM_THRESHOLD_=131072", "bold").append(
            " before the command gives freed memory back at once, "
        )
        said.append("and a step takes up to two thirds longer.")
    return said


def _advice(plan: Plan) -> Table:
    free = plan.job.machine.free
    enough = any(advice.peak <= free for advice in plan.advice)
    title = "Cheapest first, each together with those above it" + ("" if enough else "; they are not enough")
    table = Table(title=title, title_justify="left", header_style="bold", caption_justify="left")
    if not enough:
        table.caption = "a smaller model (--model) needs less of everything"
    table.add_column("to make it fit", no_wrap=True)
    table.add_column("what it costs")
    table.add_column("peak", justify="right", no_wrap=True)
    timed = plan.job.machine.speeds is not None
    if timed:
        table.add_column("s a step", justify="right", no_wrap=True)
    for advice in plan.advice:
        style = "bold green" if advice.peak <= free else ""
        setting = as_overrides(plan.job.stage, advice.settings).replace(" ", "\n")
        seconds = [_seconds(advice.seconds)] if timed else []
        table.add_row(setting, advice.cost, Text(amount(advice.peak), style), *seconds)
    return table


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"
