"""What people have said, and what they asked, wherever it is kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.errors import ConfigError
from kedge.serving.people.importing import read_feedback
from kedge.serving.people.store import Store
from kedge.serving.people.tables import open_database
from kedge.serving.people.training_data import demonstrations, preferences, ratings


@dataclass(frozen=True)
class Heard:
    """Feedback up to a moment."""

    rows: Sequence[Mapping[str, Any]]
    """As :meth:`kedge.serving.people.store.Store.rows` has them."""
    prompts: Sequence[Any]
    """Of all answers, those that nobody spoke of too."""

    @property
    def numbers(self) -> list[int]:
        """Of the feedback."""
        return sorted(row["number"] for row in self.rows)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Preferences that training can read: to tokens nobody can answer in words."""
        return [pair for pair in preferences(self.rows) if is_words(pair["prompt"])]

    def told(self) -> Iterator[dict[str, Any]]:
        """All that training could make of it, each with its kind and the numbers of the feedback that it is from."""
        for kind, rows in (
            ("preference", preferences(self.rows)),
            ("demonstration", demonstrations(self.rows)),
            ("rating", ratings(self.rows)),
        ):
            yield from ({"kind": kind} | row for row in rows)


def heard(source: str) -> Heard:
    """What is kept in a database, or in a ``.jsonl`` file.

    Raises:
        ConfigError: neither is there. DataError: rows of the file that are no feedback.
    """
    if "://" not in source and not Path(source).expanduser().is_file():
        raise ConfigError(f"loop.feedback: {source}: there is no such file; it is what kedge serve --feedback names")
    if source.endswith(".jsonl"):
        rows = read_feedback(source)
        return Heard(rows, [row["answer_prompt"] for row in rows])
    store = Store(open_database(source))
    try:
        return Heard(store.rows(), store.prompts())
    finally:
        store.close()


def is_words(prompt: Any) -> bool:
    """Whether a prompt is a text or messages, and not tokens."""
    return isinstance(prompt, str) or not isinstance(prompt[0], int)
