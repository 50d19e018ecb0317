"""Tasks whose rows stand in files that somebody publishes."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from kedge.errors import DataError
from kedge.tasks.task import Task


class FolderTask(Task):
    """A task that reads a local folder; :attr:`needs` says which.

    Args:
        folder: where the data is.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def lines(self, name: str, encoding: str = "utf-8") -> Iterator[str]:
        """Of a file of the folder, or of it packed (``.gz``), without their ends.

        Raises:
            DataError: neither is there, or it is of another encoding.
        """
        path = self.folder / name
        packed = path.with_name(f"{name}.gz")
        try:
            with path.open(encoding=encoding) if path.is_file() else gzip.open(packed, "rt", encoding=encoding) as file:
                yield from (line.rstrip("\r\n") for line in file)
        except FileNotFoundError:
            raise DataError(f"{self.folder}: has neither {name} nor {packed.name}; {self.needs}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: is not {encoding} at byte {error.start}") from None
        except (EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{packed}: is broken: {error}; {self.needs}") from None
