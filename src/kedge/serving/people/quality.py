"""How good answers were, as people say: by version and day."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Float,
    FromClause,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    select,
)

from kedge.serving.people.tables import answers, feedback

DAY = 86_400
"""Seconds."""

COUNTS = ("up", "down", "scored", "corrected", "commented", "won", "lost")


def quality(engine: Engine, since: int) -> list[dict[str, Any]]:
    """A row for each day and version (its number, and where its weights came from) that answered on it, in that order.

    What is said counts for the day of the answer, whenever it was said. A thumb that the same annotator gives an answer
    later replaces the earlier one; thumbs of nobody in particular all count.

    Args:
        engine: of the database.
        since: the first day, counted from 1970 in UTC.

    Returns:
        ``version``, ``source``, ``day`` (YYYY-MM-DD), ``answers``, ``tokens`` (an answer's, in the mean), ``score``
        (mean of those that were given; None: there is none), and how many are ``up``, ``down``, ``scored``,
        ``corrected``, ``commented``, ``won`` and ``lost`` (comparisons with another answer).
    """
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    # Without a transaction, which would keep others from writing.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for place, values in _found(connection, _given(since)):
            rows[place] = dict.fromkeys(COUNTS, 0) | {"score": None} | values
        for query in (_said(since), _lost(since)):
            for place, values in _found(connection, query):
                if place in rows:  # else the answer came after the first query
                    rows[place] |= values
    return [
        {"day": datetime.fromtimestamp(day * DAY, UTC).date().isoformat(), "version": version, "source": source} | row
        for (day, version, source), row in sorted(rows.items())
    ]


def _given(since: int) -> Select[Any]:
    tokens = func.avg(func.json_array_length(answers.c.ids))
    return _by_place(since, answers, {"answers": func.count(), "tokens": cast(tokens, Float)})


def _said(since: int) -> Select[Any]:
    later = feedback.alias("later")
    is_last = ~exists().where(
        later.c.answer == feedback.c.answer,
        later.c.annotator == feedback.c.annotator,
        later.c.number > feedback.c.number,
        later.c.thumb.is_not(None),
    )
    wanted = {
        "up": _count(and_(feedback.c.thumb == 1, is_last)),
        "down": _count(and_(feedback.c.thumb == 0, is_last)),
        "scored": func.count(feedback.c.score),
        "score": func.avg(feedback.c.score),
        "corrected": func.count(feedback.c.correction),
        "commented": func.count(feedback.c.comment),
        "won": func.count(feedback.c.worse),
    }
    return _by_place(since, feedback.join(answers, feedback.c.answer == answers.c.id), wanted)


def _lost(since: int) -> Select[Any]:
    return _by_place(since, feedback.join(answers, feedback.c.worse == answers.c.id), {"lost": func.count()})


def _by_place(since: int, among: FromClause, wanted: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    # Whole numbers are divided; what a fraction becomes as one, is cut by one database and rounded by another.
    whole = cast(answers.c.created, BigInteger)
    second = whole - case((whole > answers.c.created, 1), else_=0)
    place = (second // DAY, answers.c.version, answers.c.source)
    columns = (column.label(name) for name, column in wanted.items())
    return select(*place, *columns).select_from(among).where(answers.c.created >= since * DAY).group_by(*place)


def _count(when: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((when, 1)))


def _found(connection: Connection, query: Select[Any]) -> list[tuple[tuple[int, int, str], dict[str, Any]]]:
    """``((day, version, source), what was wanted)``."""
    rows = connection.execute(query)
    names = [*rows.keys()][3:]
    return [((row[0], row[1], row[2]), dict(zip(names, row[3:], strict=True))) for row in rows]
