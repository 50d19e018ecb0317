"""Stories with given words, in a given mood, of a given length."""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

from kedge.data.records import read_prompts
from kedge.evaluation.evaluate import measure_policy
from kedge.evaluation.metrics import mean
from kedge.models.language_model import load_language_model
from kedge.rewards.library.likelihood import Likelihood
from kedge.rewards.library.sentiment import vader
from kedge.rewards.library.words import mentions, sentences_of
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.tasks.task import Row, Split, Task

WORDS = (
    "ball", "bear", "bed", "bird", "boat", "book", "box", "cake", "car", "cat", "dog", "door", "fish", "flower", "frog",
    "garden", "hat", "house", "park", "rabbit", "rain", "river", "toy", "tree",
)  # fmt: skip
MOODS: Mapping[str, int] = {"happy": 1, "sad": -1}
LENGTHS = (2, 3, 4)
"""In sentences."""
CLEAR = 0.3
"""VADER's compound score from which on a text has a mood: a clearer bound than the 0.05 of Hutto and Gilbert."""

_OPENINGS = (
    "Once upon a time", "One day", "There was a", "Tom and his", "Lily was sad", "Ben lost his", "Mia was scared",
    "The big dog", "A little bird",
)  # fmt: skip
_ENDS = re.compile(r'[.!?]"?(?=\s|$)')


class Stories(Task):
    """A story of two given words, happy or sad, and two to four sentences long: three wishes at once.

    Begins with a model that writes stories and takes no wishes. Demonstrations are its own stories, cut after some
    sentences, with the wishes that they happen to fulfil; they are nearly all happy ones. The reward is the mean of the
    share of the words, whether the mood is right and whether the length is. ``fluency`` is what the model of the
    beginning thinks of a story, nats a token: what PPO may not spoil.

    Args:
        folder: the model's.
        written: stories for the demonstrations.
        seed: of all that is drawn.
    """

    name = "stories"
    primary_metric = "all_three"
    temperature = 1.0
    needs = "the folder of a model that writes English stories, such as one trained on TinyStories (CDLA-Sharing-1.0)"
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 2.0, "batch_size": 16, "learning_rate": 5e-4, "warmup_steps": 20}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 60, "batch_size": 64, "mini_batch_size": 32, "num_ppo_epochs": 2, "response_length": 72,
        "learning_rate": 3e-5, "kl_coef": 0.02, "critic": "separate", "critic_learning_rate": 3e-4, "eval_every": 20,
    }  # fmt: skip

    def __init__(self, folder: str | Path, *, written: int = 800, seed: int = 0) -> None:
        self.folder, self.written, self.seed = Path(folder).expanduser(), written, seed

    @property
    def model(self) -> Path:  # type: ignore[override]
        return self.folder

    def rows(self, split: Split) -> Iterable[Row]:
        rng = random.Random(self.seed)
        every = [
            {"words": list(words), "mood": mood, "sentences": count}
            for words in combinations(WORDS, 2)
            for mood in MOODS
            for count in LENGTHS
        ]
        rng.shuffle(every)
        return every[:1200] if split == "train" else every[1200:]

    def prompt(self, row: Row) -> str:
        return f"Words: {', '.join(row['words'])}\nMood: {row['mood']}\nSentences: {row['sentences']}\nStory:"

    def demonstrations(self, split: Split = "train") -> list[dict[str, Any]]:
        self.refuse_unknown(split)
        return self._demonstrations if split == "train" else []

    @property
    def reward(self) -> Any:  # type: ignore[override]
        return wishes

    @property
    def metrics(self) -> Any:  # type: ignore[override]
        return self.fluency

    def fluency(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Log-probability of stories to the model of the beginning, nats a token."""
        judge = self._judge
        pairs = [(judge.context(), judge.tokens(text.strip()) or judge.context()) for text in completions]
        return [said / len(then) for said, (_, then) in zip(judge.of(pairs), pairs, strict=True)]

    def read(self, row: Row, answer: str) -> dict[str, float]:
        return granted(answer, **row)

    def measures(self, rows: Sequence[Row], said: Sequence[dict[str, float]]) -> dict[str, float]:
        return {
            "all_three": mean([float(min(parts.values()) == 1) for parts in said]),
            **{name: mean([parts[name] for parts in said]) for name in said[0]},
        }

    @cached_property
    def _judge(self) -> Likelihood:
        return Likelihood(load_language_model(self.folder))

    @cached_property
    def _demonstrations(self) -> list[dict[str, Any]]:
        lm, rng = load_language_model(self.folder), random.Random(self.seed)
        prompts = read_prompts([{"prompt": rng.choice(_OPENINGS)} for _ in range(self.written)])
        told = measure_policy(lm, Engine(lm), prompts, {}, Sampling(max_new_tokens=72), seed=self.seed)
        texts = [f"{prompt.text}{said.text}" for prompt, said in zip(prompts, told.completions, strict=True)]
        rows = [row for text in texts for row in _wishes_of(text, rng)]
        held = {self.prompt(row) for row in self.rows("eval")}
        asked = [(self.prompt(row), row["text"]) for row in rows]
        return [{"prompt": prompt, "completion": f" {text}"} for prompt, text in asked if prompt not in held]


def wishes(
    prompts: Sequence[str], completions: Sequence[str], words: Sequence[list[str]], mood: Sequence[str],
    sentences: Sequence[int],
) -> list[float]:  # fmt: skip
    """The mean of how far each wish is granted, as :func:`granted` has it."""
    each = map(granted, completions, words, mood, sentences)
    return [mean(list(parts.values())) for parts in each]


def granted(text: str, words: Sequence[str], mood: str, sentences: int) -> dict[str, float]:
    """Each wish, 0..1: the share of the words, whether the mood is clearly that one, and whether there are so many
    whole sentences, of four words or more, and nothing else."""
    told = sentences_of(text)
    whole = [each for each in told if _ENDS.search(each) and len(each.split()) >= 4]
    return {
        "words": mean([float(bool(mentions(text.lower(), word))) for word in words]),
        "mood": float(vader(text) * MOODS[mood] >= CLEAR),
        "length": float(len(whole) == len(told) == sentences),
    }


def _wishes_of(text: str, rng: random.Random) -> Iterator[Row]:
    """What a story's beginning happens to grant; nothing where it has none of the words, or no clear mood."""
    count = rng.choice(LENGTHS)
    told = sentences_of(text)[:count]
    beginning = " ".join(told)
    words = [word for word in WORDS if mentions(beginning.lower(), word)]
    moods = [mood for mood, sign in MOODS.items() if vader(beginning) * sign >= CLEAR]
    if words and moods and len(told) == count and _ENDS.search(told[-1]):
        chosen = sorted(rng.sample(words, min(2, len(words))))  # as in all wishes
        yield {"words": chosen, "mood": moods[0], "sentences": count, "text": beginning}
