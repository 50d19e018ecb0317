"""Small changes of a text that should change nobody's mind about it."""

import random
import re
from collections.abc import Callable, Mapping

from kedge.data.records import Text

_PAIRS = """
big large, small little, happy glad, begin start, help assist, answer reply, quick fast, buy purchase,
important crucial, often frequently, maybe perhaps, many numerous, show demonstrate, use employ,
however nevertheless, therefore thus,
problem issue, because since, easy simple, hard difficult, very really, need require, get obtain, think believe,
因此 所以, 但是 不过, 帮助 协助, 重要 关键, 立即 马上, 问题 疑问, 非常 十分, 可以 能够, 开始 着手
"""
SYNONYMS = {word: other for pair in _PAIRS.split(",") for a, b in [pair.split()] for word, other in ((a, b), (b, a))}
_WORDS = re.compile("|".join(rf"\b{word}\b" if word.isascii() else word for word in SYNONYMS))
_TYPOS = 20


def synonyms(text: str) -> str:
    """Some common words by others of the same meaning."""
    return _WORDS.sub(lambda found: SYNONYMS[found[0]], text)


def typos(text: str) -> str:
    """Two letters change places in every twentieth word of four letters or more, at the least in one."""
    places = [found.start() for found in re.finditer(r"\w{4,}", text)]
    chance = random.Random(len(text))
    letters = list(text)
    for place in chance.sample(places, min(len(places), 1 + len(places) // _TYPOS)):
        letters[place + 1], letters[place + 2] = letters[place + 2], letters[place + 1]
    return "".join(letters)


PERTURBATIONS: Mapping[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "spaces doubled": lambda text: re.sub(r"(?<=\S) (?=\S)", "  ", text),
    "a space at the end": lambda text: text + " ",
    "synonyms": synonyms,
    "typos": typos,
}


def perturbed(text: Text, change: Callable[[str], str]) -> Text:
    """A text, or a conversation whose messages are all changed so."""
    if isinstance(text, str):
        return change(text)
    return [message | {"content": change(message["content"])} for message in text]
