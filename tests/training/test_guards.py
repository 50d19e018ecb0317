"""Each guard speaks of its own trouble, when it is due and once; a pause keeps everything and stops."""

import json

import pytest
import torch
import torch.nn.functional as F

from kedge import PPOConfig
from kedge.errors import ConfigError, NotFiniteError, NumericsError, Stopped
from kedge.models.scalar import ScalarHead
from kedge.training.ppo.guards import NAMES, Guards, GuardsConfig

FINE = {
    "policy/update_kl": 0.03, "policy/lr_scale": 0.9, "completions/masked": 0.4, "objective/equal_groups": 0.5,
    "objective/kl": 8.0, "completions/mean_length": 20.0, "loss/value_avg": 0.5, "val/explained_variance": 0.4,
    "policy/first_drift_max": 1e-6, "policy/entropy_avg": 2.0, "completions/repeated": 0.1, "completions/empty": 0.0,
    "completions/cut_off": 0.2, "objective/scores_std": 0.7, "rewards/largest_share": 0.6,
    "rewards/smallest_trend": 2.0,
}  # fmt: skip

TROUBLE = {
    "update_kl": ({"policy/update_kl": 0.5}, 0.5),
    "lr_scale": ({"policy/lr_scale": 0.1}, 0.1),
    "short": ({"completions/mean_length": 4.0, "objective/kl": 1.0}, 0.2),
    "masked": ({"completions/masked": 1.0}, 1.0),
    "equal_groups": ({"objective/equal_groups": 1.0}, 1.0),
    "kl": ({"objective/kl": 30.0}, 1.5),
    "value_loss": ({"loss/value_avg": 6.0}, 12.0),
    "explained_variance": ({"val/explained_variance": -0.2}, -0.2),
    "ratio": ({"policy/first_drift_max": 2e-3}, 2e-3),
    "entropy": ({"policy/entropy_avg": 0.1}, 0.05),
    "repetition": ({"completions/repeated": 0.6}, 0.5),
    "empty": ({"completions/empty": 0.5}, 0.5),
    "cut_off": ({"completions/cut_off": 0.9}, 0.7),
    "equal_rewards": ({"objective/scores_std": 0.0}, 0.0),
    "one_component": ({"rewards/largest_share": 0.99}, 0.99),
    "unmoved_component": ({"rewards/smallest_trend": 0.3}, 0.3),
}
PATIENCE = {"update_kl": 1, "ratio": 1, "short": 1, "explained_variance": 20, "unmoved_component": 1}


def guards(**settings):
    return Guards(GuardsConfig(**settings), rounding=1e-4)


def healthy(**settings):
    """Guards that have seen 20 steps of a healthy run."""
    watching = guards(**settings)
    assert [watching.watch(FINE) for _ in range(20)] == [[]] * 20
    return watching


def said(watching, metrics, steps):
    """``(step, guard)`` of everything said in so many steps with these metrics."""
    return [(step, alarm.guard) for step in range(1, steps + 1) for alarm in watching.watch(FINE | metrics)]


def test_every_guard_has_its_trouble_here():
    assert set(TROUBLE) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_speaks_once_and_of_nothing_else(name):
    metrics, value = TROUBLE[name]
    watching = healthy()
    due = PATIENCE.get(name, 3)
    alarms = [watching.watch(FINE | metrics) for _ in range(due)]
    assert [len(now) for now in alarms] == [0] * (due - 1) + [1]
    (alarm,) = alarms[-1]
    assert (alarm.guard, alarm.pause) == (name, False)
    assert alarm.value == pytest.approx(value)
    assert alarm.message.startswith(f"{name}: ")
    assert "Try: " in alarm.message
    assert "{" not in alarm.message
    assert said(watching, metrics, 5) == []  # it has been said
    assert said(watching, {}, 1) == []
    assert said(watching, metrics, due) == [(due, name)]


@pytest.mark.parametrize("name", NAMES)
def test_off(name):
    assert said(healthy(**{name: "off"}), TROUBLE[name][0], 25) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_is_the_recipes(name):
    metrics, value = TROUBLE[name]
    lower = {"explained_variance": -0.3, "entropy": 0.01, "short": 0.1, "lr_scale": 0.05, "unmoved_component": 0.1}
    further = lower.get(name, min(2 * value, 0.999))
    further = 2 * value if name in ("kl", "value_loss", "ratio", "update_kl") else further
    if name in ("masked", "equal_groups"):  # their limit is all of them
        assert said(healthy(**{f"{name}_limit": 0.7}), {next(iter(metrics)): 0.8}, 5) == [(3, name)]
        assert said(healthy(), {next(iter(metrics)): 0.8}, 5) == []
    elif name == "equal_rewards":
        assert said(healthy(equal_rewards_limit=0.01), {"objective/scores_std": 0.005}, 5) == [(3, name)]
        assert said(healthy(), {"objective/scores_std": 0.005}, 5) == []
    else:
        assert said(healthy(**{f"{name}_limit": further}), metrics, 25) == []


def test_patience_is_in_a_row():
    watching = healthy(patience=2)
    assert said(watching, TROUBLE["kl"][0], 1) == []
    assert said(watching, {}, 1) == []
    assert said(watching, TROUBLE["kl"][0], 2) == [(2, "kl")]
    assert said(healthy(explained_variance_steps=4), TROUBLE["explained_variance"][0], 9) == [(4, "explained_variance")]


def test_a_value_loss_that_explodes_early_or_slowly():
    """A median of late would follow it."""
    assert said(guards(), {"loss/value_avg": 1e6}, 40) == []  # it has always been so
    early = guards()
    assert said(early, {"loss/value_avg": 1.0}, 10) == []
    assert said(early, {"loss/value_avg": 1e6}, 40) == [(3, "value_loss")]
    slowly = guards()
    alarms = [alarm.guard for i in range(60) for alarm in slowly.watch(FINE | {"loss/value_avg": 1.2**i})]
    assert alarms == ["value_loss"]


def test_entropy_is_compared_with_when_it_was_first_there():
    watching = guards()
    watching.watch({name: value for name, value in FINE.items() if name != "policy/entropy_avg"})
    assert said(watching, {}, 3) == []
    assert said(watching, TROUBLE["entropy"][0], 3) == [(3, "entropy")]


@pytest.mark.parametrize("changes", [{"patience": 2}, {"kl": "pause"}, {"kl_limit": 1.2}], ids=str)
def test_with_other_settings_it_may_say_it_again(changes):
    before, after = guards(), guards(**changes)
    assert said(before, TROUBLE["kl"][0], 4) == [(3, "kl")]
    same_again = guards()
    same_again.load_state_dict(before.state_dict())
    assert said(same_again, TROUBLE["kl"][0], 4) == []
    after.load_state_dict(before.state_dict())
    assert said(after, TROUBLE["kl"][0], 4) == [(1, "kl")]


def test_what_was_so_from_the_beginning_is_no_rise():
    """Answers that were always cut off (a model that tells no short stories) are no trouble."""
    watching = guards()
    always = {"completions/cut_off": 1.0, "completions/repeated": 0.8, "completions/empty": 0.5}
    assert said(watching, always, 30) == []


def test_without_a_critic_and_with_one_component():
    without = {"loss/value_avg", "val/explained_variance", "rewards/largest_share", "rewards/smallest_trend"}
    watching = guards()
    for _ in range(30):
        assert watching.watch({name: value for name, value in FINE.items() if name not in without}) == []


def test_resumed_it_remembers():
    for after in range(30):
        whole, broken = guards(), guards()
        steps = [FINE] * 24 + [FINE | TROUBLE["value_loss"][0] | TROUBLE["entropy"][0]] * 6
        for metrics in steps[:after]:
            whole.watch(metrics)
            broken.watch(metrics)
        resumed = guards()
        resumed.load_state_dict(broken.state_dict())
        assert [resumed.watch(m) for m in steps[after:]] == [whole.watch(m) for m in steps[after:]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl": "stop"}, "kl"),
        ({"kl": "off", "kl_limit": 3.0}, "kl_limit: not used with kl='off'"),
        ({"entropi": "off"}, "guards.entropi: unknown key; did you mean 'entropy'"),
    ],
)
def test_bad_settings(make_ppo, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_ppo(settings={"guards": settings})


def test_guards_of_a_critic_that_is_not_there(make_ppo):
    settings = {"advantage_estimator": "rloo", "num_generations": 2}
    with pytest.raises(ConfigError, match=r"guards\.value_loss: not used without a critic"):
        make_ppo(settings=settings | {"guards": {"value_loss": "off"}})
    resolved = make_ppo(settings=settings).config.resolved()
    assert PPOConfig(**resolved).resolved() == resolved


@pytest.mark.parametrize("name", ["masked", "equal_rewards", "equal_groups"])
def test_a_first_step_that_teaches_nothing_is_said_at_once(name):
    assert said(guards(), TROUBLE[name][0], 5) == [(1, name)]
    assert said(guards(), {}, 1) == []


class TestInARun:
    """Provoked by what really causes them."""

    def trained(self, make_ppo, run, lines, reward, **settings):
        guards = {"patience": 1} | settings.pop("guards", {})
        kwargs = {"prompts": ["the cat", "a dog ran", "Once upon", "red house"]} | settings.pop("kwargs", {})
        ppo = make_ppo(reward, {"steps": 3, "guards": guards} | settings, run=run, **kwargs)
        ppo.train()
        return [row["event"] for row in lines(run, "events.jsonl")] if (run / "events.jsonl").is_file() else []

    def test_a_healthy_one_is_silent(self, make_ppo, tmp_path, lines):
        assert (
            self.trained(make_ppo, tmp_path / "run", lines, lambda completions, **_: [len(c) for c in completions])
            == []
        )

    def test_kl_and_entropy(self, make_ppo, tmp_path, lines):
        def low(prompts, completions, completion_ids):
            return [sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]

        said = self.trained(
            make_ppo,
            tmp_path / "run",
            lines,
            low,
            learning_rate=0.1,
            kl_coef=0.0,
            steps=8,
            target_kl="none",
            guards={"entropy_limit": 0.5},
        )
        assert {"kl", "entropy"} <= set(said)

    def test_equal_rewards(self, make_ppo, tmp_path, lines):
        assert "equal_rewards" in self.trained(
            make_ppo, tmp_path / "run", lines, lambda completions, **_: [1.0] * len(completions)
        )

    def test_groups_of_equal_rewards_at_the_first_step(self, make_ppo, tmp_path, lines):
        def by_prompt(prompts, completions):
            return [float(len(prompt)) for prompt in prompts]

        groups = {"advantage_estimator": "grpo", "num_generations": 2, "guards": {"patience": 3}}
        self.trained(make_ppo, tmp_path / "run", lines, by_prompt, **groups)
        first, *_ = lines(tmp_path / "run", "metrics.jsonl")
        assert first["objective/equal_groups"] == 1.0
        assert first["objective/scores_std"] > 0.5
        assert [(event["step"], event["event"]) for event in lines(tmp_path / "run", "events.jsonl")] == [
            (1, "equal_groups")
        ]

    def test_the_share_of_groups_with_equal_rewards(self, make_ppo):
        def first_and_second_alike(prompts, completions):
            return [1.0, 1.0, 2.0, 3.0, 1.0, 1.0, 5.0, 4.0]

        settings = {"advantage_estimator": "rloo", "num_generations": 2, "steps": 1}
        [metrics] = make_ppo(first_and_second_alike, settings)
        assert metrics["objective/equal_groups"] == 0.5

    def test_every_answer_masked_at_the_first_step(self, make_ppo, tmp_path, lines):
        said = self.trained(
            make_ppo,
            tmp_path / "run",
            lines,
            lambda completions, **_: [float(len(c)) for c in completions],
            cutoff="mask",
            response_length=1,
            guards={"patience": 3},
        )
        assert said[0] == "masked"
        assert lines(tmp_path / "run", "metrics.jsonl")[0]["completions/masked"] == 1.0
        assert lines(tmp_path / "run", "events.jsonl")[0]["step"] == 1

    def test_one_component(self, make_ppo, tmp_path, lines):
        def large(completions, **_):
            return [float(len(c)) for c in completions]

        def small(completions, **_):
            return [len(c) % 2 / 100 for c in completions]

        assert self.trained(make_ppo, tmp_path / "a", lines, [large, small]) == ["one_component"]
        balanced = [{"function": large}, {"function": small, "weight": 400.0}]
        assert self.trained(make_ppo, tmp_path / "b", lines, balanced) == []

    def test_the_ratio(self, make_ppo, tmp_path, lines):
        ppo = make_ppo(settings={"steps": 2}, run=tmp_path / "run")
        for _ in ppo:  # from the second step on, the update computes with another temperature than the sampler
            object.__setattr__(ppo.update, "config", ppo.config.model_copy(update={"temperature": 1.2}))
        assert [(row["step"], row["event"]) for row in lines(tmp_path / "run", "events.jsonl")] == [(2, "ratio")]

    def test_the_critic(self, make_ppo, tmp_path, lines):
        ppo = make_ppo(
            lambda completions, **_: [float(len(c)) for c in completions],
            {"steps": 30, "guards": {"explained_variance_steps": 2}, "cliprange_value": "none"},
            run=tmp_path / "run",
        )
        for _ in ppo:
            head = ppo.critic if isinstance(ppo.critic, ScalarHead) else ppo.critic.head
            if ppo.step_done >= 22:  # by then there is a usual value loss
                torch.nn.init.normal_(head.linear.weight, std=30.0)
        assert {"value_loss", "explained_variance"} <= {row["event"] for row in lines(tmp_path / "run", "events.jsonl")}

    def test_a_pause_keeps_everything_and_stops(self, make_ppo, tmp_path, lines, vector):
        kwargs = {
            "reward": lambda completions, **_: [1.0] * len(completions),
            "settings": {"steps": 5, "guards": {"equal_rewards": "pause"}},
            "run": tmp_path / "run",
        }
        ppo = make_ppo(**kwargs)
        with pytest.raises(
            Stopped, match=r"paused by the guard equal_rewards: .* after step 1; everything is kept"
        ) as stop:
            ppo.train()
        assert stop.value.exit_status == 3
        assert (tmp_path / "run/checkpoints/step-000001").is_dir()
        kwargs["settings"]["guards"] = {"equal_rewards": "off"}
        resumed = make_ppo(**kwargs, resume=True)
        assert resumed.step_done == 1
        assert torch.equal(vector(resumed.policy.model), vector(ppo.policy.model))
        assert resumed.train()["steps"] == 5
        assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl")] == [1, 2, 3, 4, 5]


class TestNotFinite:
    """A step with NaN in it is left out, whichever tensor it is in, and the run goes on as if it had not been."""

    def check(self, make_ppo, tmp_path, lines, vector, capsys, break_it, named, reward=None, **settings):
        settings = {"steps": 4, "num_ppo_epochs": 1, "mini_batch_size": 4} | settings
        rewarded = {"reward": reward} if reward else {}
        ppo = make_ppo(settings=settings, run=tmp_path / "run", **rewarded)
        weights = []
        for metrics in ppo:
            weights.append(vector(ppo.policy.model))
            if ppo.step_done == 1:
                mend = break_it(ppo)
            elif ppo.step_done == 2:
                assert metrics["train/left_out"] == 1.0
                mend()
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[1], weights[2])
        assert not torch.equal(weights[2], weights[3])
        (event,) = lines(tmp_path / "run", "events.jsonl")
        assert event["step"] == 2
        assert event["message"].startswith(f"step 2 is left out from there on, and the weights are safe: {named}")
        assert event["message"].splitlines()[0] in capsys.readouterr().err
        seen = torch.load(tmp_path / "run/not_finite/step-000002.pt")
        assert len(seen["prompts"]) == 4
        return seen

    def test_logits(self, make_ppo, tmp_path, lines, vector, capsys):
        def break_it(ppo):
            handle = ppo.policy.model.lm_head.register_forward_hook(lambda *args: args[-1] * torch.nan)
            return handle.remove

        seen = self.check(
            make_ppo, tmp_path, lines, vector, capsys, break_it, "logits: NaN or infinite in 4 of 4 answers"
        )
        assert "tokens" not in seen  # there are no answers

    @pytest.mark.parametrize("role", ["reference", "critic"])
    def test_reference_and_critic(self, make_ppo, tmp_path, lines, vector, capsys, role):
        def break_it(ppo):
            module = ppo.reference.model.lm_head if role == "reference" else ppo.critic.linear
            handle = module.register_forward_hook(lambda *args: F.pad(args[-1][1:], (0, 0, 1, 0), value=torch.inf))
            return handle.remove

        named = {"reference": "log-probabilities under the reference: NaN", "critic": "values: NaN"}[role]
        seen = self.check(make_ppo, tmp_path, lines, vector, capsys, break_it, named)
        assert seen["tokens"].shape == seen["logprobs"].shape

    def test_a_reward(self, make_ppo, tmp_path, lines, vector, capsys):
        score = [1.0]

        def reward(prompts, completions):
            return [len(c) * (score[0] if i == 2 else 1.0) for i, c in enumerate(completions)]

        def break_it(ppo):
            score[0] = float("nan")
            return lambda: score.__setitem__(0, 1.0)

        named = "reward function 'reward' gave nan, which is not a finite number, for\n  prompt (row"
        self.check(make_ppo, tmp_path, lines, vector, capsys, break_it, named, reward)

    def test_a_gradient(self, make_ppo, tmp_path, lines, vector, capsys):
        def break_it(ppo):
            return ppo.policy.model.lm_head.weight.register_hook(lambda gradient: gradient * torch.inf).remove

        seen = self.check(make_ppo, tmp_path, lines, vector, capsys, break_it, "gradient: its norm is")
        assert seen["advantages"].shape == seen["tokens"].shape

    def test_the_loss(self, make_ppo, tmp_path, lines, vector, capsys):
        def break_it(ppo):
            estimate = ppo.estimate

            def broken(*args):
                batch = estimate(*args)
                batch.old_logprobs[1] = torch.nan
                return batch

            ppo.estimate = broken
            return lambda: setattr(ppo, "estimate", estimate)

        self.check(
            make_ppo, tmp_path, lines, vector, capsys, break_it, "log-probabilities of sample 1: NaN or infinite"
        )

    def test_at_an_evaluation(self, make_ppo, tmp_path, lines, capsys):
        """It costs that evaluation and nothing else."""
        calls = []

        def reward(prompts, completions):
            calls.append(1)
            return [float("nan") if len(calls) == 4 else float(len(text)) for text in completions]

        settings = {"steps": 4, "eval_every": 2}
        make_ppo(reward, settings, run=tmp_path / "run", eval_size=2).train()
        [event] = lines(tmp_path / "run", "events.jsonl")
        assert event["message"].startswith("the evaluation after step 2 is left out: reward function 'reward' gave nan")
        assert "the evaluation after step 2 is left out" in capsys.readouterr().err
        assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl") if "eval/score" in row] == [0, 4]

    def test_what_was_at_hand_is_of_that_step_alone(self, make_ppo, tmp_path):
        """And not of the reward's trial before it."""
        ppo = make_ppo(settings={"steps": 1}, run=tmp_path / "run")
        generate, calls = ppo.sampler.generate, []

        def broken(*args, **kwargs):
            calls.append(None)
            if len(calls) == 2:
                raise NotFiniteError("logits")
            return generate(*args, **kwargs)

        ppo.sampler.generate = broken
        ppo.train()
        assert {*torch.load(tmp_path / "run/not_finite/step-000001.pt")} == {"prompts"}

    def test_at_the_last_evaluation(self, make_ppo, tmp_path, lines):
        """The run ends as a run does, with its policy and its summary."""
        scores = iter([1.0, float("nan")])

        def late(prompts, completions):
            return [next(scores)] * len(completions)

        summary = make_ppo(run=tmp_path / "run", eval_size=2, metrics=[late]).train()
        assert "before" not in summary
        assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
        assert (tmp_path / "run/policy/model.safetensors").is_file()
        [event] = lines(tmp_path / "run", "events.jsonl")
        assert event["message"].startswith("the evaluation after step 2 is left out: reward function 'late' gave nan")

    def test_three_in_a_row_are_three_across_a_resume(self, make_ppo, tmp_path):
        def broken(**kwargs):
            ppo = make_ppo(settings={"steps": 9, "checkpoint_every": 1}, run=tmp_path / "run", **kwargs)
            ppo.policy.model.lm_head.weight.register_hook(lambda gradient: gradient * torch.inf)
            return ppo

        for metrics in broken():
            assert metrics["train/left_out"] == 1.0
            if metrics["episode"] == 8:
                break
        with pytest.raises(NumericsError, match=r"(?s)step 3 is left out.*3 in a row \(max_left_out\)"):
            broken(resume=True).train()

    def test_three_in_a_row_stop_and_nothing_broken_is_kept(self, make_ppo, tmp_path, lines):
        ppo = make_ppo(settings={"steps": 9, "checkpoint_every": 1, "keep_last": 9}, run=tmp_path / "run")
        seen = []

        def train():
            for _ in ppo:
                seen.append(ppo.step_done)
                if ppo.step_done == 2:
                    with torch.no_grad():
                        ppo.policy.model.lm_head.weight[3, 3] = torch.nan

        with pytest.raises(NumericsError, match="step 3: weights are NaN or infinite, and are not kept"):
            train()
        assert seen == [1, 2]
        assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-000001", "step-000002"]

        ppo = make_ppo(settings={"steps": 9}, run=tmp_path / "other")
        with pytest.raises(NumericsError, match=r"(?s)step 5 is left out.*3 in a row \(max_left_out\): the run stops"):
            train()
        assert [row["step"] for row in lines(tmp_path / "other", "metrics.jsonl")] == [1, 2, 3, 4]
