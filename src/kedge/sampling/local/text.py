"""The text of an answer while its tokens come: what is new is decoded, and not prompt and answer anew each time."""

from collections.abc import Sequence

from kedge.data.encode import HALF, Tokenizer

# Tokens of the prompt that the first new ones are decoded with, at least.
CONTEXT = 8


class GrowingText:
    """As :func:`kedge.data.encode.decode_answer` has it, a few tokens at a time.

    New tokens are decoded behind the last ones that gave text, as that text cannot change any more: a tokenizer may
    drop the space before the very first word, and nothing else depends on what stands before.

    Args:
        tokenizer: of the answer.
        prompt: its token ids.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._done = ""
        self._seen = 0
        count = CONTEXT
        # Special tokens only are no text to stand behind; nor is what begins inside a character.
        while (not (before := self._decoded(prompt[-count:])) or HALF in before) and count < len(prompt):
            count *= 2
        self._window, self._before = list(prompt[-count:]), len(before)
        self._context = len(self._window)

    def of(self, ids: Sequence[int]) -> str:
        """The text of the whole answer so far, special tokens left out.

        Args:
            ids: all of the answer's tokens so far; those of the call before, and more.
        """
        self._window += ids[self._seen :]
        self._seen = len(ids)
        new = self._decoded(self._window)[self._before :]
        if not new or new.endswith(HALF):
            return self._done + new
        self._done += new
        self._window = self._window[self._context :]
        self._context, self._before = len(self._window), len(self._decoded(self._window))
        return self._done

    @classmethod
    def lengths(cls, tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> list[int]:
        """How many whole characters of the answer have been written after each of its tokens."""
        growing = cls(tokenizer, prompt)
        return [len(growing.of(ids[: end + 1]).rstrip(HALF)) for end in range(len(ids))]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
