"""A conversation: it remembers where the model has a template, forgets the oldest first, and streams."""

from kedge.chat import Chat, trained_sampling
from kedge.config import write_recipe
from kedge.engine.sampling import Sampling


def prompts_of(chat, monkeypatch, lines):
    """The prompts that the model was asked with, as text."""
    asked = []
    monkeypatch.setattr(
        "kedge.chat.Engine.stream", lambda self, ids, sampling, seed: asked.append((ids, sampling, seed)) or iter("ok")
    )
    for line in lines:
        assert "".join(chat.say(line)) == "ok"
    return [chat.lm.tokenizer.decode(ids) for ids, _, _ in asked], asked


def test_it_remembers(tiny_lm, monkeypatch):
    chat = Chat(tiny_lm("llama"), Sampling(4), system="be kind")
    texts, asked = prompts_of(chat, monkeypatch, ["the cat", "the dog"])
    assert texts == [
        "<|system|>be kind<eos><|user|>the cat<eos><|assistant|>",
        "<|system|>be kind<eos><|user|>the cat<eos><|assistant|>ok<eos><|user|>the dog<eos><|assistant|>",
    ]
    assert [seed for _, _, seed in asked] == [0, 1]  # or every answer would draw the same numbers
    chat.restart()
    assert prompts_of(chat, monkeypatch, ["hi"])[0] == ["<|system|>be kind<eos><|user|>hi<eos><|assistant|>"]


def test_without_a_template_it_goes_on_with_the_text(tiny_lm, stories, monkeypatch):
    texts, _ = prompts_of(Chat(stories, Sampling(4)), monkeypatch, ["Once upon", "One day"])
    assert [text.removeprefix("<s>").strip() for text in texts] == ["Once upon", "One day"]


def test_it_forgets_the_oldest_first(tiny_lm, monkeypatch):
    chat = Chat(tiny_lm("llama"), Sampling(500))  # 128 positions
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
