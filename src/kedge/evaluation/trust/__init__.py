"""Whether a reward model can be trusted: how it does on held-out pairs, beside what knows nothing, and under small
changes of the text."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.evaluation.trust.page import write_report
    from kedge.evaluation.trust.report import TrustReport, trust_report

__all__ = ["TrustReport", "trust_report", "write_report"]

_HOMES = {
    "TrustReport": "kedge.evaluation.trust.report",
    "trust_report": "kedge.evaluation.trust.report",
    "write_report": "kedge.evaluation.trust.page",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
