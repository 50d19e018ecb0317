"""Whether an answer comes to the right number or expression."""

import logging
import re
import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

from kedge.config.optional import needed
from kedge.errors import RewardError
from kedge.rewards.library.base import Said, Sample, TextSpec

SECONDS = 3
"""For one expression; math-verify measures them by a signal, which reaches the main thread only."""
LONGEST = 400
"""Characters of an expression: longer ones are no answers, and take sympy long."""
ENDING = 2000
"""Characters at an answer's end in which its result is looked for."""

_PLAIN = re.compile(r"\$?\s*([-+]?)\s*\$?\s*(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?")
_ENORMOUS = re.compile(
    r"\d{3,}\s*!|!\s*!|binom.*\d{5}|(?:\^|\*\*)\s*[{(]*\s*\d{4,}|(?:\^|\*\*)[^+=,]{0,40}?(?:\^|\*\*)"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def comes_to(text: str, expected: str, *, marked: bool = False) -> bool:
    """Whether a text's result is the expected one (math-verify; Kydlíček et al. 2024).

    Args:
        text: an answer. Its result stands after the last ``####`` (GSM8K), else in the last ``\\boxed{}``, else it is
            the last number or formula.
        expected: a number or formula, or a whole solution that has it in one of these places.
        marked: a result counts only after ``####`` or in ``\\boxed{}``; where the expected one is a plain number, as
            GSM8K's are, as a plain number only: ``#### 2 + 5`` is not yet worked out.
    """
    mine, right = result_of(text, marked=marked), result_of(expected)
    if mine is None or right is None:
        return False
    numbers = as_number(mine), as_number(right)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if marked and numbers[1] is not None:
        return False
    return not _ENORMOUS.search(mine) and _equal(right, mine)


def result_of(text: str, *, marked: bool = False) -> str | None:
    """Where the result stands, as it is written there; None where there is none."""
    _, hashes, rest = text.rpartition("####")
    if hashes:
        found = next((line.strip() for line in rest.splitlines() if line.strip()), "")
    elif "\\boxed" in text:
        found = _boxed(text)
    else:
        found = "" if marked else text[-ENDING:].strip()
    return found.rstrip(".。 ") or None


def as_number(text: str) -> Fraction | None:
    """``$1,000.50`` as a number; None of what is more than a number."""
    whole = _PLAIN.fullmatch(text.strip())
    if whole is None or not (whole[2] or whole[3]):
        return None
    return Fraction(f"{whole[1]}{(whole[2] or '0').replace(',', '')}{whole[3] or ''}")


def _boxed(text: str) -> str:
    """What is in the last ``\\boxed{}``, to the brace that closes it."""
    start = text.rindex("\\boxed") + len("\\boxed")
    depth = 0
    for i, letter in enumerate(text[start:], start):
        depth += (letter == "{") - (letter == "}")
        if depth == 0 and letter == "}":
            return text[start:i].strip()[1:]
        if depth == 0 and not letter.isspace():
            break
    return ""


def _equal(right: str, mine: str) -> bool:
    library = needed("math_verify", "math")
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    parsed = [_parsed(library, text, seconds) for text in (right, mine)]
    # Whatever a model wrote, sympy may fail on it: that is no answer then.
    return all(parsed) and bool(library.verify(*parsed, timeout_seconds=seconds, raise_on_error=False))


def _parsed(library: Any, text: str, seconds: int | None) -> Any:
    # math-verify looks for LaTeX between signs only, and of a bare \\frac{1}{2} would read the 2.
    bare = len(text) <= LONGEST and not _PROSE.search(text) and not re.search(r"\$|\\[(\[]", text)
    found = library.parse(f"${text}$" if bare else text, parsing_timeout=seconds, raise_on_error=False)
    return [] if any(_ENORMOUS.search(str(each)) or len(str(each)) > LONGEST for each in found) else found


class Math(TextSpec):
    """Whether an answer comes to the right number or formula: GSM8K's ``####``, boxes, LaTeX (math-verify).

    The result stands after the last ``####``, else in the last ``\\boxed{}``, else it is the last number or formula.
    Enormous powers and factorials count as wrong; nobody works them out.
    """

    KIND: ClassVar[str] = "math"
    RANGE: ClassVar[str] = "0 or 1"

    column: str = "answer"
    """Of the data: a number, formula, or whole solution with ``####`` or a box; or a list, any of it right."""
    marked: bool = False
    """A result counts only after ``####`` or in ``\\boxed{}``, not as the last number of a text; and where a plain
    number is expected, as a plain number only: ``#### 2 + 5`` does not count as 7."""

    def wanted(self) -> Mapping[str, str]:
        return {"column": self.column}

    def prepare(self) -> None:
        needed("math_verify", "math")
        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it tells of every answer that it cannot read

    def one(self, sample: Sample) -> Said:
        expected = sample.texts(self.column)
        if expected is None:
            return Said(None)
        for each in expected:
            if result_of(each) is None:
                raise RewardError(f"{sample.where}: column {self.column!r} has no result in it: {each!r}")
        return Said(float(any(comes_to(sample.text, each, marked=self.marked) for each in expected)))
