"""Names as one word of letters, so that a tokenizer made for them has a token for each."""

import re

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def one_word(name: str) -> str:
    """``Silence of the Lambs`` is ``SilenceOfTheLambs``, ``person12`` ``PersonOneTwo``: a token has letters alone."""
    joined = "".join(word[:1].upper() + word[1:] for word in re.split(r"[\s_]+", name))
    return re.sub(r"[\W_]", "", re.sub(r"\d", lambda digit: DIGITS[int(digit[0])], joined))
