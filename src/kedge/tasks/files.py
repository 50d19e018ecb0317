"""Tasks whose rows stand in files that somebody publishes."""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kedge.errors import DataError
from kedge.rewards.library.words import normalised
from kedge.tasks.task import Row, Task

ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that Excel puts before it."""


class FolderTask(Task):
    """A task that reads a local folder; :attr:`needs` says which.

    Args:
        folder: where the data is.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def lines(self, name: str, encoding: str = ENCODING) -> Iterator[str]:
        """Of a file of the folder, or of it packed (``.gz``), without their ends.

        Raises:
            DataError: neither is there, or it is of another encoding.
        """
        return (line.rstrip("\r\n") for line in self._whole_lines(name, encoding))

    def _whole_lines(self, name: str, encoding: str) -> Iterator[str]:
        path = self.folder / name
        packed = path.with_name(f"{name}.gz")
        if not self.folder.is_dir():
            what = "is no folder" if self.folder.exists() else "there is no such folder"
            raise DataError(f"{self.folder}: {what}{self._needed}")
        try:
            with (
                path.open(encoding=encoding, newline="")
                if path.is_file()
                else gzip.open(packed, "rt", encoding=encoding, newline="") as file
            ):
                yield from file
        except FileNotFoundError:
            raise DataError(f"{self.folder}: has neither {name} nor {packed.name}{self._needed}") from None
        except UnicodeDecodeError as error:
            name = encoding.removesuffix("-sig")
            what = f"is not {name} at byte {error.start}; convert it, or read it with encoding=..."
            raise DataError(f"{path}: {what}") from None
        except (EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{packed}: is broken: {error}{self._needed}") from None

    @property
    def _needed(self) -> str:
        return f"; {self.needs}" if self.needs else ""

    def table(
        self, name: str, columns: Sequence[str], encoding: str = ENCODING
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """Of a CSV file of the folder: the number of the line where a row ends, and these columns of it.

        Raises:
            DataError: as of :meth:`lines`; a column is missing, or a row has nothing in one, or more cells.
        """
        reader = csv.DictReader(self._whole_lines(name, encoding), strict=True)
        try:
            if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
                has = ", ".join(map(repr, reader.fieldnames or ())) or "nothing"
                raise self.refused(name, 1, f"has no column {missing[0]!r}, but {has}", "name its columns in that line")
            for row in reader:
                if None in row:
                    raise self.refused(
                        name, reader.line_num, f"more cells than the {len(row) - 1} columns: {row[None]}"
                    )
                for column in columns:
                    if not (row[column] or "").strip():
                        raise self.refused(name, reader.line_num, f"nothing in column {column!r}")
                yield reader.line_num, {column: row[column] for column in columns}
        except csv.Error as error:
            what = f"is no CSV in or behind line {reader.line_num}: {error}; mend its quotes"
            raise DataError(f"{self.folder / name}: {what}{self._needed}") from None

    def items(self, name: str) -> Iterator[tuple[int, Any]]:
        """Of a JSON file of the folder that is one list: the number of the line where an item begins, and the item.

        Raises:
            DataError: as of :meth:`lines`; it is no JSON, or no list.
        """
        text = "".join(self._whole_lines(name, ENCODING))
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            what = f"is no JSON at column {error.colno}: {error.msg}"
            raise self.refused(name, error.lineno, what, "mend the file") from None
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
            raise DataError(f"{self.folder / name}: cannot be read: {error}{self._needed}") from None
        if not isinstance(whole, list):
            raise self.refused(name, 1, f"a {type(whole).__name__} and no list", "write [ ... ] around its items")
        decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
        line, last, end = 1, 0, text.index("[") + 1
        for _ in whole:
            begin = between.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing, too
            item, end = decoder.raw_decode(text, begin)
            line, last = line + text.count("\n", last, begin), begin
            yield line, item

    def names(self, pattern: str) -> list[str]:
        """Files of the folder, or packed ones, in order, without ``.gz``; the pattern itself where there is none, for
        :meth:`lines` to say so.

        Args:
            pattern: as of a shell, such as ``part_*.json``.
        """
        found = {path.name.removesuffix(".gz") for end in ("", ".gz") for path in self.folder.glob(pattern + end)}
        return sorted(found) or [pattern]

    def unseen(self, rows: Iterable[Row], text: Callable[[Row], str]) -> Iterator[Row]:
        """Those whose text is none that is trained on, in whatever case, spacing and punctuation, and with whatever
        numbers: a sentence with another date or amount is known by heart."""

        def plain(row: Row) -> str:
            words = normalised(text(row), articles=True)
            return re.sub(r"[\W\d_]", "", words) or words

        seen = {plain(row) for row in self.rows("train")}
        return (row for row in rows if plain(row) not in seen)

    def refused(self, name: str, line: int, what: str, fix: str = "mend the line or leave it out") -> DataError:
        """The error of a line: what is wrong with it, and what to do.

        Args:
            name: of the file.
            line: counted from 1.
            what: is the matter.
            fix: what to do.
        """
        return DataError(f"{self.folder / name}: line {line}: {what}; {fix}{self._needed}")
