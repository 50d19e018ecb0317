"""Who writes the answers of a training: with which weights, by how many processes, and how far ahead of the update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kedge.errors import ConfigError
from kedge.models.head import vocabulary_rows
from kedge.models.language_model import LanguageModel
from kedge.parallel import Processes
from kedge.sampling.ahead import Ahead, refuse_running_ahead
from kedge.sampling.completion import Completion
from kedge.sampling.rollouts import own_share
from kedge.sampling.sampler import Sampler, SamplerOf, made
from kedge.training.optimization import batch_indices
from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.prompts import EncodedPrompt, refuse_no_room


class Answers:
    """The policy's, step after step. Of several processes all ask for them together.

    Args:
        sampler_of: makes who writes a model's answers.
        policy: whose they are.
        prompts: of all steps.
        config: how many, how they are drawn, and how far ahead.
        processes: each writes its share.

    Raises:
        ConfigError: such a sampler cannot run ahead, or has no room for the longest prompt and its answer.
    """

    def __init__(
        self,
        sampler_of: SamplerOf,
        policy: LanguageModel,
        prompts: Sequence[EncodedPrompt],
        config: PPOConfig,
        processes: Processes,
        *,
        longest: int,
    ) -> None:
        self.sampler_of, self.policy, self.prompts = sampler_of, policy, prompts
        self.config, self.processes = config, processes
        self.sampler = self._made(longest)
        self.ahead = Ahead(self._share_of_step, steps=config.max_staleness, last=config.steps)
        self._published = 0

    def prompts_of(self, step: int) -> list[EncodedPrompt]:
        """Those of a step (from 0), each as often as it has answers."""
        rows = batch_indices(len(self.prompts), self.config.batch_size, step, self.config.seed)
        return [self.prompts[row] for row in rows for _ in range(self.config.num_generations)]

    def of_step(self, step: int) -> list[Completion]:
        """The answers to a step's prompts. Those of the next ones are begun, where they run ahead."""
        if self._published < step:  # a step was left out before its update: these are its weights too
            self.publish(step)
        return self._together(lambda: self.ahead.take(step))

    def to(self, prompts: Sequence[EncodedPrompt]) -> list[Completion]:
        """Answers to prompts that are no step's."""
        return self._together(lambda: self._share(prompts, 0))

    def publish(self, version: int) -> None:
        """Let the sampler write with the policy's weights as they are now.

        Args:
            version: their number: how many steps were done.
        """
        self.sampler.publish(self.policy.weights(), version)
        self._published = version

    @contextmanager
    def sampler_for(self, policy: LanguageModel) -> Iterator[Sampler]:
        """Who writes a model's answers: the policy's own sampler, or for another model one of its own."""
        if policy is self.policy:
            yield self.sampler
            return
        self.ahead.settle()  # another model's sampler may take the servers from the policy's
        with made(self.sampler_of, policy) as sampler:
            yield sampler

    def close(self) -> None:
        """Give back what the sampler holds; nothing is asked of it after that."""
        self.sampler.close()
        self.ahead.close()

    def _made(self, longest: int) -> Sampler:
        sampler = made(self.sampler_of, self.policy)
        try:
            refuse_running_ahead(self.config.max_staleness, sampler)
            refuse_no_room(sampler, longest, self.config.response_length)
        except ConfigError:
            sampler.close()
            raise
        return sampler

    def _together(self, mine: Callable[[], list[Completion]]) -> list[Completion]:
        """The answers of all processes, of which each has its share."""
        with self.sampler.whole():
            return self.processes.gather(mine)

    def _share_of_step(self, step: int) -> list[Completion]:
        """This process's share of a step's answers, whoever asks and when: the same prompts and random numbers."""
        return self._share(self.prompts_of(step), step * self.config.answers)

    def _share(self, prompts: Sequence[EncodedPrompt], first_request: int) -> list[Completion]:
        return own_share(
            self.sampler,
            [prompt.ids for prompt in prompts],
            self.config.sampling,
            self.processes,
            vocabulary=vocabulary_rows(self.policy.model),
            seed=self.config.seed,
            first_request=first_request,
        )
