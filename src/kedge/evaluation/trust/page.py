"""A trust report as files: numbers, a page to read, a picture."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kedge.evaluation.trust.report import TrustReport

SHOWN = 300
"""Characters of a text on the page."""
COIN = math.log(2)


def write_report(report: TrustReport, folder: Path) -> None:
    """``trust.json``, ``trust.md`` and, where matplotlib is installed, ``trust.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trust.json").write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
    drawn = find_spec("matplotlib") is not None
    if drawn:
        _draw(report, folder / "trust.png")
    (folder / "trust.md").write_text(as_page(report, drawn=drawn))


def headline(report: TrustReport) -> dict[str, Any]:
    """What a summary says of it."""
    rounded = {"accuracy": report.accuracy, "low": report.low, "high": report.high, "log_loss": report.log_loss}
    rounded |= {"calibration_error": report.calibration_error, "length_correlation": report.length_correlation}
    found: dict[str, Any] = {name: round(value, 4) for name, value in rounded.items()}
    return found | {"baselines": {name: round(value, 4) for name, value in report.baselines.items()}}


def rows(report: TrustReport) -> list[tuple[str, str, str]]:
    """``(what, how much, how to read it)``."""
    best = max(report.baselines.items(), key=lambda item: item[1], default=None)
    verdict = ""
    if best is not None:
        verdict = f"above {best[0]}" if report.low > best[1] else f"no better than {best[0]}, as far as this tells"
    found = [("accuracy", f"{report.accuracy:.1%}", f"95% interval {report.low:.1%} to {report.high:.1%}; {verdict}")]
    found += [
        (f"{name} alone", f"{value:.1%}", "knows nothing of language") for name, value in report.baselines.items()
    ]
    found += [
        ("chosen and rejected changed about", f"{report.swapped:.1%}", "1 - accuracy, where only the text counts"),
        ("log loss", f"{report.log_loss:.3f}", f"nats a pair; a coin has {COIN:.3f}"),
        ("calibration error", f"{report.calibration_error:.3f}", "mean gap of how sure it is and how often right"),
        (
            "temperature",
            f"{report.temperature:.2f}",
            f"margins divided by it are chances, with an error of {report.calibration_error_fitted:.3f}",
        ),
        ("margin", f"{report.margin:.3f}", f"chosen less rejected; spread {report.margin_spread:.3f}"),
        ("score and length", f"{report.length_correlation:+.2f}", "correlation, over all texts"),
    ]
    found += [(f"same choice: {name}", f"{share:.1%}", "") for name, share in report.agreement.items()]
    return found


def as_page(report: TrustReport, *, drawn: bool = False) -> str:
    """In Markdown."""
    lines = [f"# Trust report: {report.pairs:,} held-out pairs", "", "| | | |", "| --- | --- | --- |"]
    lines += [f"| {what} | {much} | {how.rstrip('; ')} |" for what, much, how in rows(report)]
    lines += ["", "![reliability and scores](trust.png)"] if drawn else []
    lines += ["", "| sure | right | pairs |", "| --- | --- | --- |"]
    lines += [f"| {part.confidence:.2f} | {part.accuracy:.2f} | {part.pairs:,} |" for part in report.reliability]
    if report.worst:
        lines += ["", f"## The {len(report.worst)} worst errors", ""]
    for error in report.worst:
        lines += [f"- **{error.margin:+.2f}** {error.origin}", f"  - chosen: `{short(error.chosen)}`"]
        lines += [f"  - rejected: `{short(error.rejected)}`"]
    return "\n".join(lines) + "\n"


def short(text: str) -> str:
    """The end, which is where two answers differ, on one line."""
    text = " ".join(text.replace("`", "'").split())
    return text if len(text) <= SHOWN else "..." + text[-SHOWN:]


def _draw(report: TrustReport, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, middle = figure.subplots(1, 2)
    left.plot([0.5, 1], [0.5, 1], color="0.7", linestyle="--", linewidth=1)
    sizes = [20 + 400 * part.pairs / report.pairs for part in report.reliability]
    sure, hits = [part.confidence for part in report.reliability], [part.accuracy for part in report.reliability]
    left.plot(sure, hits, color="#1f6f8b", linewidth=1)
    left.scatter(sure, hits, s=sizes, color="#1f6f8b", alpha=0.7)
    left.set(
        xlabel="how sure", ylabel="how often right", xlim=(0.48, 1.02), ylim=(min(0.4, *hits) - 0.02, 1.02),
        title=f"calibration error {report.calibration_error:.3f}",
    )  # fmt: skip
    both = [*report.chosen, *report.rejected]
    span, bins = (min(both), max(both)), 30
    middle.hist(report.rejected, bins, range=span, color="#d1495b", alpha=0.55, label="rejected")
    middle.hist(report.chosen, bins, range=span, color="#1f6f8b", alpha=0.55, label="chosen")
    middle.set(xlabel="score", ylabel="texts", title=f"accuracy {report.accuracy:.1%} of {report.pairs:,} pairs")
    middle.legend(frameon=False)
    for axes in (left, middle):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
