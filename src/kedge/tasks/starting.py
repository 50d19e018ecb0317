"""What there has to be before a first run: a small chat model of one's own texts, or the support desk and its model."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from kedge.data.files import Row, read_rows
from kedge.errors import ConfigError, DataError
from kedge.models.language_model import LanguageModel
from kedge.models.tiny import new_llama, new_lstm, new_tokenizer
from kedge.storage.writing import whole_folder
from kedge.tasks.support_desk import DeskFiles, write_support_desk

Kind = Literal["llama", "lstm"]

SMALLEST = 261
"""Tokens: every byte, and the special ones."""

NAMES = ("text", "prompt", "completion", "messages", "conversations", "chosen", "rejected",
         "instruction", "input", "output", "system", "history")  # fmt: skip
"""Columns that hold texts, in any shape that the stages read."""


def new_model(
    texts: str | Path,
    to: Path,
    *,
    column: str | None = None,
    kind: Kind = "llama",
    vocabulary: int = 2048,
    hidden: int = 128,
    layers: int = 2,
    heads: int | None = None,
    positions: int | None = None,
    seed: int = 0,
) -> LanguageModel:
    """Write a model of random weights to the folder ``to``, with a tokenizer made for ``texts`` and a chat template.

    Args:
        texts: a data source with any of the columns that the stages read, or a ``.txt`` file.
        column: the only one to read. heads, positions: of a Llama, default 4 and 512; an LSTM has neither.

    Raises:
        ConfigError: the folder is there, or sizes that do not go together. DataError: no texts.
    """
    to = to.expanduser()
    refuse_what_is_there(to)
    if vocabulary < SMALLEST:
        raise ConfigError(f"vocabulary: {vocabulary} does not hold the {SMALLEST - 5} bytes and 5 special tokens")
    if kind == "lstm" and (heads, positions) != (None, None):
        raise ConfigError("heads, positions: an LSTM has neither; take them out")
    heads, positions = heads if heads is not None else 4, positions if positions is not None else 512
    if min(hidden, layers, heads, positions) < 1:
        raise ConfigError("hidden, layers, heads, positions: at least 1")
    if kind == "llama" and hidden % (2 * heads):
        raise ConfigError(
            f"hidden: {hidden} is not heads={heads} times an even number; try {2 * heads * (hidden // (2 * heads) + 1)}"
        )
    found = list(read_texts(texts, column))
    if not any(text.strip() for text in found):
        raise DataError(f"{texts}: no texts in it")
    tokenizer = new_tokenizer(found, vocabulary=vocabulary)
    lm = (
        new_llama(tokenizer, hidden=hidden, layers=layers, heads=heads, positions=positions, seed=seed)
        if kind == "llama"
        else new_lstm(tokenizer, hidden=hidden, layers=layers, seed=seed)
    )
    with whole_folder(to) as folder:
        lm.save(folder)
    return lm


def read_texts(source: str | Path, column: str | None = None) -> Iterator[str]:
    """Every text of a data source, whatever shape its rows have; of a ``.txt`` file its lines.

    Raises:
        DataError: nothing there, or no column that holds texts. ConfigError: a column of a ``.txt`` file.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".txt":
        if column:
            raise ConfigError(f"column: {source} has lines and no columns; take it out")
        if not path.is_file():
            raise DataError(f"{source}: no such file or folder")
        try:
            yield from path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: not UTF-8 at byte {error.start}; convert it to UTF-8") from None
        return
    for row in read_rows(source):
        names = [name for name in ((column,) if column else NAMES) if row.columns.get(name) is not None]
        if not names:
            raise DataError(_no_column(row, column))
        for name in names:
            yield from _texts(row.columns[name])


def new_desk(folder: Path, *, seed: int = 0) -> DeskFiles:
    """Write the support desk's data and a fresh model to ``folder``: ``data/`` and ``model/``.

    Raises:
        ConfigError: one of them is there.
    """
    folder = folder.expanduser()
    for part in ("data", "model"):
        refuse_what_is_there(folder / part)
    desk = write_support_desk(folder / "data", seed=seed)
    desk_model(desk, folder / "model", seed=seed)
    return desk


def desk_model(desk: DeskFiles, to: Path, *, seed: int) -> LanguageModel:
    """A Llama of 0.4 million random weights, in which every word of the desk's is one token: its texts stay short."""
    return new_model(desk.demonstrations, to, positions=256, seed=seed)


def refuse_what_is_there(folder: Path) -> None:
    """Raise rather than write over anything.

    Raises:
        ConfigError: naming it.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; delete it, or name another folder")


def parameters(lm: LanguageModel) -> int:
    """How many weights it has."""
    return sum(weight.numel() for weight in lm.model.parameters())


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a cell: itself, of messages the contents, of pairs both."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(value.get("content", value.get("value")))
    elif isinstance(value, Iterable):
        for item in value:
            yield from _texts(item)


def _no_column(row: Row, column: str | None) -> str:
    there = ", ".join(map(str, row.columns))
    if column:
        return f"{row.origin}: no column {column!r}; columns there are: {there}"
    return f"{row.origin}: none of {', '.join(NAMES)}; columns there are: {there}; name the one with --column"
