"""What an assistant has decided to say, to be put into a reply to a customer (Schema-Guided Dialogue)."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

from kedge.data.records import Text
from kedge.tasks.corpus_bleu import Counts, corpus_bleu, counts_of
from kedge.tasks.files import FolderTask
from kedge.tasks.one_word import one_word
from kedge.tasks.task import Row, Split, held_out

WAYS: Mapping[str, str] = {
    "goodbye": r"\bbye\b|goodbye|\bday\b|afternoon|evening|night|weekend|enjoy|welcome|pleasure|\bfun\b|\btime\b|glad"
    r"|happy to|see you|take care|\bsafe|thank",
    "req_more": r"\belse\b|\bmore\b|\bfurther\b|\bhelp\b|\bassist",
    "notify_success": r"book|reserv|success|confirm|purchas|bought|\bdone\b|\bmade\b|\bgot\b|\ball set\b|complete",
    "notify_failure": r"sorry|unable|could not|couldn['’]t|cannot|can['’]t|fail|unfortunately|not (?:able|available)",
    "offer_intent": r"book|reserv|purchas|\bbuy\b|ticket",
    "city_of_event": r"\b(?:city|cities|where|location|area|place|metropolis)\b",
    "where_to": r"\b(?:city|cities|where|location|area|place|destination)\b",
    "category": r"\b(?:type|kind|categor\w+|sort|genre|music|sports?)\b",
    "number_of_seats": r"\bhow (?:many|may)\b|\bnumber of\b|\bsize\b",
    "number_of_adults": r"\bhow (?:many|may|large|big)\b|\bnumber of\b|\bsize\b",
    "check_in_date": r"\bcheck(?:ing)?[ -](?:\w+ and )?in\b|\barriv|\bcoming\b|\bgoing there\b|\bfrom (?:which|what)\b",
    "check_out_date": r"\bcheck(?:ing)?[ -](?:\w+ and )?out\b|\bin and out\b|\bleav|\bdepart|\buntil\b",
}
"""How people do an act that has no slot, and ask for a slot: patterns of lower-case text. Another slot is asked for by
a word of its name."""

VALUELESS = frozenset({"GOODBYE", "REQ_MORE", "NOTIFY_SUCCESS", "NOTIFY_FAILURE", "OFFER_INTENT"})
"""Acts that say no value of a slot."""
SHORTEST = 4
"""Letters of a word in capitals that stands for a value."""
TRUTHS: Mapping[str, str] = {"True": "yes", "False": "no"}
"""Values that are no words to say, and how they are shown."""
WORDS = 24
"""Of what the user said, the last ones at most."""

_NOT = r"\b(?:not|no|non|never|without|cannot|\w+n['’]t)\b"


def place_of(slot: str) -> str:
    """The word that stands for a slot's value, such as ``CHECKINDATE``."""
    word = one_word(slot.lower()).upper()
    return word if len(word) >= SHORTEST else f"{word}VALUE"


def delexicalised(text: str, values: Mapping[str, str]) -> str:
    """A text with the words of :func:`place_of` in place of these slots' values, the longest first."""
    for slot, value in sorted(values.items(), key=lambda item: -len(item[1])):
        text = re.sub(rf"(?<![\w$]){re.escape(value)}(?!\w)", place_of(slot), text, flags=re.IGNORECASE)
    return " ".join(text.split())


def truth_of(text: str, slot: str) -> str:
    """``yes`` or ``no``, as the sentences say that have a word of the slot's name; nothing where none has."""
    words = "|".join(word for word in slot.split("_") if word not in ("has", "is"))
    told = [part for part in re.split(r"[.!?]", text.casefold()) if re.search(rf"\b(?:{words})", part)]
    if not told:
        return ""
    return "no" if any(re.search(_NOT, part) for part in told) else "yes"


def slot_errors(text: str, due: Mapping[str, Sequence[str]], truths: Mapping[str, str]) -> int:
    """Values that are not said, or said again, and those that are not this reply's; what is not asked for or not done;
    what is told the wrong way round, or not at all. A word in capitals stands for a value. That more is asked or done
    than was wanted, or that words beside each other make no sentence, is not found out: BLEU pays it little.

    Args:
        text: a reply.
        due: ``values`` to say, by slot, and what to ``do``: slots to ask for, and acts that have none.
        truths: ``yes`` or ``no`` by slot.
    """
    said, low = re.findall(rf"\b[A-Z]{{{SHORTEST},}}\b", text), text.casefold()
    places = {place_of(slot) for slot in due["values"]}
    wrong = sum(said.count(place) != 1 for place in places) + len(set(said) - places)
    ways = (WAYS.get(what) or rf"\b(?:{'|'.join(map(re.escape, what.split('_')))})" for what in due["do"])
    wrong += sum(not re.search(way, low) for way in ways)
    return wrong + sum(truth_of(text, slot) != truth for slot, truth in truths.items())


def count_of(due: Mapping[str, Sequence[str]], truths: Mapping[str, str]) -> int:
    """How much a reply has to say, ask and do."""
    return len(due["values"]) + len(due["do"]) + len(truths)


def coverage(
    prompts: Sequence[Text],
    completions: Sequence[str],
    due: Sequence[Mapping[str, Sequence[str]]],
    truths: Sequence[Mapping[str, str]],
    **_: Any,
) -> list[float]:
    """1 minus the slot errors over what is due, at least 0."""
    each = zip(completions, due, truths, strict=True)
    return [max(0.0, 1 - slot_errors(text, do, true) / count_of(do, true)) for text, do, true in each]


class ActsToReply(FolderTask):
    """Reply to a customer who looks for an event or a house: say, ask and confirm what the assistant has decided to
    (Schema-Guided Dialogue, Rastogi et al. 2020).

    What is asked is the user's last turn and the acts, with words such as ``CHECKINDATE`` in place of the values. The
    reward is that all that is due is said once, and nothing else, and half of BLEU; the baseline is a template of each
    act.

    The files are of one service each: 68 dialogues of *dev* about events, 51 of *test* about houses. A model made from
    nothing cannot ask for a check-in date that no training text has, so a fifth of all dialogues is held out, by a hash
    of their names, and not the published split.
    """

    name = "acts-to-reply"
    primary_metric = "-slot_error_rate"
    needs = "a folder with dialogues of Schema-Guided Dialogue, dev_dialogues_007.json and so on (CC-BY-SA-4.0)"
    reward = (coverage, {"kind": "bleu", "weight": 0.5})
    metrics = ({"kind": "chrf"},)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 900, "positions": 160}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 8.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 30}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 120, "batch_size": 128, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 48,
        "learning_rate": 4e-4, "lr_scheduler_type": "constant", "kl_coef": 0.01,
        "critic": "separate", "critic_learning_rate": 1e-3,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        turns = [(held_out(row["dialogue"]), row) for row in self._turns]
        trained = {self.prompt(row) for held, row in turns if not held}
        if split == "train":
            return [row for held, row in turns if not held]
        return [row for held, row in turns if held and self.prompt(row) not in trained]

    def prompt(self, row: Row) -> Text:
        return f"{row['user']}\n{row['acts']}\n=>"

    def demonstration(self, row: Row) -> str:
        return f" {row['reference']}"

    def group(self, row: Row) -> Hashable:
        return row["dialogue"]

    def read(self, row: Row, answer: str) -> tuple[int, Counts]:
        return slot_errors(answer, row["due"], row["truths"]), counts_of(answer, [row["reference"]])

    def measures(self, rows: Sequence[Row], said: Sequence[tuple[int, Counts]]) -> dict[str, float]:
        errors = sum(errors for errors, _ in said)
        return {
            "slot_error_rate": errors / sum(count_of(row["due"], row["truths"]) for row in rows),
            "bleu": corpus_bleu([counts for _, counts in said]),
        }

    def baseline(self, row: Row) -> str:
        parts = {
            "goodbye": "Have a nice day.",
            "req_more": "Can I help you with anything else?",
            "notify_success": "It is booked.",
            "notify_failure": "I could not book it.",
            "offer_intent": "Shall I book it?",
        }
        asked = [f"What is the {what.replace('_', ' ')}?" for what in row["due"]["do"] if what not in parts]
        told = [
            f"There is {'no' if truth == 'no' else 'a'} {slot.removeprefix('has_').replace('_', ' ')}."
            for slot, truth in row["truths"].items()
        ]
        values = [f"The {slot.replace('_', ' ')} is {place_of(slot)}." for slot in row["due"]["values"]]
        return " " + " ".join([*values, *told, *(parts[what] for what in row["due"]["do"] if what in parts), *asked])

    @cached_property
    def _turns(self) -> list[Row]:
        return [
            row
            for name in self.names("*dialogues_*.json")
            for line, dialogue in self.items(name)
            for row in self._rows(name, line, dialogue)
        ]

    def _rows(self, name: str, line: int, dialogue: Any) -> list[Row]:
        try:
            turns = [
                (turn["speaker"], turn["utterance"], [act for frame in turn["frames"] for act in frame["actions"]])
                for turn in dialogue["turns"]
            ]
            return [
                {"dialogue": f"{name} {dialogue['dialogue_id']}", **_row(asked, asked_acts, reply, acts)}
                for (who, asked, asked_acts), (other, reply, acts) in pairwise(turns)
                if (who, other) == ("USER", "SYSTEM")
            ]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            what = f"no dialogue: {type(error).__name__}: {error}"
            raise self.refused(
                name, line, what, "write dialogue_id, and turns of speaker, utterance and frames with actions"
            ) from None


def _row(asked: str, asked_acts: Sequence[Any], reply: str, acts: Sequence[Any]) -> dict[str, Any]:
    values: dict[str, str] = {}
    truths: dict[str, str] = {}
    do: list[str] = []
    shown: dict[str, list[str]] = {}
    for act in acts:
        kind, slot, said = act["act"], act["slot"], act["values"]
        what = slot if kind == "REQUEST" else place_of(slot)
        if kind in VALUELESS:
            do.append(kind.casefold())
            what = ""
        elif kind == "REQUEST":
            do.append(slot)
        elif not said:
            raise ValueError(f"act {kind!r} of {slot!r} without values")
        elif said[0] in TRUTHS:
            truths[slot] = TRUTHS[said[0]]
            what = f"{slot} {truths[slot]}"
        else:
            values[slot] = said[0]
        shown.setdefault(kind.casefold(), []).append(what)
    if not acts:
        raise ValueError(f"no acts in {reply!r}")
    told = {act["slot"]: act["values"][0] for act in asked_acts if act["slot"] not in ("", "intent") and act["values"]}
    return {
        "user": " ".join(delexicalised(asked, told).split()[-WORDS:]),
        "acts": "; ".join(" ".join([kind, *what]).strip() for kind, what in shown.items()),
        "due": {"values": list(values), "do": do},
        "truths": truths,
        "reference": delexicalised(reply, values),
    }
