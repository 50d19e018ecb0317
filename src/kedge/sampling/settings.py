"""From logits to a token: temperature, truncation, and one random number a row."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper

from kedge.errors import ConfigError, NotFiniteError

BLOCK = 1024
"""Tokens of a vocabulary that are summed up one after another."""

LOW = 2**24 - 1

LIKELIEST = 1024
"""So many tokens are put in order first, where ``top_p`` asks which of the likeliest make it up."""

NUMBERS: dict[str, type] = {
    "max_new_tokens": int, "top_k": int, "top_logprobs": int, "temperature": float, "top_p": float, "min_p": float,
    "presence_penalty": float, "frequency_penalty": float,
}  # fmt: skip

COLDEST = 1e-6
"""Below it logits that are divided by the temperature are no longer finite."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    """Logits are divided by it; 0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches this; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the likeliest; 0 keeps all."""
    stop_strings: tuple[str, ...] = ()
    """An answer ends where one of these appears; its text is cut before it."""
    top_logprobs: int = 0
    """At each place, report so many of the likeliest tokens with their log-probabilities."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the answer has already."""
    frequency_penalty: float = 0.0
    """The same, as often as it has it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """``(token, added to its logit)``, each token once."""
    json_schema: str | None = None
    """The answer is JSON that this schema takes, unless it is cut off; written as JSON itself."""

    def __post_init__(self) -> None:
        stops = self.stop_strings
        object.__setattr__(self, "stop_strings", (stops,) if isinstance(stops, str) else tuple(stops or ()))
        for name, kind in NUMBERS.items():  # NumPy's too, as Python's own
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, Integral if kind is int else Real):
                raise ConfigError(f"{name}: must be a {'whole ' if kind is int else ''}number, not {given!r}")
            object.__setattr__(self, name, kind(given))
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature == 0 or self.temperature >= COLDEST, "0 (greedy), or 1e-6 or more"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "min_p": (0 <= self.min_p < 1, "in [0, 1)"),
            "stop_strings": (all(isinstance(s, str) and s for s in self.stop_strings), "texts that are not empty"),
            "top_logprobs": (self.top_logprobs >= 0, "0 (none) or more"),
            "presence_penalty": (math.isfinite(self.presence_penalty), "a finite number"),
            "frequency_penalty": (math.isfinite(self.frequency_penalty), "a finite number"),
            "logit_bias": (all(math.isfinite(bias) for _, bias in self.logit_bias), "finite numbers"),
        }
        for name, (fine, wanted) in checks.items():
            if not fine:
                raise ConfigError(f"{name}: must be {wanted}, not {getattr(self, name)!r}")
        if self.temperature == 0:
            for name, off in {"top_k": 0, "top_p": 1.0, "min_p": 0.0}.items():
                if getattr(self, name) != off:
                    raise ConfigError(f"{name}: not used with temperature=0, which is greedy; take one of them out")

    @property
    def is_whole(self) -> bool:
        """Whether tokens are drawn from the model's own distribution: nothing truncated or added, and not greedy."""
        truncated = self.top_k or self.top_p < 1 or self.min_p > 0
        return self.temperature > 0 and not truncated and not self.is_biased

    @property
    def is_biased(self) -> bool:
        """Whether logits are changed before anything is drawn."""
        changed = self.presence_penalty or self.frequency_penalty or self.logit_bias
        return bool(changed) or self.json_schema is not None

    @property
    def distribution(self) -> tuple[float, ...]:
        """What makes the distribution of a token; two samplings that share it draw alike."""
        return self.temperature, self.top_k, self.top_p, self.min_p

    def draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one token a row.

        Args:
            logits: ``[B, V]`` of the next token.
            uniform: ``[B]`` the only randomness: float64 in [0, 1) on the host, or what :func:`fixed_point` made of it,
                where ``logits`` are.

        Returns:
            ``(tokens [B], logprobs [B] float32)``, the log-probabilities under the very distribution drawn from: after
            temperature and truncation; 0 for greedy, which has no choice. Logits that are NaN or infinite give
            log-probabilities that are not finite: see :func:`refuse_broken_logits`.
        """
        if self.temperature == 0:
            return self._greedy(logits)
        numbers = fixed_point(uniform).to(logits.device) if uniform.is_floating_point() else uniform
        return self._sampled(logits, numbers)

    def likeliest(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The likeliest tokens a row, under the distribution drawn from; where that is greedy, at temperature 1.

        Args:
            logits: ``[B, V]`` of the next token.
            count: how many; the vocabulary's at most.

        Returns:
            ``(tokens [B, count], logprobs [B, count] float32)``, the likeliest first; minus infinity for those that
            truncation leaves out.
        """
        scaled = logits.float() if self.temperature == 0 else self._truncated(logits.float() / self.temperature)
        logprobs, tokens = scaled.log_softmax(-1).topk(min(count, logits.shape[-1]))
        return tokens, logprobs

    def _greedy(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        top, tokens = logits.max(-1)
        return tokens, (top - top).float()  # 0, or NaN where the likeliest is not finite

    def _sampled(self, logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._truncated(logits.float() / self.temperature)
        kept = kept - kept.amax(-1, keepdim=True)
        masses = kept.exp()
        tokens = _inverse_cdf(masses, numbers)
        logprobs = kept.gather(-1, tokens) - masses.sum(-1, keepdim=True).log()
        return tokens.squeeze(-1), logprobs.squeeze(-1)

    def _truncated(self, scaled: Tensor) -> Tensor:
        if self.top_k:
            scaled = TopKLogitsWarper(self.top_k)(None, scaled)
        if self.top_p < 1:
            scaled = _nucleus(scaled, self.top_p)
        if self.min_p > 0:
            scaled = MinPLogitsWarper(self.min_p)(None, scaled)  # type: ignore[arg-type]
        return scaled


def fixed_point(uniform: Tensor) -> Tensor:
    """Random numbers as a device draws with them, which may have no float64.

    Args:
        uniform: ``[...]`` float64 in [0, 1).

    Returns:
        ``[...]`` int64 in [0, 2^48): the numbers' first 48 bits.
    """
    return (uniform * 2.0**48).long()


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits ``[B, V]`` without those outside the smallest set of likeliest tokens whose probability reaches
    ``top_p``, which are minus infinity.

    Nearly always a few hundred tokens make it up, and putting those in order takes a fraction of the time that the
    whole vocabulary takes; only the rows for which they do not suffice are put in order as a whole. An accelerator is
    asked about that, once a token.
    """
    size = logits.shape[-1]
    if size <= 4 * LIKELIEST:  # there the whole is in order as soon
        return _of_likeliest(logits, top_p, size)[0]
    kept, suffices = _of_likeliest(logits, top_p, LIKELIEST)
    if not suffices.all():
        rows = (~suffices).nonzero().flatten()
        kept = kept.index_copy(0, rows, _of_likeliest(logits.index_select(0, rows), top_p, size)[0])
    return kept


def _of_likeliest(logits: Tensor, top_p: float, count: int) -> tuple[Tensor, Tensor]:
    """Those kept of the ``count`` likeliest, and whether those suffice, ``[B]`` bool."""
    top, tokens = logits.topk(count)
    most = top[:, :1]
    whole = (logits - most).exp().sum(-1, keepdim=True)
    need = (top_p * whole).clamp(min=torch.finfo(whole.dtype).tiny)  # the likeliest is kept however little is asked
    masses = (top - most).exp()
    reached = masses.cumsum(-1)
    kept = top.masked_fill(reached - masses >= need, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, tokens, kept), (reached[:, -1:] >= need).squeeze(-1)


def _inverse_cdf(masses: Tensor, numbers: Tensor) -> Tensor:
    """The token in whose share of the whole a number falls: ``[B, 1]``.

    In two steps where the vocabulary is large: first a block, by sums in whole numbers, which add up exactly where the
    float32 sum of 100,000 probabilities no longer ends at their total; then a token of the block.

    Args:
        masses: ``[B, V]`` float32 in proportion to the probabilities, the largest of each row 1.
        numbers: ``[B]`` int64 in [0, 2^48).
    """
    size = masses.shape[-1]
    if size <= BLOCK:
        return _within(masses, numbers[:, None] * 2.0**-48)
    whole = size - size % BLOCK
    sums = masses[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1)
    if whole < size:
        sums = torch.cat([sums, masses[:, whole:].sum(-1, keepdim=True)], -1)
    parts = (sums * 2.0 ** (37 - sums.shape[-1].bit_length())).round().long()  # all of them add up to less than 2^48
    ends = parts.cumsum(-1)
    number = _share(numbers, ends[:, -1])[:, None]
    # NaN leads anywhere, and an index out of range costs a GPU process its device.
    block = torch.searchsorted(ends, number, right=True).clamp(max=ends.shape[-1] - 1)
    inside = (number - (ends - parts).gather(-1, block)) / parts.gather(-1, block)
    tokens = block * BLOCK + torch.arange(BLOCK, device=masses.device)
    chosen = masses.gather(-1, tokens.clamp(max=size - 1)).masked_fill(tokens >= size, 0.0)
    return (block * BLOCK + _within(chosen, inside)).clamp(max=size - 1)


def _within(masses: Tensor, shares: Tensor) -> Tensor:
    """``[B, 1]``: where ``masses [B, n]``, n at most BLOCK, have come to ``shares [B, 1]`` in [0, 1] of their sum."""
    ends = masses.cumsum(-1)
    number = shares.clamp(max=1 - 2.0**-24) * ends[:, -1:]
    return torch.searchsorted(ends, number, right=True).clamp(max=masses.shape[-1] - 1)


def _share(numbers: Tensor, totals: Tensor) -> Tensor:
    """``numbers * totals / 2^48``, rounded down; both int64 below 2^48, whose product would not fit."""
    high, low = numbers >> 24, numbers & LOW
    upper, lower = totals >> 24, totals & LOW
    return high * upper + ((high * lower + low * upper + ((low * lower) >> 24)) >> 24)


def refuse_broken_logits(logprobs: Tensor, name: Callable[[int], str]) -> None:
    """Raise where a draw was made from logits that were NaN or infinite.

    Args:
        logprobs: ``[..., N]`` of the tokens drawn for N requests.
        name: what to call one of them.

    Raises:
        NotFiniteError: naming the first of those requests, and what may be the cause.
    """
    if logprobs.isfinite().all():
        return
    broken = (~logprobs.isfinite()).reshape(-1, logprobs.shape[-1]).any(0).nonzero().flatten().tolist()
    raise NotFiniteError(
        f"logits: NaN or infinite in {len(broken)} of {logprobs.shape[-1]} answers, so no token can be drawn, first "
        f"after {name(broken[0])}; the model's weights are damaged or too large for their dtype: go back to an earlier "
        "checkpoint, lower the learning rate, or load with dtype='float32'"
    )


def random_stream(seed: int, request: int, length: int) -> Tensor:
    """``[length]`` float64 in [0, 1): the random numbers of one request, whoever shares its batch.

    A function of (seed, request) alone, so a resumed run draws what the uninterrupted one drew.
    """
    seed, request = int(seed), int(request)  # of NumPy's they would run over
    mixed = (seed * 0x9E3779B97F4A7C15 + request * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
    return torch.rand(length, dtype=torch.float64, generator=torch.Generator().manual_seed(mixed))
