"""A reward function in processes of its own, a sample a call: one that hangs, raises or dies takes nothing with it."""

import pickle
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.rewards.foreign import RewardFunction, TrainerState, import_function
from kedge.rewards.function import FunctionReward, Item
from kedge.rewards.pool import OWN_MODULE, Reply, WorkerPool
from kedge.rewards.scores import AT_REST, Failure, Reason, Scores, shown
from kedge.sampling.completion import Completion

REASONS: dict[Literal["raised", "hung", "died"], Reason] = {"raised": "errors", "hung": "timeouts", "died": "deaths"}
FIXES: dict[Reason, str] = {
    "errors": "mend it, or set default= to give such samples a score and go on",
    "timeouts": "raise time_limit, or set default= to give such samples a score and go on",
    "deaths": "mend it, or set default= to give such samples a score and go on",
}


class IsolatedReward(FunctionReward):
    """Has the function called by worker processes, with lists of one sample.

    Args:
        function: ``package.module:name``, or a function that can be pickled.
        workers: how many processes.
        time_limit: seconds a call may take; None: any.
        default: score of a sample for which the function has none; None: a RewardError.

    Raises:
        ConfigError: the function cannot be found, or not be sent to a worker.
    """

    def __init__(
        self, function: str | RewardFunction, *, workers: int, time_limit: float | None, default: float | None
    ) -> None:
        if isinstance(function, str):
            super().__init__(import_function(function), function.rpartition(":")[2])
        else:
            super().__init__(function)
        self.default = default
        who = f"reward function {self.name!r}"
        self.pool = WorkerPool(_sendable(function, who), workers, time_limit, who=who)

    @property
    def is_async(self) -> bool:
        """Whatever the function is, it is the workers that await it."""
        return False

    def fingerprint(self) -> str:
        return f"default {self.default}, {super().fingerprint()}"

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        samples = list(zip(prompts, completions, strict=True))
        items: list[Item] = [self.default] * len(samples)
        failures: dict[int, Failure] = {}
        whole = self.arguments(prompts, completions)
        about = self.about(state)
        calls = [{name: values[i : i + 1] for name, values in whole.items()} | about for i in range(len(samples))]
        with closing(self.pool.run(calls)) as replies:
            for i, reply in replies:
                judged = self._judged(reply, *samples[i])
                if isinstance(judged, Failure):
                    failures[i] = judged
                else:
                    [items[i]] = judged
        return replace(self.scores(items), failures={self.name: [failures[i] for i in sorted(failures)]})

    def _judged(self, reply: Reply, prompt: Prompt, completion: Completion) -> list[Item] | Failure:
        if reply.status != "done":
            reason, what = REASONS[reply.status], f"reward function {self.name!r} {reply.value}"
            if self.default is None:
                raise RewardError(f"{what}; {FIXES[reason]}{shown(prompt, completion)}")
            return Failure(reason, f"{what}{shown(prompt, completion)}")
        try:
            return self.checked(reply.value, [prompt], [completion])
        except RewardError as error:
            if self.default is None:
                raise
            return Failure("errors", str(error))


def _sendable(function: str | RewardFunction, who: str) -> str | bytes:
    if isinstance(function, str):
        return function
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"{who}: it cannot be sent to a worker: {error}; {OWN_MODULE}") from None
