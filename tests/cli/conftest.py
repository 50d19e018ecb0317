"""A folder of its own for each test, and the commands in it."""

import json

import pytest

CHAT = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"}]
PREFERENCE = {"prompt": "the ", "chosen": "cat sat", "rejected": "dog ran"}


@pytest.fixture
def kedge(kedge, monkeypatch, tmp_path):
    """``kedge("ppo", "r.toml")`` in a folder of its own: ``(status, stdout, stderr)``."""
    monkeypatch.chdir(tmp_path)
    return kedge


@pytest.fixture
def world(kedge, tmp_path, tiny_lm):
    """A model, data for every stage, a reward function and a recipe, in the current folder."""
    tiny_lm("llama").save(tmp_path / "model")

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("demos.jsonl", [{"messages": CHAT}] * 8)
    write("prefs.jsonl", [PREFERENCE] * 8)
    write("prompts.jsonl", [{"prompt": f"the cat {i}", "answer": str(i)} for i in range(12)])
    (tmp_path / "rewards.py").write_text(
        "nan = float('nan')\n"
        "def ends(prompts, completions, answer, **_): return [float(len(c)) / 9 for c in completions]\n"
        "def too_few(prompts, completions): return [1.0]\n"
        "def picky(completions, colour): return [1.0] * len(completions)\n"
        "def nothing(prompts, completions): return [None] * len(prompts)\n"
        "def bad(prompts, completions): return [nan] * len(prompts)\n"
        "def hangs(prompts, completions): __import__('time').sleep(999)\n"
        "def leaves(prompts, completions): __import__('os')._exit(1)\n"
    )
    (tmp_path / "r.toml").write_text(
        '[sft]\nmodel = "model"\ndata = "demos.jsonl"\neval_size = 2\nbatch_size = 2\n'
        '[reward]\nmodel = "model"\ndata = "prefs.jsonl"\neval_size = 2\nbatch_size = 2\n'
        '[ppo]\npolicy = "model"\nprompts = "prompts.jsonl"\neval_size = 4\nreward = "rewards:ends"\n'
        "steps = 2\nbatch_size = 4\nmini_batch_size = 2\nresponse_length = 6\nmicro_batch_tokens = 256\n"
        '[evaluate]\npolicy = "runs/r-ppo"\nbaseline = "model"\nprompts = "prompts.jsonl"\nmetrics = ["rewards:ends"]\n'
        "response_length = 6\n"
    )
    return tmp_path


@pytest.fixture(autouse=True)
def forget_rewards():
    """Each test has a ``rewards.py`` of its own."""
    import sys

    sys.modules.pop("rewards", None)
    yield
    sys.modules.pop("rewards", None)
