"""Overrides of a recipe, ``key=value``: which table each is of."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from kedge.config.names import TABLES, elsewhere
from kedge.errors import ConfigError
from kedge.recipes.registry import names, stage_called


def keys_of(stage: str) -> Container[str]:
    """The keys of a stage's table; none where they cannot be known here."""
    found = stage_called(stage)
    return () if found.missing() else found.table().model_fields


def refuse_unread(assignment: str, stage: str | None, too: Sequence[str]) -> None:
    """Raise where an override is of a table that the command does not read: it would be ignored.

    Raises:
        ConfigError: naming both.
    """
    table, dot, _ = assignment.partition("=")[0].strip().partition(".")
    if stage is None or table not in names() or table in (stage, *too):
        return
    own = keys_of(stage)
    if dot:
        meant = f"; {stage}.{table} is another setting, {stage}.{assignment.strip()}" if table in own else ""
        raise ConfigError(f"{assignment.strip()!r}: of [{table}], and [{stage}] is what is read here{meant}")
    if table not in own:
        raise ConfigError(f"{assignment.strip()!r}: [{table}] is a table, and not what is read here")


def of_a_table(assignment: str, written: Mapping[str, Any], stage: str | None) -> str:
    """``assignment`` with the table that it is of in front, where it names none: the command's own, or where a command
    reads all of them the only one that has such a key.

    Raises:
        ConfigError: it may be of several tables, or is of one that the command does not read.
    """
    key, _, rest = assignment.strip().partition("=")
    first = key.strip().split(".")[0]
    if not rest or not first:
        return assignment
    # `reward` is a table's name too, so the command's own settings come first.
    if stage is not None and stage in written and key.strip() == first in keys_of(stage):
        return f"{stage}.{assignment.strip()}"
    if first in ("name", "needs", *names(), *written, *TABLES):
        return assignment
    tables_here = [table for table in names() if table in written]
    if stage is None and len(tables_here) == 1:
        stage = tables_here[0]
    having = [table for table in tables_here if first in keys_of(table)]
    if stage in having or (stage in written and not having and "." not in key):
        return f"{stage}.{assignment.strip()}"  # what no table knows is refused there, by a name that may be known
    if stage is not None and stage not in written and first in keys_of(stage):
        raise ConfigError(f"{assignment.strip()!r}: the recipe has no table [{stage}], which would have {first!r}")
    if not having:
        return assignment
    if stage is not None:
        unread = f"[{stage}] has no {first!r}; [{'] and ['.join(having)}] has, and is not read"
        raise ConfigError(f"{assignment.strip()!r}: {elsewhere(first, stage, keys_of(stage)) or unread}")
    tables = [f"{table}.{assignment.strip()}" for table in having]
    if len(tables) == 1:
        return tables[0]
    raise ConfigError(f"{assignment.strip()!r}: several tables have it; write {' or '.join(tables)}")
