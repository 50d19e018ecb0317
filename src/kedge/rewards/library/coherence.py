"""Whether an answer belongs to its prompt, and its sentences to each other, by a language model's own likelihoods."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from kedge.rewards.library.base import Said, Sample
from kedge.rewards.library.likelihood import Likelihood, LikelihoodSpec
from kedge.rewards.library.words import sentences_of

Parts = list[tuple[list[int], list[int]]]
"""``(before, then)``: tokens of two texts that should belong together."""


class Coherence(LikelihoodSpec):
    """How much likelier an answer is after its prompt than alone: pointwise mutual information, nats a token.

    Positive where the prompt says something about the answer; 0 for an answer that would do for any prompt, which the
    likelihood alone would praise (Li et al. 2016, "A diversity-promoting objective function"). ``sentences``: the mean
    over an answer's neighbouring sentences of the same, of the second after the first.
    """

    KIND: ClassVar[str] = "coherence"
    RANGE: ClassVar[str] = "any number, mostly -1..3"

    measure: Literal["prompt", "sentences", "both"] = "prompt"
    """``prompt``: fit of the answer to it; ``sentences``: fit of neighbouring sentences, and an answer of one is not
    judged; ``both``: the mean of what there is."""

    def measured(self, likelihood: Likelihood, samples: Sequence[Sample]) -> list[Said]:
        parts = [self._parts(likelihood, sample) for sample in samples]
        flat = [pair for pairs in parts for pair in pairs]
        alone = likelihood.context()
        after = likelihood.of(flat)
        without = likelihood.of([(alone, then) for _, then in flat])
        gains = iter([(a - b) / len(then) for a, b, (_, then) in zip(after, without, flat, strict=True)])
        found = []
        for sample, pairs in zip(samples, parts, strict=True):
            mine = [next(gains) for _ in pairs]
            groups = [mine[:1], mine[1:]] if self.measure == "both" and self._asks(sample) else [mine]
            means = [sum(group) / len(group) for group in groups if group]
            found.append(Said(sum(means) / len(means) if means else None))
        return found

    def _asks(self, sample: Sample) -> bool:
        return bool(sample.prompt) and bool(sample.text.strip()) and self.measure != "sentences"

    def _parts(self, likelihood: Likelihood, sample: Sample) -> Parts:
        """What is compared: the answer after its prompt first, then each sentence after the one before."""
        parts: Parts = []
        if self._asks(sample):
            parts.append((likelihood.context(sample.prompt), likelihood.tokens(sample.text)))
        if self.measure != "prompt":
            sentences = sentences_of(sample.text)
            start = likelihood.context()
            for before, then in pairwise(sentences):
                parts.append((start + likelihood.tokens(before), likelihood.tokens(f" {then}")))
        return [(before, then) for before, then in parts if then]
