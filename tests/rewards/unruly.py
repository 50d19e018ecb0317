"""Reward functions for worker processes, most of them with a bad day. Imports no torch: workers start at once."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time


def by_sample(prompts, completions, completion_ids, level, **columns):
    """A number, one a token, or None, from everything that a function gets."""
    scores = []
    samples = zip(prompts, completions, completion_ids, level, columns["answer"], strict=True)
    for prompt, completion, ids, one, word in samples:
        chat = not isinstance(prompt, str)
        ask, answer = (prompt[-1]["content"], completion[0]["content"]) if chat else (prompt, completion)
        score = len(ask) + 10.0 * len(answer) + 100 * (one or 0) + 1000 * len(word or "")
        scores.append({"none": None, "tokens": [float(i) for i in ids]}.get(answer, score))
    return scores


class Riddle:
    """Can be packed, and not unpacked."""

    def __reduce__(self):
        return getattr, ("a string", "no_such_thing")


def misbehaves(prompts, completions):
    """Two points for a good answer; a bad one says what is to happen."""
    [answer] = completions
    deeds = {
        "sleep": lambda: time.sleep(1000),
        "regex": lambda: re.match(
            r"(a+)+$", "a" * 50 + "b"
        ),  # holds the interpreter: no thread runs, no signal is handled
        "raise": lambda: [][1],
        "leave": lambda: sys.exit("tired"),
        "exit": lambda: os._exit(3),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "nan": lambda: [float("nan")],
        "two": lambda: [1.0, 2.0],
        "nothing": lambda: None,
        "lambda": lambda: [lambda: 1.0],  # cannot travel
        "riddle": lambda: [Riddle()],
        "helper": lambda: subprocess.run(["sleep", "1000"], check=False),
    }
    return deeds.get(answer, lambda: [2.0])()


def process_id(prompts, completions):
    """Which worker it was."""
    return [os.getpid()] * len(prompts)


def loaded_modules(prompts, completions):
    """Whether the worker has imported torch."""
    return [float("torch" in sys.modules)] * len(prompts)


class Judge:
    """A function with a state."""

    def __init__(self, points):
        self.points = points

    def __call__(self, prompts, completions):
        return [self.points] * len(prompts)


def naps(prompts, completions):
    """As long as the answer says, in seconds; which is the score."""
    time.sleep(float(completions[0]))
    return [float(completions[0])]


async def ponders(completions, trainer_state):
    """Awaited in the worker, which knows how far the training is."""
    await asyncio.sleep(0 if completions != ["sleep"] else 1000)
    return [float(len(completions[0]) + 10 * trainer_state.global_step)]
