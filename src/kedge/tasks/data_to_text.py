"""Facts about a restaurant to be said in a sentence (E2E NLG)."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from kedge.data.records import Text
from kedge.errors import DataError
from kedge.tasks.corpus_bleu import Counts, corpus_bleu, counts_of
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split

PLACES = {"name": "NAME", "near": "NEAR", "eatType": "KIND", "food": "FOOD"}
"""Slots whose values the policy neither sees nor says: it writes these words, and the values are put in after."""

_STARS = r"( stars?)? ?(out )?(of|/) ?(5|five)"
_RATED = r"\brat(ed|ing|ings)( is| are| of)? (as )?"
_JUDGED = r"(customer |quality )?(rat|review|scor|recommend|regard)"
_PRICES = r"\bpric(es?|ing|ed)( range)?( is| are)?( in| on)?( the)? "

SAID: Mapping[str, Mapping[str, str]] = {
    "area": {
        "riverside": r"\briver",
        "city centre": r"\bcity|\btown|\bcent(re|er|ral)\b",
    },
    "priceRange": {
        "cheap": rf"\bcheap|\binexpensive|\blow(er)?[ -](cost|pric)|\baffordabl|{_PRICES}low\b",
        "less than £20": r"(less than|under|below|lower than|cheaper than|up to) ?£ ?20\b",
        "moderate": r"\bmoderate|\bmid[ -]?(dle|range|price)|\breasonabl|\baverage(ly)?[ -]price|\bmedium",
        "£20-25": r"20 ?(-|–|to|and) ?£? ?25\b",
        "high": rf"\bhigh(er|ly)?[ -](end|cost|pric)|{_PRICES}high|\bexpensive|\bpricey",
        "more than £30": r"(more than|over|above|at least|higher than) ?£ ?30\b|£ ?30 (or|and) (more|up|over)",
    },
    "customer rating": {
        "low": rf"\blow(er|ly)?[ -]{_JUDGED}|{_RATED}(low|poor)|\bpoor",
        "1 out of 5": rf"\b(1|one){_STARS}|\b(1|one)[ -]star",
        "average": r"\baverage(?!(ly)?[ -]price)",
        "3 out of 5": rf"\b(3|three){_STARS}|\b(3|three)[ -]star",
        "high": rf"\bhigh(er|ly)?[ -]{_JUDGED}|{_RATED}high|\bwell[ -]rated",
        "5 out of 5": rf"\b(5|five){_STARS}|\b(5|five)[ -]star",
    },
}
"""How people say a value: patterns of lower-case text."""

_FAMILIES = r"\b(famil|child|kid)"
_NOT = r"\b(not|no|non|isn.t|aren.t|doesn.t|don.t|without|never|adults?|un)\b"
_REFUSED = rf"{_NOT}[^.]{{0,40}}?{_FAMILIES}|{_FAMILIES}\w*[ -](\w+ )?(not|un)|\badults?[ -]only"


def facts_of(mr: str) -> dict[str, str]:
    """Of a meaning representation such as ``name[The Mill], area[riverside]``."""
    return dict(re.findall(r"(\w[\w ]*)\[(.*?)\]", mr))


def delexicalised(text: str, facts: Mapping[str, str]) -> str:
    """A text with the words of :data:`PLACES` in place of the values."""
    for slot, place in PLACES.items():
        if slot in facts:
            text = re.sub(rf"(?<!\w){re.escape(facts[slot])}(?!\w)", place, text, flags=re.IGNORECASE)
    return text


def slot_errors(text: str, facts: Mapping[str, str]) -> int:
    """Slots that are not said, or said wrongly, or said though there is no such fact."""
    named = [bool(re.search(rf"\b{place}\b", text)) == (slot in facts) for slot, place in PLACES.items()]
    said = text.casefold()
    values = {slot: {value for value, way in ways.items() if re.search(way, said)} for slot, ways in SAID.items()}
    values["familyFriendly"] = said_of_families(said)
    right = [those == ({facts[slot]} if slot in facts else set()) for slot, those in values.items()]
    return [*named, *right].count(False)


def said_of_families(said: str) -> set[str]:
    """``{"yes"}``, ``{"no"}``, or nothing."""
    if re.search(_REFUSED, said):
        return {"no"}
    return {"yes"} if re.search(_FAMILIES, said) else set()


def coverage(
    prompts: Sequence[Text], completions: Sequence[str], facts: Sequence[Mapping[str, str]], **_: Any
) -> list[float]:
    """1 minus the slot errors over the facts, at least 0."""
    return [max(0.0, 1 - slot_errors(text, each) / len(each)) for text, each in zip(completions, facts, strict=True)]


class DataToText(FolderTask):
    """Say facts about a restaurant in a sentence or two: all of them, and nothing else (E2E NLG, Novikova et al. 2017).

    The published dev set is trained on, whose references often leave facts out; the test set is held out. Their names
    share nothing, so both are delexicalised, as by the challenge's own system: NAME, NEAR, KIND and FOOD stand for the
    values. What is then the same is one row with all its references, and sets of facts that are held out are not
    trained on. The reward is that every fact is said, and half of BLEU, without which lists of facts would do; the
    baseline is a template.
    """

    name = "data-to-text"
    primary_metric = "-slot_error_rate"
    needs = "the folder of E2E NLG with devset.csv and testset_w_refs.csv (CC-BY-SA-4.0)"
    reward = (coverage, {"kind": "bleu", "weight": 0.5})
    metrics = ({"kind": "chrf"}, {"kind": "rouge"})
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 1200, "positions": 160}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 3.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 30, "batch_size": 128, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 64,
        "learning_rate": 4e-4, "lr_scheduler_type": "constant", "kl_coef": 0.01,
        "critic": "separate", "critic_learning_rate": 1e-3,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        held = self._sets("testset_w_refs.csv")
        if split == "eval":
            yield from held.values()
            return
        for prompt, row in self._sets("devset.csv").items():
            # A set of facts is trained on as often as somebody has put it into words.
            yield from ({**row, "shown": text} for text in row["reference"] if prompt not in held)

    def prompt(self, row: Row) -> Text:
        return ", ".join(f"{slot} {value}" for slot, value in row["facts"].items()) + "\n=>"

    def demonstration(self, row: Row) -> str | None:
        return f" {row['shown']}" if "shown" in row else None

    def read(self, row: Row, answer: str) -> tuple[int, Counts]:
        return slot_errors(answer, row["facts"]), counts_of(answer, row["reference"])

    def measures(self, rows: Sequence[Row], said: Sequence[tuple[int, Counts]]) -> dict[str, float]:
        errors = sum(errors for errors, _ in said)
        return {
            "slot_error_rate": errors / sum(len(row["facts"]) for row in rows),
            "bleu": corpus_bleu([counts for _, counts in said]),
        }

    def _sets(self, name: str) -> dict[Text, Any]:
        """By their prompt."""
        sets: dict[Text, Any] = {}
        for number, line in enumerate(csv.DictReader(self.lines(name)), start=2):
            if not line.get("mr") or not line.get("ref"):
                raise DataError(f"{self.folder / name}: row {number} has no mr or no ref; {self.needs}")
            facts = facts_of(line["mr"])
            row = {"facts": {slot: PLACES.get(slot, value) for slot, value in facts.items()}, "reference": []}
            sets.setdefault(self.prompt(row), row)["reference"].append(delexicalised(line["ref"], facts))
        return sets

    def baseline(self, row: Row) -> str:
        said = row["facts"]
        price = said.get("priceRange", "")
        price = f"{price} prices" if price in ("cheap", "moderate", "high") else price and f"prices of {price}"
        rating = f"a customer rating of {said['customer rating']}" if "customer rating" in said else ""
        parts = [
            f" {said['name']} is a",
            {"yes": "family-friendly", "no": "non-family-friendly"}.get(said.get("familyFriendly", ""), ""),
            said.get("food", ""),
            said.get("eatType", "place"),
            f"in the {said['area']}" if "area" in said else "",
            f"near {said['near']}" if "near" in said else "",
            f"with {' and '.join(filter(None, (price, rating)))}" if price or rating else "",
        ]
        return " ".join(filter(None, parts)) + "."
