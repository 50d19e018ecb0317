"""The built-in world: what its files promise, and that its gold score is hard to please with nonsense."""

import json
import random
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from kedge.tasks.support_desk import (
    INTENTS,
    PRODUCTS,
    WEIGHTS,
    DeskFiles,
    Ticket,
    draw_reply,
    draw_ticket,
    gold,
    gold_parts,
    gold_score,
    preference_probability,
    write_support_desk,
)
from kedge.tasks.support_desk.phrases import ANSWERS, plain

EMPATHY = "I am sorry to hear that."
ANSWER = "We refund the kettle in full, and the money goes back to your card."
OTHER_ANSWER = "The order for the kettle is now cancelled."
STEP = "You will see the money within two days."
CLOSING = "Thank you for your patience."
PERFECT = f"{EMPATHY} {ANSWER} {STEP} {CLOSING}"
FILLER = "The weather here is grey, and the office is full today, as it was for the whole of last week, by the way. "


def score(reply: str, intent: str = "refund", product: str = "kettle") -> float:
    return gold_score(reply, intent, product)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def messages(path: Path) -> list[str]:
    """The customers' messages of a file."""
    return [(row.get("prompt") or row["messages"])[0]["content"] for row in rows(path)]


def write(folder: Path, **changes: int) -> DeskFiles:
    counts = {"demonstrations": 150, "pairs": 150, "heldout_pairs": 60, "prompts": 150, "heldout_prompts": 60}
    return write_support_desk(folder, **(counts | changes))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> DeskFiles:
    return write(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def replies() -> list[tuple[Ticket, str, float]]:
    rng = random.Random(7)
    drawn = [(ticket, draw_reply(rng, ticket)) for ticket in (draw_ticket(rng) for _ in range(3000))]
    return [(ticket, reply, gold_score(reply, ticket.intent, ticket.product)) for ticket, reply in drawn]


# --- the gold score --------------------------------------------------------------------------------------


def test_a_perfect_reply_scores_1() -> None:
    assert gold_parts(PERFECT, "refund", "kettle") == dict.fromkeys(WEIGHTS, 1.0)
    assert score(PERFECT) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f"{ANSWER} {STEP} {CLOSING}", 0.59 / 0.72),  # no empathy
        (f"{EMPATHY} {ANSWER} {CLOSING}", 0.60 / 0.72),  # no next step
        (f"{EMPATHY} {ANSWER} {STEP}", 0.90),  # no word of courtesy
        (f"{EMPATHY} {ANSWER} {STEP} That is not our fault. {CLOSING}", 0.80),  # rude
        (PERFECT.replace("the kettle", "the item"), 0.65 / 0.72),  # product not named
        (PERFECT.replace("kettle", "toaster"), 0.65 / 0.72),  # another product
        (f"We are sorry that the toaster failed. {ANSWER} {STEP} {CLOSING}", 0.65 / 0.72),  # both products
        (PERFECT.replace(ANSWER, "I do not know anything about that."), 0.25 / 0.72),  # evasive
        (PERFECT.replace(ANSWER, OTHER_ANSWER), 0.32 / 0.72),  # another intent
    ],
)
def test_a_single_defect_costs_what_its_part_is_worth(reply: str, expected: float) -> None:
    assert score(reply) == pytest.approx(expected)
    assert expected < 1


def test_length_is_free_up_to_40_words_and_worth_nothing_from_55() -> None:
    def short(words: int) -> float:
        return gold_parts(" ".join(f"w{i}" for i in range(words)), "refund", "kettle")["short"]

    assert [short(words) for words in (5, 40, 46, 55, 80)] == pytest.approx([1.0, 1.0, 0.6, 0.0, 0.0])
    assert score(f"{PERFECT} {FILLER}") < score(PERFECT)


def test_repeating_a_sentence_costs_and_repeating_everything_costs_nearly_everything() -> None:
    once, again, twice, often = (score(reply) for reply in (
        PERFECT, f"{PERFECT} {STEP}", f"{PERFECT} {PERFECT}", " ".join([PERFECT] * 10),
    ))  # fmt: skip
    assert once > again > twice > often
    assert often < 0.2


@pytest.mark.parametrize("nonsense", ["", " ", "...", "kettle", "Thank you.", "refund " * 30, "The the the."])
def test_nothing_scores_nothing(nonsense: str) -> None:
    assert score(nonsense) == 0.0


def test_word_salad_scores_nothing() -> None:
    rng, salads = random.Random(0), []
    for _ in range(200):
        words = PERFECT.split()
        rng.shuffle(words)
        salads.append(score(" ".join(words)))
    assert mean(salads) < 0.01
    assert score("Sorry refund full price kettle back to your card will in two days thank you please.") < 0.2


def test_one_sentence_does_one_job() -> None:
    everything = "I am sorry to hear it, and you will get your money back for the kettle today."
    parts = gold_parts(everything, "refund", "kettle")
    assert (parts["answer"], parts["product"], parts["empathy"], parts["next_step"]) == (1.0, 1.0, 0.0, 0.0)


def test_answering_every_intent_at_once_is_not_answering() -> None:
    answers = {intent: plain(ANSWERS[intent][0]).format(item="the kettle") for intent in INTENTS}
    two = f"{EMPATHY} {answers['refund']} {answers['cancel']} {STEP} {CLOSING}"
    assert gold_parts(two, "refund", "kettle")["answer"] == 0.25
    stuffed = " ".join([EMPATHY, *answers.values(), STEP, CLOSING])
    assert score(stuffed) < 0.2 < score(two) < score(PERFECT)


def test_a_sentence_that_was_cut_off_says_nothing() -> None:
    assert score(f"{EMPATHY} {ANSWER} {STEP.rstrip('.')}") < score(f"{EMPATHY} {ANSWER} {STEP}")
    assert score(PERFECT.replace(".", "")) == score(PERFECT.lower()) == 0.0


def test_naming_the_product_beside_the_point_is_worth_nothing() -> None:
    assert gold_parts("The kettle is a kettle.", "refund", "kettle")["product"] == 0.0
    assert gold_parts("I am sorry about the kettle.", "refund", "kettle")["product"] == 1.0


@pytest.mark.parametrize("intent", INTENTS)
def test_every_answer_answers_its_own_intent_only_with_every_product(intent: str) -> None:
    for phrase in ANSWERS[intent]:
        for product in PRODUCTS:
            answer = plain(phrase).format(item=f"your {product}")
            answered = [each for each in INTENTS if gold_parts(answer, each, product)["answer"]]
            assert answered == [intent]
            assert gold_parts(answer, intent, product)["product"] == 1.0
            assert gold_parts(answer, intent, product)["next_step"] == 0.0


def test_messages_and_strings_score_the_same() -> None:
    columns: dict[str, Any] = {"intent": ["refund", "cancel"], "product": ["kettle"] * 2, "seen": [1, 2]}
    texts = gold(["Where?", "Why?"], [PERFECT, PERFECT], **columns)
    prompts = [[{"role": "user", "content": text}] for text in ("Where?", "Why?")]
    messages = gold(prompts, [[{"role": "assistant", "content": PERFECT}]] * 2, **columns)
    assert texts == messages == pytest.approx([1.0, 0.32 / 0.72])


def test_what_the_world_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="intent 'weather'"):
        gold_score(PERFECT, "weather", "kettle")
    with pytest.raises(ValueError, match="product 'yacht'"):
        gold_score(PERFECT, "refund", "yacht")
    with pytest.raises(ValueError, match="shorter"):
        gold(["a", "b"], ["a", "b"], intent=["refund"], product=["kettle", "kettle"])


# --- the judge -------------------------------------------------------------------------------------------


def test_the_judge_is_bradley_terry() -> None:
    assert preference_probability(0.5, 0.5) == 0.5
    assert preference_probability(0.6, 0.4, temperature=0.2) == pytest.approx(0.7310585786)  # sigmoid(1)
    assert preference_probability(0.4, 0.6, temperature=0.2) == pytest.approx(0.2689414214)
    assert preference_probability(0.0, 1.0, temperature=1e-6) == 0.0
    with pytest.raises(ValueError, match="temperature"):
        preference_probability(0.1, 0.2, temperature=0.0)


def test_the_ceiling_on_noisy_labels_is_about_90_percent(tmp_path: Path) -> None:
    pairs = rows(write(tmp_path, heldout_pairs=2000).preferences_heldout)
    assert 0.87 < mean(row["gold_chosen"] > row["gold_rejected"] for row in pairs) < 0.92
    assert all(abs(row["gold_chosen"] - row["gold_rejected"]) >= 0.1 for row in pairs)  # near ties are not asked


# --- the generator ---------------------------------------------------------------------------------------


def test_replies_are_mediocre_on_average_and_rarely_perfect(replies: list[tuple[Ticket, str, float]]) -> None:
    scores = [score for _, _, score in replies]
    assert 0.55 < mean(scores) < 0.70
    assert 0.01 < mean(score >= 0.95 for score in scores) < 0.12
    assert max(scores) == pytest.approx(1.0)


def test_lengths(replies: list[tuple[Ticket, str, float]]) -> None:
    messages = [len(ticket.message.split()) for ticket, _, _ in replies]
    answers = [len(reply.split()) for _, reply, _ in replies]
    assert min(messages) >= 4
    assert max(messages) <= 25
    assert min(answers) >= 4
    assert max(answers) <= 45
    assert 22 < mean(answers) < 32


def test_messages_say_what_they_are_about_and_rarely_recur(replies: list[tuple[Ticket, str, float]]) -> None:
    tickets = [ticket for ticket, _, _ in replies]
    assert {ticket.intent for ticket in tickets} == set(INTENTS)
    assert {ticket.product for ticket in tickets} == set(PRODUCTS)
    assert all(ticket.product in ticket.message for ticket in tickets)
    assert len({ticket.message for ticket in tickets}) > 0.95 * len(tickets)


def test_the_vocabulary_is_small(replies: list[tuple[Ticket, str, float]]) -> None:
    text = " ".join(f"{ticket.message} {reply}" for ticket, reply, _ in replies).lower()
    words = {word.strip(".,!?") for word in text.split()}
    assert 150 < len(words) < 400


def test_pairs_have_seen_what_an_optimiser_may_try(tmp_path: Path) -> None:
    pairs = rows(write(tmp_path, pairs=1000).preferences)
    texts = [row[side][0]["content"] for row in pairs for side in ("chosen", "rejected")]
    assert any(len(text.split()) < 4 for text in texts)  # fragments
    assert any(len(text.split()) > 45 for text in texts)  # endless
    sentences = [text.removesuffix(".").split(". ") for text in texts]
    assert any(len(set(each)) <= len(each) / 3 for each in sentences)  # loops
    assert max(len(text.split()) for text in texts) <= 50
    assert all(row["chosen"] != row["rejected"] for row in pairs)


# --- the files -------------------------------------------------------------------------------------------


def test_files_have_their_rows_and_columns(desk: DeskFiles) -> None:
    message, reply = rows(desk.demonstrations)[0]["messages"]
    assert (message["role"], reply["role"]) == ("user", "assistant")
    pair = {"prompt", "chosen", "rejected"}
    columns = {
        desk.demonstrations: ("demonstrations.jsonl", 150, {"messages"}),
        desk.preferences: ("preferences.jsonl", 150, pair),
        desk.preferences_heldout: ("preferences-heldout.jsonl", 60, pair | {"gold_chosen", "gold_rejected"}),
        desk.prompts: ("prompts.jsonl", 150, {"prompt", "intent", "product"}),
        desk.prompts_heldout: ("prompts-heldout.jsonl", 60, {"prompt", "intent", "product"}),
    }
    for path, (name, count, expected) in columns.items():
        read = rows(path)
        assert (path.name, len(read)) == (name, count)
        assert all(set(row) == expected for row in read)


def test_the_prompts_columns_are_what_gold_needs(desk: DeskFiles) -> None:
    read = rows(desk.prompts_heldout)
    columns = {name: [row[name] for row in read] for name in ("intent", "product")}
    assert gold([row["prompt"] for row in read], [""] * len(read), **columns) == [0.0] * len(read)


def test_the_same_seed_writes_the_same_bytes_another_seed_others(desk: DeskFiles, tmp_path: Path) -> None:
    again, other = write(tmp_path / "again"), write(tmp_path / "other", seed=1)
    for name in DeskFiles.__dataclass_fields__:
        written = getattr(desk, name).read_bytes()
        assert written == getattr(again, name).read_bytes()
        assert written != getattr(other, name).read_bytes()


def test_heldout_files_do_not_depend_on_the_training_files_size(desk: DeskFiles, tmp_path: Path) -> None:
    larger = write(tmp_path, demonstrations=200, pairs=170, prompts=300)
    assert larger.prompts_heldout.read_bytes() == desk.prompts_heldout.read_bytes()
    assert larger.preferences_heldout.read_bytes() == desk.preferences_heldout.read_bytes()


def test_heldout_messages_are_in_no_training_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Out of a world of 400 messages, or chance alone would keep the files apart.
    def draw_from_few(rng: random.Random) -> Ticket:
        return draw_ticket(random.Random(rng.randrange(400)))

    monkeypatch.setattr("kedge.tasks.support_desk.world.draw_ticket", draw_from_few)
    desk = write(tmp_path)
    heldout = messages(desk.prompts_heldout) + messages(desk.preferences_heldout)
    training = messages(desk.demonstrations) + messages(desk.preferences) + messages(desk.prompts)
    assert len(set(heldout)) == len(heldout) == 120
    assert not set(heldout) & set(training)


@pytest.mark.parametrize("name", ["demonstrations", "pairs", "heldout_pairs", "prompts", "heldout_prompts"])
def test_a_count_below_1_is_an_error_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, not 0"):
        write(tmp_path, **{name: 0})
    assert not any(tmp_path.iterdir())
