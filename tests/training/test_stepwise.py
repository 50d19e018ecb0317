"""Labels of steps: where steps end in tokens, their loss, what is learnt, and the score that PPO gets."""

import itertools
import json

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from kedge import PPO, RewardModeling
from kedge.core import step_loss
from kedge.data.files import rows_of
from kedge.errors import ConfigError, DataError, ModelError
from kedge.evaluation.scoring import score_rows
from kedge.evaluation.trust.stepwise import step_report, write_step_report
from kedge.models.reading import Reading
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.models.steps import Steps

RIGHT, WRONG = ["the cat sat", "a dog ran"], ["red mat", "was a ship"]
ROWS = [
    {"prompt": "Once upon", "completions": [*steps], "labels": [step in RIGHT for step in steps]}
    for steps in itertools.permutations(RIGHT + WRONG, 3)
]


def test_steps_of_an_answer():
    assert Steps().of("ab\ncd\n\n e") == [2, 5, 9]
    assert Steps().of("ab\n") == [2]
    assert Steps().of("") == [0]
    assert Steps("\n\n").of("a\nb\n\nc") == [3, 6]


def test_pooling_by_hand():
    odds = torch.tensor([0.0, 2.0, -1.0])
    assert Steps(pooling="min").pooled(odds).item() == -1.0
    assert Steps(pooling="mean").pooled(odds).item() == pytest.approx(1 / 3)
    chance = 0.5 * 0.8807970779778823 * 0.2689414213699951
    product = Steps(pooling="product").pooled(odds).sigmoid().item()
    assert product == pytest.approx(chance, rel=1e-5)
    assert Steps(pooling="product").pooled(torch.tensor([90.0, 90.0])).isfinite()


def test_the_loss_is_pytorchs():
    outputs = torch.tensor([0.3, -2.0, 1.0], requires_grad=True)
    labels, weights = torch.tensor([1.0, 0.0, 0.25]), torch.tensor([0.5, 0.5, 1.0])
    loss, metrics = step_loss(outputs, labels, weights, denominator=2)
    want = binary_cross_entropy_with_logits(outputs, labels, weights, reduction="sum") / 2
    assert loss.item() == pytest.approx(want.item())
    assert metrics["accuracy"].item() == pytest.approx((0.5 + 0.5 + 0.25) / 2)


@pytest.fixture
def make_rm(make_labelled):
    return lambda rows=ROWS, **how: make_labelled(rows, **({"epochs": 6} | how))


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mamba"])
def test_each_step_is_read_at_its_end(make_rm, arch):
    """The outputs at the places are those of the texts up to there, each run alone."""
    rm = make_rm(arch=arch)
    example = rm.taught[0]
    torch.nn.init.normal_(rm.model.head.weight)
    (ids,) = example.sides
    with torch.no_grad():
        together = rm.model.run([ids], [[len(ids) + mark for mark in example.marks]]).squeeze(-1)
        alone = [rm.model.run([ids[: len(ids) + mark + 1]]).item() for mark in example.marks]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    texts = [rm.model.tokenizer.decode(ids[: len(ids) + mark + 1]) for mark in example.marks]
    for text, step in zip(texts, example.record.steps, strict=True):
        assert text.endswith(step)


def test_what_is_learnt_and_left_behind(make_rm, tmp_path):
    rm = make_rm(run=tmp_path / "run", epochs=40)
    summary = rm.train()
    trained = load_reward_model(tmp_path / "run")
    assert trained.reading.steps == Steps()
    assert summary["after"]["accuracy"] > 0.9
    assert summary["trust"]["first_error"] > 0.7
    rows = [
        {"prompt": "Once upon", "completion": answer} for answer in ("the cat sat\na dog ran", "the cat sat\nred mat")
    ]
    good, bad = (row["score"] for row in score_rows(trained, rows_of(rows)))
    assert good > 0 > bad
    page = (tmp_path / "run/trust/trust.md").read_text()
    assert page.startswith("# Trust report: 4 held-out answers, step by step")
    report = json.loads((tmp_path / "run/trust/trust.json").read_text())
    assert (report["answers"], report["steps"]) == (4, 12)


def test_the_prompt_is_no_step(make_rm, tmp_path):
    """Lines of a prompt are not judged; of a conversation the last message is."""
    rm = make_rm(epochs=1, step_pooling="mean")
    torch.nn.init.normal_(rm.model.head.weight)
    whole = "red mat\nOnce upon the cat sat\na dog ran"
    (told,) = rm.model.score([whole], [" the cat sat\na dog ran"])
    ends = [rm.model.encode_whole(text)[:-1] for text in ("red mat\nOnce upon the cat sat", whole)]  # without the EOS
    want = sum(rm.model.run([ids]).item() for ids in ends) / 2
    assert told == pytest.approx(want, abs=1e-5)
    assert rm.model.score([whole]) != [told]  # all of it is the answer where nobody says what is


def test_micro_batches_and_gaps_change_nothing(make_rm, vector):
    gaps = [row | ({"labels": [None, *row["labels"][1:]]} if i % 2 else {}) for i, row in enumerate(ROWS)]
    whole, parts = (make_rm(gaps, epochs=1, micro_batch_tokens=size) for size in (4096, 40))
    for rm in (whole, parts):
        rm.train()
    assert torch.allclose(vector(whole.module), vector(parts.module), atol=1e-5)


def test_an_answer_weighs_one_however_many_steps_it_has(make_rm):
    rows = [ROWS[0], {"prompt": "Once", "completions": ["the cat sat"], "labels": [0.75]}]
    rm = make_rm(rows, epochs=1, batch_size=2)
    torch.nn.init.normal_(rm.model.head.weight)
    both = rm.loss([0, 1], 2.0)[0].item()
    assert both == pytest.approx((rm.loss([0], 1.0)[0].item() + rm.loss([1], 1.0)[0].item()) / 2, rel=1e-5)
    (ids,), marks = rm.taught[0].sides, rm.taught[0].marks
    outputs = rm.model.run([ids], [[len(ids) + mark for mark in marks]]).squeeze(-1)
    want = binary_cross_entropy_with_logits(outputs, torch.tensor(rm.taught[0].record.labels))
    assert rm.loss([0], 1.0)[0].item() == pytest.approx(want.item(), rel=1e-5)


def test_what_is_cut_off_is_not_learnt(make_rm):
    rm = make_rm(ROWS, epochs=1, max_length=12, too_long="truncate")
    kept = [sum(len(x.sides[0]) + mark >= 0 for mark in x.marks) for x in rm.taught]
    assert max(len(x.sides[0]) for x in rm.taught) == 12
    assert 0 < min(kept) < 3
    cut = kept.index(min(kept))
    (ids,), marks, labels = rm.taught[cut].sides, rm.taught[cut].marks[-kept[cut] :], rm.taught[cut].record.labels
    outputs = rm.model.run([ids], [[len(ids) + mark for mark in marks]]).squeeze(-1)
    want = binary_cross_entropy_with_logits(outputs, torch.tensor(labels[-kept[cut] :]))
    assert rm.loss([cut], 1.0)[0].item() == pytest.approx(want.item(), rel=1e-5)
    rm.train()
    assert all(torch.isfinite(torch.tensor(rm.model.score([x.record.text for x in rm.taught]))))


def test_what_was_cut_off_is_in_no_report(make_rm):
    rm = make_rm(max_length=12, too_long="truncate", epochs=1)
    held = [x.record for x in rm.taught]
    told = rm.labels.report(rm.model, held, held, 0, None)
    assert (
        told.headline["steps"]
        == sum(len(x.sides[0]) + mark >= 0 for x in rm.taught for mark in x.marks)
        < 3 * len(held)
    )


@pytest.mark.parametrize("trims", [False, True])
def test_the_last_step_of_a_conversation_is_read_at_its_own_end(make_rm, trims):
    rm = make_rm(epochs=1)
    content = "m.content | trim" if trims else "m.content"
    rm.model.tokenizer.chat_template = "{% for m in messages %}<|user|>{{ " + content + " }}<eos>the{% endfor %}"
    chat = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "the cat sat\na dog ran"}]
    steps = rm.model.reading.steps
    ids = rm.model.encode_whole(chat)
    places = rm.model.places(chat, chat[-1]["content"], steps.of(chat[-1]["content"]), len(ids))
    texts = [rm.model.tokenizer.decode(ids[: len(ids) + place + 1]) for place in places]
    assert [text.endswith(step) for text, step in zip(texts, ("the cat sat", "a dog ran"), strict=True)] == [True, True]


def test_resumed_is_uninterrupted(make_rm, vector, tmp_path):
    whole = make_rm(run=tmp_path / "whole", epochs=1, step_pooling="product")
    whole.train()
    broken = make_rm(run=tmp_path / "broken", epochs=1, checkpoint_every=2, step_pooling="product")
    for _ in zip(range(2), broken, strict=False):
        pass
    resumed = RewardModeling.resume(tmp_path / "broken", data=ROWS, progress=False)
    resumed.train()
    assert torch.equal(vector(resumed.module), vector(whole.module))
    assert load_reward_model(tmp_path / "broken").reading.steps == Steps(pooling="product")


def test_ppo_is_paid_by_it(make_rm, tmp_path, tiny_lm):
    make_rm(run=tmp_path / "run", epochs=1).train()
    lm = tiny_lm("llama")
    settings = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 8}
    settings |= {"critic": "separate", "critic_init": "reward"}
    ppo = PPO(lm.model, ["Once\nupon"], tmp_path / "run", settings, tokenizer=lm.tokenizer, progress=False)
    metrics = next(iter(ppo))
    whole = [f"Once\nupon{c.text}" for c in ppo.experience.completions]
    scores = load_reward_model(tmp_path / "run").score(whole, [c.text for c in ppo.experience.completions])
    assert metrics["objective/scores"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_an_encoder_reads_whole_texts(tmp_path, tiny_tokenizer):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="its head reads whole texts; steps want a causal language model"):
        new_reward_model(tmp_path, reading=Reading(steps=Steps()))


@pytest.mark.parametrize(
    ("row", "settings", "error", "said"),
    [
        ({"labels": [True]}, {}, DataError, r"row 1: 'labels' must be a list of 3, one for each step"),
        ({"labels": [1, 0, 2]}, {}, DataError, r"row 1: 'labels' must be true or false, or from 0 to 1"),
        ({"labels": [None] * 3}, {}, DataError, r"row 1: 'labels' must be true or false"),
        ({"completions": ["a", "", "b"]}, {}, DataError, r"row 1: 'completions' must be a list of texts"),
        ({"completions": "abc"}, {}, DataError, r"row 1: 'completions' must be a list of texts"),
        ({"completions": ["a\nb", "c", "d"]}, {}, DataError, r"a step has step_separator='\\n' in it: 'a\\nb'"),
        ({}, {"label_smoothing": 0.1}, ConfigError, "label_smoothing: not used with labels of steps"),
    ],
)
def test_what_cannot_be_learnt(make_rm, row, settings, error, said):
    with pytest.raises(error, match=said):
        make_rm([ROWS[0] | row], **settings)


def test_another_separator(make_rm):
    rm = make_rm([ROWS[0] | {"completions": ["a\nb", "c", "d"]}], step_separator=" ; ", epochs=1, batch_size=1)
    assert rm.taught[0].record.text == "Once upona\nb ; c ; d"
    assert len(set(rm.taught[0].marks)) == 3


def test_settings_of_steps_are_for_steps(make_rm):
    with pytest.raises(ConfigError, match="step_pooling: not used with preferences, which the data has"):
        make_rm([{"chosen": "a", "rejected": "b"}], step_pooling="mean")


def test_a_report_of_no_steps_says_so(make_rm, tmp_path):
    """Of which every one was cut off; and the file is JSON."""
    rm = make_rm(epochs=1)
    (record,) = [x.record for x in rm.taught[:1]]
    report = step_report(rm.model, [(record, rm.taught[0].sides[0], [-900, -800, -700])])
    write_step_report(report, tmp_path)
    assert report.headline() == {"steps": 0}
    assert json.loads((tmp_path / "trust.json").read_text())["log_loss"] is None
    assert "none has a label and is within" in (tmp_path / "trust.md").read_text()
