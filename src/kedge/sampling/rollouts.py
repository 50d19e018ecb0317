"""Completions as tensors: what the forward passes, the estimate and the update work on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from kedge.errors import DataError, NotFiniteError
from kedge.models.batch import dealt, padded
from kedge.models.device import upload
from kedge.parallel import Processes
from kedge.sampling.completion import Completion
from kedge.sampling.sampler import Sampler
from kedge.sampling.settings import Sampling

FINISHED = ("eos", "stop", "length")


@dataclass(frozen=True)
class Rollouts:
    """Sequences ``[prompt | response | pad]``; everything a token wide lines up with the token it speaks of."""

    tokens: Tensor
    """``[B, L]`` ids."""
    lengths: Tensor
    """``[B]`` prompt + response, in tokens; on the host."""
    response_mask: Tensor
    """``[B, L]`` bool, True on the tokens the policy chose, EOS included."""
    logprobs: Tensor
    """``[B, L]`` float32 of those tokens as they were drawn; 0.0 where response_mask is False."""
    host_mask: Tensor
    """``[B, L]`` response_mask on the host, which asks the device for nothing."""
    states: Tensor | None = None
    """``[B, L, H]`` of the policy's frozen bottom, where it has one that is kept."""
    weights: Tensor | None = None
    """``[B, L]`` importance weights, where ``logprobs`` are not those of who drew; 0.0 where response_mask is False."""
    too_old: Tensor | None = None
    """``[B]`` bool on the host, True on answers of which nothing is trained on; None: there are none."""


def collate(completions: Sequence[Completion], pad_id: int, device: torch.device) -> Rollouts:
    """The completions, right-padded. Masks come from lengths, never from ids: pad may equal EOS."""
    tokens, lengths = padded([[*c.prompt_ids, *c.ids] for c in completions], pad_id)
    starts = torch.tensor([len(c.prompt_ids) for c in completions])
    column = torch.arange(tokens.shape[1])
    host_mask = (column >= starts[:, None]) & (column < lengths[:, None])
    mask = upload(host_mask, device)
    drawn = torch.tensor([x for c in completions for x in c.logprobs], dtype=torch.float32, device=device)
    logprobs = torch.zeros(mask.shape, device=device).masked_scatter(mask, drawn)
    return Rollouts(upload(tokens, device), lengths, mask, logprobs, host_mask)


def generate(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    processes: Processes,
    *,
    vocabulary: int,
    seed: int,
    first_request: int = 0,
) -> list[Completion]:
    """One completion a prompt, in order, each process having written its share.

    Args:
        sampler: who writes.
        prompts: token ids, at least one each.
        sampling: how to draw.
        processes: all of them call this together.
        vocabulary: tokens that the model knows.
        seed: of all that is drawn.
        first_request: prompt ``i`` draws from the random stream (seed, first_request + i).

    Raises:
        DataError, NumericsError: as :meth:`Sampler.generate`, in whichever process; or what it gave is not that.
    """
    with sampler.whole():
        return processes.gather(
            lambda: own_share(
                sampler, prompts, sampling, processes, vocabulary=vocabulary, seed=seed, first_request=first_request
            )
        )


def own_share(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    processes: Processes,
    *,
    vocabulary: int,
    seed: int,
    first_request: int,
) -> list[Completion]:
    """Of what :func:`generate` gives, whose arguments these are, what this process has written.

    Raises:
        DataError, NumericsError: as there.
    """
    numbers: Sequence[int] = range(first_request, first_request + len(prompts))
    if sampler.is_one:
        numbers, prompts = (numbers, prompts) if processes.leads else ((), ())
    else:
        numbers, prompts = processes.share(numbers), processes.share(prompts)
    if not prompts:
        return []
    found = sampler.generate(prompts, sampling, seed=seed, first_request=numbers[0])
    refuse_odd(found, prompts, sampling, vocabulary)
    return found


def refuse_odd(
    completions: Sequence[Completion], prompts: Sequence[Sequence[int]], sampling: Sampling, vocabulary: int
) -> None:
    """Raise where a sampler did not give one answer a prompt, in order, of tokens that the model knows, each with a
    log-probability.

    Raises:
        DataError: saying which and what. NotFiniteError: a log-probability is NaN or infinite.
    """
    if not isinstance(completions, list | tuple) or not all(isinstance(each, Completion) for each in completions):
        raise DataError("sampler: generate must give a list of kedge.sampling.Completion")
    if len(completions) != len(prompts):
        raise DataError(f"sampler: gave {len(completions)} completions for {len(prompts)} prompts")
    for number, (prompt, each) in enumerate(zip(prompts, completions, strict=True), start=1):
        if not each.ids or len(each.logprobs) != len(each.ids):
            what = f"{len(each.ids)} tokens and {len(each.logprobs)} log-probabilities"
            raise DataError(f"sampler: completion {number} has {what}; it must have one for each, and at least one")
        if len(each.ids) > sampling.max_new_tokens:
            raise DataError(
                f"sampler: completion {number} has {len(each.ids)} tokens, more than {sampling.max_new_tokens}"
            )
        if each.finish_reason not in FINISHED:
            raise DataError(
                f"sampler: completion {number} has finish_reason {each.finish_reason!r}; it must be one of "
                f"{', '.join(FINISHED)}, since only what was cut off is no finished answer"
            )
        if list(each.prompt_ids) != list(prompt):
            raise DataError(
                f"sampler: completion {number} says another prompt_ids than it was asked; answers come in the order of "
                "the prompts, with their tokens as they were given"
            )
        if strange := [
            token for token in each.ids if not (isinstance(token, Integral) and 0 <= int(token) < vocabulary)
        ]:
            raise DataError(
                f"sampler: completion {number} has token {strange[0]}, and the model knows 0 to {vocabulary - 1}; "
                "is it another model's?"
            )
        if not all(map(math.isfinite, each.logprobs)):
            raise NotFiniteError(f"sampler: completion {number} has a log-probability that is NaN or infinite")


@torch.no_grad()
def in_micro_batches(
    rollouts: Rollouts, budget: int, compute: Callable[[Tensor, Tensor, Tensor | None], Tensor], processes: Processes
) -> Tensor:
    """``compute`` over micro-batches of similar length, dealt to the processes and put together again.

    Args:
        rollouts: B sequences of width L.
        budget: tokens of a micro-batch, padding included.
        processes: each computes a share; all of them call this together.
        compute: gives ``[b, l, ...]`` for ``(tokens, host_mask, states)`` of a micro-batch trimmed to its longest
            sequence.

    Returns:
        ``[B, L, ...]``, 0.0 behind the end of each sequence.
    """
    result: Tensor | None = None
    for rows in dealt(rollouts.lengths.tolist(), budget, processes):
        some = rows or [0]
        width = int(rollouts.lengths[some].max())
        index = upload(torch.tensor(some), rollouts.tokens.device)
        tokens, states = (
            None if each is None else each.index_select(0, index)[:, :width]
            for each in (rollouts.tokens, rollouts.states)
        )
        assert tokens is not None
        computed = compute(tokens, rollouts.host_mask[some, :width], states)
        if result is None:
            result = computed.new_zeros(*rollouts.tokens.shape, *computed.shape[2:])
        if rows:
            result[:, :width].index_copy_(0, index, computed)
    assert result is not None
    processes.sum_(result)
    return result
