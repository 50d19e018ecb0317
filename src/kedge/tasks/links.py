"""Links that a knowledge graph lacks: which other entities stand in a relation to one (nations, UMLS, kinships)."""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from kedge.evaluation.metrics import mean
from kedge.tasks.files import FolderTask
from kedge.tasks.one_word import one_word
from kedge.tasks.task import Row, Split
from kedge.tasks.transe import TransE

LISTED = 10
"""Entities of an answer, at most."""
FOLDS = 5
"""Of what is known of an entity and a relation, one part in so many is asked for, as a fifth of a graph is held out."""
SHOWN = 24
"""Known entities in a prompt, at most."""

BACK = "Backwards"
"""Behind a relation, in a prompt, that leads to the entity."""

Query = tuple[str, str, bool]
"""An entity, a relation, and whether that leads to the entity, and what it leads from is asked for."""


def ranks_in(answer: str, targets: Sequence[str], true: Sequence[str]) -> list[int | None]:
    """The filtered rank of each target in the list that an answer gives (Bordes et al. 2013): 1 and the entities before
    it that are no other right ones; None where it is not among the first ten.

    Args:
        answer: words; those that come again, or are right and not asked for, take no place.
        targets: what is asked for.
        true: all that is right, whether it is asked for or not.
    """
    words = list(dict.fromkeys(answer.split()))
    found: list[int | None] = []
    for target in targets:
        listed = [word for word in words if word == target or word not in true][:LISTED]
        found.append(listed.index(target) + 1 if target in listed else None)
    return found


def reciprocal_rank(
    prompts: Sequence[Any],
    completions: Sequence[str],
    targets: Sequence[Sequence[str]],
    true: Sequence[Sequence[str]],
    **_: Any,
) -> list[float]:
    """One over the filtered rank, 0 behind the tenth place; the mean over what is asked for."""
    return [mean([_over(rank) for rank in ranks_in(*each)]) for each in zip(completions, targets, true, strict=True)]


class Links(FolderTask):
    """Which other entities stand in a relation to one, the likeliest first, where some are known (link prediction).

    Any graph of lines ``head, tab, relation, tab, tail``: triples of *train* are trained on, those of *test* held out;
    those of *valid* only tell what is right. Queries lead from heads to tails, and back. A prompt has what is known;
    in rows that are trained on, a fifth of that is asked for in its place, so that no prompt is in both. The measures
    are filtered mean reciprocal rank and hits, over the held-out triples in both directions. Of an answer's ten
    entities those that are right and not asked for take no place; what is not among the ten counts nothing, because
    nobody knows its rank. So these are lower bounds of what full rankings come to.

    Every fourth row is demonstrated: what is asked for, and then what most entities have in that relation, ten in all.
    Of the others one learns how high an answer ranks what is asked for. The baseline is TransE; beside it stand what
    most entities have, and what those have that resemble this one.
    """

    name = "links"
    primary_metric = "mrr"
    needs = (
        "a folder with train.txt, valid.txt and test.txt of a graph, such as PyKEEN's nations, umls or kinships (MIT)"
    )
    reward = reciprocal_rank
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 1000, "positions": 64}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 10.0, "batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 200, "batch_size": 256, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 11,
        "learning_rate": 6e-4, "kl_coef": 0.005, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 50,
    }  # fmt: skip

    shown_every: ClassVar[int] = 4
    """One row in so many is demonstrated."""
    epochs: ClassVar[int] = 100
    """Of the baseline."""

    def rows(self, split: Split) -> Iterable[Row]:
        known, valid, test = (self._graph[part] for part in ("train", "valid", "test"))
        if split == "eval":
            for query, found in test.items():
                right = sorted({*found, *valid.get(query, ()), *known.get(query, ())})
                if targets := [name for name in found if name not in known.get(query, ())]:
                    yield _row(query, targets, known.get(query, ()), right, shown=False)
            return
        for query, right in known.items():
            for fold in range(FOLDS):
                if targets := [name for name in right if _drawn(f"{query} {name}") % FOLDS == fold]:
                    others = [name for name in right if name not in targets]
                    shown = _drawn(f"{query} {fold}") % self.shown_every == 0
                    row = _row(query, targets, others, right, shown=shown)
                    if _shown({**row, "known": right}) != _shown(row):  # else held-out prompts would be the same
                        yield row

    def prompt(self, row: Row) -> str:
        relation = row["relation"] + BACK * row["back"]
        return f"{row['entity']} {relation}: {' '.join(_shown(row))} =>"

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def demonstration(self, row: Row) -> str:
        others = [name for name in self._frequent(row) if name not in row["targets"]]
        return _listed([*_shuffled(row["targets"], row), *others])

    def read(self, row: Row, answer: str) -> list[int | None]:
        return ranks_in(answer, row["targets"], row["true"])

    def measures(self, rows: Sequence[Row], said: Sequence[list[int | None]]) -> dict[str, float]:
        ranks = [rank for each in said for rank in each]
        hits = {f"hits_at_{k}": mean([float(rank is not None and rank <= k) for rank in ranks]) for k in (1, 3, LISTED)}
        return {"mrr": mean([_over(rank) for rank in ranks]), **hits}

    def baseline(self, row: Row) -> str:
        """TransE's first ten. It is given to naming the entity itself, which is left out where no entity stands in the
        relation to itself."""
        entity, relation = row["entity"], row["relation"]
        ranked = self._transe.heads(relation, entity) if row["back"] else self._transe.tails(entity, relation)
        left_out = {*_shown(row), *(() if relation in self._reflexive else (entity,))}
        return _listed(name for name in ranked if name not in left_out)

    def others(self, row: Row) -> Mapping[str, str]:
        """What most entities have in that relation, and what those have that resemble this one."""
        return {"majority": _listed(self._frequent(row)), "neighbours": _listed(self._of_neighbours(row))}

    def _frequent(self, row: Row) -> list[str]:
        """What the prompt does not show, the most frequent in that relation first."""
        counts = self._counts.get((row["relation"], row["back"]), Counter())
        return sorted(counts.keys() - set(_shown(row)), key=lambda name: (-counts[name], name))

    def _of_neighbours(self, row: Row) -> list[str]:
        """What other entities have in that relation, the more what they have in common counts, by the cosine."""
        votes: dict[str, float] = {}
        own = self._facts.get(row["entity"], frozenset())
        for entity, facts in self._facts.items():
            if entity != row["entity"] and own and facts:
                alike = len(own & facts) / math.sqrt(len(own) * len(facts))
                for name in self._graph["train"].get((entity, row["relation"], row["back"]), ()):
                    votes[name] = votes.get(name, 0.0) + alike
        return sorted(votes.keys() - set(_shown(row)), key=lambda name: (-votes[name], name))

    @cached_property
    def _facts(self) -> dict[str, frozenset[tuple[str, bool, str]]]:
        """What is known of each entity."""
        found: dict[str, set[tuple[str, bool, str]]] = {}
        for (entity, relation, back), names in self._graph["train"].items():
            found.setdefault(entity, set()).update((relation, back, name) for name in names)
        return {entity: frozenset(facts) for entity, facts in found.items()}

    @cached_property
    def _reflexive(self) -> set[str]:
        """Relations in which something stands to itself."""
        return {relation for (entity, relation, _), names in self._graph["train"].items() if entity in names}

    @cached_property
    def _counts(self) -> dict[tuple[str, bool], Counter[str]]:
        found: dict[tuple[str, bool], Counter[str]] = {}
        for (_, relation, back), names in self._graph["train"].items():
            found.setdefault((relation, back), Counter()).update(names)
        return found

    @cached_property
    def _transe(self) -> TransE:
        triples = [
            (entity, relation, name)
            for (entity, relation, back), names in self._graph["train"].items()
            for name in names
            if not back
        ]
        return TransE(triples, epochs=self.epochs, who=f"the baseline of {self.name}")

    @cached_property
    def _graph(self) -> dict[str, dict[Query, list[str]]]:
        """Of each part what stands in each relation to each entity."""
        names = _Names()
        return {part: self._queries(f"{part}.txt", names) for part in ("train", "valid", "test")}

    def _queries(self, file: str, names: "_Names") -> dict[Query, list[str]]:
        found: dict[Query, list[str]] = {}
        for number, line in enumerate(self.lines(file), start=1):
            if not line.strip():
                continue
            cells = line.split("\t")
            if len(cells) != 3 or not all(cell.strip() for cell in cells):
                what = f"not head, tab, relation, tab, tail: {line!r}"
                raise self.refused(file, number, what)
            head, relation, tail = (names.word(cell) for cell in cells)
            found.setdefault((head, relation, False), []).append(tail)
            found.setdefault((tail, relation, True), []).append(head)
        return {query: sorted(set(others)) for query, others in found.items()}


class _Names:
    """A word for each name, and another one for another name."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._taken: set[str] = set()

    def word(self, name: str) -> str:
        """The name as one word of letters, with a number where another one is so already."""
        if name not in self._words:
            word = one_word(name)
            tries = itertools.chain([word], (one_word(f"{word}{number}") for number in itertools.count(2)))
            self._words[name] = next(each for each in tries if each and each not in self._taken)
            self._taken.add(self._words[name])
        return self._words[name]


def _row(
    query: Query, targets: Sequence[str], known: Sequence[str], true: Sequence[str], *, shown: bool
) -> dict[str, Any]:
    entity, relation, back = query
    return {
        "entity": entity, "relation": relation, "back": back,
        "known": list(known), "targets": list(targets), "true": list(true), "shown": shown,
    }  # fmt: skip


def _shown(row: Row) -> list[str]:
    """Of what is known as much as the prompt shows."""
    return _shuffled(row["known"], row)[:SHOWN]


def _shuffled(names: Sequence[str], row: Row) -> list[str]:
    """Always in the same order, which says nothing."""
    return sorted(names, key=lambda name: _drawn(f"{row['entity']} {row['relation']} {name}"))


def _listed(names: Iterable[str]) -> str:
    return " " + " ".join([*names][:LISTED])


def _over(rank: int | None) -> float:
    return 0.0 if rank is None else 1 / rank


def _drawn(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)
