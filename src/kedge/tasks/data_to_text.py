"""Facts about a restaurant to be said in a sentence (E2E NLG)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from kedge.data.records import Text
from kedge.tasks.corpus_bleu import Counts, corpus_bleu, counts_of
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split

PLACES = {"name": "NAME", "near": "NEAR", "eatType": "KIND", "food": "FOOD"}
"""Slots whose values the policy neither sees nor says: it writes these words, and the values are put in after."""

_NOT = r"\b(?:not|no|non|never|without|cannot|\w+n['’]t)\b"
_BETWEEN = (
    "all|an?|any|as|at|be|by|close|find|great|have|having|in|located|near|offer|on|overly|particularly|priced|quite|rated"
    "|really|sell|serve|situated|so|that|the|to|too|very"
)
_DENIED = re.compile(rf"{_NOT}(?: (?:{_BETWEEN}))* $", re.IGNORECASE)
"""What stands before something that is not so."""

_STARS = r"(?: stars?)? ?(?:out )?(?:of|/) ?(?:5|five)"
_STAR = r"[ -]star"
_RATED = r"\brat(?:e|ed|es|ing|ings)(?: it| is| are| of| was| them)*(?: as| very| quite| so)* "
_JUDGED = r"(?:customer |quality |user )*(?:satisfaction )?(?:rat|rank|review|scor|recommend|regard)"
_PRICES = r"\bpric(?:es?|ing|ed)(?: range)?(?: is| are| of)?(?: in| on| at)?(?: the)?(?: quite| very| fairly)? "
_POUNDS = r"(?:£ ?|e|gbp ?)?"

SAID: Mapping[str, Mapping[str, str]] = {
    "area": {
        "riverside": r"\briver",
        "city centre": r"\bcity|\btown|\bcent(?:re|er|ral)\b",
    },
    "priceRange": {
        "cheap": rf"\bcheap|\binexpensive|\blow(?:er)?[ -](?:in )?(?:cost|pric)|\baffordabl|\bbudget|{_PRICES}low\b"
        rf"|{_NOT}(?: (?:{_BETWEEN}))* (?:expensive|pricey)",
        "less than £20": rf"(?:less th[ae][nt]|under|below|lower than|cheaper than|up to|no more than) {_POUNDS}20\b"
        r"|20 (?:pounds )?(?:or|and) (?:less|under|below|lower)",
        "moderate": rf"\bmoderate(?!(?:ly)? {_JUDGED})|\bmid[ -]?(?:dle|range|pric)|\breasonabl|\bfair(?:ly)? pric"
        rf"|\baverage(?:ly)?[ -](?:pric|cost)|\bmedium|{_PRICES}(?:average|fair)",
        "£20-25": r"20 ?(?:pounds )?(?:-|–|to|and) ?£? ?25\b",
        "high": rf"\bhigh(?:er|ly)?[ -](?:end|cost|pric)|{_PRICES}high|\bexpensive|\bpricey",
        "more than £30": rf"(?:more th[ae]n|over|above|at least|higher than|upwards of|exceed\w*) {_POUNDS}30\b"
        r"|30 (?:pounds )?(?:or|and) (?:more|up|over|above|higher)|\b30\+",
    },
    "customer rating": {
        "low": rf"\blow(?:er|ly)?[ -]{_JUDGED}|{_RATED}(?:low|poor|bad)|\bpoor|\bbad(?:ly)? {_JUDGED}",
        "1 out of 5": rf"\b(?:1|one){_STARS}|\b(?:1|one){_STAR}",
        "average": r"(?<!price )(?<!prices )(?<!prices are )(?<!range )(?<!range is )\baverage"
        rf"(?!(?:ly)?[ -](?:pric|cost|meal))|\bmoderate(?:ly)? {_JUDGED}",
        "3 out of 5": rf"\b(?:3|three){_STARS}|\b(?:3|three){_STAR}",
        "high": rf"\bhigh(?:er|ly)?[ -]{_JUDGED}|{_RATED}high|\bwell[ -]rated|\btop[ -]rated",
        "5 out of 5": rf"\b(?:5|five){_STARS}|(?<!of )(?<!/)\b(?:5|five){_STAR}",
    },
}
"""How people say a value: patterns of lower-case text."""
WORDS: Mapping[str, str] = {
    "less than £20": "cheap", "£20-25": "moderate", "more than £30": "high",
    "1 out of 5": "low", "3 out of 5": "average", "5 out of 5": "high",
}  # fmt: skip
"""What may be said besides a number: a high rating of 5 out of 5. Alone it does not say which."""

_FAMILIES = r"\b(?:famil|child|kid)"
_REFUSED = (
    rf"{_NOT}(?:[ -]+(?!(?:and|but|is|it|with)\b)[\w'’]+){{0,6}}?[ -]+{_FAMILIES}"
    rf"|{_FAMILIES}\w*(?: (?:and|or|with) \w+)?(?: \w+)?(?: not\b| ?{_NOT})"
    rf"|{_FAMILIES}\w*(?: are| is)?[ -](?:free\b|un|prohibited|forbidden|discouraged)"
    rf"|\bun(?:fit|friendly|suit|welcom)\w* (?:for|to) (?:\w+ )?{_FAMILIES}|\badults?[ -]only|\bonly (?:for )?adults"
)
"""How people say that families are not welcome."""


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
    """Slots that are not said, said wrongly or denied, or said though there is no such fact (the slot error rate of
    Dušek et al. 2019, by patterns of our own). Words beside each other that make no sentence are not found out: ``NAME
    NEAR KIND river cheap`` says what it says, and BLEU, the other part of the reward, pays it little."""
    text = " ".join(text.split())
    said = text.casefold()
    named = [_is_said(rf"\b{place}\b", text) == (slot in facts) for slot, place in PLACES.items()]
    values = {slot: {value for value, way in ways.items() if _is_said(way, said)} for slot, ways in SAID.items()}
    values["familyFriendly"] = said_of_families(said)
    right = [
        slot in facts and those - {WORDS.get(facts[slot])} == {facts[slot]} if those else slot not in facts
        for slot, those in values.items()
    ]
    return [*named, *right].count(False)


def _is_said(way: str, text: str) -> bool:
    return any(not _DENIED.search(text[: match.start()]) for match in re.finditer(way, text))


def said_of_families(said: str) -> set[str]:
    """``{"yes"}``, ``{"no"}``, or nothing."""
    if re.search(_REFUSED, said):
        return {"no"}
    if re.search(_FAMILIES, said):
        return {"yes"}
    return {"no"} if re.search(r"\badults?\b", said) else set()


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
        for number, line in self.table(name, ("mr", "ref")):
            facts = facts_of(line["mr"])
            if "name" not in facts:
                what = f"column 'mr' has no name[...]: {line['mr']!r}"
                raise self.refused(name, number, what, "write facts as name[The Mill], area[riverside]")
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
