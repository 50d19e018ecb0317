"""A run -> what a person needs to see: the plan before it, the doctor, tables after it."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.inspection.doctor import Finding, examine
    from kedge.inspection.plan import Plan, make_plan

__all__ = ["Finding", "Plan", "examine", "make_plan"]

_HOMES = {
    "Finding": "kedge.inspection.doctor",
    "Plan": "kedge.inspection.plan",
    "examine": "kedge.inspection.doctor",
    "make_plan": "kedge.inspection.plan",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
