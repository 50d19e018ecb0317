"""Curves of several runs as a picture."""

from collections.abc import Sequence
from pathlib import Path

from kedge.errors import ConfigError
from kedge.runs.compare import names_of, to_draw
from kedge.runs.run import Run
from kedge.storage.writing import storage

COLOURS = ("#2563a8", "#c2570c", "#2f7d4f", "#8b3fa8", "#a88a1e", "#6b7280")
GREY = "#6b7280"


def draw_curves(runs: Sequence[Run], metrics: Sequence[str], to: Path) -> None:
    """A panel a metric against steps, a line a run.

    Args:
        runs: named by their folders, as far as those differ.
        metrics: names of ``metrics.jsonl``; none: what the runs are about.
        to: a ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        ConfigError: matplotlib is not there, a file of another kind, or a metric that no run has.
        StorageError: it cannot be written.
    """
    metrics = to_draw(runs, metrics)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ConfigError("curves need matplotlib: pip install 'kedge[plots]'") from None
    if to.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{to}: curves are drawn as .png, .svg or .pdf")
    across = min(len(metrics), 2)
    down = -(-len(metrics) // across)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.8 * across, 2.7 * down + 0.4), dpi=150, layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False, sharex=True).flat)
        for panel, metric in zip(panels, metrics, strict=False):
            for number, run in enumerate(runs):
                points = [(row["step"], row[metric]) for row in run.rows if row.get(metric) is not None]
                # Few points are evaluations: each of them counts.
                marker = "o" if len(points) < 20 else None
                steps, values = [step for step, _ in points], [value for _, value in points]
                panel.plot(steps, values, color=colour_of(number), linewidth=1.4, marker=marker, markersize=3)
            panel.set_title(metric, loc="left", fontsize=9)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            panel.grid(axis="y", color=GREY, alpha=0.2)
            panel.set_xlabel("step")
        for panel in panels[len(metrics) :]:
            panel.set_axis_off()
        lines = [Line2D([], [], color=colour_of(number)) for number in range(len(runs))]
        figure.legend(lines, names_of(runs), loc="outside upper left", ncols=min(len(runs), 4), frameon=False)
        with storage(to):
            to.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(to)


def colour_of(number: int) -> str:
    """The same for a run in every panel."""
    return COLOURS[number % len(COLOURS)]
