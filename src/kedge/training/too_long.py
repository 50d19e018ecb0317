"""Rows that are longer than what they are for: an error, cut, or left out; and nothing of that happens in silence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from kedge.data.encode import Tokenizer
from kedge.errors import DataError
from kedge.runs.folder import RunFolder

TooLong = Literal["error", "truncate", "skip"]

T = TypeVar("T")


@dataclass(frozen=True)
class Limit:
    """How long a row may be, and why."""

    tokens: int
    why: str
    """``max_length=12``, or what else allows no more."""
    fix: str
    """What to do for more."""


@dataclass(frozen=True)
class Fitter:
    """Makes rows fit, in one of three ways. Leaving out most of them is refused, and so is cutting most unasked."""

    way: TooLong
    asked: bool
    """The way was asked for by name, and is no default."""
    limit: Limit | None
    cutting: str
    """What cutting takes away."""

    def fit(
        self,
        rows: Sequence[T],
        what: str,
        *,
        size: Callable[[T], int],
        origin: Callable[[T], str],
        cut: Callable[[T, int], T],
    ) -> tuple[list[T], list[str]]:
        """The rows that fit, and what there is to say about the others: nothing, or one line.

        Args:
            what: the rows' name.
            size: a row's tokens.
            origin: where it comes from.
            cut: makes one so many tokens long.

        Raises:
            DataError: a row is too long and that is an error; or most are.
        """
        limit = self.limit
        long = [] if limit is None else [row for row in rows if size(row) > limit.tokens]
        if limit is None or not long:
            return list(rows), []
        most = 2 * len(long) > len(rows)
        count = f"{len(long)} of {len(rows)} {what} have more than {limit.tokens} tokens ({limit.why})"
        example = max(long, key=size)
        count += f", {origin(example)} the most, {size(example)}"
        cutting = f"'truncate' to cut {self.cutting}"
        if self.way == "error":
            raise DataError(f"{count}. Set too_long='skip' to leave them out, {cutting}, or {limit.fix}")
        if self.way == "skip" and most:
            raise DataError(f"{count}, too many to leave out. Set too_long={cutting}, or {limit.fix}")
        if most and not self.asked:
            raise DataError(f"{count}, too many to cut unasked. Set too_long={cutting}, or {limit.fix}")
        if self.way == "skip":
            return [row for row in rows if size(row) <= limit.tokens], [f"{count}; they are left out (too_long='skip')"]
        fitting = [cut(row, limit.tokens) if size(row) > limit.tokens else row for row in rows]
        return fitting, [f"{count}; they lose {self.cutting} (too_long='truncate')"]


def ending(tokenizer: Tokenizer, ids: Sequence[int], tokens: int) -> list[int]:
    """The last ``tokens`` ids, behind the BOS that they began with: models are not used to do without it."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids[0] == bos and 1 < tokens < len(ids):
        return [bos, *ids[len(ids) - tokens + 1 :]]
    return list(ids[-tokens:])


def tell_events(run: RunFolder | None, notes: Sequence[str]) -> None:
    """Write into a run that begins what was said about its rows."""
    for note in notes if run is not None else ():
        run.write_event(0, event="too_long", message=note)  # type: ignore[union-attr]
