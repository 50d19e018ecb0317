"""Several rewards as one: the weighted sum, each component logged under its own name."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from kedge.core import RunningMoments
from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.models.reward_model import RewardModel
from kedge.rewards.foreign import TrainerState
from kedge.rewards.scores import AT_REST, Failure, Reward, Scores, shown
from kedge.rewards.waiting import begun
from kedge.sampling.completion import Completion


class WeightedReward(Reward):
    """``sum of weight * reward``, each reward counting as its :class:`~kedge.rewards.terms.Terms` say. A component that
    does not judge a sample (None) adds nothing to it; where one that is a gate is not passed, only gates do.

    A sample that no component judges is an error, or NaN in a ``partial`` one.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]], *, partial: bool = False) -> None:
        if not parts:
            raise ConfigError("reward: an empty list; name at least one function or reward model")
        self.parts = parts
        self.partial = partial
        self.moments = [RunningMoments() for _ in parts]
        self.name = "+".join(reward.name for _, reward in parts)

    def weighted(self) -> Sequence[tuple[float, Reward]]:
        return self.parts

    def models(self) -> list[RewardModel]:
        return [model for _, reward in self.parts for model in reward.models()]

    def state_dict(self) -> list[dict[str, float]]:
        """What a checkpoint must hold."""
        return [moments.state_dict() for moments in self.moments]

    def load_state_dict(self, state: Sequence[Mapping[str, float]]) -> None:
        """Go on with what :meth:`state_dict` gave."""
        self.moments = [RunningMoments(**moments) for moments in state]

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        return self.combined(self.each(prompts, completions, state), prompts, completions, state)

    def combined(
        self,
        found: Sequence[Scores],
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        state: TrainerState = AT_REST,
        *,
        training: bool = False,
    ) -> Scores:
        n = len(completions)
        total, judged = [0.0] * n, [False] * n
        per_token: list[list[float] | None] = [None] * n
        components: dict[str, list[float]] = {}
        paid: dict[str, list[float]] = {}
        failures: dict[str, list[Failure]] = {}
        remarks: dict[str, list[str]] = {}
        passed = _all_passed([reward for _, reward in self.parts], found, n)
        for (first, reward), scores, moments in zip(self.parts, found, self.moments, strict=True):
            for name, values in scores.components.items():
                unused = _unused(name, components)
                components[unused] = values
                failures |= {unused: scores.failures[name]} if name in scores.failures else {}
                remarks |= {unused: scores.remarks[name]} if name in scores.remarks else {}
                judged = [was or not math.isnan(value) for was, value in zip(judged, values, strict=True)]
            whole = reward.terms.clipped(_whole(reward, scores))
            if training:
                whole = reward.terms.normalized(whole, prompts, moments)
            weight = reward.terms.weight(first, state)
            factors = [weight if through or reward.terms.gate is not None else 0.0 for through in passed]
            for i in range(n):
                total[i] += 0.0 if math.isnan(whole[i]) else factors[i] * whole[i]
                per_token[i] = _added(per_token[i], scores.per_token[i], factors[i])
            added = zip(factors, whole, scores.per_token, strict=True)
            paid[_unused(reward.name, paid)] = [factor * (score + sum(tokens or ())) for factor, score, tokens in added]
        if self.partial:
            total = [value if was else math.nan for value, was in zip(total, judged, strict=True)]
        elif not all(judged):
            i = judged.index(False)
            raise RewardError(f"no reward component gave a score for{shown(prompts[i], completions[i])}")
        return Scores(total, per_token, components, paid, failures, remarks)

    def each(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> list[Scores]:
        """Every part's scores. Those that wait for a service wait together, while models and functions compute."""
        rewards = [reward for _, reward in self.parts]
        asked = {i: reward.later(prompts, completions, state) for i, reward in enumerate(rewards)}
        waiting = {i: coroutine for i, coroutine in asked.items() if coroutine is not None}
        with begun([*waiting.values()]) if waiting else nullcontext(list) as rest:
            found = {i: reward(prompts, completions, state) for i, reward in enumerate(rewards) if i not in waiting}
            found |= zip(waiting, rest(), strict=True)
        return [found[i] for i in range(len(rewards))]


def _all_passed(rewards: Sequence[Reward], found: Sequence[Scores], n: int) -> list[bool]:
    """Which samples pass every gate; by what a gate itself scored, and not as it is shaped."""
    gates = [reward.terms.passed(scores.sums()) for reward, scores in zip(rewards, found, strict=True)]
    return [all(gate[i] for gate in gates) for i in range(n)]


def _whole(reward: Reward, scores: Scores) -> list[float]:
    """``[N]`` what it pays on the last tokens; refused where that is not all and the terms ask for a whole score."""
    terms = reward.terms
    if (terms.clip or terms.normalize) and any(tokens is not None for tokens in scores.per_token):
        which = "clip" if terms.clip else "normalize"
        raise RewardError(f"{which}: not used with {reward.name!r}, which scores token by token; take it out")
    return scores.total


def _added(so_far: list[float] | None, more: list[float] | None, weight: float) -> list[float] | None:
    if more is None:
        return so_far
    return [a + weight * b for a, b in zip(so_far or [0.0] * len(more), more, strict=True)]


def _unused(name: str, taken: Mapping[str, object]) -> str:
    return (
        name
        if name not in taken
        else next(f"{name}_{k}" for k in range(2, len(taken) + 3) if f"{name}_{k}" not in taken)
    )
