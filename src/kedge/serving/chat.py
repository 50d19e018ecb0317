"""A conversation with a trained policy: streamed, and with a memory where the model has a chat template."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from kedge.data.encode import encode_prompt, has_template
from kedge.data.records import Messages, as_messages
from kedge.errors import ConfigError, DataError
from kedge.models.language_model import LanguageModel
from kedge.runs import run_of
from kedge.sampling.sampler import Sampler
from kedge.sampling.settings import Sampling
from kedge.training.ppo import PPOConfig


class Chat:
    """One conversation.

    Args:
        lm: who answers. Without a chat template it goes on with whatever text it is given, and remembers nothing.
        sampler: writes the answers, with its weights.
        sampling: how it answers; shortened so that prompt and answer fit the model's positions.
        system: what it is told before the conversation; only with a chat template.
        seed: the same seed and the same lines give the same conversation.
    """

    def __init__(
        self, lm: LanguageModel, sampler: Sampler, sampling: Sampling, *, system: str | None = None, seed: int = 0
    ) -> None:
        if not isinstance(sampler, Sampler):
            raise ConfigError(
                f"sampler: a Sampler that writes with the model's weights, such as Engine(lm); got {sampler!r}"
            )
        self.lm = lm
        self.sampler = sampler
        limit = sampling.max_new_tokens if lm.positions is None else min(sampling.max_new_tokens, lm.positions // 2)
        self.sampling = replace(sampling, max_new_tokens=limit)
        self.remembers = has_template(lm.tokenizer)
        self.opening: Messages = [{"role": "system", "content": system}] if system else []
        self.turns: Messages = []
        self.forgotten = 0
        """Turns that no longer fit the model's positions."""
        self.seed = seed

    def say(self, text: str) -> Generator[str, None, None]:
        """The answer to ``text``, in pieces as they are written.

        One that is broken off is remembered as far as it came; where nothing had come, ``text`` is not either.

        Raises:
            DataError: ``text`` alone is longer than the model's positions allow; nothing is forgotten for it.
        """
        ids, dropped = self._prompt(text)
        answer, whole = "", False
        try:
            for piece in self.sampler.stream(ids, self.sampling, seed=self.seed):
                answer += piece
                yield piece
            whole = True
        finally:
            self.seed += 1
            if self.remembers and (whole or answer):
                self.turns = [*self.turns[dropped:], _asked(text), *as_messages(answer)]
                self.forgotten += dropped

    def restart(self) -> None:
        """Forget everything said."""
        self.turns, self.forgotten = [], 0

    def _prompt(self, text: str) -> tuple[list[int], int]:
        """Ids, and how many of the oldest turns had to be left out (a question and its answer at a time)."""
        for dropped in range(0, len(self.turns) + 1, 2) if self.remembers else (0,):
            turns = self.opening + self.turns[dropped:] + [_asked(text)]
            ids = encode_prompt(self.lm.tokenizer, turns if self.remembers else text)
            if self.lm.positions is None or len(ids) + self.sampling.max_new_tokens <= self.lm.positions:
                return ids, dropped
        assert self.lm.positions is not None
        room = self.lm.positions - self.sampling.max_new_tokens
        raise DataError(
            f"that has {len(ids)} tokens and the model takes {room} beside an answer; say it in fewer words"
        )


def _asked(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def trained_sampling(run: Path) -> Sampling:
    """How the policy of a PPO run answered in training; for anything else temperature 1 and 256 tokens."""
    found = run_of(run)
    settings = found.recipe.get("ppo") if found else None
    if settings is None:
        return Sampling(max_new_tokens=256)
    usual = PPOConfig()
    return Sampling(
        settings.get("response_length", usual.response_length),
        settings.get("temperature", usual.temperature),
        stop_strings=tuple(settings.get("stop_strings", usual.stop_strings)),
    )
