"""Simulated jobs of several processes, for the terminal: a row a layout, then what goes where and what was assumed."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kedge.inspection.cluster import Assumptions, Simulated
from kedge.inspection.plan import PlannedJob
from kedge.inspection.plan_table import amount


def cluster_view(job: PlannedJob, found: Sequence[Simulated], assumed: Assumptions) -> Group:
    """All layouts of one job."""
    how = "models spread over the processes" if job.config.shard else "whole models in each process"
    parts: list[RenderableType] = [
        Text(f"{job.stage}: {job.model} on {job.machine.device}, {how}", "italic"),
        _layouts(job, found),
        *(_ways(each) for each in found),
        Text("\n".join(_notes(job, found, assumed)), "dim"),
    ]
    return Group(*parts)


def _layouts(job: PlannedJob, found: Sequence[Simulated]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    timed = found[0].seconds is not None
    served = any(each.layout.servers for each in found)
    names = ["train", *(["write"] if served else []), "a rank", "fits"]
    if timed:
        names += ["sample", "update", "send", *(["publish"] if served else []), "a step", "ideal"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        fits = each.peak <= job.machine.free
        row: list[str | Text] = [str(each.layout.processes), *([str(each.layout.servers)] if served else [])]
        row += [amount(each.peak), Text("yes", "green") if fits else Text("no", "bold red")]
        if each.seconds is not None:
            pieces = ("sample", "train", "exchange", *(["publish"] if served else []))
            row += [_seconds(each.seconds[name]) for name in pieces]
            row += [_seconds(each.step or 0.0), f"{each.efficiency or 0.0:.0%}"]
        table.add_row(*row)
    return table


def _ways(each: Simulated) -> Text:
    who = f"{each.layout.processes} processes" + (f", {each.layout.servers} servers" if each.layout.servers else "")
    peaks = ", ".join(f"{name} {amount(size)}" for name, size in each.peaks.items())
    lines = [f"{who}: memory of a rank: {peaks}"]
    sent = [f"{name} {amount(size)}" for name, size in each.traffic.items()]
    if sent:
        lines.append(f"  a process sends in a step: {', '.join(sent)}")
    if each.publish:
        ways = each.publish
        lines.append(
            f"  a publish: {amount(ways['folder'])} by folder, {amount(ways['broadcast'])} by broadcast, in all"
        )
    if each.waits is not None:
        way = "beside" if each.overlaps else "one after the other"
        lines.append(f"  sampling and training {way}: the faster side waits {each.waits:.0%} of a step")
    if each.busy < each.layout.processes:
        lines.append(
            f"  a minibatch has {each.busy} answers: {each.layout.processes - each.busy} processes have none of it; "
            "give it more"
        )
    return Text("\n".join(lines))


def _notes(job: PlannedJob, found: Sequence[Simulated], assumed: Assumptions) -> list[str]:
    values = " ".join(f"--assume {name}={value:g}" for name, value in asdict(assumed).items())
    lines = [f"Assumed: {values}"]
    speeds = job.machine.speeds
    if speeds is None:
        lines.append("No seconds: the speeds of a GPU that is not here are not known; give --flops and --bandwidth.")
    else:
        tried = " (operations of this CPU are tried one by one)" if job.machine.trials is not None else ""
        lines.append(f"Pieces: {speeds.flops:.3g} FLOP/s, {speeds.bandwidth:.3g} B/s{tried}.")
    lines += [
        "Each share is rehearsed as a whole step is: the longest prompts, answers of full length, no reward functions.",
        "Rings; nothing of the exchange is hidden behind computing; all links are as fast, within a machine or not.",
    ]
    if any(each.layout.servers for each in found):
        lines.append(
            "Answers are dealt evenly; a server loads from the folder while nobody writes; with staleness above 0 a "
            "step takes as long as the slower side."
        )
    return lines


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}" if seconds >= 0.001 else f"{seconds:.3f}"
