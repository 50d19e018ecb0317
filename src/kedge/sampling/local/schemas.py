"""Answers that are JSON of a schema: what would break it cannot be drawn. By llguidance, which knows the grammar."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedge.data.encode import Tokenizer
from kedge.errors import DataError

KNOWN = 64
"""Schemas that are kept ready, the ones that were asked for last."""


class Constraint:
    """One answer's place in the grammar of its schema.

    Args:
        matcher: llguidance's, at the beginning.
        vocabulary: logits of a token.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def allowed(self) -> Tensor:
        """``[V]`` bool: tokens that may come next; what ends an answer where the JSON is whole."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool))

    def take(self, token: int) -> None:
        """This one has come."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"a token that the schema does not allow was drawn: {self._matcher.get_error()}")


class Schemas:
    """Schemas for one model's answers. From any thread.

    Args:
        tokenizer: of the model.
        eos_ids: tokens that end an answer.
        vocabulary: logits of a token.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int], vocabulary: int) -> None:
        self._tokenizer, self._eos_ids, self._vocabulary = tokenizer, eos_ids, vocabulary
        self._tokens: Any = None  # llguidance's view of the tokenizer, which takes a second to make
        self._ready: OrderedDict[str, Any] = OrderedDict()
        self._making = Lock()

    def begin(self, schema: str) -> Constraint:
        """An answer of a JSON schema, before its first token.

        Raises:
            DataError: it is no schema, or one that cannot be held to; llguidance is not installed.
        """
        with self._making:
            if schema not in self._ready:
                self._ready[schema] = self._made(schema)
            self._ready.move_to_end(schema)
            while len(self._ready) > KNOWN:
                self._ready.popitem(last=False)
            return Constraint(self._ready[schema].deep_copy(), self._vocabulary)

    def _made(self, schema: str) -> Any:
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise DataError("response_format: needs llguidance; pip install 'kedge[serve]'") from None
        if not self._eos_ids:
            raise DataError("response_format: the model has no token that ends an answer")
        try:
            if self._tokens is None:
                self._tokens = from_tokenizer(self._tokenizer, self._vocabulary, [*self._eos_ids])
            # Wherever space may stand, a model may write it for ever.
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.loads(schema), {"whitespace_flexible": False})
            matcher = llguidance.LLMatcher(self._tokens, grammar)
        except ValueError as error:
            raise DataError(f"response_format: {_first_line(error)}") from None
        if matcher.is_error():
            raise DataError(f"response_format: {_first_line(matcher.get_error())}")
        begins = Constraint(matcher.deep_copy(), self._vocabulary).allowed()
        begins[[*self._eos_ids]] = False
        if not begins.any():
            raise DataError("response_format: no JSON is of this schema")
        return matcher


def _first_line(said: object) -> str:
    return str(said).partition("\n")[0][:300]
