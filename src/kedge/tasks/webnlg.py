"""WebNLG 2017 as it is published: an archive of XML files, whose entries have triples and texts that say them."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple
from xml.etree import ElementTree

from kedge.errors import DataError

ARCHIVE = "webnlg_challenge_2017.tar.gz"


class Entry(NamedTuple):
    """Triples, and the texts that say them."""

    split: str
    """``train``, ``dev`` or ``test``."""
    category: str
    triples: tuple[str, ...]
    """``subject | relation | object`` each."""
    texts: tuple[str, ...]


def entries(folder: Path, needs: str) -> Iterator[Entry]:
    """Of the archive in a folder.

    Args:
        folder: where it is.
        needs: what there has to be, for errors.

    Raises:
        DataError: it is not there, or broken.
    """
    path = folder / ARCHIVE
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                parts = PurePath(member.name).parts
                file = archive.extractfile(member) if member.name.endswith(".xml") else None
                if file is None or len(parts) < 2:
                    continue
                for entry in ElementTree.parse(file).iterfind("entries/entry"):
                    triples = tuple(readable(each.text or "") for each in entry.iterfind("modifiedtripleset/mtriple"))
                    texts = (" ".join((each.text or "").split()) for each in entry.iterfind("lex"))
                    yield Entry(parts[1], entry.get("category", ""), triples, tuple(filter(None, texts)))
    except FileNotFoundError:
        raise DataError(f"{folder}: has no {ARCHIVE}; {needs}") from None
    except (tarfile.TarError, EOFError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: is broken: {error}; {needs}") from None


def readable(triple: str) -> str:
    """``Aarhus_Airport | runwayName | "10R/28L"`` without underscores and quotation marks."""
    return " | ".join(" ".join(part.replace("_", " ").replace('"', "").split()) for part in triple.split("|"))
