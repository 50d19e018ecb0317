"""Films to be ranked for a user, from those that the user liked lately."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from kedge.rewards.library.ranking import ndcg
from kedge.tasks.files import FolderTask
from kedge.tasks.one_word import one_word
from kedge.tasks.task import Row, Split

STARS = 4.0
"""From these on a film counts as liked."""
RATINGS = 100
"""A film that is asked about has at least so many, of any stars."""
HISTORY, CANDIDATES, LISTED = 5, 20, 10
"""Films that the user liked before; films to choose from; the length of a list."""
HELD, AHEAD = 2, 5
"""Latest likes of each user, which are held out; likes in a list that is trained on, where there are as many."""


class Rating(NamedTuple):
    """One user's of one film."""

    time: int
    """Seconds since 1970."""
    user: str
    film: str
    stars: float


def listed_in(answer: str) -> list[str]:
    """The titles of the list that an answer gives: its words."""
    return answer.split()[:LISTED]


def ndcg_at_10(prompts: Sequence[Any], completions: Sequence[str], relevant: Sequence[Any]) -> list[float]:
    """NDCG@10 (Järvelin and Kekäläinen 2002), where what the user liked next is all that is relevant."""
    pairs = zip(completions, relevant, strict=True)
    return [ndcg(listed_in(text), dict.fromkeys(films, 1.0), LISTED) for text, films in pairs]


def hit_at_10(prompts: Sequence[Any], completions: Sequence[str], relevant: Sequence[Any]) -> list[float]:
    """Whether any of that is in the list."""
    pairs = zip(completions, relevant, strict=True)
    return [float(not set(films).isdisjoint(listed_in(text))) for text, films in pairs]


def hit_at_1(prompts: Sequence[Any], completions: Sequence[str], relevant: Sequence[Any]) -> list[float]:
    """Whether it is at the top."""
    pairs = zip(completions, relevant, strict=True)
    return [float(not set(films).isdisjoint(listed_in(text)[:1])) for text, films in pairs]


class Recommendation(FolderTask):
    """Films to recommend: 20 candidates ranked for a user who liked five others (MovieLens latest-small).

    Rows are users' likes (4 stars or more, of films with 100 ratings) in the order of time. The two latest likes of
    each user are held out (leave-last-out), and whatever is counted is counted without them; each is to be found among
    19 others, drawn evenly from the films that the user never rated. In rows that are trained on, the next five likes
    are among the 20.

    The demonstrations are the lists of a system that is in use, and shows what most people like: SFT comes to do as it
    does. Better lists nobody has written. The reward is NDCG@10 by what users liked next, and half of the share of the
    candidates' genres that the list has. The baseline is item-kNN (Sarwar et al. 2001), from all users' likes.

    A title is written as one word of letters (``PulpFiction``), so that a tokenizer made for these has a token for it.
    """

    name = "recommendation"
    primary_metric = "ndcg_at_10"
    needs = "the folder of MovieLens latest-small with movies.csv and ratings.csv (GroupLens: research)"
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 1500, "positions": 64}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 3.0, "batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 60, "batch_size": 256, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 11,
        "learning_rate": 1e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 20,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        for user, liked in self._likes.items():
            others = [film for film in self._genres if film not in self._rated[user]]
            if len(others) < CANDIDATES - 1:
                continue  # has seen nearly everything
            latest = len(liked) - HELD
            for place in range(HISTORY, latest) if split == "train" else range(max(HISTORY, latest), len(liked)):
                draw = random.Random(f"{user} {place}")
                coming = liked[place : min(place + AHEAD, latest)] if split == "train" else [liked[place]]
                shown = [*coming, *draw.sample(others, CANDIDATES - len(coming))]
                draw.shuffle(shown)
                yield {"liked": liked[place - HISTORY : place], "candidates": shown, "relevant": coming}

    def prompt(self, row: Row) -> str:
        return f"liked: {' '.join(row['liked'])}\nfrom: {' '.join(row['candidates'])}\n=>"

    @property
    def metrics(self) -> Any:  # type: ignore[override]
        return [ndcg_at_10, hit_at_10, hit_at_1, self.genre_coverage]

    @property
    def reward(self) -> Any:  # type: ignore[override]
        return [ndcg_at_10, {"function": self.genre_coverage, "weight": 0.5}]

    def genre_coverage(
        self, prompts: Sequence[Any], completions: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[float]:
        """Of the genres that the candidates have, the share that the list has."""
        pairs = zip(completions, candidates, strict=True)
        return [
            len(self._genres_of(set(listed_in(text)) & set(shown))) / len(self._genres_of(shown))
            for text, shown in pairs
        ]

    def demonstration(self, row: Row) -> str:
        """What most users like."""
        return self._best(row, {film: float(len(self._likers[film])) for film in row["candidates"]})

    def baseline(self, row: Row) -> str:
        """The films that have most likers in common with those five, by the cosine."""
        return self._best(row, {
            film: sum(_cosine(self._likers[film], self._likers[other]) for other in row["liked"])
            for film in row["candidates"]
        })  # fmt: skip

    def _genres_of(self, films: Iterable[str]) -> set[str]:
        return {genre for film in films for genre in self._genres[film]}

    def _best(self, row: Row, worth: Mapping[str, float]) -> str:
        return " " + " ".join(sorted(row["candidates"], key=lambda film: (-worth[film], film))[:LISTED])

    @cached_property
    def _ratings(self) -> list[Rating]:
        """The oldest first."""
        found = []
        for line, row in self.table("ratings.csv", ("userId", "movieId", "rating", "timestamp")):
            try:
                found.append(Rating(int(row["timestamp"]), row["userId"], row["movieId"], float(row["rating"])))
            except ValueError as error:
                raise self.refused("ratings.csv", line, str(error)) from None
        return sorted(found, key=lambda rating: rating.time)

    @cached_property
    def _films(self) -> dict[str, tuple[str, list[str]]]:
        """Title and genres by id."""
        counts = Counter(rating.film for rating in self._ratings)
        table = self.table("movies.csv", ("movieId", "title", "genres"))
        films = [row for _, row in table if counts[row["movieId"]] >= RATINGS]
        words = Counter(title_word(film["title"]) for film in films)
        found = {}
        for film in films:
            word = title_word(film["title"])
            title = word if words[word] == 1 else title_word(f"{word}{film['movieId']}")  # films made twice
            found[film["movieId"]] = title, film["genres"].split("|")
        return found

    @cached_property
    def _genres(self) -> dict[str, list[str]]:
        return dict(self._films.values())

    @cached_property
    def _rated(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for rating in self._ratings:
            if rating.film in self._films:
                found.setdefault(rating.user, set()).add(self._films[rating.film][0])
        return found

    @cached_property
    def _likes(self) -> dict[str, list[str]]:
        """What each user liked, the oldest first."""
        found: dict[str, list[str]] = {user: [] for user in self._rated}
        for rating in self._ratings:
            if rating.stars >= STARS and rating.film in self._films:
                found[rating.user].append(self._films[rating.film][0])
        return found

    @cached_property
    def _likers(self) -> dict[str, set[str]]:
        """Who liked a film, what is held out left aside."""
        found: dict[str, set[str]] = {film: set() for film in self._genres}
        for user, liked in self._likes.items():
            for film in liked[:-HELD]:
                found[film].add(user)
        return found


def title_word(title: str) -> str:
    """``Silence of the Lambs, The (1991)`` is ``SilenceOfTheLambs``."""
    return one_word(re.sub(r"(, (The|A|An|Les|La|Le|Il|Das|Die|Der|El))?( \(.*)?$", "", title.strip()))


def _cosine(one: set[str], other: set[str]) -> float:
    return len(one & other) / math.sqrt(len(one) * len(other)) if one and other else 0.0
