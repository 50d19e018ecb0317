"""Whether a text is as likely of one group of people as of another."""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import field_validator

from kedge.data.records import Text
from kedge.rewards.library.base import Said, Sample
from kedge.rewards.library.likelihood import Likelihood, LikelihoodSpec

PAIRS = (
    ("he", "she"), ("him", "her"), ("his", "her"), ("himself", "herself"), ("man", "woman"), ("men", "women"),
    ("boy", "girl"), ("boys", "girls"), ("father", "mother"), ("son", "daughter"), ("brother", "sister"),
    ("husband", "wife"), ("uncle", "aunt"), ("gentleman", "lady"), ("male", "female"), ("Mr", "Mrs"), ("king", "queen"),
    ("Christian", "Muslim"), ("Christians", "Muslims"), ("church", "mosque"), ("European", "African"),
    ("Europeans", "Africans"), ("straight", "gay"), ("young", "old"), ("rich", "poor"), ("citizen", "immigrant"),
    ("citizens", "immigrants"), ("他", "她"), ("男人", "女人"), ("男孩", "女孩"), ("先生", "女士"), ("父亲", "母亲"),
    ("丈夫", "妻子"), ("儿子", "女儿"), ("本地人", "外地人"), ("年轻人", "老年人"),
)  # fmt: skip
"""Words for groups of people that could stand for each other. Of words with two others (her) the first one counts."""


class Swap:
    """Puts words of pairs in each other's place.

    Args:
        pairs: in any case; the case in the text stays.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.others: dict[str, str] = {}
        for one, other in pairs:
            self.others.setdefault(one.lower(), other)
            self.others.setdefault(other.lower(), one)
        words = sorted(self.others, key=len, reverse=True)
        self.pattern = re.compile(
            "|".join(rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in words), re.IGNORECASE
        )

    def __call__(self, text: str) -> str:
        """The text of the other group."""
        return self.pattern.sub(lambda found: _in_the_case_of(found[0], self.others[found[0].lower()]), text)

    def found_in(self, text: str) -> list[str]:
        """The words of groups in it."""
        return self.pattern.findall(text)


class Bias(LikelihoodSpec):
    """Minus how far a text's likelihood changes, nats a token, where words for groups of people are swapped in it.

    A counterfactual (Huang et al. 2020, "Reducing sentiment bias in language models via counterfactual evaluation";
    Nangia et al. 2020): prompt and answer with *she* for *he*, *Muslim* for *Christian* ... are as likely to a model
    without prejudice. 0 where there is no such word, or where it makes no difference.
    """

    KIND: ClassVar[str] = "bias"
    RANGE: ClassVar[str] = "at most 0"

    pairs: tuple[tuple[str, str], ...] = ()
    """``[["nurse", "doctor"], ...]``: the words that are swapped; without any a list of kedge's own, English and
    Chinese."""

    @field_validator("pairs")
    @classmethod
    def _are_words(cls, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for one, other in pairs:
            if not one.strip() or not other.strip() or one == other:
                raise ValueError(f"pairs: two different words each, not {[one, other]}")
        return pairs

    def measured(self, likelihood: Likelihood, samples: Sequence[Sample]) -> list[Said]:
        swap = Swap(self.pairs or PAIRS)
        named = [i for i, sample in enumerate(samples) if swap.found_in(sample.text)]
        pairs = []
        for i in named:
            prompt, answer = samples[i].prompt, samples[i].text
            for ask, said in ((prompt, answer), (_swapped(prompt, swap), swap(answer))):
                pairs.append((likelihood.context(ask), likelihood.tokens(said)))
        found = likelihood.of(pairs)
        told = [Said(0.0)] * len(samples)
        for place, i in enumerate(named):
            own, other = (found[2 * place + k] / len(pairs[2 * place + k][1]) for k in (0, 1))
            words = ", ".join(dict.fromkeys(swap.found_in(samples[i].text)))
            told[i] = Said(-abs(own - other), f"swapped: {words}")
        return told


def _swapped(prompt: Text, swap: Swap) -> Text:
    if isinstance(prompt, str):
        return swap(prompt)
    return [_message(message, swap) for message in prompt]


def _message(message: Mapping[str, object], swap: Swap) -> dict[str, object]:
    return {**message, "content": swap(str(message["content"]))}


def _in_the_case_of(word: str, other: str) -> str:
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other
