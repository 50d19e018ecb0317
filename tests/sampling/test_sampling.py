"""Draws: their distribution, their log-probabilities, and one random stream a request."""

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from kedge.errors import ConfigError, NotFiniteError
from kedge.sampling import settings as settings_module
from kedge.sampling.settings import Sampling, random_stream, refuse_broken_logits

N = 20_000
GRID = (torch.arange(N, dtype=torch.float64) + 0.5) / N  # evenly spread "random" numbers: frequencies are exact
LOGITS = torch.tensor([0.5, -1.0, 3.0, -torch.inf, 2.9, -4.0, 0.0, -torch.inf])
SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.7, "top_k": 5, "top_p": 0.9, "min_p": 0.05},
]


def warped(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution as transformers makes it."""
    warpers = LogitsProcessorList()
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    return warpers(None, logits / temperature).double().softmax(-1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_frequencies_and_logprobs(settings):
    tokens, logprobs = Sampling(**settings).draw(LOGITS.expand(N, -1), GRID)
    probabilities = warped(LOGITS[None], **settings)[0]
    share = torch.bincount(tokens, minlength=8).double() / N
    assert share.tolist() == pytest.approx(probabilities.tolist(), abs=2 / N)
    assert logprobs.dtype == torch.float32
    assert logprobs.tolist() == pytest.approx(probabilities[tokens].log().tolist(), abs=1e-5)


def test_one_stop_string_is_not_its_letters():
    assert Sampling(stop_strings="\n\n") == Sampling(stop_strings=("\n\n",))


def test_literal_truncation():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(4, -1)
    u = torch.tensor([0.0, 0.5, 0.6, 0.999], dtype=torch.float64)
    for settings, tokens, top in (
        ({}, [0, 1, 1, 3], 0.4),
        ({"top_k": 2}, [0, 0, 1, 1], 4 / 7),
        ({"top_p": 0.65}, [0, 0, 1, 1], 4 / 7),
        ({"min_p": 0.45}, [0, 1, 1, 2], 4 / 9),
        ({"top_k": 1}, [0, 0, 0, 0], 1.0),
        ({"top_k": 99}, [0, 1, 1, 3], 0.4),
    ):
        drawn, logprobs = Sampling(**settings).draw(logits, u)
        assert drawn.tolist() == tokens, settings
        assert logprobs[0].exp().item() == pytest.approx(top, abs=1e-6)


@pytest.fixture
def ordered(monkeypatch):
    """How many rows were put in order, and how many tokens of each."""
    found = []
    original = settings_module._of_likeliest
    monkeypatch.setattr(
        settings_module, "_of_likeliest", lambda x, p, n: found.append((len(x), n)) or original(x, p, n)
    )
    return found


@pytest.mark.parametrize(("top_p", "flat"), [(0.1, 0), (0.5, 2), (0.9, 3), (0.999, 4), (0.9999999, 4)])
def test_the_smallest_set_that_reaches_a_share(ordered, top_p, flat):
    """Of peaked rows and flat ones together; only the flat ones are put in order as a whole."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 5000, generator=generator, dtype=torch.float64)
    logits *= torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0, 30.0])[:, None]
    kept = settings_module._nucleus(logits, top_p)
    for row, found in zip(logits.tolist(), kept.tolist(), strict=True):
        order = sorted(range(5000), key=lambda i: -row[i])
        masses = [math.exp(row[i] - row[order[0]]) for i in order]
        ends = list(itertools.accumulate(masses))
        count = next((n for n, end in enumerate(ends, start=1) if end >= top_p * ends[-1]), 5000)
        assert abs(sum(x > -math.inf for x in found) - count) <= (row == [row[0]] * 5000)  # equal ones add up roughly
        assert all(x in (-math.inf, y) for x, y in zip(found, row, strict=True))
        assert min(x for x in found if x > -math.inf) >= row[order[count - 1]]
    assert ordered[0] == (6, 1024)
    assert ordered[1:] == ([(flat, 5000)] if flat else [])


def test_no_row_is_put_in_order_as_a_whole_for_nothing(ordered):
    peaked = -1.5 * torch.arange(1, 20_001).log().expand(3, -1)
    Sampling(top_p=0.9).draw(peaked, torch.rand(3, dtype=torch.float64))
    assert ordered == [(3, 1024)]
    Sampling(top_p=0.9).draw(peaked[:, :4000], torch.rand(3, dtype=torch.float64))
    assert ordered[1:] == [(3, 4000)]


def test_logits_that_are_broken_stay_so_under_truncation():
    logits = torch.zeros(2, 5000)
    logits[1, 7] = torch.nan
    _, logprobs = Sampling(top_p=0.9).draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert logprobs.isfinite().tolist() == [True, False]


@pytest.mark.parametrize("top_p", [1e-300, 1e-46, 1e-30])
def test_the_likeliest_is_kept_however_little_is_asked(top_p):
    logits = torch.zeros(2, 50)
    logits[:, 7] = 1.0
    tokens, logprobs = Sampling(top_p=top_p).draw(logits, torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert (tokens.tolist(), logprobs.tolist()) == ([7, 7], [0.0, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_a_token_without_probability_is_never_drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2000, 50, generator=generator) * 30  # some underflow to 0
    forbidden = torch.rand(2000, 50, generator=generator) < 0.5
    forbidden[:, 7] = False
    logits[forbidden] = -torch.inf
    for u in (0.0, 2.0**-53, 1 - 2.0**-53):
        tokens, logprobs = Sampling().draw(logits, torch.full((2000,), u, dtype=torch.float64))
        assert not forbidden.gather(1, tokens[:, None]).any()
        assert logprobs.isfinite().all()


def test_large_vocabulary_reaches_its_ends():
    logits = torch.zeros(2, 200_000)
    tokens, _ = Sampling().draw(logits, torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    assert tokens.tolist() == [0, 199_999]


def test_greedy_takes_the_likeliest_and_has_no_choice():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 2.0]])
    tokens, logprobs = Sampling(temperature=0).draw(logits, torch.tensor([0.99, 0.99], dtype=torch.float64))
    assert (tokens.tolist(), logprobs.tolist()) == ([1, 0], [0, 0])


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_greedy_refuses_what_it_would_ignore(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}: not used with temperature=0"):
        Sampling(temperature=0, **settings)


def test_random_streams():
    stream = random_stream(3, 5, 64)
    assert stream.dtype == torch.float64
    assert torch.equal(random_stream(3, 5, 64), stream)
    assert torch.equal(random_stream(3, 5, 7), stream[:7])
    seeds = {tuple(random_stream(s, r, 2).tolist()) for s in range(30) for r in range(30)}
    assert len(seeds) == 900


@pytest.mark.parametrize("by", ["request", "seed", "time"])
def test_random_streams_are_uniform_and_independent(by):
    u = {
        "request": lambda: torch.stack([random_stream(0, i, 2) for i in range(4000)]),
        "seed": lambda: torch.stack([random_stream(i, 0, 2) for i in range(4000)]),
        "time": lambda: random_stream(0, 0, 8000).reshape(4000, 2),
    }[by]()
    assert ((u >= 0) & (u < 1)).all()
    for column in u.T:
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by chance once in a thousand times.
        even = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        assert (column.sort().values - even).abs().max() < 1.95 / 4000**0.5
        assert abs(torch.corrcoef(torch.stack([column[:-1], column[1:]]))[0, 1]) < 0.06
    assert abs(torch.corrcoef(u.T)[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("max_new_tokens", 0, "at least 1"),
        ("temperature", -0.1, "greedy"),
        ("top_k", -1, "0"),
        ("top_p", 0.0, r"\(0, 1\]"),
        ("top_p", 1.1, r"\(0, 1\]"),
        ("min_p", 1.0, r"\[0, 1\)"),
        ("stop_strings", ("a", ""), "texts that are not empty"),
        ("temperature", float("nan"), "greedy"),
        ("top_logprobs", 2.5, "a whole number, not 2.5"),
        ("max_new_tokens", "9", "a whole number, not '9'"),
        ("temperature", None, "a number, not None"),
        ("stop_strings", [1], "texts that are not empty"),
        ("top_k", True, "a whole number, not True"),
        ("temperature", 1e-40, "1e-6 or more"),
    ],
)
def test_settings_out_of_range(name, value, wanted):
    with pytest.raises(ConfigError, match=f"{name}: must be .*{wanted}"):
        Sampling(**{name: value})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [*SETTINGS, {"temperature": 0.0}], ids=str)
def test_nan_logits_are_an_error_with_a_name(settings, bad):
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 2.0, bad]])
    _, logprobs = Sampling(**settings).draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    with pytest.raises(NotFiniteError, match=r"logits: NaN or infinite in 1 of 2 answers, .* first after number 1;"):
        refuse_broken_logits(logprobs, lambda row: f"number {row}")
    refuse_broken_logits(logprobs[:1], str)


def test_numbers_of_numpy_are_pythons_own():
    made = Sampling(np.int64(4), np.float32(0.5), np.int32(5))
    assert [type(x) for x in (made.max_new_tokens, made.temperature, made.top_k)] == [int, float, int]
    assert torch.equal(random_stream(np.int64(3), np.int64(2**40), 4), random_stream(3, 2**40, 4))
    assert Sampling(stop_strings=None) == Sampling()


def test_stop_strings_are_a_tuple_of_texts_however_they_are_given():
    assert Sampling(stop_strings="ab") == Sampling(stop_strings=["ab"]) == Sampling(stop_strings=("ab",))
