"""The way to decode that any causal language model takes, with a cache of any kind or with none.

Rows of different lengths share a batch without any padding: the batch is taken in up to its shortest prompt, and a row
whose prompt is longer is fed its own next token where the others draw one. So column and position are one, nothing is
ever masked, and the architecture does not matter (recurrences, convolutions, no positions at all). Slower than
:mod:`kedge.sampling.local.slots`: rows join only together, and only those of similar length.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.models.language_model import accepts


class ColumnDecoder:
    """Feeds a model one token a row and step; all rows come together, each goes when it likes."""

    rows_join = False
    """New rows may join while others are written."""

    prefixes = None
    """Nothing is remembered of what prompts begin with."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._extra = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
        self.clear()

    def clear(self) -> None:
        """Drop all rows, and everything cached."""
        self._cache: Any = None
        self._text: Tensor | None = None  # [n, L] all tokens so far; only without a usable cache
        self._given: list[Sequence[int]] = []  # what each row begins with
        self._column = 0

    def admit(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Begin with these rows; logits ``[n, V]`` of the token after the shortest."""
        assert not self._given
        self._given, self._column = list(sequences), min(map(len, sequences))
        begin = [list(sequence[: self._column]) for sequence in sequences]
        return self._logits(torch.tensor(begin, device=self.model.device))

    def waiting(self) -> list[bool]:
        """Rows whose next token is given and not drawn."""
        return [len(sequence) > self._column for sequence in self._given]

    def fresh(self) -> "ColumnDecoder":
        """One like this, with nothing cached."""
        return ColumnDecoder(self.model)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``[n, V]`` after one more token in each row: its given one, or else that of ``tokens [n]``."""
        given = [sequence[self._column] if len(sequence) > self._column else -1 for sequence in self._given]
        known = torch.tensor(given, device=tokens.device)
        self._column += 1
        return self._logits(torch.where(known >= 0, known, tokens)[:, None])

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; returns the order in which they stand now, as indices of the old one."""
        if not rows:
            self.clear()
            return []
        self._given = [self._given[row] for row in rows]
        index = torch.tensor(rows, dtype=torch.long, device=self.model.device)
        if self._text is not None:
            self._text = self._text[index]
        else:
            # Beam search's method, because layers of every kind have it: those that carry a state (convolutions,
            # recurrences) lack batch_select_indices, or inherit one that leaves the state as it is.
            self._cache.reorder_cache(index)
        return list(rows)

    def _logits(self, tokens: Tensor) -> Tensor:
        if self._text is not None:
            self._text = tokens = torch.cat([self._text, tokens], dim=1)
            logits: Tensor = self.model(input_ids=tokens, use_cache=False, **self._extra).logits
        else:
            output = self.model(input_ids=tokens, past_key_values=self._cache, use_cache=True, **self._extra)
            self._cache, logits = getattr(output, "past_key_values", None), output.logits
            if not hasattr(self._cache, "reorder_cache"):
                self._text = tokens
        return logits[:, -1]
