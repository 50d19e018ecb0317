"""Keys and values of beginnings that were computed before, in blocks of tokens: what prompts share is computed once.

A block is known by its tokens and by the block before it, so it stands for everything up to its end. All of them are of
one model with the weights that it has now; whoever changes those makes a new cache.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

BLOCK = 16
"""Tokens. Of what a prompt shares with another one the last, unfilled block is computed anew."""

Held = list[tuple[Tensor, Tensor]]
"""Each layer's keys and values ``[heads, tokens, width]``."""


@dataclass(eq=False)
class Block:
    """Some tokens behind all that the blocks before say."""

    number: int
    held: Held

    @property
    def bytes(self) -> int:
        """That it takes."""
        return sum(part.nbytes for layer in self.held for part in layer)


class Prefixes:
    """The blocks that were used last, as many as there is room for.

    Args:
        room: bytes.
        block: tokens of one.
    """

    def __init__(self, room: int, block: int = BLOCK) -> None:
        self.room, self.block = room, block
        self.bytes = 0
        # Those that were used longest ago first; a block always before the one that it stands behind.
        self._blocks: OrderedDict[tuple[int, tuple[int, ...]], Block] = OrderedDict()
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def fresh(self) -> "Prefixes":
        """One like this, with nothing in it."""
        return Prefixes(self.room, self.block)

    def find(self, tokens: Sequence[int]) -> list[Block]:
        """The blocks that these tokens begin with; never all of the tokens, because the last one must be computed."""
        found: list[Block] = []
        for place in range((len(tokens) - 1) // self.block):
            block = self._blocks.get(self._key(found, tokens, place))
            if block is None:
                break
            found.append(block)
        return found

    def keep(self, tokens: Sequence[int], held: Held) -> None:
        """Remember what was computed for a sequence.

        Args:
            tokens: of the sequence.
            held: of at least these tokens; it is copied.
        """
        if not tokens:
            return
        a_block = sum(part[:, :1].nbytes for layer in held for part in layer) * self.block
        path: list[Block] = []
        keys = []
        for place in range(min(len(tokens) // self.block, self.room // a_block)):
            keys.append(key := self._key(path, tokens, place))
            block = self._blocks.get(key)
            if block is None:
                start, end = place * self.block, (place + 1) * self.block
                self._numbers += 1
                parts = [(k[:, start:end].clone(), v[:, start:end].clone()) for k, v in held]
                block = self._blocks[key] = Block(self._numbers, parts)
                self.bytes += block.bytes
            path.append(block)
        for key in reversed(keys):
            self._blocks.move_to_end(key)
        while self.bytes > self.room:
            _, gone = self._blocks.popitem(last=False)
            self.bytes -= gone.bytes

    def turns(self, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        """The sequences in one or two turns, by their indices: first those that are computed whole; then those that
        find something, be it what one of the first turn has left."""
        first, second, begun = [], [], set()
        for index, tokens in enumerate(sequences):
            begins = tuple(tokens[: self.block])
            if self.find(tokens) or (begins in begun and len(tokens) > self.block):
                second.append(index)
            else:
                first.append(index)
                begun.add(begins)
        return [turn for turn in (first, second) if turn]

    def _key(self, before: Sequence[Block], tokens: Sequence[int], place: int) -> tuple[int, tuple[int, ...]]:
        number = before[-1].number if before else 0
        return number, tuple(tokens[place * self.block : (place + 1) * self.block])
