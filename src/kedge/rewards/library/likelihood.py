"""What built-in rewards that ask a language model share: how likely texts are to it."""

from collections.abc import Sequence

import torch

from kedge.data.encode import encode_prompt
from kedge.data.records import Text
from kedge.models.batch import by_token_budget, padded
from kedge.models.forward import forward_tokens
from kedge.models.language_model import LanguageModel, load_language_model
from kedge.rewards.library.base import Said, Sample, TextReward, TextSpec
from kedge.rewards.scores import Reward
from kedge.rewards.spec import Loading

AT_A_TIME = 8192
"""Tokens of a pass, padding included."""


class Likelihood:
    """How likely texts are to a language model.

    Args:
        lm: any; a reference, which is not trained.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    def context(self, text: Text = "") -> list[int]:
        """A prompt's tokens; of none the one that begins a text, or ends the one before."""
        words = self.lm.tokenizer
        ids = encode_prompt(words, text, origin="prompt") if text else []
        begins = words.bos_token_id if words.bos_token_id is not None else words.eos_token_id
        return ids or [self.lm.pad_id if begins is None else begins]

    def tokens(self, text: str) -> list[int]:
        """Of what goes on from a context."""
        ids: list[int] = self.lm.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    @torch.no_grad()
    def of(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Log-probability, nats, of the second tokens of each pair after the first ones. What is longer than the model
        takes loses its beginning."""
        limit = self.lm.positions
        rows = [([*before, *then], len(then)) for before, then in pairs]
        rows = [(ids if limit is None else ids[-limit:], size) for ids, size in rows]
        found = [0.0] * len(rows)
        for batch in by_token_budget([len(ids) for ids, _ in rows], AT_A_TIME):
            tokens, lengths = padded([rows[i][0] for i in batch], self.lm.pad_id)
            sizes = torch.tensor([min(rows[i][1], len(rows[i][0]) - 1) for i in batch])
            column = torch.arange(tokens.shape[1])
            mask = (column >= (lengths - sizes)[:, None]) & (column < lengths[:, None])
            said = forward_tokens(self.lm, tokens.to(self.lm.device), mask, temperature=1.0).logprobs
            for i, total in zip(batch, said.sum(-1).tolist(), strict=True):
                found[i] = total
        return found


class LikelihoodSpec(TextSpec):
    """A reward that asks a language model. Called from Python, it loads the model at every call; in a run once."""

    model: str
    """The language model: a folder, hub id, or run. The reference of the run is a good one."""

    def measured(self, likelihood: Likelihood, samples: Sequence[Sample]) -> list[Said]:
        """What it says of all answers of a call."""
        raise NotImplementedError

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        return self.measured(self._loaded(Loading()), samples)

    def build(self, loading: Loading) -> Reward:
        self.prepare()
        likelihood = self._loaded(loading)
        return TextReward(self, lambda samples: self.measured(likelihood, samples))

    def _loaded(self, loading: Loading) -> Likelihood:
        how = {"trust_remote_code": loading.trust_remote_code, "attn_implementation": loading.attn_implementation}
        lm = load_language_model(self.model, device=loading.device, **how)  # type: ignore[arg-type]
        lm.model.requires_grad_(False)
        return Likelihood(lm)
