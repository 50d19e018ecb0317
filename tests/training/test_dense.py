"""A model of steps that pays each step where the policy ended it."""

import pytest
import torch
from transformers import AutoTokenizer

from kedge import PPO
from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.rewards import build_reward
from kedge.sampling.completion import Completion

ROWS = [
    {"prompt": "Once upon", "completions": ["the cat sat", "red mat"], "labels": [1, 0]},
    {"prompt": "Once upon", "completions": ["a dog ran", "the cat sat", "was"], "labels": [1, 1, 0]},
]
ANSWERS = ["the cat sat\nred mat\na dog ran", "a dog ran", "", "was\n\nred mat\n"]


@pytest.fixture
def steps(make_labelled):
    """A loaded model of steps, with a head that tells them apart."""

    def make(rows=ROWS, **how):
        rm = make_labelled(rows * 4, epochs=1, **how)
        torch.nn.init.normal_(rm.model.head.weight)
        return rm.model

    return make


def written(tokenizer, answer, prompt="Once upon"):
    """An answer by the policy's tokenizer, with something behind it that is no text."""
    ids = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return Completion(tokenizer(prompt).input_ids, ids, [0.0] * len(ids), answer, "eos")


@pytest.mark.parametrize("pooling", ["min", "mean", "product"])
def test_the_sum_is_the_score(steps, pooling, tiny_tokenizer):
    model = steps(step_pooling=pooling)
    answers = [written(tiny_tokenizer, answer) for answer in ANSWERS]
    prompts = [Prompt("Once upon")] * len(answers)
    late = build_reward(model)(prompts, answers)
    dense = build_reward({"model": model, "dense": True}, writer=tiny_tokenizer)(prompts, answers)
    assert dense.total == [0.0] * 4
    assert dense.sums() == pytest.approx(late.total, abs=1e-5)
    assert dense.components == {"reward_model": pytest.approx(late.total)}
    assert [len(paid) for paid in dense.per_token] == [len(answer.ids) for answer in answers]
    assert [sum(x != 0 for x in paid) for paid in dense.per_token][1:3] == [1, 1]


@pytest.mark.parametrize("words", ["tiny", pytest.param("gpt2", marks=pytest.mark.shared)])
def test_paid_where_the_policy_ended_the_step(steps, words, tiny_tokenizer, request):
    """By hand: the last token of each step, in whatever tokens the policy writes; the weakest so far is the score."""
    tokenizer = tiny_tokenizer if words == "tiny" else request.getfixturevalue("gpt2_tokenizer")
    model, parts = steps(), ["naïve 雪", "\nthe cat sat", "\na dog ran"]
    answer = written(tokenizer, "".join(parts))
    [paid] = build_reward({"model": model, "dense": True}, writer=tokenizer)([Prompt("Once upon")], [answer]).per_token
    sizes = [len(tokenizer(part, add_special_tokens=False).input_ids) for part in parts]
    ends = [sizes[0] - 1, sizes[0] + sizes[1] - 1, sum(sizes) - 1]
    [each] = model.run_steps(["Once upon" + answer.text], [answer.text])
    first, second, third = each.tolist()
    want = [0.0] * len(answer.ids)
    want[ends[0]] = first
    want[ends[1]] = min(first, second) - first
    want[ends[2]] = min(first, second, third) - min(first, second)
    assert paid == pytest.approx(want, abs=1e-5)


def test_what_the_model_does_not_read_is_not_paid(steps, tiny_tokenizer):
    """Of a long answer it reads the end: the first step that it does read is paid for itself."""
    model = steps(max_length=14, too_long="truncate")
    answer = written(tiny_tokenizer, "the cat sat\n" * 6 + "red mat")
    [paid] = build_reward({"model": model, "dense": True}, writer=tiny_tokenizer)([Prompt("Once")], [answer]).per_token
    [score] = model.score(["Once" + answer.text], [answer.text])
    assert sum(paid) == pytest.approx(score, abs=1e-5)
    assert not any(paid[: len(paid) // 2])


def test_ppo_learns_from_it(steps, tiny_lm):
    words = [{"prompt": "Once", "completions": ["cat", "mat"], "labels": [1, 0]}]
    lm, model = tiny_lm("llama"), steps(words, step_separator=" ")
    settings = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 12, "critic": "separate"}
    ppo = PPO(lm.model, ["Once upon"], {"model": model, "dense": True}, settings, tokenizer=lm.tokenizer,
              progress=False)  # fmt: skip
    metrics = next(iter(ppo))
    texts = [c.text for c in ppo.experience.completions]
    scores = model.score([f"Once upon{text}" for text in texts], texts)
    assert metrics["objective/scores"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    late = PPO(lm.model, ["Once upon"], model, settings, tokenizer=lm.tokenizer, progress=False)
    [(_, paid)], [(_, other)] = ppo.reward.weighted(), late.reward.weighted()
    assert paid.fingerprint() != other.fingerprint()  # a run is not resumed as the other


def test_what_does_not_go_together(steps, tiny_lm, tmp_path):
    whole = tiny_lm("llama")
    whole.save(tmp_path / "base")
    plain = new_reward_model(tmp_path / "base", device="cpu")
    with pytest.raises(ConfigError, match="dense is for a model that has learnt which steps are right; take it out"):
        build_reward({"model": plain, "dense": True})
    clipped = build_reward({"model": steps(), "dense": True, "clip": (-1, 1)}, writer=whole.tokenizer)
    with pytest.raises(RewardError, match="clip: not used with 'reward_model', which scores token by token"):
        clipped([Prompt("Once upon")], [written(whole.tokenizer, "the cat")])


def test_from_a_recipe(steps, tmp_path, tiny_tokenizer):
    model = steps(run=tmp_path / "run")
    model.save(tmp_path / "run/reward_model")
    found = build_reward({"model": str(tmp_path / "run"), "dense": True}, writer=AutoTokenizer.from_pretrained(
        tmp_path / "run/reward_model"))  # fmt: skip
    answer = written(tiny_tokenizer, "the cat sat\nred mat")
    [paid] = found([Prompt("Once upon")], [answer]).per_token
    want = load_reward_model(tmp_path / "run").score(["Once upon" + answer.text], [answer.text])
    assert sum(paid) == pytest.approx(want[0], abs=1e-5)
