"""The database: answers that were given, and what was said of them."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from kedge.errors import ConfigError

MIGRATIONS = Path(__file__).parent / "migrations"

MIGRATING = 0x6B65646765
"""The number of a lock that whoever migrates a database of PostgreSQL's holds: "kedge"."""

metadata = MetaData()

answers = Table(
    "answers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("created", Float, nullable=False),  # seconds since 1970
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("source", Text, nullable=False),  # of the version: a run, folder or hub id
    Column("person", String(256), index=True),  # the request's `user`
    Column("prompt", JSON, nullable=False),  # a text, messages, or tokens
    Column("prompt_ids", JSON, nullable=False),
    Column("text", Text, nullable=False),
    Column("ids", JSON, nullable=False),
    Column("logprobs", JSON, nullable=False),  # nats, under the distribution drawn from
    Column("sampling", JSON, nullable=False),
    Column("finish_reason", String(16), nullable=False),
    Column("held", JSON(none_as_null=True)),  # what the guard did; NULL: nothing
    Column("told", Text),  # what was given in place of `text`; NULL: that
    Column("disagreement", Float),  # standard deviation of what several reward models say
    Column("reviewed", Float),  # seconds since 1970
)

feedback = Table(
    "feedback",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("key", String(256), unique=True),  # of the request, so that one that is repeated is kept once
    Column("created", Float, nullable=False),
    Column("answer", String(80), ForeignKey("answers.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("annotator", String(256), index=True),
    Column("thumb", Integer),  # 1 up, 0 down
    Column("score", Float),
    Column("worse", String(80), ForeignKey("answers.id", ondelete="CASCADE"), index=True),  # than `answer`
    Column("correction", Text),
    Column("comment", Text),
    Column("review", Integer),  # 1: by somebody who saw `text`, whatever was given
    CheckConstraint("thumb IN (0, 1)", name="thumb_is_up_or_down"),
)


def is_writable(text: str) -> bool:
    """Whether every database takes it: no half characters, and no NUL."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def open_database(where: str | Path) -> Engine:
    """A database with the tables as they are now, made or migrated.

    Args:
        where: the file of a SQLite database, or any URL of SQLAlchemy's.

    Raises:
        ConfigError: no such database, no driver for it, or its tables are of a later version.
    """
    url = where if isinstance(where, str) and "://" in where else f"sqlite:///{Path(where).expanduser().resolve()}"
    try:
        engine = create_engine(make_url(url))
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _as_it_must_be)
            event.listen(engine, "begin", _as_a_writer)
        with engine.begin() as connection:
            _migrate(connection)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(f"--feedback: {where} is no database that can be opened: {error}") from None
    except SQLAlchemyError as error:
        raise ConfigError(f"--feedback: {where}: {getattr(error, 'orig', None) or error}") from None
    return engine


def _as_it_must_be(connection: Any, _: object) -> None:
    """Of SQLite: readers do not wait for the writer, a commit is on disk, what is deleted is gone."""
    connection.isolation_level = None  # the driver begins nothing by itself
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _as_a_writer(connection: Connection) -> None:
    """What is read in a transaction is still so when it writes: other processes wait for its end."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # servers that begin together take turns, as SQLite's writers do
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATING)))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
