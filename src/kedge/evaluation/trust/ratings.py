"""How far a reward model that learnt ratings can be trusted: objective by objective, beside a bag of words."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kedge.data.ratings import Rating
from kedge.data.records import plain
from kedge.evaluation.trust.baselines import bag_of_words_ratings
from kedge.evaluation.trust.calibration import correlation
from kedge.evaluation.trust.page import short
from kedge.models.reward_model import RewardModel

WORST = 10


@dataclass(frozen=True)
class Agreement:
    """Of what a model gives with what raters gave, for one objective."""

    objective: str
    texts: int
    """Held-out ones that somebody rated for it."""
    correlation: float
    """Pearson's."""
    rank_correlation: float
    """Spearman's."""
    rmse: float
    """In the raters' units."""
    spread: float
    """Standard deviation of the ratings: the RMSE of whoever says their mean."""
    length_correlation: float
    """Of what the model gives with the texts' characters."""
    bag_of_words: float | None
    """Correlation of a ridge regression on TF-IDF; None without scikit-learn, or nothing to train it on."""
    given: list[float]
    """By the model."""
    rated: list[float]
    worst: list[tuple[str, float, float, str]]
    """``(origin, given, rated, text)`` of those furthest apart."""


@dataclass(frozen=True)
class RatingReport:
    """What is known of a reward model from held-out ratings."""

    agreements: list[Agreement]

    def headline(self) -> dict[str, Any]:
        """What a summary says of it: ``{objective: {"correlation": ..., ...}}``."""
        names = ("correlation", "rank_correlation", "rmse", "spread", "length_correlation", "bag_of_words")
        found = {each.objective: {name: getattr(each, name) for name in names} for each in self.agreements}
        return {
            objective: {name: round(x, 4) for name, x in told.items() if x is not None and not math.isnan(x)}
            for objective, told in found.items()
        }


def rating_report(
    model: RewardModel, held: Sequence[Rating], train: Sequence[Rating] = (), *, seed: int = 0
) -> RatingReport:
    """Measure a reward model.

    Args:
        model: with an objective for each number of a rating.
        held: texts that it was not trained on.
        train: those that it was trained on, for the baseline; none: without it.
        seed: of the baseline's training.
    """
    each = model.reading.each(model.run_texts([rating.text for rating in held]))
    return RatingReport([
        _agreement(name, i, given.tolist(), held, train, seed) for i, (name, given) in enumerate(each.items())
    ])  # fmt: skip


def _agreement(
    name: str, i: int, given: Sequence[float], held: Sequence[Rating], train: Sequence[Rating], seed: int
) -> Agreement:
    rated = [(x, a, b) for x, a in zip(held, given, strict=True) if (b := x.scores[i]) is not None]
    if not rated:
        return Agreement(name, 0, 0.0, 0.0, math.nan, math.nan, 0.0, None, [], [], [])
    texts, model, raters = [plain(x.text) for x, _, _ in rated], [a for _, a, _ in rated], [b for _, _, b in rated]
    learnt = [(plain(x.text), b) for x in train if (b := x.scores[i]) is not None]
    bag = None
    if learnt and find_spec("sklearn") is not None:
        bag = correlation(bag_of_words_ratings(learnt, texts, seed=seed), raters)
    worst = sorted(rated, key=lambda each: -abs(each[1] - each[2]))[:WORST]
    return Agreement(
        name,
        len(rated),
        correlation(model, raters),
        correlation(_ranks(model), _ranks(raters)),
        math.sqrt(statistics.fmean((a - b) ** 2 for a, b in zip(model, raters, strict=True))),
        statistics.pstdev(raters),
        correlation(model, [float(len(text)) for text in texts]),
        bag,
        model,
        raters,
        [(x.origin, a, b, plain(x.text)) for x, a, b in worst],
    )


def _ranks(values: Sequence[float]) -> list[float]:
    """Of each value; equal ones share the middle of theirs."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    for place, value in enumerate(ordered):
        first.setdefault(value, place)
    counts = Counter(values)
    return [first[value] + (counts[value] - 1) / 2 for value in values]


def rows(report: RatingReport) -> list[tuple[str, str, str]]:
    """``(what, how much, how to read it)``."""
    found = []
    for each in report.agreements:
        bag = each.bag_of_words
        beside = "" if bag is None else f"a bag of words (TF-IDF): {bag:+.2f}"
        found += [
            (f"{each.objective}: correlation", f"{each.correlation:+.2f}", beside),
            (f"{each.objective}: rank correlation", f"{each.rank_correlation:+.2f}", ""),
            (f"{each.objective}: error", f"{each.rmse:.3f}", f"RMSE; whoever says the mean has {each.spread:.3f}"),
            (f"{each.objective} and length", f"{each.length_correlation:+.2f}", "correlation of what the model gives"),
        ]
    return found


def write_rating_report(report: RatingReport, folder: Path) -> None:
    """``trust.json``, ``trust.md`` and, where matplotlib is installed, ``trust.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    plain_values = [asdict(each) for each in report.agreements]
    finite = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in x.items()} for x in plain_values]
    (folder / "trust.json").write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    drawn = find_spec("matplotlib") is not None and any(each.given for each in report.agreements)
    if drawn:
        _draw(report, folder / "trust.png")
    (folder / "trust.md").write_text(_page(report, drawn=drawn), encoding="utf-8")


def _page(report: RatingReport, *, drawn: bool) -> str:
    lines = [f"# Trust report: {report.agreements[0].texts:,} held-out texts", "", "| | | |", "| --- | --- | --- |"]
    lines += [f"| {what} | {much} | {how} |" for what, much, how in rows(report)]
    lines += ["", "![what the model gives beside what raters gave](trust.png)"] if drawn else []
    for each in report.agreements:
        lines += ["", f"## {each.objective}: furthest from the raters", ""]
        lines += [f"- {origin}: {a:.2f}, raters {b:.2f}: `{short(text)}`" for origin, a, b, text in each.worst]
    return "\n".join(lines) + "\n"


def _draw(report: RatingReport, path: Path) -> None:
    from matplotlib.figure import Figure

    shown = [each for each in report.agreements if each.given]
    figure = Figure(figsize=(4.2 * len(shown), 4.2), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        ends = [min(each.rated), max(each.rated)]
        axes.plot(ends, ends, color="0.7", linestyle="--", linewidth=1)
        axes.scatter(each.rated, each.given, s=12, color="#1f6f8b", alpha=0.4, linewidths=0)
        axes.set(xlabel="raters", ylabel="model", title=f"{each.objective}: correlation {each.correlation:+.2f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
