"""What a reward is: prompts and completions in, a number for each out, by named component."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kedge.data.encode import Tokenizer
from kedge.data.records import Prompt, plain
from kedge.models.reward_model import RewardModel
from kedge.models.sharding import whole
from kedge.parallel import Processes
from kedge.rewards.foreign import TrainerState
from kedge.rewards.terms import Terms
from kedge.runs.fingerprints import of_code
from kedge.runs.progress import say
from kedge.sampling.completion import Completion

AT_REST = TrainerState()
"""Where nothing trains."""

Reason = Literal["timeouts", "errors", "deaths"]


@dataclass(frozen=True)
class Failure:
    """A sample for which a reward had no score, and got the default one instead."""

    reason: Reason
    """The call ran out of time; it raised, or gave something that is no score; it ended its process."""
    said: str
    """What happened, to which sample."""


@dataclass(frozen=True)
class Scores:
    """Scores of N completions."""

    total: list[float]
    """``[N]`` paid on the last token of each."""
    per_token: list[list[float] | None]
    """``[N]`` paid token by token, EOS included; None where the reward speaks of the whole answer only."""
    components: dict[str, list[float]]
    """``{name: [N]}`` each component's own scores, unweighted; per-token ones summed. NaN where it does not apply."""

    paid: dict[str, list[float]] = field(default_factory=dict)
    """``{name: [N]}`` what each component adds to a sample's whole score; for rewards that are a sum. NaN as there."""

    failures: dict[str, list[Failure]] = field(default_factory=dict)
    """``{component: [...]}`` the samples that have its default score, for components that have one."""
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """``{component: [N]}`` why a sample has its score, for who reads the samples; of components that say so. Nothing of
    a sample is an empty text."""

    def failure_counts(self) -> dict[str, dict[Reason, int]]:
        """``{component: {"timeouts": 0, ...}}``: how many samples have the default score, and why."""
        return {
            name: {reason: sum(failure.reason == reason for failure in failures) for reason in get_args(Reason)}
            for name, failures in self.failures.items()
        }

    def sums(self) -> list[float]:
        """``[N]`` everything a completion earns."""
        pairs = zip(self.total, self.per_token, strict=True)
        return [total + sum(tokens or ()) for total, tokens in pairs]


class Reward(ABC):
    """Scores completions. Raises RewardError where it has no number for one."""

    name: str
    """Under which it is logged."""
    terms: Terms = Terms()
    """How its scores count where it is one of several."""
    settings: str = ""
    """Fingerprint of what its specification was set to, where :meth:`fingerprint` does not tell it."""

    @abstractmethod
    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        """The scores of N completions, each to the prompt beside it."""

    def each(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> "list[Scores]":
        """What each part of it says, before :meth:`combined` makes one of them: itself alone, unless it is a sum."""
        return [self(prompts, completions, state)]

    def combined(
        self,
        found: "Sequence[Scores]",
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        state: TrainerState = AT_REST,
        *,
        training: bool = False,
    ) -> Scores:
        """One of what :meth:`each` gave for all completions of a step, whichever process asked.

        Args:
            found: a part's scores each.
            prompts: of the answers.
            completions: the answers.
            state: of the training.
            training: they are trained on, and so normalised; else they are compared with those of another time.
        """
        return found[0]

    def later(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Coroutine[Any, Any, Scores] | None:
        """The same, to be awaited beside others; None of a reward that has nothing to wait for."""
        return None

    def written_by(self, tokenizer: Tokenizer) -> None:  # noqa: B027  most do not care
        """Of the policy whose answers will come; for rewards that are paid within an answer."""

    def fingerprint(self) -> str:
        """What a resumed run must be given again. Of the class's source, unless a kind knows better."""
        return of_code(self)

    def models(self) -> list[RewardModel]:
        """The reward models in it: a critic may start from one, and the doctor tries them."""
        return []

    def weighted(self) -> "Sequence[tuple[float, Reward]]":
        """``(weight, reward)`` of each that it is the sum of: itself alone, unless it is such a sum."""
        return [(1.0, self)]


def judge(
    reward: Reward,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    processes: Processes,
    state: TrainerState = AT_REST,
    *,
    training: bool = False,
) -> Scores:
    """The scores of all completions, each process having judged its share: a function sees that share and no more.

    Args:
        reward: it judges.
        prompts: what was asked.
        completions: an answer to each.
        processes: each judges a share.
        state: of the training.
        training: the scores are trained on, see :meth:`Reward.combined`.

    Raises:
        RewardError: in whichever process the reward has no number for one of them.
    """

    def mine() -> list[list[Scores]]:
        share = processes.share(completions)
        return [reward.each(processes.share(prompts), share, state)] if share else []

    with whole(*(model.module for model in reward.models())):
        found = [_in_a_row(shares) for shares in zip(*processes.gather(mine), strict=True)]
    with processes.agreeing():
        scores = reward.combined(found, prompts, completions, state, training=training)
    for name, failures in scores.failures.items():
        if failures:
            said, n = failures[0].said, len(scores.total)
            say(f"{len(failures)} of {n} samples got the default score of {name!r}; the first: {said}")
    return scores


def _in_a_row(parts: Sequence[Scores]) -> Scores:
    """Scores of the same reward for a share of the completions each, as those of all."""
    return Scores(
        total=[score for part in parts for score in part.total],
        per_token=[tokens for part in parts for tokens in part.per_token],
        components={name: [score for part in parts for score in part.components[name]] for name in parts[0].components},
        paid={name: [score for part in parts for score in part.paid[name]] for name in parts[0].paid},
        failures={name: [failure for part in parts for failure in part.failures[name]] for name in parts[0].failures},
        remarks={name: [remark for part in parts for remark in part.remarks[name]] for name in parts[0].remarks},
    )


def shown(prompt: Prompt, completion: Completion) -> str:
    """A sample, short enough for an error message."""
    ask, answer = plain(prompt.text), completion.text
    clip = lambda text: repr(text if len(text) <= 160 else text[:157] + "...")  # noqa: E731
    return f"\n  prompt ({prompt.origin}): {clip(ask)}\n  completion: {clip(answer)}"
