"""Films to recommend: rows as MovieLens is published, lists and what they are worth."""

import math
import re

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks import recommendation
from kedge.tasks.recommendation import Recommendation, ndcg_at_10, title_word

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZÀÉÎÖÙÑÇØ"


@pytest.fixture
def task(tmp_path, monkeypatch):
    """34 films. Ada liked A to J, one after the other, and Bob B to F; each film is rated twice at least."""
    monkeypatch.setattr(recommendation, "RATINGS", 2)
    films = "".join(f'{i},"Film {letter}, The (199{i % 10})",Drama|{letter}\n' for i, letter in enumerate(LETTERS))
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n" + films + "99,Rated Once (1999),Drama\n")
    ratings = [(user, i, 2.0, 1) for user in (3, 4) for i in range(len(LETTERS))]
    ratings += [(1, i, 4.5, 100 - i) for i in reversed(range(10))] + [(2, i, 4.0, 1 + i) for i in range(1, 6)]
    ratings += [(1, 99, 5.0, 7)]
    lines = "".join(f"{user},{film},{stars},{time}\n" for user, film, stars, time in ratings)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    return Recommendation(tmp_path)


def film(*letters):
    return [f"Film{letter}" for letter in letters]


def test_rows_are_likes_in_time_and_the_latest_are_held_out(task):
    train, held = task.all_rows("train"), task.all_rows("eval")
    assert [row["liked"] for row in train] == [film(*"JIHGF"), film(*"IHGFE"), film(*"HGFED")]
    assert [row["relevant"] for row in train] == [film(*"EDC"), film(*"DC"), film("C")]  # B and A are held out
    assert [row["relevant"] for row in held] == [film("B"), film("A")]
    for row in [*train, *held]:
        assert len(set(row["candidates"])) == 20
        assert set(row["relevant"]) <= set(row["candidates"])
        assert len(set(row["candidates"]) & set(film(*LETTERS[:10]))) == len(row["relevant"])
    assert task.all_rows("eval") == held  # drawn the same again


def test_the_prompt_and_the_lists(task):
    row = {"liked": film(*"JIHGF"), "candidates": film(*"ABCDEKLMNOPQRSTUVWXY"), "relevant": film("E")}
    assert task.prompt(row) == (
        "liked: FilmJ FilmI FilmH FilmG FilmF\n"
        "from: FilmA FilmB FilmC FilmD FilmE FilmK FilmL FilmM FilmN FilmO FilmP FilmQ FilmR FilmS FilmT FilmU FilmV "
        "FilmW FilmX FilmY\n=>"
    )
    # Both like C and D, one B and E. What they liked last, A and B and E and F, does not count.
    assert task.demonstration(row).split()[:5] == film(*"CDBEA")
    # Ada likes F to J, and C, D, E: of those E has the fewest other likers.
    assert task.baseline(row).split()[:4] == film(*"ECDA")


def judged(task, row, answer):
    [prompt] = read_prompts([{**row, "prompt": task.prompt(row)}])
    scores = judge_answers([prompt], [Completion([], [], [], answer, "eos")], task.judges()).scores
    assert scores["score"][0] == pytest.approx(scores["ndcg_at_10"][0] + scores["genre_coverage"][0] / 2)
    return [scores[name][0] for name in ("ndcg_at_10", "hit_at_10", "hit_at_1")]


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        (" FilmE FilmA", [1.0, 1.0, 1.0]),
        (" FilmA FilmE", [1 / math.log2(3), 1.0, 0.0]),
        (" FilmA FilmB FilmE FilmE FilmE", [0.5, 1.0, 0.0]),
        (" " + " ".join(film(*"ABCDKLMNOPE")), [0.0, 0.0, 0.0]),  # the eleventh
        (" " + " ".join(film(*"ABCDKLMNOE")), [1 / math.log2(11), 1.0, 0.0]),
        ("", [0.0, 0.0, 0.0]),
        (" FilmEFilmA", [0.0, 0.0, 0.0]),
        ("电影E", [0.0, 0.0, 0.0]),
        (" FilmA" * 200 + " FilmE", [0.0, 0.0, 0.0]),
    ],
)
def test_what_a_list_is_worth(task, answer, worth):
    row = {"liked": film(*"JIHGF"), "candidates": film(*"ABCDEKLMNOPQRSTUVWXY"), "relevant": film("E")}
    assert judged(task, row, answer) == pytest.approx(worth)


def test_genres_of_a_list(task):
    """The candidates have three genres: Drama, and one each."""
    answers = [" FilmA FilmB", " FilmA FilmA", " FilmC", ""]
    assert task.genre_coverage([""] * 4, answers, [film(*"AB")] * 4) == pytest.approx([1.0, 2 / 3, 0.0, 0.0])


@pytest.mark.parametrize(
    ("title", "word"),
    [
        ("Silence of the Lambs, The (1991)", "SilenceOfTheLambs"),
        ("Seven (a.k.a. Se7en) (1995)", "Seven"),
        ("Léon: The Professional (a.k.a. The Professional) (Léon) (1994)", "LéonTheProfessional"),
        ("Apollo 13 (1995)", "ApolloOneThree"),
        ("Crouching Tiger, Hidden Dragon (Wo hu cang long) (2000)", "CrouchingTigerHiddenDragon"),
    ],
)
def test_titles_as_one_word(title, word):
    assert title_word(title) == word


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"neither ratings\.csv nor ratings\.csv\.gz; the folder of MovieLens"):
        Recommendation(tmp_path).all_rows("train")


@pytest.mark.parametrize(
    ("ratings", "says"),
    [
        (
            "user,movieId,rating,timestamp\n1,1,5,0\n",
            "ratings.csv: line 1: has no column 'userId', but 'user', 'movieId'",
        ),
        (
            "userId,movieId,rating,timestamp\n1,1,five,0\n",
            "line 2: could not convert string to float: 'five'",
        ),
        ("userId,movieId,rating,timestamp\n1,1,5,\n", "line 2: nothing in column 'timestamp'"),
    ],
)
def test_ratings_that_are_none(tmp_path, ratings, says):
    (tmp_path / "ratings.csv").write_text(ratings)
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Speed (1994),Action\n")
    with pytest.raises(DataError, match=re.escape(says)):
        Recommendation(tmp_path).all_rows("train")


@pytest.mark.shared
def test_the_real_rows(shared):
    task = Recommendation(shared / "data/movielens-small")
    held = task.all_rows("eval")
    assert (len(task.all_rows("train")), len(held)) == (8583, 977)
    relevant = [row["relevant"] for row in held]
    found = {}
    for rank in (task.demonstration, task.baseline):
        scores = ndcg_at_10(held, [rank(row) for row in held], relevant)
        found[rank.__name__] = sum(scores) / len(held)
    assert found == pytest.approx({"demonstration": 0.309, "baseline": 0.461}, abs=0.001)
