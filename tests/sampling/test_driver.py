"""Many callers of one engine: each gets what it would get alone, and none waits for ever."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import pytest
import torch
from answers import random_prompts

from kedge.errors import DataError, KedgeError, NumericsError
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling


@pytest.fixture
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture
def driver(lm):
    with Driver(Engine(lm, max_rows=3)) as driver:
        yield driver


def soon(ask):
    """What ``ask`` gives or raises; in a thread that may be left behind, should it wait for ever."""
    done = Future()

    def run():
        try:
            done.set_result(ask())
        except KedgeError as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(20)


def test_callers_in_many_threads_get_what_they_would_get_alone(lm, driver):
    sampling, prompts = Sampling(max_new_tokens=12), random_prompts()
    alone = Engine(lm).generate(prompts, sampling, seed=5)

    def ask(i):
        if i % 2:
            return "".join(driver.stream(prompts[i], sampling, seed=5, request=i))
        [completion] = driver.generate([prompts[i]], sampling, seed=5, first_request=i)
        return completion.text

    with ThreadPoolExecutor(8) as callers:
        texts = list(callers.map(ask, [i for i in range(len(prompts)) for _ in range(3)]))
    assert texts == [completion.text for completion in alone for _ in range(3)]
    assert [c.ids for c in driver.generate(prompts, sampling, seed=5)] == [c.ids for c in alone]


def test_who_leaves_makes_room(driver):
    """A stream of a thousand tokens that is broken off after one piece is written no further."""
    long = Sampling(max_new_tokens=100)
    stream = driver.stream([5, 6, 7], long)
    assert list(islice(stream, 1))
    stream.close()
    driver.generate([[5]], Sampling(max_new_tokens=2))  # another step has been done since
    assert not driver._engine._active
    assert not driver._engine._waiting


def test_weights_published_in_the_middle_of_an_answer(lm, driver):
    asked, versions = threading.Event(), []

    def ask():
        pieces = driver.stream([5, 6, 7], Sampling(max_new_tokens=100, temperature=1.5), seed=1)
        next(pieces)
        asked.set()
        versions.append("".join(pieces))

    caller = threading.Thread(target=ask)
    caller.start()
    assert asked.wait(20)
    new = {name: tensor + 0.05 for name, tensor in lm.weights().items()}
    driver.publish(new, 7)
    caller.join(20)
    assert not caller.is_alive()
    for name, tensor in lm.weights().items():  # no tensor of the engine's own: copied
        assert torch.equal(tensor, new[name]), name
    [completion] = driver.generate([[5]], Sampling(max_new_tokens=3))
    assert completion.versions == [7] * len(completion.ids)


def test_a_weight_that_does_not_fit_is_refused_and_the_others_are_left(lm, driver):
    name, tensor = next(iter(lm.weights().items()))
    before = tensor.clone()
    with pytest.raises(KedgeError, match=r"no weight 'no\.such' of shape \(2,\)"):
        driver.publish({name: tensor + 1.0, "no.such": torch.zeros(2)}, 1)
    assert torch.equal(lm.weights()[name], before)
    assert driver.generate([[5]], Sampling(max_new_tokens=2))[0].versions[0] == 0


def test_errors_reach_the_one_who_asked(driver):
    with pytest.raises(DataError, match="prompt 2: no tokens"):
        driver.generate([[5], []], Sampling())
    assert len(driver.generate([[5]], Sampling(max_new_tokens=2))) == 1


def test_broken_weights_reach_everybody_and_the_driver_lives_on(lm, driver):
    weights = {name: tensor.clone() for name, tensor in lm.weights().items()}
    driver.publish({name: tensor * torch.nan for name, tensor in weights.items()}, 1)
    with pytest.raises(NumericsError):
        soon(lambda: driver.generate([[5, i] for i in range(4)], Sampling(max_new_tokens=9)))
    driver.publish(weights, 2)
    [completion] = driver.generate([[5, 6]], Sampling(max_new_tokens=9), seed=3)
    [alone] = Engine(lm).generate([[5, 6]], Sampling(max_new_tokens=9), seed=3)
    assert completion.ids == alone.ids


def test_who_waits_when_it_is_closed_hears_of_it(lm):
    driver = Driver(Engine(lm))
    pieces = driver.stream([5, 6], Sampling(max_new_tokens=100, temperature=1.5))
    next(pieces)
    driver.close()
    with pytest.raises(KedgeError, match="closed before the answer was written"):
        soon(lambda: list(pieces))
    for ask in (lambda: driver.generate([[5]], Sampling()), lambda: driver.publish({}, 1)):
        with pytest.raises(KedgeError, match="the sampler is closed"):
            ask()
    driver.close()  # twice does no harm
    assert not driver._thread.is_alive()


def test_a_driver_with_nothing_to_do_costs_nothing(driver):
    driver.generate([[5]], Sampling(max_new_tokens=2))
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_a_text_that_cannot_be_decoded_is_its_callers_error_alone(lm, driver, monkeypatch):
    alone = Engine(lm).generate([[5, 6]], Sampling(max_new_tokens=9), seed=3)

    def broken(*_, **__):
        raise KedgeError("no such token")

    with monkeypatch.context() as patched:
        patched.setattr(lm.tokenizer, "decode", broken)
        with pytest.raises(KedgeError, match="no such token"):
            soon(lambda: list(driver.stream([5, 6], Sampling(max_new_tokens=9))))
    assert [c.ids for c in driver.generate([[5, 6]], Sampling(max_new_tokens=9), seed=3)] == [c.ids for c in alone]


def test_a_prompt_of_unknown_tokens_is_its_callers_error_alone(driver):
    pieces = driver.stream([5, 6, 7], Sampling(max_new_tokens=100, temperature=1.5), seed=1)
    next(pieces)
    for prompt in ([5, 99_999], [-1]):
        with pytest.raises(DataError, match="prompt 1: has tokens outside 0 to 319, which the model knows"):
            driver.generate([prompt], Sampling())
    assert "".join(pieces)


def test_it_computes_in_the_precision_of_who_asks(lm, driver):
    sampling = Sampling(max_new_tokens=6)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            [found] = driver.generate([[5, 6]], sampling, seed=1)
            [want] = Engine(lm).generate([[5, 6]], sampling, seed=1)
        assert (found.ids, found.logprobs) == (want.ids, pytest.approx(want.logprobs, abs=1e-6))
