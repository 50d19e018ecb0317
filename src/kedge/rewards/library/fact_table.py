"""Facts and rules as a table: what a sentence says of them. Imports no torch."""

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kedge.errors import ConfigError
from kedge.rewards.library.words import mentions, sentences_of

TRIPLES = ("subject", "relation", "object")
RULES = ("pattern", "verdict")
VERDICTS = ("must", "must_not")
_WANTED = f"the columns {','.join(TRIPLES)}, or {','.join(RULES)} (and when, note)"
_NEGATION = re.compile(
    r"\b(not|never|no|neither|nor|cannot)\b|n['’]t\b|[不没沒非]|\b(nicht|kein|keine|nie|pas|jamais)\b"
)


_NO_NEGATION = re.compile(r"没错|不用说|不错|不仅|不但|不愧|\b(no doubt|not only|no wonder|without doubt)\b")
"""What sounds like one and denies nothing."""


@dataclass(frozen=True)
class Hit:
    """Something of the table that a text agrees with or contradicts."""

    agrees: bool
    said: str
    """What it was, for who reads the samples."""


@dataclass(frozen=True)
class Rule:
    """A pattern that answers must or must not match, where the prompt matches another one."""

    pattern: re.Pattern[str]
    must: bool
    when: re.Pattern[str] | None
    note: str

    def hit(self, prompt: str, text: str) -> Hit | None:
        """A rule that does not apply says nothing, nor does one of ``must_not`` that is kept."""
        if self.when is not None and not self.when.search(prompt):
            return None
        found = self.pattern.search(text) is not None
        if not found and not self.must:
            return None
        shown = self.note or self.pattern.pattern
        return Hit(found is self.must, f"{'says' if found else 'does not say'} {shown!r}")


@dataclass(frozen=True)
class FactTable:
    """Facts by subject and relation, and rules."""

    facts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """``{(subject, relation): objects}``, each by its first name."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """``{first name: all of them}``."""
    rules: Sequence[Rule] = ()
    open: frozenset[str] = frozenset()
    """Relations of which a subject may have objects that the table does not name."""

    def hits(self, prompt: str, text: str) -> list[Hit]:
        """Everything that a text agrees with or contradicts, each once."""
        found = [hit for rule in self.rules if (hit := rule.hit(prompt, text))]
        for sentence in sentences_of(_plain(text)):
            found += self._of_sentence(sentence)
        return list(dict.fromkeys(found))

    def _of_sentence(self, sentence: str) -> Iterator[Hit]:
        named = {first for first, names in self.names.items() if any(mentions(sentence, name) for name in names)}
        if not named:
            return
        denied = _NEGATION.search(_NO_NEGATION.sub(" ", sentence)) is not None
        for (subject, relation), objects in self.facts.items():
            if subject not in named or (relation and relation not in named):
                continue
            right = [each for each in objects if each in named]
            for each in right:
                fact = f"({subject}, {relation}, {each})"
                yield Hit(not denied, f"denies {fact}" if denied else f"agrees with {fact}")
            if right or denied or not relation or relation in self.open:
                continue
            for wrong in self._others(relation, objects):
                if wrong in named - {subject}:
                    yield Hit(False, f"says {wrong}, against ({subject}, {relation}, {', '.join(objects)})")

    def _others(self, relation: str, objects: Sequence[str]) -> list[str]:
        """What the relation has for other subjects: whoever says one of these of this subject is wrong."""
        there = [each for (_, other), them in self.facts.items() if other == relation for each in them]
        return [each for each in dict.fromkeys(there) if each not in objects]


def read_table(lines: Sequence[str], where: str, *, open: Sequence[str] = ()) -> FactTable:
    """A CSV of ``subject,relation,object`` or of ``pattern,verdict`` with optional ``when`` and ``note``.

    Args:
        lines: of the file, its header first.
        where: it is, for messages.
        open: relations whose table is not complete.

    Raises:
        ConfigError: not such a table; file and line are named.
    """
    reader = csv.DictReader(lines, skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if not (set(TRIPLES) <= set(columns) or set(RULES) <= set(columns)):
        raise ConfigError(
            f"facts: {where}: the first line must name {_WANTED}; it names {','.join(columns) or 'nothing'}"
        )
    return _table([(f"line {reader.line_num}", row) for row in reader], where, open)


def table_of(rows: Any, where: str, *, open: Sequence[str] = ()) -> FactTable:
    """Rows from Python: triples, or dicts with the columns of :func:`read_table`.

    Raises:
        ConfigError: they are no such rows; the row is named.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise ConfigError(f"facts: {where} must be a list of triples, or of dicts with {_WANTED}; it is {rows!r:.80}")
    found = []
    for i, row in enumerate(rows):
        known = dict(zip(TRIPLES, row, strict=False)) if isinstance(row, list | tuple) and len(row) == 3 else row
        fits = isinstance(known, Mapping) and any(set(names) <= set(known) for names in (TRIPLES, RULES))
        if not fits or not all(isinstance(cell, str | None) for cell in known.values()):
            raise ConfigError(
                f"facts: {where}[{i}] must be three texts, or a dict of texts with {_WANTED}; it is {row!r:.80}"
            )
        found.append((f"[{i}]", known))
    return _table(found, where, open)


def _table(rows: Sequence[tuple[str, Mapping[str, str | None]]], where: str, open: Sequence[str]) -> FactTable:
    """Facts, and rules, of rows that have the columns of either, each with its place."""
    if not rows:
        raise ConfigError(f"facts: {where} has no rows")
    rules = [_rule(row, f"{where}, {place}") for place, row in rows if not set(TRIPLES) <= set(row)]
    return replace(_facts([(place, row) for place, row in rows if set(TRIPLES) <= set(row)], where, open), rules=rules)


def _facts(rows: Sequence[tuple[str, Mapping[str, str | None]]], where: str, open: Sequence[str]) -> FactTable:
    table = FactTable()
    for place, row in rows:
        subject, relation, value = (_first(_plain(row[name] or ""), table.names) for name in TRIPLES)
        if not subject or not value:
            raise ConfigError(f"facts: {where}, {place}: subject and object must say something")
        table.facts.setdefault((subject, relation), []).append(value)
    many = {relation for (_, relation), objects in table.facts.items() if len(set(objects)) > 1}
    known = {relation for _, relation in table.facts}
    for name in open:
        if _plain(name) not in known:
            raise ConfigError(f"open: {name!r} is no relation of {where}; there are: {', '.join(sorted(known))}")
    return replace(table, open=frozenset(many | {_plain(name) for name in open}))


def _first(cell: str, names: dict[str, list[str]]) -> str:
    """The first name in a cell, whose others are put to ``names``."""
    first, *others = [name.strip() for name in cell.split("|")]
    known = names.setdefault(first, [first]) if first else []
    known += [name for name in others if name and name not in known]
    return first


def _rule(row: Mapping[str, str | None], where: str) -> Rule:
    verdict = (row["verdict"] or "").strip()
    if verdict not in VERDICTS:
        raise ConfigError(f"facts: {where}: verdict {verdict!r}; it is {' or '.join(VERDICTS)}")
    pattern, when = row["pattern"], row.get("when")
    if not pattern:
        raise ConfigError(f"facts: {where}: the pattern must say something")
    try:
        only = re.compile(when) if when else None
        return Rule(re.compile(pattern), verdict == "must", only, row.get("note") or "")
    except re.error as error:
        raise ConfigError(f"facts: {where}: no regular expression: {error}") from None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()
