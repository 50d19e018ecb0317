"""A conversation: it remembers where the model has a template, forgets the oldest first, and streams."""

import pytest

from kedge.config.settings import write_recipe
from kedge.errors import DataError
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.chat import Chat, trained_sampling


def chat_with(lm, sampling, **kwargs):
    return Chat(lm, Engine(lm), sampling, **kwargs)


def prompts_of(chat, monkeypatch, lines):
    """The prompts that the model was asked with, as text."""
    asked = []
    monkeypatch.setattr(
        "kedge.sampling.local.engine.Engine.stream",
        lambda self, ids, sampling, seed: asked.append((ids, sampling, seed)) or iter("ok"),
    )
    for line in lines:
        assert "".join(chat.say(line)) == "ok"
    return [chat.lm.tokenizer.decode(ids) for ids, _, _ in asked], asked


def test_it_remembers(tiny_lm, monkeypatch):
    chat = chat_with(tiny_lm("llama"), Sampling(4), system="be kind")
    texts, asked = prompts_of(chat, monkeypatch, ["the cat", "the dog"])
    assert texts == [
        "<|system|>be kind<eos><|user|>the cat<eos><|assistant|>",
        "<|system|>be kind<eos><|user|>the cat<eos><|assistant|>ok<eos><|user|>the dog<eos><|assistant|>",
    ]
    assert [seed for _, _, seed in asked] == [0, 1]  # or every answer would draw the same numbers
    chat.restart()
    assert prompts_of(chat, monkeypatch, ["hi"])[0] == ["<|system|>be kind<eos><|user|>hi<eos><|assistant|>"]


def test_without_a_template_it_goes_on_with_the_text(tiny_lm, stories, monkeypatch):
    texts, _ = prompts_of(chat_with(stories, Sampling(4)), monkeypatch, ["Once upon", "One day"])
    assert [text.removeprefix("<s>").strip() for text in texts] == ["Once upon", "One day"]


def test_it_forgets_the_oldest_first(tiny_lm, monkeypatch):
    chat = chat_with(tiny_lm("llama"), Sampling(500))  # 128 positions
    lines = [f"the cat sat on the mat and {i}" for i in range(8)]
    texts, asked = prompts_of(chat, monkeypatch, lines)
    assert all(sampling.max_new_tokens == 64 for _, sampling, _ in asked)
    assert all(len(ids) + 64 <= 128 for ids, _, _ in asked)
    assert chat.forgotten > 0
    assert lines[0] not in texts[-1]
    assert lines[-2] in texts[-1]


def test_a_run_is_talked_to_as_it_was_trained(tmp_path):
    write_recipe(tmp_path / "recipe.toml", {"ppo": {"response_length": 9, "temperature": 0.7, "stop_strings": ["\n"]}})
    assert trained_sampling(tmp_path) == Sampling(9, 0.7, stop_strings=("\n",))
    assert trained_sampling(tmp_path / "elsewhere") == Sampling(256)
    long = {"ppo": {"response_length": 9000, "micro_batch_tokens": 10_000}}
    write_recipe(tmp_path / "recipe.toml", long)
    assert trained_sampling(tmp_path) == Sampling(9000)


def streams(monkeypatch, *pieces, error=None):
    def stream(self, ids, sampling, seed):
        yield from pieces
        if error:
            raise error

    monkeypatch.setattr("kedge.sampling.local.engine.Engine.stream", stream)


@pytest.mark.parametrize(
    ("pieces", "turns"), [(["sat ", "on"], ["user", "assistant"] * 2), ([], ["user", "assistant"])]
)
@pytest.mark.parametrize("how", ["Ctrl-C in the model", "Ctrl-C at the terminal"])
def test_an_answer_that_is_broken_off(tiny_lm, monkeypatch, pieces, turns, how):
    chat = chat_with(tiny_lm("llama"), Sampling(4))
    streams(monkeypatch, "hello")
    list(chat.say("hi"))
    if how == "Ctrl-C in the model":
        streams(monkeypatch, *pieces, error=KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            list(chat.say("the cat"))
    else:
        streams(monkeypatch, *pieces, "never shown")
        answer = chat.say("the cat")
        for _ in pieces:
            next(answer)
        answer.close()
    assert [turn["role"] for turn in chat.turns] == turns
    if pieces:
        assert chat.turns[-1]["content"] == "sat on"
    streams(monkeypatch, "fine")
    list(chat.say("and?"))  # the template takes what is remembered


def test_a_line_that_is_too_long_costs_nothing(tiny_lm, monkeypatch):
    chat = chat_with(tiny_lm("llama"), Sampling(16))
    streams(monkeypatch, "hello")
    list(chat.say("hi"))
    before = list(chat.turns)
    with pytest.raises(
        DataError, match=r"that has \d+ tokens and the model takes 112 beside an answer; say it in fewer"
    ):
        list(chat.say("the cat sat on the mat " * 40))
    assert (chat.turns, chat.forgotten) == (before, 0)
    list(chat.say("hi"))
