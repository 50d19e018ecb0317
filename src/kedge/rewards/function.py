"""A Python function as a reward: ``f(prompts, completions, **columns) -> list[float]``.

TRL's signature, so that functions written for its GRPO work as they are: chat prompts arrive as messages and their
completions as ``[{"role": "assistant", "content": ...}]``; ``completion_ids`` and the data's other columns come as
keyword lists, and ``trainer_state`` says how far the training is; an item may be None (this function does not judge
this sample), or a list of floats, one a token. A coroutine function is awaited.
"""

import inspect
import math
from collections.abc import Awaitable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kedge.data.records import Prompt, as_messages
from kedge.errors import RewardError, RewardNotFiniteError
from kedge.rewards.foreign import RewardFunction, TrainerState, as_plain, own_copy
from kedge.rewards.scores import AT_REST, Reward, Scores, shown
from kedge.rewards.waiting import together
from kedge.runs.fingerprints import of_code
from kedge.runs.interrupts import Terminated
from kedge.sampling.completion import Completion

Item = float | list[float] | None
"""What a function gives for a sample: a score, one a token, or that it does not judge it."""


GIVEN = frozenset({"prompts", "completions", "completion_ids", "trainer_state"})
"""Arguments that every function can have, whatever the data's columns."""


def refuse_wanting(function: RewardFunction, name: str | None, there: Collection[str]) -> None:
    """Raise where a function must have an argument that is no column.

    Args:
        name: of the function, where it is logged under another one than its own.
        there: the data's columns.

    Raises:
        RewardError: naming the function, the column, and those that there are.
    """
    name = name or function_name(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        who = f"reward function {name!r}"
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise RewardError(f"{who} takes {parameter.name!r} by position alone; it is called by name: take out the /")
        if parameter.default is parameter.empty and parameter.name not in GIVEN.union(there):
            columns = ", ".join(["prompt", *there])
            raise RewardError(f"{who} wants column {parameter.name!r}; there are: {columns}")


def function_name(function: RewardFunction) -> str:
    """Under which it is logged, unless it is given another name."""
    return str(getattr(function, "__name__", type(function).__name__))


class FunctionReward(Reward):
    """Calls the function and checks what it gives."""

    def __init__(self, function: RewardFunction, name: str | None = None) -> None:
        self.function = function
        self.name = name or function_name(function)
        parameters = inspect.signature(function).parameters.values()
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.takes = {p.name for p in parameters}

    @property
    def is_async(self) -> bool:
        """Whether calling it gives something to be awaited."""
        call = getattr(self.function, "__call__", None)  # noqa: B004  an object's method is what is looked at
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        with self._staying():
            result = self.function(**self.arguments(prompts, completions), **self.about(state))
        if inspect.isawaitable(result):
            [result] = together([self._awaited(result)])
        return self.scores(self.checked(result, prompts, completions))

    def later(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Coroutine[Any, Any, Scores] | None:
        """Of a coroutine function."""
        return self._later(prompts, completions, state) if self.is_async else None

    def fingerprint(self) -> str:
        own = of_code(self.function)
        return own if type(self).__module__.startswith(f"{__package__}.") else f"{own}, by {of_code(self)}"

    async def _later(self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState) -> Scores:
        result = self.function(**self.arguments(prompts, completions), **self.about(state))
        return self.scores(self.checked(await self._awaited(result), prompts, completions))

    async def _awaited(self, result: Awaitable[Any]) -> Any:
        with self._staying():
            return await result

    @contextmanager
    def _staying(self) -> Iterator[None]:
        """Where the function asks for the end of the whole run, that is its error."""
        try:
            yield
        except Terminated:
            raise
        except SystemExit as error:
            raise RewardError(
                f"reward function {self.name!r} called sys.exit({error.code!r}); return a score, or None, or raise an "
                "error"
            ) from error

    def about(self, state: TrainerState) -> dict[str, TrainerState]:
        """The argument that is no list, where the function takes it."""
        return {"trainer_state": state} if self._takes("trainer_state") else {}

    def arguments(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, Any]:
        """What the function is called with, by name: a list of N for each thing that it takes.

        All of it is the function's own, to be changed as it likes.
        """
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        columns: dict[str, list[Any]] = {
            name: [own_copy(prompt.columns.get(name)) for prompt in prompts] for name in names if self._takes(name)
        }
        if any(completion.ids for completion in completions):
            columns["completion_ids"] = [list(completion.ids) for completion in completions]
        elif "completion_ids" in self.takes:
            raise RewardError(
                f"reward function {self.name!r} takes completion_ids, and these answers have no tokens; tell the "
                "tokenizer: evaluate_baseline(tokenizer=...)"
            )
        texts = [
            completion.text if isinstance(prompt.text, str) else as_messages(completion.text)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        # Last, so that a data column of the same name does not take an argument's place.
        arguments = columns | {"prompts": [own_copy(prompt.text) for prompt in prompts], "completions": texts}
        return {name: values for name, values in arguments.items() if self._takes(name) and name != "trainer_state"}

    def _takes(self, name: str) -> bool:
        return self.takes_all or name in self.takes

    def scores(self, items: Sequence[Item]) -> Scores:
        """The scores of N samples as everybody takes them."""
        per_token: list[list[float] | None] = [item if isinstance(item, list) else None for item in items]
        values: list[float] = [
            math.nan if item is None else math.fsum(item) if isinstance(item, list) else item for item in items
        ]
        total = [0.0 if isinstance(item, list) else value for item, value in zip(items, values, strict=True)]
        return Scores(total, per_token, {self.name: values})

    def checked(self, result: Any, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Item]:
        """What the function returned, as an item for each of N samples.

        Raises:
            RewardError: it is not that.
        """
        who = f"reward function {self.name!r}"
        sample = shown(prompts[0], completions[0]) if len(completions) == 1 else ""
        if result is None:
            raise RewardError(f"{who} returned None; it must return a list of {len(completions)} scores{sample}")
        result = as_plain(result)
        if not isinstance(result, Sequence) or isinstance(result, str):
            raise RewardError(f"{who} returned {type(result).__name__}; it must return a list of scores{sample}")
        if len(result) != len(completions):
            raise RewardError(f"{who} returned {len(result)} scores for {len(completions)} completions{sample}")
        return [
            self._item(item, who, prompt, completion)
            for item, prompt, completion in zip(result, prompts, completions, strict=True)
        ]

    def _item(self, item: Any, who: str, prompt: Prompt, completion: Completion) -> Item:
        if item is None:
            return None
        if isinstance(item, Sequence) and not isinstance(item, str):
            if len(item) != len(completion.ids):
                raise RewardError(
                    f"{who} gave {len(item)} per-token scores for {len(completion.ids)} tokens"
                    f"{shown(prompt, completion)}"
                )
            return [self._number(x, who, prompt, completion) for x in item]
        return self._number(item, who, prompt, completion)

    def _number(self, x: Any, who: str, prompt: Prompt, completion: Completion) -> float:
        if not isinstance(x, int | float) or not math.isfinite(x):
            kind = RewardNotFiniteError if isinstance(x, float) else RewardError
            raise kind(f"{who} gave {x!r}, which is not a finite number, for{shown(prompt, completion)}")
        return float(x)
