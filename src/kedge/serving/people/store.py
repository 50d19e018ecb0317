"""Answers and feedback on their way to the database: one thread writes, in the order in which they came."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from sqlalchemy import Connection, Engine, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import DataError as ValueRefused
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kedge.errors import DataError, KedgeError
from kedge.serving.people.importing import add
from kedge.serving.people.tables import answers, feedback

AT_ONCE = 256
"""Things written in one transaction, at most: each waits for the disk once, however many there are."""

REMEMBERED = 10_000
"""Answers that wait while the database cannot be written; beyond that the oldest are lost."""


class NotKeptError(KedgeError):
    """Feedback that is not in the database."""


class NoSuchAnswerError(NotKeptError):
    """It is about an answer that was never given, or whose person has been deleted."""


class KeyReusedError(NotKeptError):
    """A key that is there already came with something else."""


class AlreadyReviewedError(NotKeptError):
    """Somebody has said it already."""


class NotComparableError(NotKeptError):
    """One answer is said to be better than one to another prompt."""


@dataclass(frozen=True)
class GivenAnswer:
    """An answer as it was given: a row of ``answers``."""

    id: str
    model: str
    version: int
    source: str
    person: str | None
    prompt: Any
    prompt_ids: Sequence[int]
    text: str
    ids: Sequence[int]
    logprobs: Sequence[float]
    sampling: dict[str, Any]
    finish_reason: str
    held: list[dict[str, Any]] | None = None
    told: str | None = None
    created: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Feedback:
    """What somebody says of an answer: a row of ``feedback``."""

    answer: str
    thumb: int | None = None
    score: float | None = None
    worse: str | None = None
    correction: str | None = None
    comment: str | None = None
    annotator: str | None = None
    key: str | None = None
    review: int | None = None
    created: float = field(default_factory=time.time)


Write = Callable[[Connection], Any]


class Store:
    """Answers and feedback in a database.

    Args:
        engine: as :func:`kedge.serving.people.tables.open_database` gives it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lost = 0
        """Answers that could not be kept."""
        self._orders: SimpleQueue[tuple[Write, Future[Any]] | GivenAnswer | None] = SimpleQueue()
        self._forgotten: dict[str | None, float] = {}  # and when
        self._deleted = False  # something that a log of SQLite's may still hold
        self._closing, self._closed = Lock(), False
        self._unkept: list[GivenAnswer] = []  # the thread's own
        self._thread = Thread(target=self._write, name="feedback", daemon=True)
        self._thread.start()

    def keep(self, answer: GivenAnswer, asked: float | None = None) -> None:
        """Write an answer down soon, and before any feedback that comes later.

        Args:
            answer: it.
            asked: when it was, in seconds since 1970, if not just now. Where its person has been deleted since then it
                is not kept.
        """
        if (answer.created if asked is None else asked) > self._forgotten.get(answer.person, 0.0):
            self._orders.put(answer)

    def take(self, given: Feedback) -> "Future[int]":
        """Write feedback down.

        Returns:
            Its number, once it is on disk; the same one for the same ``key``. Or NoSuchAnswerError, or NotKeptError.
        """
        return self._order(lambda connection: _take(connection, given))

    def review(self, given: Feedback) -> "Future[int]":
        """Write down what a reviewer says of an answer, which waits for none from now on.

        Returns:
            The number of the feedback, once it is on disk. Or NoSuchAnswerError, AlreadyReviewedError, NotKeptError.
        """
        return self._order(lambda connection: _review(connection, given))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> "Future[int]":
        """Write down feedback from elsewhere, with its answers: all of it, or none.

        Args:
            rows: of :func:`kedge.serving.people.importing.read_feedback`.

        Returns:
            How many feedbacks were not there yet, once they are on disk. Or DataError, NotKeptError.
        """
        return self._order(lambda connection: add(connection, rows))

    def prompts(self) -> list[Any]:
        """What was asked: the prompt of every answer that was given, in the order in which they came."""
        with self._reading() as connection:
            return [*connection.scalars(select(answers.c.prompt).order_by(answers.c.created, answers.c.id))]

    def measured(self, answer: str, disagreement: float) -> None:
        """Write down how far reward models are apart about an answer, soon."""
        is_it = answers.c.id == answer
        self._order(
            lambda connection: connection.execute(update(answers).where(is_it).values(disagreement=disagreement))
        )

    def awaiting_review(self, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Answers that somebody should look at, and how many there are: what the guard held first, the newest of it
        before the others; then those that reward models disagree most about."""
        waits = and_(
            answers.c.reviewed.is_(None), or_(answers.c.held.is_not(None), answers.c.disagreement.is_not(None))
        )
        first = (answers.c.held.is_(None), case((answers.c.held.is_not(None), -answers.c.created)))
        query = select(answers).where(waits).order_by(*first, answers.c.disagreement.desc(), answers.c.id).limit(limit)
        with self._reading() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
            return rows, connection.scalar(select(func.count()).select_from(answers).where(waits)) or 0

    def forget(self, person: str) -> "Future[int]":
        """Delete everything of a person: answers to them, what anybody said of those, and what they said of others.

        Returns:
            How many answers and feedbacks that were, once they are gone.
        """
        self._forgotten[person] = time.time()

        def write(connection: Connection) -> int:
            self._deleted = True
            return _forget(connection, person)

        return self._order(write)

    def rows(self) -> list[dict[str, Any]]:
        """All feedback, in the order in which it came, with the answer (``answer_...``) that it is about, and where it
        says which of two is better, the worse one (``worse_...``)."""
        worse = answers.alias("worse_answers")
        query = (
            select(
                feedback,
                *(column.label(f"answer_{column.name}") for column in answers.c),
                *(column.label(f"worse_{column.name}") for column in worse.c),
            )
            .join(answers, feedback.c.answer == answers.c.id)
            .outerjoin(worse, feedback.c.worse == worse.c.id)
            .order_by(feedback.c.number)
        )
        with self._reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def counts(self) -> tuple[int, int]:
        """How many answers and feedbacks there are."""
        with self._reading() as connection:
            found = [connection.scalar(select(func.count()).select_from(table)) for table in (answers, feedback)]
        return found[0] or 0, found[1] or 0

    def close(self) -> None:
        """Write down what is waiting, and let go of the database."""
        with self._closing:
            self._closed = True
            self._orders.put(None)
        self._thread.join()
        self.engine.dispose()

    def _reading(self) -> Connection:
        """Without a transaction, which would keep others from writing."""
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _order(self, write: Write) -> "Future[Any]":
        done: Future[Any] = Future()
        with self._closing:  # an order behind the last one would never be carried out
            if self._closed:
                done.set_exception(NotKeptError("the server is going down"))
            else:
                self._orders.put((write, done))
        return done

    # In the thread ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        going = True
        while going:
            orders, going = self._waiting()
            writes = []
            for order in orders:
                if isinstance(order, GivenAnswer):
                    self._unkept.append(order)
                elif order[1].set_running_or_notify_cancel():  # else nobody waits for it any more
                    writes.append(order)
            excess = len(self._unkept) - REMEMBERED
            if excess > 0:
                self._unkept, self.lost = self._unkept[excess:], self.lost + excess
            self._write_down(writes)

    def _waiting(self) -> tuple[list[Any], bool]:
        """What there is to be written, at least one thing; and whether more will come."""
        orders = [self._orders.get()]
        while len(orders) < AT_ONCE:
            try:
                orders.append(self._orders.get_nowait())
            except Empty:
                break
        return [order for order in orders if order is not None], None not in orders

    def _write_down(self, writes: Sequence[tuple[Write, "Future[Any]"]]) -> None:
        """All in one transaction; what is wrong with one of them alone harms no other."""
        results: list[tuple[Future[Any], Any]] = []
        try:
            with self.engine.begin() as connection:
                if self._unkept:
                    connection.execute(insert(answers), [asdict(answer) for answer in self._unkept])
                for write, done in writes:
                    try:
                        results.append((done, write(connection)))
                    except (NotKeptError, DataError) as error:  # before anything of it was written
                        results.append((done, error))
        except Exception as error:  # noqa: BLE001  whatever it is, callers in other threads wait for it
            said = getattr(error, "orig", None) or error
            if isinstance(error, SQLAlchemyError) and not isinstance(error, ValueRefused):
                said = f"the database cannot be written: {said}"
            else:
                self.lost += len(self._unkept)  # something in them can never be written
                self._unkept, said = [], f"it cannot be written: {said}"
            results = [(done, NotKeptError(said)) for _, done in writes]
        else:
            self._unkept = []
            if self._deleted:
                self._empty_log()
        for done, result in results:
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

    def _empty_log(self) -> None:
        """SQLite's: pages as they were before something was deleted; where somebody is reading them, next time."""
        if self.engine.dialect.name == "sqlite":
            with suppress(SQLAlchemyError), self._reading() as connection:
                busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
                self._deleted = bool(busy)


def _take(connection: Connection, given: Feedback) -> int:
    asked = [
        (connection.execute(select(answers.c.prompt).where(answers.c.id == name)).first(), name)
        for name in filter(None, (given.answer, given.worse))
    ]
    for found, name in asked:
        if found is None:
            raise NoSuchAnswerError(f"there is no answer {name!r}")
    if any(found != asked[0][0] for found, _ in asked):
        raise NotComparableError("better_than: an answer to another prompt; only answers to the same one are compared")
    try:
        with connection.begin_nested():
            number = connection.execute(insert(feedback).values(**asdict(given))).inserted_primary_key
    except IntegrityError:  # that key is there already; or another server has just deleted the answer
        known = connection.execute(select(feedback).where(feedback.c.key == given.key)).first()
        if known is None:
            raise NoSuchAnswerError(f"there is no answer {given.answer!r} any more") from None
        if any(getattr(known, name) != value for name, value in asdict(given).items() if name != "created"):
            raise KeyReusedError(f"Idempotency-Key: {given.key!r} came with other feedback before") from None
        return int(known.number)
    assert number is not None
    return int(number[0])


def _review(connection: Connection, given: Feedback) -> int:
    is_it = answers.c.id == given.answer
    free = update(answers).where(is_it, answers.c.reviewed.is_(None)).values(reviewed=given.created)
    if not connection.execute(free).rowcount and connection.execute(select(answers.c.id).where(is_it)).first():
        raise AlreadyReviewedError(f"answer {given.answer!r} has been reviewed already")
    return _take(connection, replace(given, review=1))


def _forget(connection: Connection, person: str) -> int:
    theirs = select(answers.c.id).where(answers.c.person == person)
    said = or_(feedback.c.annotator == person, feedback.c.answer.in_(theirs), feedback.c.worse.in_(theirs))
    gone = connection.execute(delete(feedback).where(said)).rowcount
    return int(gone + connection.execute(delete(answers).where(answers.c.person == person)).rowcount)
