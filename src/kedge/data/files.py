"""Rows from files, folders and the Hugging Face hub. Every row knows where it came from.

The local formats are read here and not through ``datasets``, because an error should name the file and the row, and
a row should come out as it was written (no types guessed over the whole column, no copy in a cache). Folders and hub
ids go through ``datasets``, which knows their layouts.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.data.hub import asked_if_it_answers
from kedge.data.tables import items_of, refuse_files, refuse_one_conversation, refuse_twins
from kedge.errors import DataError

Source = str | Path | Iterable[Any]
"""A data file, folder or hub id; or from Python, a table or rows as mappings (see :mod:`kedge.data.tables`)."""

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row: its columns, and its origin for messages: ``file.jsonl: line 3``, where it begins in a file of text, as
    an editor counts; ``row 3`` of anything else, counted from 1."""

    columns: dict[str, Any]
    origin: str


def read_rows(source: str | Path, *, rename: dict[str, str] | None = None) -> list[Row]:
    """All rows of ``source``.

    Args:
        source: a file (``.jsonl .json .csv .tsv .parquet``, each also with ``.gz``), a folder, or a Hugging Face
            dataset id; of a folder or id the split ``train``, or the one named after a colon (``org/name:test``).
        rename: ``{kedge's column: the data's column}`` where they differ.

    Raises:
        DataError: nothing there, unknown format, a line that cannot be read, no rows, or a column of ``rename``
            that a row lacks.
    """
    path = Path(source).expanduser()
    rows = list(_read_file(path)) if path.is_file() else _read_dataset(str(source))
    if not rows:
        raise DataError(f"{source}: no rows in it")
    if rename:
        rows = [_renamed(row, rename) for row in rows]
    return rows


def rows_of(source: Source, *, rename: Mapping[str, str] | None = None, bare: str | None = None) -> list[Row]:
    """All rows of ``source``, be it something to read, or a table or a list from Python.

    Args:
        rename: as in :func:`read_rows`.
        bare: the column that an item which is no mapping stands for.

    Raises:
        DataError: as :func:`read_rows` and :func:`kedge.data.tables.items_of`, an empty list, or an item that is no
            row.
    """
    if isinstance(source, str | Path):
        return read_rows(source, rename=dict(rename or {}))
    items = items_of(source)
    refuse_files(items, SUFFIXES)
    if not rename:
        refuse_one_conversation(items)
    rows = []
    for number, item in enumerate(items, start=1):
        if not isinstance(item, Mapping) and bare is None:
            raise DataError(f"row {number}: a row is a mapping with named columns, not {type(item).__name__}")
        columns = dict(item) if isinstance(item, Mapping) else {str(bare): item}
        if odd := [name for name in columns if not isinstance(name, str)]:
            raise DataError(f"row {number}: column {odd[0]!r} is not named by text")
        rows.append(Row(columns, f"row {number}"))
    if not rows:
        raise DataError(f"no rows: an empty {type(source).__name__}")
    return [_renamed(row, dict(rename)) for row in rows] if rename else rows


def column(row: Row, name: str) -> Any:
    """``row.columns[name]``, or an error that says what there is.

    Raises:
        DataError: the row has no such column, or nothing in it.
    """
    if row.columns.get(name) is None:
        what = "empty column" if name in row.columns else "no column"
        raise DataError(f"{row.origin}: {what} {name!r}; columns there are: {', '.join(map(str, row.columns))}")
    return row.columns[name]


def _renamed(row: Row, rename: dict[str, str]) -> Row:
    taken = {theirs: column(row, theirs) for theirs in rename.values()}
    others = {key: value for key, value in row.columns.items() if key not in taken}
    for ours, theirs in rename.items():
        if ours in others:
            raise DataError(
                f"{row.origin}: columns: {ours!r} is to be the data's {theirs!r}, and the data's own {ours!r} would be "
                f"lost; name it too: columns = {{ {ours} = {theirs!r}, other_{ours} = {ours!r} }}"
            )
    return Row(others | {ours: taken[theirs] for ours, theirs in rename.items()}, row.origin)


def _read_file(path: Path) -> Iterator[Row]:
    zipped = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem).suffix if zipped else path.suffix).lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown format {suffix!r}; kedge reads {', '.join(SUFFIXES)}, each also with .gz")
    try:
        content = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from None
    if suffix == ".parquet":
        return (Row(columns, f"{path}: row {i}") for i, columns in enumerate(_parquet(path, content), start=1))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8") from None
    readers = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv, ".tsv": _tsv}
    return readers[suffix](path, text)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _object(json.loads(line), f"{path}: line {number}")
        except json.JSONDecodeError as error:
            # The line of the file, and no other number that looks like one.
            raise DataError(f"{path}: line {number}: not JSON: {error.msg} at character {error.colno}") from None


def _json_list(path: Path, text: str) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}; a file with one object a line ends in .jsonl") from None
    if isinstance(rows, dict):
        rows = _rows_of_object(path, rows)
    if not isinstance(rows, list):
        raise DataError(f"{path}: a .json file holds a list of rows, not {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        yield _object(row, f"{path}: row {number}")


def _rows_of_object(path: Path, columns: dict[str, Any]) -> list[Any]:
    inside = [
        name for name, rows in columns.items() if isinstance(rows, list) and any(isinstance(x, dict) for x in rows)
    ]
    sizes = {len(column) if isinstance(column, list) else None for column in columns.values()}
    if inside or None in sizes or len(sizes) != 1:
        hint = f"; write what stands under {inside[0]!r} as the file" if inside else ""
        raise DataError(f"{path}: a .json file holds a list of rows, or an object with lists of one length{hint}")
    return items_of(columns)


def _object(row: Any, origin: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{origin}: a row is an object with named columns, not {type(row).__name__}")
    return Row(row, origin)


def _csv(path: Path, text: str) -> Iterator[Row]:
    return _table(path, _cells(path, text, strict=True))


def _tsv(path: Path, text: str) -> Iterator[Row]:
    # A quote in a .tsv is a quote: the format separates by tabs alone, and real text is full of unpaired ones.
    return _table(path, _cells(path, text, delimiter="\t", quoting=csv.QUOTE_NONE))


def _cells(path: Path, text: str, **dialect: Any) -> list[tuple[int, list[str]]]:
    """The lines with something in them: the number of each, its first where a quoted cell runs over several."""
    reader = csv.reader(io.StringIO(text, newline=""), **dialect)
    # By default the csv module refuses cells of more than 131,072 characters. Its limit is the whole process's and
    # nobody else should notice, so it is put back; no cell is longer than its file.
    before = csv.field_size_limit(len(text))
    try:
        lines, first = [], 1
        for cells in reader:
            if cells:
                lines.append((first, cells))
            first = reader.line_num + 1
        return lines
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)


def _table(path: Path, lines: list[tuple[int, list[str]]]) -> Iterator[Row]:
    (_, header), *rows = lines or [(1, [])]
    refuse_twins(header, str(path))
    for number, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}: line {number}: {len(cells)} cells under {len(header)} column names")
        yield Row(dict(zip(header, cells, strict=True)), f"{path}: line {number}")


def _parquet(path: Path, content: bytes) -> list[dict[str, Any]]:
    import pyarrow  # heavy, and only this format needs it
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        refuse_twins(file.schema_arrow.names, str(path))
        rows: list[dict[str, Any]] = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a parquet file, or a damaged one: {error}") from None
    return rows


def _read_dataset(source: str) -> list[Row]:
    import datasets  # seconds to import, and most runs read a plain file

    name, _, asked = source.partition(":")
    home = Path(name).expanduser()
    name = str(home) if name.startswith("~") and home.exists() else name
    split = asked or "train"
    folder = Path(name)
    looks_like_a_path = (
        name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.suffix.lower() in (*SUFFIXES, ".gz")
    )
    if looks_like_a_path and not folder.exists():
        raise DataError(f"{name}: no such file or folder")
    if not folder.exists() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:\S+)?", source):
        raise DataError(f"{source[:60]!r}: no such file, folder or hub id; texts go in a list: [{source[:20]!r}, ...]")
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.Dataset) and asked not in ("", loaded.split):
                raise DataError(f"{source}: a dataset saved without splits; leave out {f':{asked}'!r}")
            data = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            with asked_if_it_answers(name):
                data = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        hint = "" if folder.exists() else "; not a local file or folder either: without a network, give a path"
        raise DataError(f"{source}: datasets could not load split {split!r}: {error}{hint}") from None
    return [Row(dict(row), f"{source}: row {number}") for number, row in enumerate(data, start=1)]
