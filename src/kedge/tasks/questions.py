"""Questions about a paragraph of facts, in English and Chinese; some have no answer."""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from kedge.data.records import Text
from kedge.evaluation.metrics import mean
from kedge.rewards.library.words import mentions, normalised, words_of
from kedge.tasks.task import Row, Split, Task

Relation = Literal["lives", "has", "moved"]


class Language(NamedTuple):
    """What paragraphs are made of."""

    people: Sequence[str]
    places: Sequence[str]
    things: Sequence[str]
    says: Mapping[Relation, str]
    asks: Mapping[str, str]
    """About a person's place or thing, and for the person."""
    unknown: str
    """What is answered where the paragraph does not say."""


LANGUAGES: Mapping[str, Language] = {
    "en": Language(
        ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry"),
        ("Rome", "Paris", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Boston"),
        ("a cat", "a dog", "a horse", "a bike", "a boat", "a piano", "a radio", "a kite"),
        {"lives": "{} lives in {}.", "has": "{} has {}.", "moved": "{} moved to {}."},
        {
            "lives": "Where does {} live?", "has": "What does {} have?",
            "who lives": "Who lives in {}?", "who has": "Who has {}?",
        },
        "no answer",
    ),
    "zh": Language(
        ("小明", "小红", "小丽", "阿强", "阿珍", "阿伟", "老王", "老李"),
        ("北京", "上海", "广州", "南京", "杭州", "成都", "武汉", "西安"),
        ("一只猫", "一条狗", "一匹马", "一辆车", "一条船", "一架钢琴", "一本书", "一把伞"),
        {"lives": "{} 住在 {} 。", "has": "{} 有 {} 。", "moved": "{} 搬到了 {} 。"},
        {"lives": "{} 住在 哪里 ？", "has": "{} 有 什么 ？", "who lives": "谁 住在 {} ？", "who has": "谁 有 {} ？"},
        "没有答案",
    ),
}  # fmt: skip


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
    trained on. Half of the rows are demonstrated; the reward is exact match and token F1 (SQuAD, Rajpurkar et al.
    2016). The baseline is a sliding window (Richardson et al. 2013) over the names in the text.
    """

    name = "questions"
    reward = ({"kind": "match"}, f1)
    metrics = ()
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 500, "positions": 128}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 8.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 120, "batch_size": 128, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 12,
        "learning_rate": 5e-4, "kl_coef": 0.0,
    }  # fmt: skip

    demonstrated: ClassVar[int] = 2000
    """Rows with an answer to learn from."""
    sizes: ClassVar[Mapping[Split, int]] = {"train": 4000, "eval": 1000}

    def rows(self, split: Split) -> Iterable[Row]:
        seen = set()
        for row in made_up():
            asked = str(self.prompt(row))
            if asked not in seen and (int(hashlib.sha256(asked.encode()).hexdigest(), 16) % 5 == 0) == (
                split == "eval"
            ):
                seen.add(asked)
                yield {**row, "shown": split == "train" and len(seen) <= self.demonstrated}
            if len(seen) == self.sizes[split]:
                return

    def prompt(self, row: Row) -> Text:
        return f" {row['text']}\n {row['question']}\n=>"

    def demonstration(self, row: Row) -> str | None:
        return f" {row['answer']}" if row["shown"] else None

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


def made_up() -> Iterator[Row]:
    """Paragraphs with a question each, without end; always the same ones."""
    rng = random.Random(0)
    while True:
        language = rng.choice([*LANGUAGES])
        world = LANGUAGES[language]
        true = _facts(world, rng)
        told = rng.sample(list(true), rng.choice((3, 4)))
        sentences = [world.says[kind].format(world.people[person], true[person, kind]) for person, kind in told]
        settled = [each for each in told if each[1] == "lives"]
        if settled and rng.random() < 0.4:
            mover = rng.choice(settled)
            true[mover] = rng.choice([place for place in world.places if place not in true.values()])
            sentences.append(world.says["moved"].format(world.people[mover[0]], true[mover]))
        known = rng.random() < 0.85
        person, kind = rng.choice(told if known else [each for each in true if each not in told])
        name, value = world.people[person], true[person, kind]
        if rng.random() < 0.6:
            question, answer = world.asks[kind].format(name), value
        else:
            question, answer = world.asks[f"who {kind}"].format(value), name
        yield {
            "language": language, "text": " ".join(sentences), "question": question,
            "answer": answer if known else world.unknown, "known": known,
        }  # fmt: skip


def _facts(world: Language, rng: random.Random) -> dict[tuple[int, Relation], str]:
    """Where three people live and what they have, all of it different."""
    people = rng.sample(range(len(world.people)), 3)
    homes, things = rng.sample(world.places, 3), rng.sample(world.things, 3)
    lives: dict[tuple[int, Relation], str] = {(who, "lives"): home for who, home in zip(people, homes, strict=True)}
    return lives | {(who, "has"): thing for who, thing in zip(people, things, strict=True)}
