"""Whether an answer agrees with a table of facts or rules, and contradicts none."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from kedge.data.records import plain
from kedge.rewards.foreign import import_object, is_function_path
from kedge.rewards.library.base import Said, Sample, TextSpec, lines_of
from kedge.rewards.library.fact_table import FactTable, Hit, read_table, table_of


class Facts(TextSpec):
    """Whether an answer agrees with facts or rules in a CSV, and contradicts none; each hit is remarked on.

    A sentence that names subject, relation and object agrees; one that denies it, or names another subject's object
    instead, contradicts. Rules are patterns that an answer must or must not match. The score is the agreements minus
    the contradictions, divided by both together. A knowledge base as a judge, as in FActScore (Min et al. 2023), by
    names alone: what a pronoun stands for, or other words for a relation, is not seen.
    """

    KIND: ClassVar[str] = "facts"
    RANGE: ClassVar[str] = "-1..1; not_contradict -1 or 0"

    file: Path
    """A CSV with the columns ``subject,relation,object`` (other names after ``|``; the relation may be empty), or
    ``pattern,verdict`` (a regular expression; ``must`` or ``must_not``) with ``when`` (only for prompts that match it)
    and ``note``; or ``package.module:name`` of a list of such rows, or of a function that gives one."""
    must: Literal["agree", "not_contradict"] = "agree"
    """``agree``: agreements minus contradictions, divided by both, and 0 where there are none; ``not_contradict``: -1
    with a contradiction, else 0."""
    open: tuple[str, ...] = ()
    """Relations of which the table does not know everything: another object contradicts nothing. Those that give a
    subject several objects are open anyway."""

    def files(self) -> Sequence[Path]:
        return () if self._in_python() else (self.file,)

    def contents(self) -> list[Any]:
        return [self._rows()] if self._in_python() else super().contents()

    def prepare(self) -> None:
        self._table()

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        table = self._table()  # once a step: a function may ask a database
        return [self._said(table.hits(plain(sample.prompt), sample.text)) for sample in samples]

    def _said(self, hits: Sequence[Hit]) -> Said:
        wrong = sum(not hit.agrees for hit in hits)
        remark = "; ".join(hit.said for hit in hits)
        if self.must == "not_contradict":
            return Said(-1.0 if wrong else 0.0, remark)
        return Said((len(hits) - 2 * wrong) / len(hits) if hits else 0.0, remark)

    def _in_python(self) -> bool:
        return is_function_path(str(self.file))

    def _rows(self) -> Any:
        found = import_object(str(self.file))
        return found() if callable(found) else found

    def _table(self) -> FactTable:
        if self._in_python():
            return table_of(self._rows(), str(self.file), open=self.open)
        return _read(tuple(lines_of(self.file, "facts")), str(self.file), self.open)


@cache
def _read(lines: tuple[str, ...], where: str, open: tuple[str, ...]) -> FactTable:
    return read_table(lines, where, open=open)


def contradictions(text: str, table: FactTable, prompt: str = "") -> list[str]:
    """What a text says against a table, in words."""
    return [hit.said for hit in table.hits(prompt, text) if not hit.agrees]
