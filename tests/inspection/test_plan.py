"""Plans against literal numbers of bytes, against each other, and against what a run really takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kedge import SFT, RewardModeling
from kedge.config.settings import write_recipe
from kedge.errors import ConfigError, ModelError
from kedge.inspection.machine import Machine, Speeds
from kedge.inspection.plan import changed, make_plan
from kedge.recipes.fitting import planned_job, plans
from kedge.recipes.recipe import Recipe
from kedge.training.ppo import PPOConfig

ROOMY = Machine("cpu", 2**40, 2**40)

# The tiny Llama of the tests: two embeddings of 320 * 32, two layers of 7,744 (attention 3,072, the gated MLP 4,608,
# two norms of 32), a last norm of 32. Buffers and step counters, of some bytes, come on top.
WEIGHTS = 4 * (2 * 320 * 32 + 2 * 7744 + 32)
TRUNK = 4 * (320 * 32 + 2 * 7744 + 32)
CRITIC = TRUNK + 4 * 33
SOME = 256


def job(recipe, stage="ppo", machine=ROOMY, model=None):
    return planned_job(recipe, stage, machine, model=model)


def phases(recipe, stage="ppo", machine=ROOMY):
    return {phase.name: phase for phase in job(recipe, stage, machine).rehearse()}


def test_weights_gradients_and_optimizer_by_role(recipe):
    found = phases(recipe(critic="separate", micro_batch_tokens=80))
    assert list(found) == ["generate", "estimate", "update"]
    held = found["update"].held
    assert held["policy", "weights"] == pytest.approx(WEIGHTS, abs=SOME)
    assert held["reference", "weights"] == pytest.approx(WEIGHTS, abs=SOME)
    assert held["critic", "weights"] == pytest.approx(CRITIC, abs=SOME)
    assert held["policy", "gradients"] == WEIGHTS
    assert held["critic", "gradients"] == CRITIC
    assert held["policy", "optimizer"] == pytest.approx(2 * WEIGHTS, abs=SOME)  # and a step counter a weight
    assert held["critic", "optimizer"] == pytest.approx(2 * CRITIC, abs=SOME)
    assert ("reference", "gradients") not in held
    assert ("reference", "optimizer") not in held
    # Outside the update there are no gradients, and all else stays.
    assert not any(kind == "gradients" for phase in ("generate", "estimate") for _, kind in found[phase].held)
    assert found["generate"].held["critic", "optimizer"] == held["critic", "optimizer"]


@pytest.mark.slow
def test_the_cache_of_the_engine_stays_through_the_update(recipe):
    found = phases(recipe(num_generations=2, mini_batch_size=16))
    # Two layers, keys and values, 16 rows, 2 heads of 8, columns rounded up to 64, 4 bytes; and positions.
    cache = 2 * 2 * 16 * 2 * 64 * 8 * 4
    for phase in found.values():
        assert cache <= phase.held["policy", "KV cache"] <= cache + 4096


def test_an_engine_writes_no_more_rows_than_it_has(recipe):
    def cache(answers):
        held = phases(recipe(batch_size=answers, mini_batch_size=answers))["generate"].held
        return held["policy", "KV cache"]

    assert cache(264) == cache(256)


@pytest.mark.slow
def test_a_critic_costs_what_it_is(recipe):
    separate, shared = (phases(recipe(critic=kind))["update"] for kind in ("separate", "shared"))
    none = phases(recipe(advantage_estimator="reinforce++"))["update"]
    assert separate.peak > shared.peak + 3 * CRITIC
    assert 0 < shared.peak - none.peak < 0.2 * none.peak
    assert not any(role == "critic" for role, _ in none.held)


def test_a_reward_model_has_a_phase_and_weights(recipe, tmp_path):
    folder = str(tmp_path / "llama")
    found = phases(recipe(reward=[{"model": folder}, {"function": "never_imported:f"}], metrics=[folder]))
    assert list(found) == ["generate", "reward", "estimate", "update"]
    # One for the reward and one for the metric.
    assert found["update"].held["reward", "weights"] == pytest.approx(2 * (TRUNK + 4 * 32), abs=2 * SOME)
    assert found["reward"].held["reward", "activations"] > 0


def test_evaluation_has_a_cache_of_its_own(recipe):
    found = phases(recipe(eval_size=16))
    generate, evaluate = (found[name].held["policy", "KV cache"] for name in ("generate", "evaluate"))
    assert evaluate == pytest.approx(3 * generate, rel=0.05)  # the trainer's 8 rows, and 16 more


@pytest.mark.slow
def test_less_is_less(recipe):
    bigger = {"batch_size": 32, "mini_batch_size": 32, "response_length": 64, "entropy_coef": 0.1, "layers": 1}

    def peak(**settings):
        return phases(recipe(**(bigger | settings)))["update"].peak

    whole = peak()
    less = {
        "gradient_checkpointing": True,
        "micro_batch_tokens": 80,
        "response_length": 8,
        "dtype": "bfloat16",
        "autocast": "bfloat16",
        "entropy_coef": 0.0,
    }
    assert {key: peak(**{key: value}) < whole for key, value in less.items()} == dict.fromkeys(less, True)
    assert whole < peak(critic="separate")


USUAL = [("ppo", None), ("sft", "nf4"), ("reward", "int8")]
REST = [("ppo", False), ("sft", True), ("reward", True)]
LINEAR = 2 * (3072 + 4608)
ADAPTER = 4 * 2 * (2 * 4 * (32 + 32) + 2 * 4 * (32 + 16) + 3 * 4 * (32 + 48))
"""Weights of rank 4 beside the queries, outputs, keys, values and the gated MLP of two layers, in bytes."""


@pytest.mark.parametrize(
    ("kind", "bytes_left"), [("nf4", LINEAR / 2), pytest.param("int8", LINEAR, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("stage", "dora"),
    [("ppo", True), ("sft", False), ("reward", False), *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)],
)
def test_a_quantised_base(recipe, kind, bytes_left, stage, dora):
    table = '{method="lora", r=4, target_modules="all-linear", use_dora=' + str(dora).lower() + "}"
    settings = [f'{stage}.quantization="{kind}"', f"{stage}.adapter={table}", f"{stage}.micro_batch_tokens=80"]
    found = phases(recipe(*settings), stage)
    held = (found.get("update") or found["train"]).held
    role = "reward" if stage == "reward" else "policy"
    whole = TRUNK + 4 * 32 if stage == "reward" else WEIGHTS
    left = whole - 4 * LINEAR + bytes_left
    scales = LINEAR / 64 if kind == "nf4" else 4 * LINEAR / 32
    magnitudes = 4 * 2 * (2 * 32 + 2 * 16 + 2 * 48 + 32) if dora else 0
    assert held[role, "weights"] == pytest.approx(left + scales + ADAPTER + magnitudes, abs=4 * SOME)
    assert ("reference", "weights") not in held or held["reference", "weights"] <= SOME


@pytest.mark.parametrize(
    ("stage", "held_in"),
    [
        pytest.param(stage, held_in, marks=() if (stage, held_in) in USUAL else pytest.mark.slow)
        for stage in ("ppo", "sft", "reward")
        for held_in in (None, "nf4", "int8")
    ],
)
def test_ranks_that_are_allocated(recipe, stage, held_in):
    """AdaLoRA: a singular value a triplet besides, and three numbers of what each weight is worth."""
    table = '{method="adalora", init_r=4, target_r=2, target_modules="all-linear"}'
    settings = [f"{stage}.adapter={table}", f"{stage}.micro_batch_tokens=80"]
    found = phases(recipe(*settings, *([f'{stage}.quantization="{held_in}"'] if held_in else [])), stage)
    held = (found.get("update") or found["train"]).held
    role = "reward" if stage == "reward" else "policy"
    head = 4 * 32 if stage == "reward" else 0
    adapter = ADAPTER + 4 * 2 * 7 * 4
    assert held[role, "optimizer"] == pytest.approx(5 * adapter + 2 * head, abs=4 * SOME)


def test_a_prefix_is_all_that_is_trained(recipe):
    table = '{method="prefix_tuning", num_virtual_tokens=64}'
    held = phases(recipe(f"ppo.adapter={table}"), "ppo")["update"].held
    learnt = 4 * 2 * 2 * 64 * 2 * 8  # bytes, layers, keys and values, virtual tokens, heads, width
    assert held["policy", "optimizer"] == pytest.approx(2 * learnt, abs=SOME)
    assert held["policy", "weights"] == pytest.approx(WEIGHTS + learnt, abs=SOME)


def test_half_the_precision_is_half_the_weights(recipe):
    held = phases(recipe(dtype="bfloat16"))["generate"].held
    assert held["policy", "weights"] == pytest.approx(WEIGHTS / 2, abs=SOME)
    assert held["policy", "optimizer"] == pytest.approx(WEIGHTS, abs=SOME)


def test_under_autocast_the_sampler_holds_narrow_copies_of_the_linear_layers(recipe):
    held = phases(recipe(autocast="bfloat16"))["generate"].held
    embeddings = 4 * 320 * 32
    assert held["policy", "weights"] == pytest.approx(WEIGHTS + (WEIGHTS - embeddings) / 2, abs=2 * SOME)


@pytest.mark.slow
def test_logits_are_made_by_the_memory_of_the_machine_it_is_for(recipe, monkeypatch):
    monkeypatch.setattr("kedge.models.device.FEWEST_LOGITS", 320 * 4)

    found = {
        device: phases(recipe(batch_size=32), machine=replace(ROOMY, device=device))["estimate"]
        for device in ("cpu", "cuda")
    }
    assert ("reference", "logits") not in found["cpu"].held
    assert found["cuda"].held["reference", "logits"] > found["cuda"].peak - found["cpu"].peak > 0


def test_only_prompts_that_ppo_would_take_count(recipe, tmp_path):
    made = recipe()
    long = {"prompt": "the cat " * 20}
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    longest = [len(prompt.text) for prompt in job(made).work.prompts]
    assert longest[:2] == [len(long["prompt"]), len("the cat " * 3)]
    kept = job(recipe("ppo.max_prompt_length=10"))
    assert max(len(prompt.text) for prompt in kept.work.prompts) <= len("the cat " * 3)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_only_what_a_job_would_take_of_long_rows_counts(recipe, stage):
    def longest(*words):
        return max(max(example.lengths) for example in job(recipe(*words), stage).work.examples)

    limit = longest() - 1
    assert longest(f"{stage}.max_length={limit}", f"{stage}.too_long=truncate") == limit
    assert longest(f"{stage}.max_length={limit}", f"{stage}.too_long=error") == limit + 1  # the job says it itself


def test_prompts_that_ppo_would_cut_are_rehearsed_so(recipe, capsys):
    made = recipe("ppo.max_prompt_length=2", "ppo.too_long=truncate")
    assert phases(made)["generate"].peak <= phases(recipe())["generate"].peak
    assert job(made).work.tokens <= 2
    assert "too_long" not in capsys.readouterr().err  # the job says it, and its rehearsal does not


@pytest.mark.parametrize(
    ("stage", "role", "weights"), [("sft", "policy", WEIGHTS), ("reward", "reward", TRUNK + 4 * 32)]
)
def test_supervised_jobs(recipe, stage, role, weights):
    found = phases(recipe(), stage)
    assert list(found) == ["train"]
    held = phases(recipe(f"{stage}.micro_batch_tokens=60"), stage)["train"].held
    assert held[role, "weights"] == pytest.approx(weights, abs=SOME)
    assert held[role, "gradients"] == pytest.approx(weights, abs=SOME)
    assert held[role, "optimizer"] == pytest.approx(2 * weights, abs=SOME)
    assert sum(held.values()) < found["train"].peak
    less = phases(recipe(f"{stage}.gradient_checkpointing=true"), stage)["train"]
    assert less.peak < found["train"].peak


@pytest.mark.slow
def test_cuda_needs_room_for_the_optimizer(recipe):
    """It works on all weights at once there: with few tokens that is the peak."""
    few = {"batch_size": 1, "mini_batch_size": 1, "response_length": 2}
    cpu, cuda = (phases(recipe(**few), machine=replace(ROOMY, device=name))["update"] for name in ("cpu", "cuda"))
    assert cuda.held["policy", "optimizer"] == pytest.approx(3 * WEIGHTS, abs=SOME)
    # Else one weight after another; two temporaries of the largest.
    assert cpu.held["policy", "optimizer"] == pytest.approx(2 * WEIGHTS + 2 * 4 * 320 * 32, abs=SOME)


@pytest.mark.parametrize(
    "arch",
    [
        "gpt2",
        "kedge_lstm",
        pytest.param("gemma3_text", marks=pytest.mark.slow),
        pytest.param("mamba", marks=pytest.mark.slow),
        pytest.param("lfm2", marks=pytest.mark.slow),
    ],
)
def test_architectures_of_other_kinds(recipe, arch):
    assert phases(recipe(arch=arch))["update"].peak > 0


def test_seconds_come_from_the_speeds(recipe):
    def seconds(flops):
        machine = replace(ROOMY, speeds=Speeds(flops, bandwidth=1e30, overhead=0.0))
        return [phase.seconds for phase in phases(recipe(), machine=machine).values()]

    slow, fast = seconds(1e9), seconds(4e9)
    assert [a / b for a, b in zip(slow, fast, strict=True)] == pytest.approx([4.0] * 3)
    # Two FLOPs a weight and token, at least, forward; twice that backward; 4 passes over the step's answers.
    layers, tokens = 2 * 7680, 8 * 16
    assert slow[2] > 4 * 3 * 2 * layers * tokens / 1e9
    assert all(phase.seconds is None for phase in phases(recipe()).values())


@pytest.mark.slow
def test_it_is_tight_where_the_c_library_may_keep_too_much(recipe, monkeypatch):
    plan = make_plan(job(recipe()))
    for platform, device, share, tight in (
        ("linux", "cpu", 1.2, True),
        ("linux", "cpu", 2.0, False),
        ("linux", "cpu", 0.9, False),
        ("linux", "cuda", 1.2, False),
        ("darwin", "cpu", 1.2, False),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        machine = Machine(device, int(share * plan.peak), 2**40)
        assert replace(plan, job=replace(plan.job, machine=machine)).tight is tight


@pytest.mark.slow
def test_advice_is_rehearsed_and_ends_where_it_fits(recipe):
    big = {"batch_size": 32, "mini_batch_size": 32, "response_length": 64, "critic": "separate", "layers": 1}
    planned = job(recipe(**big))
    peak = max(phase.peak for phase in planned.rehearse())
    tight = replace(planned, machine=replace(ROOMY, free=int(0.45 * peak)))
    plan = make_plan(tight)
    assert not plan.fits
    peaks = [plan.peak, *(advice.peak for advice in plan.advice)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] <= tight.machine.free < peaks[-2]
    assert next(iter(plan.advice[0].settings)) == "micro_batch_tokens"  # what costs least comes first
    taken = {}
    for advice in plan.advice:
        taken |= advice.settings
        assert max(phase.peak for phase in planned.rehearse(taken)) == advice.peak


@pytest.mark.slow
def test_advice_where_nothing_is_enough_says_what_there_is(recipe):
    plan = make_plan(job(recipe(response_length=64, layers=1), machine=replace(ROOMY, free=1)))
    settings = {key: value for advice in plan.advice for key, value in advice.settings.items()}
    assert min(advice.peak for advice in plan.advice) > 1
    assert settings["dtype"] == "bfloat16"
    assert settings.get("micro_batch_tokens", 128) > 64  # an answer and its prompt must go in


def test_a_plan_that_fits_needs_no_advice(recipe):
    assert make_plan(job(recipe())).advice == ()


def test_changed_settings_take_those_along_that_they_make_idle():
    before = PPOConfig(critic="separate", critic_init="reward", steps=7)
    after = changed(before, {"critic": "shared"})
    assert (after.critic, after.steps) == ("shared", 7)
    assert "critic_init" not in after.model_fields_set
    with pytest.raises(ConfigError, match="mini_batch_size"):
        changed(before, {"batch_size": 3})


def test_what_cannot_be_rehearsed_says_so(recipe, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("no numbers, no answer\nmore")

    monkeypatch.setattr("kedge.inspection.ppo_rehearsal.forward_tokens", refuse)
    with pytest.raises(ModelError, match=r"cannot be planned without its weights: no numbers, no answer$"):
        job(recipe()).rehearse()


def test_a_plan_leaves_the_random_numbers_alone(recipe):
    before = torch.get_rng_state()
    make_plan(job(recipe(critic="separate")))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_table_that_trains_is_planned_and_an_error_keeps_to_its_own(recipe):
    found = dict(plans(recipe('ppo.policy="./nowhere"'), gpu=2**30))
    assert list(found) == ["sft", "reward", "ppo"]
    assert found["sft"].fits
    assert isinstance(found["ppo"], ModelError)


@pytest.mark.slow
def test_runs_of_the_same_recipe_need_not_be_there_yet(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    chain = recipe('reward.model="runs/r-sft"', 'ppo.policy="runs/r-sft"', 'ppo.reward="runs/r-reward"')
    apart = recipe(f'ppo.reward="{tmp_path / "llama"}"')
    assert phases(chain)["update"].held == phases(apart)["update"].held
    assert phases(chain, "reward")["train"].held == phases(apart, "reward")["train"].held
    with pytest.raises(ModelError, match="no such folder"):
        job(recipe('ppo.policy="runs/r-other"'))


@pytest.mark.slow
def test_another_model_takes_the_place_of_the_recipes(recipe, on_paper_model):
    small = phases(recipe())["update"].held["policy", "weights"]
    folder, _ = on_paper_model("qwen3", num_hidden_layers=4)
    made = recipe()
    planned = job(made, model=str(folder))
    large = {phase.name: phase for phase in planned.rehearse()}["update"].held["policy", "weights"]
    assert large > 1.3 * small


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_prediction_against_a_run():
    """One shape of the benchmark: within 15% of the peak that a process of its own takes."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "benchmarks/plan.py"), "12M, no critic"]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found = json.loads(output.splitlines()[-1])["12M, no critic"]
    assert 0.85 < found["predicted"] / found["used"] < 1.15


@pytest.mark.slow
def test_the_adapter_that_a_run_left_is_planned_as_it_is(tmp_path, tiny_lm):
    """Of another size than PEFT's usual one; and a reward model on the same base shares its trunk."""
    tiny_lm("llama").save(tmp_path / "base")
    adapter = {"method": "lora", "r": 16, "target_modules": "all-linear"}
    settings = {"batch_size": 4, "device": "cpu", "adapter": adapter}
    rows = [{"prompt": "the", "completion": " cat"}] * 8
    SFT(tmp_path / "base", rows, settings, run=tmp_path / "sft", progress=False).train()
    pairs = [{"chosen": "the cat", "rejected": "the dog"}] * 8
    RewardModeling(tmp_path / "sft", pairs, settings, run=tmp_path / "rm", progress=False).train()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the cat"}\n' * 8)
    tables = {
        "ppo": {
            "policy": str(tmp_path / "sft"), "prompts": str(tmp_path / "prompts.jsonl"), "reward": str(tmp_path / "rm"),
            "adapter": {"method": "lora"}, "batch_size": 4, "mini_batch_size": 4, "response_length": 8, "device": "cpu",
        }
    }  # fmt: skip
    write_recipe(tmp_path / "r.toml", tables)
    sizes = phases(Recipe(tmp_path / "r.toml", []))["update"].held
    of_rank_16 = 4 * 2 * (2 * 16 * (32 + 32) + 2 * 16 * (32 + 16) + 3 * 16 * (32 + 48))
    assert sizes["policy", "optimizer"] == pytest.approx(2 * of_rank_16, abs=8 * SOME)
    assert sizes["reward", "weights"] < WEIGHTS / 2 + of_rank_16
