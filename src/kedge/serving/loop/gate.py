"""Whether a new version is good enough to be tried on people."""

from collections.abc import Mapping
from typing import Any

from kedge.recipes.loop_table import GateConfig


def decided(evaluation: Mapping[str, Any], gate: GateConfig) -> dict[str, Any]:
    """Each check with its numbers, and whether all have passed.

    Args:
        evaluation: ``served``, and with anchors ``anchors``: summaries of ``kedge evaluate``.
        gate: what is asked.
    """
    checks = [_check("min_score_gain", evaluation["served"], lambda before: before + gate.min_score_gain)]
    if evaluation["anchors"] is not None:
        # Of a negative score 95% would be a better one.
        checks.append(_check("keep", evaluation["anchors"], lambda before: before - (1 - gate.keep) * abs(before)))
    return {"accepted": all(check["passed"] for check in checks), "checks": checks}


def _check(name: str, summary: Mapping[str, Any], needs: Any) -> dict[str, Any]:
    """A judge that gave no score lets nothing through."""
    before, after = (summary[side].get("score") for side in ("before", "after"))
    needed = None if before is None else needs(before)
    passed = needed is not None and after is not None and after >= needed
    return {"check": name, "before": before, "after": after, "needed": needed, "passed": passed}
