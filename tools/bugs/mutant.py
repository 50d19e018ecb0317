"""What a planted bug is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One bug: ``old``, which occurs once in ``src/kedge/<file>``, becomes ``new``, and ``tests`` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    bug: str  # in words
