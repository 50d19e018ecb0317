"""Paragraphs of made-up facts in English and Chinese, with a question each."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from kedge.tasks.task import Row

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
