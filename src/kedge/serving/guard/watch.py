"""A text under the rules that look for patterns and words, while it grows.

Text leaves only once it stands ``hold`` characters behind what has been written, and so does what a rule does: whatever
a rule finds within so many characters, what it looks at before and behind included, is found before its first
character has left, and is the same as if the whole text had been there at once. What reaches into the characters that
are held keeps its beginning back as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kedge.serving.guard.decisions import Decision, failed, found
from kedge.serving.guard.finding import Pattern, compiled, spans, whole_words
from kedge.serving.guard.rules import Rule, Where


@dataclass(frozen=True)
class Finder:
    """A rule that looks for a pattern or words."""

    rule: Rule
    pattern: Pattern

    @property
    def test(self) -> str:
        """Which one it is, for who reads the log."""
        return "pattern" if self.rule.pattern is not None else "words"


def finders(rules: Sequence[Rule]) -> list[Finder]:
    """Those of the rules that look for something in a text, in their order."""
    return [
        Finder(rule, compiled(rule.pattern) if rule.pattern is not None else whole_words(rule.words))
        for rule in rules
        if rule.reward is None
    ]


@dataclass(frozen=True)
class Hit:
    """Something was found."""

    start: int
    end: int
    finder: Finder


class Watch:
    """One text.

    Args:
        look: what looks at it, in the order in which they come first of those that find something at one place.
        on: what it is.
        hold: characters that are kept back while it grows; None: all of them.
        seconds: that a rule may look, each time.
    """

    def __init__(self, look: Sequence[Finder], on: Where, hold: int | None, seconds: float) -> None:
        self.look = list(look)
        self.on = on
        self.hold = hold
        self.seconds = seconds
        self.text = ""
        """As it is written."""
        self.told = ""
        """What has been given of it, or in its place."""
        self.altered = False
        """Whether that is something else."""
        self.decisions: list[Decision] = []
        """Of each rule the first one, in the order of what they found."""
        self._settled = 0  # characters of the text that have been given, or something in their place

    @property
    def stopped(self) -> Decision | None:
        """What ended it: nothing else is given."""
        return next((decision for decision in self.decisions if decision.stops), None)

    @property
    def may_settle(self) -> bool:
        """Whether some of it is far enough behind."""
        return self.hold is not None and len(self.text) - self.hold > self._settled

    def hear(self, piece: str) -> None:
        """More of it has been written."""
        self.text += piece

    def settle(self) -> str:
        """What may be given now."""
        return self._until(len(self.text) - self.hold) if self.may_settle and self.hold is not None else ""

    def end(self) -> str:
        """What may be given now that nothing more will be written."""
        return self._until(len(self.text) + 1)

    def stop(self, decision: Decision) -> str:
        """What stands in place of all that has not been given."""
        self.decisions.append(decision)
        self.altered = True
        # Where all of it is held, it may have been settled just now, and has not left yet.
        self.told = (self.told if self.hold is not None else "") + decision.rule.message
        return decision.rule.message

    def _until(self, place: int) -> str:
        hits = self._hits()
        if self.stopped is not None:  # by a rule that could not look
            return self.stop(self.decisions.pop())
        while any(hit.start < place < hit.end for hit in hits):
            place = min(hit.start for hit in hits if hit.start < place < hit.end)
        piece, done = "", self._settled
        for hit in hits:
            if hit.start >= place:
                continue
            rule = hit.finder.rule
            decision = found(rule, self.on, f"{hit.finder.test} found", self.text[hit.start : hit.end])
            if rule.stops:
                return self.stop(decision)
            if all(earlier.rule is not rule for earlier in self.decisions):
                self.decisions.append(decision)
            if rule.do == "replace":
                # Where two of them overlap, the first one's message stands for both.
                piece += self.text[done : hit.start] + rule.message if hit.start >= done else ""
                done = max(done, hit.end)
                self.altered = True
        self._settled = max(done, min(place, len(self.text)))
        piece += self.text[done : self._settled]
        self.told += piece
        return piece

    def _hits(self) -> list[Hit]:
        """What is found in the text that has not been settled; of several at one place the first rule's first."""
        hits = []
        for finder in [*self.look]:
            try:
                found_there = spans(finder.pattern, self.text, self._settled, self.seconds)
            except TimeoutError:
                self.look.remove(finder)
                self.decisions.append(
                    failed(finder.rule, self.on, f"it took longer than {self.seconds:g} seconds", self.text)
                )
                if finder.rule.on_error == "block":
                    return []
            else:
                hits += [Hit(start, end, finder) for start, end in found_there]
        return sorted(hits, key=lambda hit: hit.start)
