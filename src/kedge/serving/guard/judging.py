"""Rules whose test is a reward."""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kedge.data.records import Prompt
from kedge.rewards.build import build_reward
from kedge.rewards.scores import Reward
from kedge.sampling.completion import Completion
from kedge.serving.guard.decisions import Decision, failed, found
from kedge.serving.guard.rules import Rule, Where
from kedge.serving.guard.scoring import Scorer

log = logging.getLogger("kedge.serving")


@dataclass(frozen=True)
class Judged:
    """What a reward is asked about."""

    prompt: Prompt
    completion: Completion


class Judge:
    """A rule with its reward, loaded and ready.

    Args:
        rule: whose test is a reward.
        trust_remote_code: run code that its models bring.

    Raises:
        ConfigError: it is no reward. ModelError: a model that cannot be loaded.
    """

    def __init__(self, rule: Rule, *, trust_remote_code: bool = False) -> None:
        self.rule = rule
        self.reward: Reward = build_reward(rule.reward, partial=True, trust_remote_code=trust_remote_code)
        self._scorer = Scorer(self._scores, f"guard {rule.name}")

    async def decide(self, on: Where, asked: Judged, seconds: float) -> Decision | None:
        """What the rule does about a text; None where it has nothing against it.

        Args:
            on: what the completion is: an answer, or a prompt that is judged as an answer to nothing.
            asked: it.
            seconds: that it may take, those in which it waits for others included.
        """
        text, rule = asked.completion.text, self.rule
        try:
            score = await asyncio.wait_for(asyncio.wrap_future(self._scorer.ask(asked)), seconds)
        except TimeoutError:
            return failed(rule, on, f"it took longer than {seconds:g} seconds", text)
        except Exception as error:  # noqa: BLE001  a reward may be anybody's code, and whatever it raises must not open the gate
            # The audit log has the kind alone, for messages show what was judged.
            log.error("guard rule %r could not judge: %s: %r", rule.name, type(error).__name__, _first_line(error))
            return failed(rule, on, f"{type(error).__name__}; the server's log says more", text)
        if rule.below is not None and score < rule.below:
            return found(rule, on, f"{self.reward.name}: {score:g} is below {rule.below:g}", text)
        if rule.above is not None and score > rule.above:
            return found(rule, on, f"{self.reward.name}: {score:g} is above {rule.above:g}", text)
        return None

    def close(self) -> None:
        """Let go of the thread."""
        self._scorer.close()

    def _scores(self, asked: Sequence[Judged]) -> list[float]:
        """NaN of what it does not judge, which is neither below anything nor above."""
        scores = self.reward([each.prompt for each in asked], [each.completion for each in asked]).sums()
        if any(math.isinf(score) for score in scores):
            raise ValueError("a score is infinite")
        return scores


def as_an_answer(text: str) -> Judged:
    """A prompt's text, to be judged by itself."""
    return Judged(Prompt("", origin="prompt"), Completion([], [], [], text, "eos"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
