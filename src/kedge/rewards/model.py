"""A reward model as a reward: scored on text, with the reward model's own tokenizer and chat template."""

import math
from collections.abc import Sequence

from kedge.data.encode import has_template
from kedge.data.records import Prompt, joined, plain
from kedge.errors import RewardError, RewardNotFiniteError
from kedge.models.reward_model import RewardModel
from kedge.rewards.foreign import TrainerState
from kedge.rewards.scores import AT_REST, Scores, shown
from kedge.sampling.completion import Completion


class ModelReward:
    """Scores prompt and completion together. A chat goes through the template; without one, it is an error."""

    def __init__(self, model: RewardModel, name: str = "reward_model") -> None:
        self.model = model
        self.name = name

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        whole = [joined(p.text, c.text) for p, c in zip(prompts, completions, strict=True)]
        if not has_template(self.model.tokenizer) and not all(isinstance(text, str) for text in whole):
            raise RewardError(
                f"{self.name}: chat prompts, but the reward model's tokenizer has no chat template"
                f"\n  prompt: {plain(prompts[0].text)[:160]!r}"
            )
        scores = self.model.score(whole)
        for score, prompt, completion in zip(scores, prompts, completions, strict=True):
            if not math.isfinite(score):
                raise RewardNotFiniteError(f"{self.name} gave {score} for{shown(prompt, completion)}")
        return Scores(scores, [None] * len(scores), {self.name: scores})
