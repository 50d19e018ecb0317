"""What a user holds in Python, as rows: lists, data frames, Arrow tables, dicts of columns, datasets.

A table is taken by its rows, whichever library made it: pandas by its own hand, because its cells are Python objects;
everything else by the Arrow protocol (polars, pyarrow, DuckDB), or by being iterated (``datasets``, generators). What
would be read as something else than its owner meant is refused by its name.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedge.errors import DataError

LONGEST_NAME = 255
"""Characters of a path that is worth a look at the disk."""

SHOWN = 8
"""Names that a message shows."""

BY_TABLE = ("pandas", "arrow", "polars")
"""Formats of ``datasets`` in which a row is a table."""

OF_ARROW_TABLES = ("columns", "column_names", "schema")
"""What a table or a stream of its batches has, and a single column has not."""

OF_ROWS = {"prompt", "messages", "text", "chosen"}
"""Columns that make a row with ``role`` and ``content`` in it more than a message."""


def items_of(source: Any) -> list[Any]:
    """The rows of a table as dicts, or the items of anything else that holds items.

    Raises:
        DataError: no rows and no items (a number, bytes, a set, splits by name, one conversation, ...), with the fix.
    """
    kind = type(source).__name__
    if isinstance(source, Mapping):
        return _rows_of_columns(source)
    if _is_from("pandas", source, "DataFrame"):
        return _rows_of_pandas(source)
    if _is_from("datasets", source, "Dataset", "IterableDataset"):
        return _rows_of_dataset(source)
    if hasattr(source, "__arrow_c_stream__") and any(hasattr(source, name) for name in OF_ARROW_TABLES):
        return _rows_of_arrow(source, kind)
    if hasattr(source, "read"):
        raise DataError(f"{kind}: an open file, and it may hold anything; give its path, or a list of texts")
    if isinstance(source, bytes | bytearray):
        raise DataError(f"{kind}: no rows; decode it, and put the texts in a list")
    if isinstance(source, set | frozenset):
        raise DataError(f"{kind}: has no order, so no run could be repeated; give sorted(...), or a list")
    if not isinstance(source, Iterable) and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return [source[i] for i in range(len(source))]  # torch's datasets: not all of them know where they end
    return _as_list(source, kind)


def refuse_files(items: list[Any], suffixes: tuple[str, ...]) -> None:
    """Raise where an item is the name of a file, and no text.

    Raises:
        DataError: with the fix.
    """
    for item in items:
        looks_like_a_name = isinstance(item, str | Path) and len(str(item)) < LONGEST_NAME and "\n" not in str(item)
        if looks_like_a_name and str(item).endswith(suffixes) and Path(item).expanduser().is_file():
            raise DataError(f"{item}: a list of files would be read as texts; give one file, or the folder they are in")


def refuse_one_conversation(items: list[Any]) -> None:
    """Raise where the items are the messages of one chat, and not rows.

    Raises:
        DataError: with the fix.
    """
    if items and all(_is_message(item) for item in items):
        raise DataError("one conversation, and not rows: a list of messages goes into a list, [[{'role': ...}, ...]]")


def refuse_twins(names: Iterable[Any], origin: str) -> None:
    """Raise where two columns have one name.

    Raises:
        DataError: naming it.
    """
    there = list(names)
    for name in there:
        if there.count(name) > 1:
            raise DataError(f"{origin}: {there.count(name)} columns are named {name!r}; rename or remove all but one")


def _rows_of_columns(source: Mapping[Any, Any]) -> list[Any]:
    kind, names = type(source).__name__, ", ".join(map(str, [*source][:SHOWN])) or "none"
    if kind in ("DatasetDict", "IterableDatasetDict") or any(map(_is_table, source.values())):
        first = next(iter(source), "train")
        raise DataError(f"{kind}: splits or tables by name ({names}); name one of them: data[{first!r}]")
    if not source:
        raise DataError(f"no rows: an empty {kind}")
    single = [name for name, column in source.items() if not _is_column(column)]
    if single:
        raise DataError(
            f"{kind}: a table if each value is a column, which is a list; {single[0]!r} is "
            f"{type(source[single[0]]).__name__}. If it is one row, put it in a list: [{{...}}]"
        )
    columns = {name: _as_list(column, kind) for name, column in source.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{kind}: columns of different lengths: {', '.join(f'{n} {s}' for n, s in sizes.items())}")
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _rows_of_dataset(source: Any) -> list[Any]:
    # With the transforms that were set on it, but by rows.
    if hasattr(source, "format"):
        if source.format["type"] in BY_TABLE:
            source = source.select_columns(source.format["columns"]).with_format(None)
    elif getattr(source._formatting, "format_type", None) in BY_TABLE:  # streamed
        source = source.with_format(None)
    return list(source)


def _rows_of_pandas(frame: Any) -> list[Any]:
    refuse_twins(frame.columns, "DataFrame")
    if not len(frame.columns) or not all(isinstance(name, str) for name in frame.columns):
        names = ", ".join(map(str, [*frame.columns][:SHOWN])) or "there are none"
        raise DataError(f"DataFrame: its columns are not named by text ({names}); set df.columns = ['prompt', ...]")
    # As objects, because only those can hold None; NaN is pandas' word for a gap.
    objects = frame.astype(object)
    rows: list[dict[str, Any]] = objects.where(frame.notna(), None).to_dict("records")
    return [{name: _native(value) for name, value in row.items()} for row in rows]


def _rows_of_arrow(source: Any, kind: str) -> list[Any]:
    import pyarrow  # heavy, and only such tables need it

    table = source if isinstance(source, pyarrow.Table) else pyarrow.table(source)
    refuse_twins(table.column_names, kind)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _native(value: Any) -> Any:
    """Arrays inside a cell (pandas reads lists of .parquet so) as lists, and numpy's numbers as numbers."""
    if isinstance(value, dict):
        return {key: _native(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_native(inner) for inner in value]
    return _native(value.tolist()) if _is_from("numpy", value, "ndarray", "generic") else value


def _as_list(items: Any, kind: str) -> list[Any]:
    for name in ("to_pylist", "tolist"):  # a column of a table, or an array
        if hasattr(items, name):
            items = getattr(items, name)()
            break
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise DataError(f"{kind}: no data; give a file, a folder, a hub id, a table, or a list of rows")
    return list(items)


def _is_column(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not isinstance(value, Iterable):
        return False
    return not (isinstance(value, list) and value and all(map(_is_message, value)))


def _is_table(value: Any) -> bool:
    return (
        hasattr(value, "column_names")
        or _is_from("pandas", value, "DataFrame")
        or (
            isinstance(value, list)
            and bool(value)
            and all(isinstance(x, Mapping) and not _is_message(x) for x in value)
        )
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and {"role", "content"} <= value.keys() and not OF_ROWS & value.keys()


def _is_from(library: str, value: Any, *names: str) -> bool:
    """Whether ``value`` is of a class of a library that is no dependency: whoever has one has imported it."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in names))
