"""Policies -> numbers with intervals."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.evaluation.evaluate import Comparison, Evaluation, measure_policy
    from kedge.evaluation.metrics import WinRate, win_rate

__all__ = ["Comparison", "Evaluation", "WinRate", "measure_policy", "win_rate"]

_HOMES = {
    "Comparison": "kedge.evaluation.evaluate",
    "Evaluation": "kedge.evaluation.evaluate",
    "WinRate": "kedge.evaluation.metrics",
    "measure_policy": "kedge.evaluation.evaluate",
    "win_rate": "kedge.evaluation.metrics",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
