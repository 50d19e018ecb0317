"""Jobs of several processes on paper: literal bytes and seconds, one process as ever, all ranks together the whole."""

import json

import pytest

from kedge.errors import ConfigError
from kedge.inspection.cluster import (
    Assumptions,
    Layout,
    Simulated,
    Simulation,
    rank_memory,
    share,
    traffic_of,
)
from kedge.inspection.machine import Machine, Speeds
from kedge.inspection.parts import Parts, parts_of
from kedge.inspection.plan import make_plan
from kedge.inspection.rehearsal import Phase
from kedge.models.adapters import add_adapter
from kedge.recipes.fitting import planned_job
from kedge.training.ppo import PPOConfig

TIMED = Machine("cpu", 2**40, 2**40, Speeds(1e9, 1e9, 1e-6))

# The tiny Llama of the tests, in bytes: embedding and head of 320 * 32, two layers of 7,744, a norm of 32.
LAYER, AROUND = 4 * 7744, 4 * (2 * 320 * 32 + 32)
WEIGHTS = AROUND + 2 * LAYER


def simulation(recipe, stage="ppo", **how):
    return Simulation(planned_job(recipe, stage, TIMED), Assumptions(**how))


def grpo(recipe, **settings):
    """Without a critic, so that the policy is all that is trained."""
    return recipe(advantage_estimator="grpo", num_generations=2, num_ppo_epochs=3, mini_batch_size=8, **settings)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_one_process_is_planned_as_ever(recipe, stage):
    made = recipe(critic="separate")
    plan = make_plan(planned_job(made, stage, TIMED))
    found = simulation(made, stage).of(Layout(1))
    assert found.peaks == {phase.name: phase.peak for phase in plan.phases}
    assert found.traffic == {}
    assert found.step == pytest.approx(sum(p.seconds for p in plan.phases if p.name != "evaluate"))
    assert found.efficiency == pytest.approx(1)


def test_parts_of_a_model_and_of_an_adapter_on_it(tiny_lm):
    lm = tiny_lm("llama")
    assert parts_of(lm) == Parts(spread=WEIGHTS, layer=LAYER, around=AROUND, trained=WEIGHTS)
    add_adapter(lm.model, {"method": "lora", "r": 2, "target_modules": ["q_proj"]}, seed=0)
    plain = 4 * 2 * (2 * 32 + 2 * 32)  # two layers; A: 2 x 32, B: 32 x 2
    assert parts_of(lm) == Parts(spread=WEIGHTS, layer=LAYER, around=AROUND, plain=plain, trained_plain=plain)


class TestShares:
    def config(self, **settings):
        return PPOConfig(**{"batch_size": 8, "mini_batch_size": 8, "steps": 1} | settings)

    @pytest.mark.parametrize(
        ("settings", "processes", "want"),
        [
            ({}, 1, {}),
            ({}, 2, {"batch_size": 4, "mini_batch_size": 4}),
            ({}, 3, {"batch_size": 3, "mini_batch_size": 3}),
            ({"mini_batch_size": 2}, 2, {"batch_size": 4, "mini_batch_size": 1}),
            ({"mini_batch_size": 2}, 8, {"batch_size": 4, "mini_batch_size": 1}),  # an answer of each of 4 minibatches
            ({}, 512, {"batch_size": 1, "mini_batch_size": 1}),
            ({"num_generations": 4, "advantage_estimator": "grpo"}, 4, {"batch_size": 2, "mini_batch_size": 2}),
        ],
    )
    def test_of_a_step(self, settings, processes, want):
        assert share(self.config(**settings), processes) == want


PARTS = Parts(spread=1000, layer=200, around=300, plain=40, trained=1000, trained_plain=40)
HELD = {("policy", "weights"): 1040, ("policy", "gradients"): 1040, ("policy", "optimizer"): 2080}
REST = {("policy", "activations"): 700, ("policy", "KV cache"): 500}


class TestMemory:
    def phase(self, **how):
        return Phase("update", HELD | REST, None, {"policy": PARTS}, **how)

    def test_whole_models_are_whole_in_every_process(self):
        assert rank_memory(self.phase(), 4, shard=False) == 1040 + 1040 + 2080 + 700 + 500
        assert rank_memory(self.phase(), 4, shard=False, cache=False) == 1040 + 1040 + 2080 + 700

    def test_a_part_of_what_is_spread_and_all_that_is_not(self):
        # 40 + 1000 / 4 of weights and of gradients; of 2080 of moments 80 are the plain ones'.
        assert rank_memory(self.phase(), 4, shard=True) == (40 + 250) + (40 + 250) + (80 + 500) + 700 + 500

    def test_all_ranks_together_hold_the_whole_once(self):
        for processes in (2, 4, 8, 1000):
            held = rank_memory(self.phase(), processes, shard=True) - sum(REST.values())
            plain = 40 + 40 + 80
            assert processes * (held - plain) == 4160 - plain

    def test_what_is_put_together_for_a_pass(self):
        parts = {"policy": PARTS, "critic": Parts(spread=500, layer=100, around=50, trained=500)}

        def together(held=(), **how):
            held = {(role, "gradients"): 2 for role in held}
            return rank_memory(Phase("p", held, None, parts, **how), 2, shard=True) - len(held)

        both = ["policy", "critic"]
        assert together(runs=both) == 300 + 2 * 200  # one after the other
        plain = 40  # of which gradients are summed as ever, in copies
        assert together(runs=both, backward=True) == 300 + 2 * 200 + plain
        assert together(runs=both, backward=True, held=both) == 2 * (300 + 2 * 200) + plain  # and gradients
        assert together(runs=both, backward=True, held=["critic"]) == 300 + 2 * 200 + plain  # the policy's
        assert together(whole=["policy"]) == 1000
        assert rank_memory(Phase("p", {}, None, parts, whole=both), 1, shard=True) == 0

    def test_gradients_on_their_way(self):
        """Copies, in two buckets of 64 MiB at the most; of what is spread FSDP2 makes its own."""
        large = {"policy": Parts(spread=2**30, layer=1, around=1, plain=100, trained=2**30, trained_plain=100)}

        def held(processes, shard):
            phase = Phase("update", {}, None, large, runs=["policy"], backward=True)
            return rank_memory(phase, processes, shard=shard)

        assert held(1, shard=False) == 0
        assert held(2, shard=False) == 2 * 2**26
        assert held(2, shard=True) == 100 + 3

    def test_of_a_real_job(self, recipe):
        found = simulation(grpo(recipe, shard=True, micro_batch_tokens=80)).of(Layout(2))
        alone = simulation(grpo(recipe, micro_batch_tokens=80)).of(Layout(2))
        # The peak is at the logits of a later micro-batch, when there are gradients: policy, reference, gradients and
        # two moments, a half less each, and no buckets of gradients; what a pass needs, and its gradients, come on top,
        # and two layers are all there are.
        less, more = (1 + 1 + 1 + 2) * WEIGHTS // 2 + WEIGHTS, 2 * (AROUND + 2 * LAYER)
        assert alone.peaks["update"] - found.peaks["update"] == pytest.approx(less - more, abs=600)


class TestTraffic:
    def test_gradients_of_whole_models(self, recipe):
        for processes, part in ((2, 1 / 2), (4, 3 / 4)):
            found = simulation(grpo(recipe)).of(Layout(processes))
            # 8 prompts of 2 answers, minibatches of 8: two steps an epoch, three epochs.
            assert found.traffic == {"all-reduce of gradients": pytest.approx(2 * part * WEIGHTS * 6)}

    def test_sharded(self, recipe):
        found = simulation(grpo(recipe, shard=True, micro_batch_tokens=10_000)).of(Layout(2)).traffic
        # Once for sampling; the reference's pass; six passes with one back over the layers.
        assert found["all-gather of weights"] == (WEIGHTS + WEIGHTS + 6 * (WEIGHTS + 2 * LAYER)) / 2
        assert found["reduce-scatter of gradients"] == 6 * WEIGHTS / 2
        assert "all-reduce of gradients" not in found

    def test_every_micro_batch_has_its_own(self):
        parts = {"policy": Parts(spread=100, layer=30, around=40, trained=100)}
        phase = Phase("update", {}, None, parts, runs=["policy"], passes=10, steps=2, backward=True)
        found = traffic_of([phase], 5, shard=True)
        assert found == {
            "all-gather of weights": pytest.approx(0.8 * 10 * (100 + 60)),
            "reduce-scatter of gradients": pytest.approx(0.8 * 10 * 100),
        }
        assert traffic_of([phase], 5, shard=False) == {"all-reduce of gradients": pytest.approx(2 * 0.8 * 100 * 2)}
        assert traffic_of([phase], 1, shard=True) == {}

    def test_a_publish(self, recipe):
        found = simulation(grpo(recipe), disk=1e6).of(Layout(2, 3))
        assert found.publish["folder"] == pytest.approx(4 * WEIGHTS, abs=600)
        assert found.publish["broadcast"] == pytest.approx(3 * WEIGHTS, abs=600)
        assert found.seconds["publish"] == found.publish["folder"] / 1e6
        assert list(found.peaks) == ["estimate", "update"]  # no engine here
        assert simulation(grpo(recipe)).of(Layout(2)).publish == {}


SECONDS = {"sample": 6.0, "train": 3.0, "exchange": 0.5, "publish": 0.5}


class TestTime:
    def simulated(self, servers=1, staleness=1):
        return Simulated(Layout(3, servers), False, {"update": 1}, {}, {}, SECONDS, staleness, alone=20.0)

    def test_one_after_the_other_or_beside(self):
        assert self.simulated(staleness=0).step == 10.0
        assert self.simulated().step == 6.0
        assert self.simulated(servers=0).step == 10.0  # the same processes cannot do both at once
        assert self.simulated().waits == pytest.approx(1 - 4 / 6)
        assert self.simulated(servers=0).waits is None
        assert self.simulated().efficiency == pytest.approx(20 / (6 * 4))

    def test_pieces(self, recipe):
        made = grpo(recipe)
        usual, slow = simulation(made).of(Layout(2)), simulation(made, utilisation=0.5, network=1e6).of(Layout(2))
        assert slow.seconds["train"] == pytest.approx(2 * usual.seconds["train"])
        assert slow.alone == pytest.approx(2 * usual.alone)
        assert slow.seconds["exchange"] == slow.traffic["all-reduce of gradients"] / 1e6
        half, fast = simulation(made).of(Layout(2, 2)), simulation(made, servers=4.0).of(Layout(2, 2))
        assert half.seconds["sample"] == pytest.approx(usual.seconds["sample"])  # two servers for two processes' share
        assert fast.seconds["sample"] == pytest.approx(half.seconds["sample"] / 4)

    def test_gpus_are_dealt_out_so_that_a_step_takes_least(self, recipe):
        job = simulation(grpo(recipe))
        best = job.best(8, servers=True)
        every = [job.of(Layout(n, 8 - n)).step for n in (2, 4, 6)]
        assert best.step == min(every) < max(every)
        assert best.layout.gpus == 8
        with pytest.raises(ConfigError, match="at least 2"):
            job.best(1, servers=True)

    def test_no_more_than_there_are_answers(self, recipe):
        job = simulation(recipe(num_ppo_epochs=1))
        assert job.of(Layout(64)).busy == 8
        assert job.of(Layout(64)).seconds["train"] == job.of(Layout(8)).seconds["train"]


class TestCommand:
    def test_json(self, kedge, recipe):
        words = ["--processes", "2", "--gpus", "4", "--sampler", "vllm", "--json", "--assume", "network=50GB"]
        speeds = ["--gpu", "1GB", "--flops", "1T", "--bandwidth", "1TB"]
        status, out, _ = kedge("plan", grpo(recipe, shard=True).path, *words, *speeds)
        assert status == 0
        told = json.loads(out)
        assert told["ppo"]["assumed"]["network"] == 50e9
        [layout] = told["ppo"]["layouts"]
        assert (layout["processes"], layout["servers"], layout["shard"]) == (2, 2, True)
        assert told["sft"]["layouts"][0]["servers"] == 0

    def test_the_table_fits_80_columns(self, kedge, recipe):
        words = ["--gpus", "8", "--gpus", "512", "--sampler", "vllm", "--staleness", "2"]
        speeds = ["--gpu", "1GB", "--flops", "1T", "--bandwidth", "1TB"]
        status, out, _ = kedge("plan", grpo(recipe).path, *words, *speeds)
        assert status == 0
        assert "…" not in out
        told = " ".join(out.split())
        for said in ("a rank", "by broadcast", "network=2.5e+10", "1e+12 FLOP/s", "sampling and training beside"):
            assert said in told
        assert "a minibatch has 8 answers" in told

    def test_without_speeds_there_are_bytes(self, kedge, recipe):
        status, out, _ = kedge("plan", grpo(recipe).path, "--gpus", "8", "--gpu", "1GB")
        assert status == 0
        assert "No seconds" in out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--sampler", "vllm"], "--sampler: is about several processes"),
            (["--assume", "disk=1GB"], "--assume: is about several processes"),
            (["--processes", "2", "--staleness", "1"], "give --sampler vllm"),
            (["--processes", "2", "--sampler", "tgi"], "--sampler: vllm"),
            (["--processes", "8", "--gpus", "8", "--sampler", "vllm"], "--gpus 8: are fewer"),
            (["--processes", "2", "--assume", "speed=3"], "--assume: 'speed=3'"),
            (["--processes", "2", "--assume", "disk=fast"], "--assume disk: 'fast'"),
        ],
    )
    def test_what_does_not_go(self, kedge, recipe, words, said):
        status, _, told = kedge("plan", recipe().path, *words)
        assert status == 2
        assert said in told
