"""Stories to order: wishes, how far they are granted, and demonstrations of the model's own."""

import pytest
import torch

from kedge.models.language_model import load_language_model
from kedge.tasks.stories import LENGTHS, MOODS, WORDS, Stories, granted, wishes

HAPPY = "The happy cat loved her big ball. She played with her friends in the lovely sun."


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HAPPY, (1, 1, 1)),
        (HAPPY.replace("ball", "balloon"), (0.5, 1, 1)),  # a word that has it in it is another
        (f"{HAPPY} They were very glad.", (1, 1, 0)),
        (HAPPY.removesuffix(".") + " and", (1, 1, 0)),  # cut off
        ("The cat hated her ball. She cried, for it was bad and ugly.", (1, 0, 1)),
        ("", (0, 0, 0)),
        ("cat ball cat ball happy happy happy", (1, 1, 0)),
        ("Cat ball love. Happy happy happy.", (1, 1, 0)),  # no sentences
        (", ".join(WORDS), (1, 0, 0)),
        ("猫和球。很高兴。", (0, 0, 0)),
        (HAPPY * 40, (1, 1, 0)),
    ],
)
def test_what_is_granted(text, parts):
    said = granted(text, ["cat", "ball"], "happy", 2)
    assert tuple(said.values()) == parts
    assert wishes(["?"], [text], [["cat", "ball"]], ["happy"], [2]) == [pytest.approx(sum(parts) / 3)]


def test_sad_is_the_other_way_round():
    text = "The cat cried because her ball was lost. It was a terrible and sad day."
    assert granted(text, ["cat", "ball"], "sad", 2) == {"words": 1, "mood": 1, "length": 1}
    assert granted(text, ["cat", "ball"], "happy", 2)["mood"] == 0
    assert granted("The cat has a ball. It is red and round.", ["cat", "ball"], "sad", 2)["mood"] == 0  # neither


def test_wishes_of_the_splits():
    task = Stories("nowhere")
    train, held = (list(task.rows(split)) for split in ("train", "eval"))
    keys = [[(*row["words"], row["mood"], row["sentences"]) for row in rows] for rows in (train, held)]
    assert (len(train), len(held)) == (1200, 456)
    assert not set(keys[0]) & set(keys[1])
    assert len({*keys[0], *keys[1]}) == 24 * 23 // 2 * len(MOODS) * len(LENGTHS)
    row = {"words": ["dog", "tree"], "mood": "sad", "sentences": 3}
    assert task.prompt(row) == "Words: dog, tree\nMood: sad\nSentences: 3\nStory:"


def test_the_rate_of_all_three():
    task = Stories("nowhere")
    row = {"words": ["cat", "ball"], "mood": "happy", "sentences": 2}
    said = [task.read(row, text) for text in (HAPPY, HAPPY.replace("cat", "dog"), "")]
    assert task.measures([row] * 3, said) == pytest.approx(
        {"all_three": 1 / 3, "words": 0.5, "mood": 2 / 3, "length": 2 / 3}
    )


@pytest.mark.shared
def test_demonstrations_grant_what_they_were_asked_for(shared):
    task = Stories(shared / "models/stories260K", written=40)
    shown = task.demonstrations()
    assert len(shown) >= 2
    for row in shown:
        fields = dict(line.split(": ", 1) for line in row["prompt"].splitlines() if ": " in line)
        said = granted(row["completion"], fields["Words"].split(", "), fields["Mood"], int(fields["Sentences"]))
        assert said["words"] == said["mood"] == 1
    held = {task.prompt(row) for row in task.rows("eval")}
    assert not held & {row["prompt"] for row in Stories(shared / "models/stories260K", written=200).demonstrations()}
    assert task.demonstrations("eval") == []
    assert shown == Stories(shared / "models/stories260K", written=40).demonstrations()


@pytest.mark.shared
def test_fluency_is_what_the_model_says(shared):
    """The mean log-probability of a text's tokens behind the one that begins it."""
    folder = shared / "models/stories260K"
    text = "Once upon a time there was a cat."
    lm = load_language_model(folder)
    ids = torch.tensor([[lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False).input_ids]])
    with torch.no_grad():
        loss = lm.model(input_ids=ids, labels=ids).loss
    [said, nonsense, _] = Stories(folder).fluency(["?"] * 3, [text, "cat a was there upon time.", ""])
    assert said == pytest.approx(-loss.item(), abs=1e-4)
    assert nonsense < said
