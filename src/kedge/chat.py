"""A conversation with a trained policy: streamed, and with a memory where the model has a chat template."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kedge.config import read_recipe
from kedge.data.encode import encode_prompt, has_template
from kedge.data.records import Messages, as_messages
from kedge.engine.engine import Engine
from kedge.engine.sampling import Sampling
from kedge.models.language_model import LanguageModel
from kedge.training.ppo import PPOConfig


class Chat:
    """One conversation.

    Args:
        lm: who answers. Without a chat template it goes on with whatever text it is given, and remembers nothing.
        sampling: how it answers; shortened so that prompt and answer fit the model's positions.
        system: what it is told before the conversation; only with a chat template.
        seed: the same seed and the same lines give the same conversation.
    """

    def __init__(self, lm: LanguageModel, sampling: Sampling, *, system: str | None = None, seed: int = 0) -> None:
        self.lm = lm
        self.engine = Engine(lm)
        limit = sampling.max_new_tokens if lm.positions is None else min(sampling.max_new_tokens, lm.positions // 2)
        self.sampling = replace(sampling, max_new_tokens=limit)
        self.remembers = has_template(lm.tokenizer)
        self.opening: Messages = [{"role": "system", "content": system}] if system else []
        self.turns: Messages = []
        self.forgotten = 0
        """Turns that no longer fit the model's positions."""
        self.seed = seed

    def say(self, text: str) -> Iterator[str]:
        """The answer to ``text``, in pieces as they are written.

        Raises:
            DataError: ``text`` alone is longer than the model's positions allow.
        """
        if self.remembers:
            self.turns.append({"role": "user", "content": text})
        answer = ""
        for piece in self.engine.stream(self._prompt(text), self.sampling, seed=self.seed):
            answer += piece
            yield piece
        self.seed += 1
        if self.remembers:
            self.turns += as_messages(answer)

    def restart(self) -> None:
        """Forget everything said."""
        self.turns, self.forgotten = [], 0

    def _prompt(self, text: str) -> list[int]:
        if not self.remembers:
            return encode_prompt(self.lm.tokenizer, text)
        ids = encode_prompt(self.lm.tokenizer, self.opening + self.turns)
        while len(self.turns) > 1 and not self._fits(ids):
            del self.turns[:2]  # the oldest question and its answer
            self.forgotten += 2
            ids = encode_prompt(self.lm.tokenizer, self.opening + self.turns)
        return ids

    def _fits(self, ids: list[int]) -> bool:
        return self.lm.positions is None or len(ids) + self.sampling.max_new_tokens <= self.lm.positions


def trained_sampling(run: Path) -> Sampling:
    """How the policy of a PPO run answered in training; for anything else temperature 1 and 256 tokens."""
    recipe = run / "recipe.toml"
    settings = read_recipe(recipe).get("ppo", {}) if recipe.is_file() else {}
    names = {"response_length", "temperature", "stop_strings"}
    if not settings:
        return Sampling(max_new_tokens=256)
    return PPOConfig(**{name: value for name, value in settings.items() if name in names}).sampling
