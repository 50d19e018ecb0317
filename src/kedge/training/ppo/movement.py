"""Which of several reward components the policy still moves: those that it gave up are traded for the others."""

import statistics
from collections.abc import Mapping, Sequence

from kedge.runs.folder import Metrics

WINDOW = 20
"""Steps whose mean is compared with that of as many before."""

LEAST_SHARE = 0.01
"""Of what moves the score; with less, a component is all but the same for every answer."""


class Movement:
    """The last means of each component that has a share in the score."""

    def __init__(
        self,
        means: Mapping[str, Sequence[float]] | None = None,
        moves: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.means = {name: list(values) for name, values in (means or {}).items()}
        self.moves = {name: list(values) for name, values in (moves or {}).items()}
        """The sizes of the last trends."""

    def take_in(self, metrics: Metrics) -> Metrics:
        """``rewards/NAME_trend``: how many standard errors lie between the mean of the last steps and that of the steps
        before; ``rewards/smallest_trend``: of the component that has moved least, the most that it has moved in so many
        steps, without its sign. Nothing before there are enough steps."""
        trends: Metrics = {}
        for name in [key.removesuffix("_share") for key in metrics if key.endswith("_share")]:
            if name in metrics:
                self.means[name] = [*self.means.get(name, []), metrics[name]][-2 * WINDOW :]
                if len(self.means[name]) == 2 * WINDOW:
                    trends[name] = trend(self.means[name])
                    self.moves[name] = [*self.moves.get(name, []), abs(trends[name])][-WINDOW:]
        counted = [self.moves[name] for name in trends if metrics[f"{name}_share"] > LEAST_SHARE]
        most = [max(sizes) for sizes in counted if len(sizes) == WINDOW]
        smallest = {"rewards/smallest_trend": min(most)} if most else {}
        return {f"{name}_trend": value for name, value in trends.items()} | smallest

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        """What a checkpoint must hold: ``Movement(**state)`` gives it back."""
        return {"means": dict(self.means), "moves": dict(self.moves)}


def trend(values: Sequence[float]) -> float:
    """Welch's t of the second half of a series against the first; 0 where neither half varies and both are equal."""
    half = len(values) // 2
    first, second = values[:half], values[half:]
    error = ((statistics.variance(first) + statistics.variance(second)) / half) ** 0.5
    moved = statistics.fmean(second) - statistics.fmean(first)
    return moved / max(error, 1e-12)
