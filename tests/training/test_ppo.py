"""PPO end to end on tiny models: what it learns, what it logs, what it leaves behind."""

import json
import math
import tomllib
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from kedge import PPO, PPOConfig, SFTConfig
from kedge.errors import ConfigError, NumericsError, RewardError
from kedge.models.critic import new_critic
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import new_reward_model
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.slots import SlotDecoder
from kedge.sampling.settings import Sampling
from kedge.training.ppo.report import _critic_metrics

LEARNS = {
    "steps": 15,
    "batch_size": 32,
    "mini_batch_size": 16,
    "num_ppo_epochs": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "target_kl": "none",  # a model that knows nothing has far to go
}


def by_low_token(prompts, completions, completion_ids):
    """A reward a token: the lower half of the vocabulary."""
    return [[float(i < 150) for i in ids] for ids in completion_ids]


@pytest.mark.parametrize(
    ("reward", "critic"),
    [
        (None, "shared"),
        (by_low_token, "separate"),
        pytest.param(None, "separate", marks=pytest.mark.slow),
        pytest.param(by_low_token, "shared", marks=pytest.mark.slow),
    ],
)
def test_the_reward_goes_up(make_ppo, critic, reward):
    ppo = make_ppo(**({"reward": reward} if reward else {}), settings=LEARNS | {"critic": critic})
    share = [metrics["objective/scores"] / (6 if reward else 1) for metrics in ppo]
    assert share[0] < 0.6
    assert sum(share[-3:]) / 3 > 0.75


@pytest.mark.parametrize(
    "estimator",
    [
        "grpo",
        pytest.param("rloo", marks=pytest.mark.slow),
        pytest.param("dr_grpo", marks=pytest.mark.slow),
        pytest.param("reinforce++", marks=pytest.mark.slow),
    ],
)
def test_the_reward_goes_up_without_a_critic(make_ppo, tmp_path, estimator):
    settings = {"advantage_estimator": estimator, "batch_size": 4, "num_generations": 8, "kl_in": "loss"}
    ppo = make_ppo(settings=LEARNS | settings, run=tmp_path / "run")
    steps = list(ppo)
    share = [metrics["objective/scores"] for metrics in steps]
    assert sum(share[-3:]) / 3 > share[0] + 0.1
    assert ppo.critic is None
    assert not any("val/" in name and "eos" not in name and "ratio" not in name for name in steps[0])
    assert steps[-1]["episode"] == 15 * 32
    ppo.save(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["policy"]


def test_answers_to_one_prompt_stand_together(make_ppo):
    asked = []

    def reward(prompts, completions):
        asked.append((prompts, completions))
        return [float(len(text)) for text in completions]

    ppo = make_ppo(reward, LEARNS | {"batch_size": 3, "num_generations": 2, "mini_batch_size": 6})
    ppo.step()
    [(prompts, completions)] = asked
    assert prompts[::2] == prompts[1::2]
    assert len(set(prompts)) == 3
    assert completions[::2] != completions[1::2]  # each from a random stream of its own


@pytest.mark.shared
def test_learns_to_end_where_pad_is_eos(make_ppo, tiny_lm, gpt2_tokenizer, tmp_path):
    """Nothing but the penalty on answers that do not end; at first a tenth of the tokens are EOS."""
    gpt2_tokenizer.pad_token = gpt2_tokenizer.eos_token
    ids = dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"], 50256)
    lm = tiny_lm("gpt2", tokenizer=gpt2_tokenizer, vocab_size=50257, **ids)
    with torch.no_grad():
        lm.model.transformer.ln_f.bias.fill_(1)
        lm.model.transformer.wte.weight[50256] = 0.27
    settings = {
        "steps": 10,
        "batch_size": 16,
        "mini_batch_size": 16,
        "learning_rate": 5e-3,
        "kl_coef": 0.0,
        "target_kl": "none",
    }
    ppo = make_ppo(lambda prompts, completions: [0.0] * len(prompts), settings | {"cutoff": "penalty"}, lm=lm)
    cut_off = [metrics["completions/cut_off"] for metrics in ppo]
    assert cut_off[0] > 0.3
    assert sum(cut_off[-3:]) / 3 < 0.1
    ppo.save(tmp_path)
    prompt = gpt2_tokenizer("the cat sat on").input_ids
    [ours] = Engine(ppo.policy).generate([prompt], Sampling(12, temperature=0.0))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    written = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    assert written.tolist() == ours.ids


def test_in_bfloat16_with_a_run_and_nothing_held_out(make_ppo, tmp_path):
    """The reward is tried before the first step, on answers in the same precision."""
    settings = {"autocast": "bfloat16", "guards": {"ratio": "off"}}
    assert make_ppo(settings=settings, run=tmp_path / "run").train()["steps"] == 2


def test_metrics_of_a_step(make_ppo, tmp_path, lines):
    def reward(prompts, completions, completion_ids):
        return [10.0 + len(ids) for ids in completion_ids]

    ppo = make_ppo(
        [reward, {"function": by_low_token, "weight": 2, "name": "low"}], {"target_kl": "none"}, run=tmp_path / "run"
    )
    steps = list(ppo)
    assert len(steps) == ppo.step_done == 2
    assert ppo.run.path == tmp_path / "run"
    first, second = steps
    assert first["rewards/reward"] + 2 * first["rewards/low"] == pytest.approx(first["objective/scores"])
    assert first["rewards/reward"] == pytest.approx(10 + first["completions/mean_length"])
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert second["objective/kl"] != pytest.approx(0, abs=1e-4)
    assert second["objective/non_score_reward"] == pytest.approx(-0.05 * second["objective/kl"])
    assert second["objective/rlhf_reward"] == pytest.approx(second["objective/scores"] - 0.05 * second["objective/kl"])
    assert [metrics["lr"] for metrics in steps] == [3e-3, 1.5e-3]
    assert [metrics["episode"] for metrics in steps] == [4, 8]
    assert first["policy/first_drift_max"] < 1e-4
    assert {"time/generate", "time/reward", "time/estimate", "time/update"} <= first.keys()
    assert {
        "loss/policy_avg", "loss/value_avg", "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg",
        "policy/grad_norm", "val/ratio", "val/clipfrac_avg", "val/num_eos_tokens", "val/explained_variance",
        "objective/entropy", "objective/kl_coef", "completions/cut_off",
    } <= first.keys()  # fmt: skip
    kl = [row["kl"] for row in lines(tmp_path / "run", "samples.jsonl")]  # of all four answers of both steps
    assert sum(kl[4:]) / 4 == pytest.approx(second["objective/kl"], abs=1e-5)
    written = lines(tmp_path / "run", "metrics.jsonl")
    assert [row.pop("step") for row in written] == [1, 2]
    assert written == [{k: v for k, v in m.items() if not k.startswith(("time/", "throughput/"))} for m in steps]


def test_the_run_folder(make_ppo, tmp_path, lines):
    run = tmp_path / "run"
    ppo = make_ppo(settings={"steps": 5, "eval_every": 2, "samples_per_step": 3}, eval_size=2, run=run)
    assert not run.exists()  # nothing is written before it trains
    summary = ppo.train()

    rows = lines(run, "metrics.jsonl")
    assert [row["step"] for row in rows if "objective/kl" in row] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows] == list(range(len(rows)))  # a line a step, the last one too
    evaluated = {row["step"]: row for row in rows if "eval/score" in row}
    assert list(evaluated) == [0, 2, 4, 5]
    assert evaluated[0]["eval/kl"] == pytest.approx(0, abs=1e-6)
    assert len({row["eval/kl"] for row in evaluated.values()}) == 4  # of the policy as it then was
    for name in ("kl", "score", "length", "ended_by_eos", "distinct_1"):
        assert evaluated[0][f"eval/{name}"] == summary["before"][name]
        assert evaluated[5][f"eval/{name}"] == summary["after"][name]

    samples = lines(run, "samples.jsonl")
    train, held = ([row for row in samples if row["split"] == split] for split in ("train", "eval"))
    assert [(row["step"], row["policy_version"]) for row in train] == [(s, s - 1) for s in range(1, 6) for _ in "abc"]
    assert [(row["step"], row["policy_version"]) for row in held] == [(s, s) for s in (0, 2, 4, 5) for _ in "ab"]
    asked = {prompt.record.text for prompt in ppo.eval_prompts}
    assert {row["prompt"] for row in held} == asked
    assert not {row["prompt"] for row in train} & asked
    assert train[0].keys() == {
        "step", "policy_version", "split", "prompt", "completion", "scores", "kl", "finish_reason"
    }  # fmt: skip
    assert train[0]["scores"].keys() == {"score", "low_ids"}

    assert summary == json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["episodes"], summary["eval_prompts"]) == (5, 20, 2)
    assert summary["win_rate"]["score"].keys() == {"rate", "low", "high", "n"}
    recipe = tomllib.loads((run / "recipe.toml").read_text())
    settings = {name: value for name, value in recipe["ppo"].items() if name in PPOConfig.model_fields}
    assert PPOConfig(**settings) == ppo.config
    others = {name: value for name, value in recipe["ppo"].items() if name not in settings}
    assert others == {"run": str(run), "eval_size": 2, "metrics": []}  # and no objects
    policy = AutoModelForCausalLM.from_pretrained(run / "policy")
    tokens = torch.tensor([[260, 261, 262]])
    assert torch.equal(policy(tokens).logits, ppo.policy.model(tokens).logits)
    assert (run / "critic" / "value_head.safetensors").is_file()


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_save(make_ppo, tiny_lm, tmp_path, vector, critic):
    ppo = make_ppo(settings={"critic": critic})
    assert ppo.train().keys() == {"steps", "episodes", "seconds"}  # nothing held out, no folder
    ppo.save(tmp_path / "out")
    again = load_language_model(tmp_path / "out", device="cpu")
    assert torch.equal(vector(again.model), vector(ppo.policy.model))
    critic_again = new_critic(critic, again)
    critic_again.load_weights(tmp_path / "out/critic")
    assert torch.equal(vector(critic_again), vector(ppo.critic))
    assert not torch.equal(vector(again.model), vector(tiny_lm("llama").model))
    PPO(tmp_path / "out", ["the cat"], by_low_token, PPOConfig(device="cpu"), progress=False)


def test_the_reference_stays_and_the_policy_is_the_model_given(make_ppo, tiny_lm, vector):
    lm = tiny_lm("llama")
    ppo = make_ppo(lm=lm, settings={"steps": 3, "temperature": 0.7})
    start = vector(lm.model)
    kl = [metrics["objective/kl"] for metrics in ppo]
    assert torch.equal(vector(ppo.reference.model), start)
    assert ppo.policy.model is lm.model is ppo.sampler.lm.model
    assert not torch.equal(vector(lm.model), start)
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert abs(kl[2]) > 1e-3


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_dropout_is_off(make_ppo, tiny_lm, vector, critic):
    def trained(rate):
        lm = tiny_lm("gpt2", resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate)
        ppo = make_ppo(lm=lm, settings={"steps": 3, "critic": critic}, eval_size=1)
        assert max(metrics["policy/first_drift_max"] for metrics in ppo) < 1e-4
        return torch.cat([vector(lm.model), vector(ppo.critic)])

    assert torch.equal(trained(0.0), trained(0.5))


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_nothing_to_train_on(make_ppo, vector, critic):
    """Answers of one token never end, and those that were cut off are left out: no NaN, and no step."""
    ppo = make_ppo(settings={"response_length": 1, "cutoff": "mask", "critic": critic, "whiten_rewards": True})
    before = vector(ppo.policy.model)
    for metrics in ppo:
        assert metrics["completions/cut_off"] == 1
        assert all(math.isfinite(number) for number in metrics.values())
    assert torch.equal(vector(ppo.policy.model), before)
    assert vector(ppo.critic).isfinite().all()


def test_every_answer_is_judged_with_its_own_prompt_and_columns(make_ppo):
    rows = [{"prompt": f"the cat {i}", "twice": 2 * i, "messages": None} for i in range(7)]
    seen = []

    def reward(prompts, completions, completion_ids, twice):
        seen.extend(zip(prompts, twice, strict=True))
        return [float(n) for n in twice]

    ppo = make_ppo(reward, {"steps": 3, "batch_size": 6}, prompts=rows)
    scores = [metrics["objective/scores"] for metrics in ppo]
    assert set(seen) == {(f"the cat {i}", 2 * i) for i in range(7)}
    assert scores == [pytest.approx(sum(n for _, n in seen[i : i + 6]) / 6) for i in (0, 6, 12)]


def test_a_critic_that_begins_as_the_reward_model(make_ppo, tiny_lm, tmp_path, vector):
    tiny_lm("llama", seed=1).save(tmp_path / "base")
    reward_model = new_reward_model(tmp_path / "base", device="cpu")
    ppo = make_ppo(reward_model, {"critic": "separate", "critic_init": "reward"})
    assert torch.equal(ppo.critic.head.linear.weight, reward_model.model.score.weight)
    assert torch.equal(vector(ppo.critic.trunk), vector(reward_model.trunk))
    before = vector(reward_model.model)
    ppo.train()
    assert torch.equal(vector(reward_model.model), before)
    with pytest.raises(ConfigError, match="the reward has no reward model in it; use critic_init='policy'"):
        make_ppo(settings={"critic": "separate", "critic_init": "reward"})


def test_a_reward_that_fails_is_named(make_ppo):
    ppo = make_ppo(lambda prompts, completions: [float("nan")] * len(prompts), {"steps": 9})
    with pytest.raises(
        NumericsError, match=r"step 3 is left out.*not a finite number, for\n  prompt .*\n.*\n.*3 in a row"
    ):
        ppo.train()


def test_a_loaded_model_needs_its_tokenizer(tiny_lm):
    with pytest.raises(ConfigError, match="a loaded model needs its tokenizer"):
        PPO(tiny_lm("llama").model, ["the cat"], by_low_token)


def test_settings_as_a_dict_a_tokenizer_by_its_folder_and_one_metric(tiny_lm, tmp_path):
    lm = tiny_lm("llama")
    lm.save(tmp_path / "sft/policy")
    settings = {"steps": 3, "stop_tokens": "<|user|>"}
    for words in (tmp_path / "sft/policy", str(tmp_path / "sft")):
        ppo = PPO(
            lm.model, ["the cat", "a dog"], by_low_token, settings, tokenizer=words, eval_size=1, metrics=by_low_token
        )
        assert (ppo.config.steps, ppo.policy.eos_ids, list(ppo.judges)) == (3, (1, 3), ["score", "by_low_token"])
    with pytest.raises(ConfigError, match="stepz: unknown key; did you mean 'steps'"):
        PPO(lm.model, ["the cat"], by_low_token, {"stepz": 3}, tokenizer=lm.tokenizer)
    with pytest.raises(ConfigError, match="config: PPOConfig or a dict of its settings, not SFTConfig"):
        PPO(lm.model, ["the cat"], by_low_token, SFTConfig(), tokenizer=lm.tokenizer)


def test_a_run_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run: cannot be written in .*file: Not a directory; name another"):
        PPO("no/such/policy", ["the cat"], by_low_token, run=tmp_path / "file/run")


@pytest.mark.parametrize("groups", [{}, {"batch_size": 2, "num_generations": 2, "advantage_estimator": "rloo"}])
def test_answers_follow_the_seed_and_the_step(make_ppo, monkeypatch, groups):
    """No step draws the numbers of another, nor does an evaluation."""
    asked = []
    generate = Engine.generate

    def spy(self, prompts, sampling, *, seed=0, first_request=0):
        asked.extend((seed, first_request + i) for i in range(len(prompts)))
        return generate(self, prompts, sampling, seed=seed, first_request=first_request)

    monkeypatch.setattr(Engine, "generate", spy)
    for _ in make_ppo(settings={"steps": 3, "eval_every": 1, "seed": 7} | groups, eval_size=2):
        pass
    training = [one for one in asked if one[0] == 7]
    evaluations = [one for one in asked if one[0] != 7]
    assert len(set(training)) == len(training) == 12
    assert len(evaluations) == 3 * 2
    assert len(set(evaluations)) == 2  # always the same, so that they can be compared


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_gradient_checkpointing_is_really_on_and_changes_nothing(make_ppo, vector, critic):
    settings = {"critic": critic, "num_ppo_epochs": 1, "mini_batch_size": 4}
    weights, passes = [], []
    for on in (False, True):
        ppo = make_ppo(settings=settings | {"gradient_checkpointing": on})
        layer, seen = ppo.policy.model.model.layers[0].mlp, []
        ppo.step()
        ppo.step_done += 1
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(torch.is_grad_enabled()))
        ppo.step()
        weights.append(vector(ppo.policy.model))
        passes.append(sum(seen))
    assert passes == [1, 2]
    assert torch.allclose(*weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("critic", ["shared", pytest.param("separate", marks=pytest.mark.slow)])
def test_autocast_computes_in_bfloat16_and_keeps_the_weights(make_ppo, critic):
    ppo = make_ppo(settings=LEARNS | {"autocast": "bfloat16", "critic": critic})
    seen = []
    ppo.policy.model.model.layers[0].mlp.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    share = [metrics["objective/scores"] for metrics in ppo]
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in ppo.policy.model.parameters()} == {torch.float32}
    assert isinstance(ppo.sampler._decoder, SlotDecoder)
    assert sum(share[-3:]) / 3 > share[0] + 0.1


def test_judges_are_not_in_autocast(make_ppo):
    """A judge is what it is, whatever the policy computes in."""
    seen = []

    def judge(completions):
        seen.append(torch.is_autocast_enabled("cpu"))
        return [float(len(text)) for text in completions]

    ppo = make_ppo(judge, {"autocast": "bfloat16", "steps": 1}, eval_size=1)
    ppo.step()
    assert seen == [False]
    ppo.evaluate()
    assert seen == [False, False]


def test_an_answer_that_a_stop_string_ends_is_not_cut_off(make_ppo):
    ppo = make_ppo(settings={"cutoff": "mask", "stop_strings": ("a", "e", "t"), "batch_size": 16, "steps": 1})
    experience = ppo.collect()
    reasons = [completion.finish_reason for completion in experience.completions]
    assert {"stop", "length"} <= set(reasons)
    assert experience.batch.mask.any(-1).tolist() == [reason != "length" for reason in reasons]
    [metrics] = ppo
    assert metrics["completions/cut_off"] == metrics["completions/masked"] == reasons.count("length") / 16


def test_the_critic_is_judged_on_what_is_trained_on(make_ppo):
    """Prompts and padding, where values and returns are 0, are none of it."""
    ppo = make_ppo(settings={"batch_size": 8})
    batch = ppo.collect().batch
    values = torch.tensor([1.0, 3.0]).repeat(99)[: int(batch.mask.sum())]
    put = lambda x: torch.zeros(batch.mask.shape).masked_scatter(batch.mask, x)  # noqa: E731
    # Always 5 too low: of the variance all is explained, but between answers and padding there would be more of it.
    found = _critic_metrics(replace(batch, old_values=put(values), returns=put(values + 5)))
    assert found == {"val/explained_variance": 1.0}


def test_rewards_for_several_tasks(make_ppo, tmp_path):
    """Each judges the prompts of its own task, and the first four are all of one."""
    prompts = [{"prompt": f"the cat {i}", "task": "sums" if i < 6 else "politeness"} for i in range(12)]

    def of(name):
        def judge(prompts, completions, task):
            return [float(len(c)) if t == name else None for c, t in zip(completions, task, strict=True)]

        return {"function": judge, "name": name}

    ppo = make_ppo([of("sums"), of("politeness")], {"steps": 5}, prompts=prompts, run=tmp_path / "run")
    assert ppo.train()["steps"] == 5


def test_a_metric_that_abstains_never_ends_a_run(make_ppo, tmp_path, lines):
    calls = []

    def moody(prompts, completions):
        """Judges nobody at first, then the first sample, then the last."""
        calls.append(1)
        scores = [None] * len(prompts)
        if len(calls) > 1:
            scores[0 if len(calls) == 2 else -1] = 1.0
        return scores

    settings = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "best_metric": "moody"}
    summary = make_ppo(settings=settings, eval_size=2, metrics=[moody], run=tmp_path / "run").train()
    assert "moody" not in summary["before"]
    assert summary["after"]["moody"] == 1.0
    assert "moody" not in summary["win_rate"]
    assert summary["best"] == {"step": 2, "metric": "moody", "value": 1.0}
    json.loads((tmp_path / "run/summary.json").read_text(), parse_constant=pytest.fail)  # no NaN in it


def test_rewards_are_told_how_far_the_training_is(make_ppo, tmp_path):
    seen = []

    def judge(completions, trainer_state):
        seen.append((trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch))
        return [float(len(text)) for text in completions]

    make_ppo(judge, {"steps": 3}, prompts=["a", "b", "c", "d", "e"], eval_size=1).train()
    assert seen == [(0, 3, 0.0), (0, 3, 0.0), (1, 3, 1.0), (2, 3, 2.0), (3, 3, 3.0)]


def wants_an_answer(completions, answer):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "settings"),
    [
        (wants_an_answer, {}),
        ([{"function": wants_an_answer, "workers": 2}], {}),
        ([{"function": wants_an_answer, "name": "right"}], {}),
        (lambda completions: [0.0], {"metrics": [wants_an_answer], "eval_size": 1}),
        (wants_an_answer, {"prompts": [{"prompt": "a", "answer": "b"}], "eval_prompts": ["c"]}),
    ],
)
def test_a_column_that_is_not_there_is_said_before_anything_is_loaded(tmp_path, reward, settings):
    given = {"prompts": ["a", "b"], "run": tmp_path / "run"} | settings
    with pytest.raises(RewardError, match=r"'(wants_an_answer|right)' wants column 'answer'; there are"):
        PPO("no/such/model", reward=reward, **given)
