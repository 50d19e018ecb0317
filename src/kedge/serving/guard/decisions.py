"""What a rule has done, and why."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from kedge.serving.guard.rules import Rule, Where

Did = Literal["block", "replace", "review", "pass"]


@dataclass(frozen=True)
class Decision:
    """A rule found something, or could not look."""

    rule: Rule
    on: Where
    did: Did
    """``pass``: it could not look, and lets pass what it cannot look at."""
    reason: str
    """The test that found it, with score and threshold; nothing of the text."""
    matched: str
    """SHA-256 of what was found; of all of the text where that is no part of it."""

    @property
    def stops(self) -> bool:
        """Whether nothing else of the text is given."""
        return self.did == "block" or (self.did == "replace" and self.rule.stops)

    def told(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "rule": self.rule.name, "on": self.on, "did": self.did, "reason": self.reason, "matched": self.matched,
        }  # fmt: skip


def found(rule: Rule, on: Where, reason: str, what: str) -> Decision:
    """What a rule does where it has found ``what``."""
    return Decision(rule, on, rule.do, reason, digest(what))


def failed(rule: Rule, on: Where, why: str, text: str) -> Decision:
    """What a rule does that could not look at a text.

    Args:
        rule: that could not.
        on: what the text is.
        why: for the log; nothing of the text may be in it.
        text: that it should have looked at.
    """
    return Decision(rule, on, rule.on_error, f"the test failed: {why}", digest(text))


def digest(text: str) -> str:
    """SHA-256 of a text; what is half a character counts as it stands."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
