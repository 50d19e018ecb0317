"""Questions about a paragraph of facts, in English and Chinese; some have no answer."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from kedge.data.records import Text
from kedge.evaluation.metrics import mean
from kedge.rewards.library.words import mentions, normalised, words_of
from kedge.tasks.paragraphs import LANGUAGES, made_up
from kedge.tasks.task import Row, Split, Task, held_out


def token_f1(answer: str, right: str) -> float:
    """F1 of the words that both have, normalised (SQuAD, Rajpurkar et al. 2016); of Chinese, of the characters."""
    said, expected = (words_of(normalised(text)) for text in (answer, right))
    common = (Counter(said) & Counter(expected)).total()
    return 2 * common / (len(said) + len(expected)) if common else 0.0


def f1(
    prompts: Sequence[Text], completions: Sequence[str], answer: Sequence[str | Sequence[str]], **_: Any
) -> list[float]:
    """With the nearest of the right answers."""
    several = ([right] if isinstance(right, str) else right for right in answer)
    return [max(token_f1(text, each) for each in right) for text, right in zip(completions, several, strict=True)]


def sliding_window(text: str, question: str, options: Sequence[str]) -> str:
    """The option that stands nearest to the question's words (Richardson et al. 2013).

    The window has as many words as the question and the option have different ones. Words in it that one of them has
    count log(1 + 1 / how often the text has the word).
    """
    words = words_of(normalised(text))
    count = Counter(words)
    asked = set(words_of(normalised(question)))

    def best(option: str) -> float:
        wanted = asked | set(words_of(normalised(option)))
        worth = [math.log(1 + 1 / count[word]) if word in wanted else 0.0 for word in words]
        return max(sum(worth[start : start + len(wanted)]) for start in range(len(words)))

    return max(options, key=best)


class Questions(Task):
    """Answer a question about three to five sentences of who lives or moved where and has what, if they say it.

    Rows are made up, half of them English and half Chinese with spaces between the words. Who has what is drawn anew
    for every paragraph, so that nothing can be known by heart, and held-out paragraphs are others than those that are
    trained on. Most rows are demonstrated; the reward is exact match and token F1 (SQuAD, Rajpurkar et al.
    2016). The baseline is a sliding window (Richardson et al. 2013) over the names in the text.
    """

    name = "questions"
    primary_metric = "match"
    reward = ({"kind": "match"}, f1)
    metrics = ({"kind": "match"}, f1)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 450, "hidden": 64, "positions": 128}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 4.0, "batch_size": 64, "learning_rate": 5e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 40, "batch_size": 256, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 12,
        "learning_rate": 2e-4, "lam": 1.0, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3,
        "eval_every": 20,
    }  # fmt: skip

    demonstrated: ClassVar[int] = 16_000
    """Rows with an answer to learn from."""
    sizes: ClassVar[Mapping[Split, int]] = {"train": 20_000, "eval": 1000}

    def rows(self, split: Split) -> Iterable[Row]:
        seen = set()
        for row in made_up():
            asked = str(self.prompt(row))
            facts = " ".join(sorted(str(row["text"]).split()))  # in whatever order they are told
            if asked not in seen and held_out(facts) == (split == "eval"):
                seen.add(asked)
                yield {**row, "shown": split == "train" and len(seen) <= self.demonstrated}
            if len(seen) == self.sizes[split]:
                return

    def prompt(self, row: Row) -> Text:
        return f" {row['text']}\n {row['question']}\n=>"

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def demonstration(self, row: Row) -> str:
        return f" {row['answer']}"

    def measures(self, rows: Sequence[Row], said: Sequence[str]) -> dict[str, float]:
        """Exact match where there is an answer, and where there is none."""
        right = [
            (row["known"], normalised(text) == normalised(row["answer"])) for row, text in zip(rows, said, strict=True)
        ]
        return {
            "answered": mean([float(same) for known, same in right if known]),
            "no_answer": mean([float(same) for known, same in right if not known]),
        }

    def baseline(self, row: Row) -> str:
        world = LANGUAGES[row["language"]]
        text = normalised(row["text"])
        options = [name for name in (*world.people, *world.places, *world.things) if mentions(text, normalised(name))]
        new = [name for name in options if not mentions(normalised(row["question"]), normalised(name))]
        return " " + sliding_window(row["text"], row["question"], new)
