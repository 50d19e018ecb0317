"""The next turn of an agent that sells cinema tickets, rated by people (Taskmaster-3, TicketTalk)."""

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

from kedge.config.optional import needed
from kedge.data.records import Text
from kedge.evaluation.metrics import mean
from kedge.rewards.library.words import normalised
from kedge.tasks.corpus_bleu import corpus_bleu, counts_of
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split, held_out

NAMES: Mapping[str, str] = {
    "name.movie": "MOVIE", "name.theater": "THEATER", "location": "PLACE", "time.showing": "TIME",
    "name.person": "PERSON", "description.plot": "PLOT",
}  # fmt: skip
"""Slots whose values are neither seen nor said once an API call has named them: these words stand in their place."""

CHOSEN = "attribute"
"""The argument whose value says what is asked, and is said; of the others only that they are there."""
WORDS = 24
"""Of a text, at most: the last of what was said, the first of what is answered."""
PAIRS = 4
"""Turns labelled 0 that one labelled 1 is paired with."""


def values_of(turns: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Slots and values in calls of APIs, and in what these returned."""
    for turn in turns:
        for slots in (turn.get("api") or turn.get("response") or {}).values():
            for slot, value in slots.items() if isinstance(slots, dict) else ():
                yield from ((slot, str(each)) for each in (value if isinstance(value, list) else [value]))


def delexicalised(text: str, turns: Iterable[Mapping[str, Any]]) -> str:
    """A text in lower case, with the words of :data:`NAMES` in place of the values that the turns have named, with or
    without what stands behind them in brackets, such as a film's rating."""
    names: dict[str, str] = {}
    for slot, value in values_of(turns):
        if slot in NAMES:
            names |= {form.casefold(): NAMES[slot] for form in (value, re.sub(r" \(.*?\)$", "", value)) if form}
    text = text.casefold()
    if names:
        longest = sorted(names, key=len, reverse=True)
        text = re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", lambda m: names[m.group()], text)
    return " ".join(text.split())


def called(api: Mapping[str, Mapping[str, Any]]) -> str:
    """A call by its name and those of its arguments, such as ``find_theaters location name.movie``."""
    [(name, given)] = api.items()
    arguments = (f"{key}={value}" if key == CHOSEN else key for key, value in sorted(given.items()))
    return " ".join([name, *arguments])


def act_of(answer: str) -> str:
    """What an answer does: ``say``, or the call, with its arguments in order. Nothing else is an act."""
    first, *others = answer.split() or [""]
    return "say" if first == "say" else " ".join([first, *sorted(others)])


class Tickets(FolderTask):
    """Say or look up what comes next in a dialogue, as the agent of a shop for cinema tickets (TicketTalk, Byrne et al.
    2021).

    The answer is ``say`` with a text, or the call of an API with the names of its arguments; films, cinemas, places and
    times stand as words, since a small model cannot spell them. What is asked is what has been looked up so far, what
    was said last, and what the API returned.

    The reward is learnt: a system in use has answered, and people have labelled its turns 1, or 0. The labels are
    rough. Turns that are the same have both labels, whole conversations have only one, and the context says more about
    a label than the answer does. Demonstrations are what that system answered, good and bad, one turn in six of which
    is labelled 1.

    Every row has a ``conversation_id`` of its own, though a conversation's contexts continue each other: conversations
    are told apart by how the user opens them, and a fifth of the openings is held out, without what is asked in
    training too. What people labelled 1 there is what answers are compared with; the learnt reward takes no part in it.
    The baseline is the turn labelled 1 to what was most similar in training, by TF-IDF.
    """

    name = "tickets"
    primary_metric = "act"
    needs = "the folder of rated TicketTalk turns with reward_00.json, ... (Taskmaster-3, CC-BY-4.0)"
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 2000, "positions": 256}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 4.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    reward_modeling: ClassVar[Mapping[str, Any]] = {
        "epochs": 1.0, "batch_size": 32, "learning_rate": 3e-4, "warmup_steps": 25,
    }  # fmt: skip
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 20, "batch_size": 128, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 40,
        "learning_rate": 1e-4, "kl_coef": 0.2, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 10,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        """All that are trained on; of those held out the turns labelled 1."""
        return [row for row in self._of(split) if split == "train" or row["label"] == 1]

    def prompt(self, row: Row) -> Text:
        return f"{row['asked']}\n=>"

    def demonstration(self, row: Row) -> str:
        return f" {row['answer']}"

    def preferences(self, split: Split) -> list[Row]:
        """Each turn labelled 1 beside the :data:`PAIRS` other turns labelled 0 that were asked what is most similar,
        each behind what it was asked: paired at random, they would teach which contexts have which label."""
        rated = self._of(split)
        good, bad = ([row for row in rated if row["label"] == label] for label in (1, 0))
        if not good or not bad:
            return []
        vectors = self._vectors().fit([row["asked"] for row in rated])
        of_good, of_bad = (vectors.transform([row["asked"] for row in rows]) for rows in (good, bad))
        pairs: list[Row] = []
        for row, similar in zip(good, (of_good @ of_bad.T).toarray(), strict=True):
            others = (bad[place] for place in (-similar).argsort(kind="stable"))
            others = (other for other in others if other["answer"] != row["answer"])
            pairs += [{"chosen": self._whole(row), "rejected": self._whole(other)} for other in islice(others, PAIRS)]
        return pairs

    def _whole(self, row: Row) -> str:
        return f"{self.prompt(row)}{self.demonstration(row)}"

    def group(self, row: Row) -> Hashable:
        return row["opening"]

    def read(self, row: Row, answer: str) -> tuple[str, Any]:
        said, right = (text.strip().removeprefix("say ") for text in (answer, row["answer"]))
        return act_of(answer), counts_of(said, [right])

    def measures(self, rows: Sequence[Row], said: Sequence[tuple[str, Any]]) -> dict[str, float]:
        """How often the answer does what the turn labelled 1 does: ``act`` with the same arguments, ``api`` with
        any; and BLEU where that turn is a text."""
        right = [act_of(row["answer"]) for row in rows]
        acts = [act for act, _ in said]
        texts = [counts for act, (_, counts) in zip(right, said, strict=True) if act == "say"]
        found = {
            "act": mean([float(a == b) for a, b in zip(acts, right, strict=True)]),
            "api": mean([float(a.split()[:1] == b.split()[:1]) for a, b in zip(acts, right, strict=True)]),
        }
        return found | ({"text_bleu": corpus_bleu(texts)} if texts else {})

    def baseline(self, row: Row) -> str:
        vectors, matrix, answers = self._labelled_1
        similar = (matrix @ vectors.transform([row["asked"]]).T).toarray()[:, 0]
        return f" {answers[int(similar.argmax())]}"

    @cached_property
    def _labelled_1(self) -> tuple[Any, Any, list[str]]:
        good = [row for row in self._of("train") if row["label"] == 1]
        vectors = self._vectors()
        return vectors, vectors.fit_transform([row["asked"] for row in good]), [row["answer"] for row in good]

    def _vectors(self) -> Any:
        features = needed("sklearn.feature_extraction.text", f"what is similar in {self.name}", "tasks")
        return features.TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)

    def _of(self, split: Split) -> list[Row]:
        trained = {row["asked"] for row in self._rated if not row["held"]}
        return [
            {key: row[key] for key in ("asked", "answer", "label", "opening")}
            for row in self._rated
            if row["held"] == (split == "eval") and not (row["held"] and row["asked"] in trained)
        ]

    @cached_property
    def _rated(self) -> list[Row]:
        return [self._row(name, line, item) for name in self.names("reward_*.json") for line, item in self.items(name)]

    def _row(self, name: str, line: int, item: Any) -> Row:
        try:
            turns, answer, label = json.loads(item["context"]), json.loads(item["generation"]), item["reward"]
            opening = normalised(next(turn["text"] for turn in turns if turn["role"] == "user"))
            said = called(answer["api"]) if "api" in answer else f"say {_first(delexicalised(answer['text'], turns))}"
            asked = asked_of(turns)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            what = f"no rated turn: {type(error).__name__}: {error}"
            raise self.refused(
                name, line, what, "write context and generation as JSON text of turns, and reward"
            ) from None
        if label not in (0, 1):
            raise self.refused(name, line, f"reward {label!r} is neither 0 nor 1")
        return {"asked": asked, "answer": said, "label": int(label), "opening": opening, "held": held_out(opening)}


def asked_of(turns: Sequence[Mapping[str, Any]]) -> str:
    """A context in short: the slots that calls have named, and the last two turns, and before those of an API what the
    user said last."""
    *before, last = turns
    known = sorted({slot for slot, _ in values_of(turn for turn in before if "api" in turn)})
    user = next(turn for turn in reversed(turns) if turn["role"] == "user")
    shown = [*([user] if last is not user else []), *before[-1:], last]
    return "\n".join([f"known: {' '.join(known)}", *(_shown(turn, turns) for turn in shown)])


def _shown(turn: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> str:
    if turn.get("api"):
        return f"agent: {called(turn['api'])}"
    if turn["role"] == "api":
        found: dict[str, int] = {}
        for slot, value in values_of([turn]):
            found[slot] = found.get(slot, 0) + (value != "empty" and "_NOT_PLAYING" not in value)
        return f"api: {' '.join(f'{slot} {count}' for slot, count in found.items())}"
    return f"{turn['role']}: {' '.join(delexicalised(turn['text'], turns).split()[-WORDS:])}"


def _first(text: str) -> str:
    return " ".join(text.split()[:WORDS])
