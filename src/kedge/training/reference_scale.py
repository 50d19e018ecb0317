"""Scores of mean 0 and spread 1 on a reference's answers, so that one reward model's scores mean what another's do
(Stiennon et al. 2020, section 3.3)."""

import statistics
from dataclasses import replace
from typing import Any

from pydantic import Field

from kedge.config.settings import Config, Several
from kedge.data.encode import encode_prompt, has_template
from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.models.head import vocabulary_rows
from kedge.models.language_model import load_language_model, positions_of
from kedge.models.loading import find, load_tokenizer
from kedge.models.reading import Reading
from kedge.models.reward_model import RewardModel
from kedge.parallel import Processes
from kedge.rewards.model import ModelReward
from kedge.rewards.scores import judge
from kedge.runs.progress import say
from kedge.sampling.local.engine import Engine
from kedge.sampling.rollouts import generate
from kedge.sampling.settings import Sampling


class ReferenceConfig(Config):
    """Whose answers the scores are scaled by."""

    policy: str
    """The policy that PPO will start from: a hub id, folder or run."""
    prompts: str
    """Rows with a column ``prompt``, such as PPO's."""
    limit: int = Field(256, ge=2)
    """So many of them, at most, each answered once."""
    response_length: int = Field(64, ge=1)
    """Longest answer, in tokens, as in ``[ppo]``."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling, as in ``[ppo]``."""
    stop_tokens: Several[str] = ()
    """Tokens that end an answer, besides the policy's own EOS ids."""

    def refuse_missing(self, *, trust_remote_code: bool) -> None:
        """Before a training whose end would show it.

        Raises:
            KedgeError: no such policy or prompts.
        """
        prompts = read_prompts(self.prompts)[: self.limit]
        if len(prompts) < 2:
            raise DataError(f"reference: {self.prompts} has {len(prompts)} prompt; a spread needs two at least")
        folder = find(self.policy, "policy")
        positions = positions_of(folder, {}, trust_remote_code=trust_remote_code)
        words = load_tokenizer(folder, key="tokenizer", trust_remote_code=trust_remote_code)
        for prompt in prompts:
            tokens = len(encode_prompt(words, prompt.text, origin=prompt.origin))
            if positions is not None and tokens >= positions:
                raise DataError(f"reference: {prompt.origin} has {tokens} tokens, and the policy {positions} positions")

    def refuse_unread(self, model: RewardModel) -> None:
        """Raise where the reward model cannot read such prompts.

        Raises:
            DataError: conversations, and no chat template.
        """
        if not has_template(model.tokenizer) and not all(isinstance(p.text, str) for p in read_prompts(self.prompts)):
            raise DataError(f"reference: {self.prompts} has chat prompts, but the reward model's tokenizer no template")

    @property
    def sampling(self) -> Sampling:
        """How the policy answers."""
        return Sampling(max_new_tokens=self.response_length, temperature=self.temperature)


def scaled(
    model: RewardModel, config: ReferenceConfig, processes: Processes, *, seed: int, loading: dict[str, Any]
) -> Reading | None:
    """How the model's scores are to be made, so that those of the reference's answers have mean 0 and spread 1; None
    where these are all the same, which is said.

    Args:
        model: trained.
        config: whose answers.
        processes: each answers and scores a share.
        seed: of the answers.
        loading: how the policy is loaded, as :func:`load_language_model` takes it.

    Raises:
        KedgeError: no such policy or prompts.
    """
    prompts = read_prompts(config.prompts)[: config.limit]
    policy = load_language_model(config.policy, stop_tokens=config.stop_tokens, **loading)
    ids = [encode_prompt(policy.tokenizer, prompt.text, origin=prompt.origin) for prompt in prompts]
    rows = vocabulary_rows(policy.model)
    completions = generate(Engine(policy), ids, config.sampling, processes, vocabulary=rows, seed=seed)
    scores = judge(ModelReward(model), prompts, completions, processes).total
    mean, std = statistics.fmean(scores), statistics.pstdev(scores)
    if std < 1e-9 * max(1.0, abs(mean)):
        say(f"reference: its {len(scores)} answers all score {mean:g}; the scores are left as they are")
        return None
    reading = model.reading
    return replace(reading, mean=reading.mean + reading.std * mean, std=reading.std * std)
