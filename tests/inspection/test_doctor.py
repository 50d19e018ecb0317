"""Each of the doctor's checks fails on a run that is broken in just that way, and on no other."""

import copy
import itertools
import json
import re

import pytest
import torch
from tokenizers import normalizers

from kedge import PPO, PPOConfig, cli
from kedge.data.files import rows_of
from kedge.data.records import preferences
from kedge.inspection.doctor import Pairs, examine
from kedge.inspection.doctor.examine import CHECKS
from kedge.inspection.doctor.finding import Examined
from kedge.inspection.machine import Machine
from kedge.models.reward_loading import new_reward_model
from kedge.models.reward_model import RewardModel

PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
CHATS = [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": prompt}] for prompt in PROMPTS]
SMALL = {"steps": 2, "batch_size": 4, "mini_batch_size": 2, "num_ppo_epochs": 2, "response_length": 6}
PAIRS = [{"prompt": prompt, "chosen": " sat on the mat.", "rejected": " ran"} for prompt in PROMPTS]
NO_REWARD_MODEL = {"reward model: padding", "reward model: swapped pairs"}


def by_length(prompts, completions, completion_ids):
    return [float(7 * len(set(ids)) + ids[0] % 5) for ids in completion_ids]


@pytest.fixture
def findings(tiny_lm, tmp_path):
    """``findings(broken, ...)``: ``{check: finding}`` of a tiny run, after ``broken(ppo)`` was done to it."""

    runs = itertools.count()

    def find(broken=lambda ppo: None, *, reward=by_length, prompts=PROMPTS, lm=None, pairs=(), **settings):
        lm = lm or tiny_lm("llama")

        def build():
            config = PPOConfig(**(SMALL | {"learning_rate": 1e-3} | settings))
            run = tmp_path / f"run-{next(runs)}"
            ppo = PPO(lm.model, prompts, reward, config, tokenizer=lm.tokenizer, run=run, progress=False)
            broken(ppo)
            return ppo

        return {
            finding.check: finding
            for finding in examine(build, lambda: Pairs(preferences(rows_of(list(pairs)), seed=0) if pairs else []))
        }

    return find


@pytest.fixture
def reward_model(tiny_lm, tmp_path):
    tiny_lm("llama", seed=1).save(tmp_path / "base")
    torch.manual_seed(0)
    return new_reward_model(tmp_path / "base", device="cpu")


def failed(findings):
    return {check for check, finding in findings.items() if finding.status == "fail"}


def fails(findings, check, found, remedy=""):
    assert failed(findings) == {check}
    assert found in findings[check].found
    assert remedy in findings[check].remedy


class TestHealthy:
    @pytest.mark.parametrize("prompts", [PROMPTS, CHATS], ids=["text", "chat"])
    @pytest.mark.parametrize("settings", [{}, {"critic": "separate"}, {"advantage_estimator": "reinforce++"}], ids=str)
    def test_nothing_fails(self, findings, prompts, settings):
        found = findings(prompts=prompts, **settings)
        assert list(found) == [name for name, _ in CHECKS]
        assert failed(found) == set()
        assert {check for check, finding in found.items() if finding.status == "skip"} == NO_REWARD_MODEL

    def test_prompts_that_were_rendered_before(self, findings, tiny_lm):
        prompts = [f"<|user|>{prompt}<eos><|assistant|>" for prompt in PROMPTS]
        assert failed(findings(prompts=prompts)) == set()

    @pytest.mark.shared
    def test_prompts_with_their_bos(self, findings, fresh_stories):
        prompts = [f"<s>{prompt}" for prompt in PROMPTS]
        assert findings(prompts=prompts, lm=fresh_stories())["tokenizer round trip"].status == "pass"

    def test_with_a_reward_model(self, findings, reward_model, monkeypatch):
        monkeypatch.setattr(RewardModel, "score", lambda self, texts, **_: [float(len(text)) for text in texts])
        found = findings(reward=reward_model, pairs=PAIRS)
        assert failed(found) == set()
        assert found["reward model: swapped pairs"].found == "100% of 6 pairs right, 0% when swapped"
        assert found["reward model: padding"].status == "pass"


class TestWords:
    def test_a_tokenizer_that_loses_capitals(self, findings, tiny_lm, tiny_tokenizer):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        found = findings(lm=tiny_lm("llama", tokenizer=tokenizer))
        fails(found, "tokenizer round trip", "'Once upon' comes back as 'once upon'", "own tokenizer")

    def test_a_template_without_the_system_message(self, findings, tiny_lm, tiny_tokenizer):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{{ m.content }}", "{{ m.content if m.role != 'system' else '' }}"
        )
        found = findings(lm=tiny_lm("llama", tokenizer=tokenizer), prompts=CHATS)
        fails(found, "tokenizer round trip", "the chat template leaves out 'Be kind.'")

    def test_a_template_that_changes_its_mind(self, findings, tiny_lm, tiny_tokenizer):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = "{{ messages|length }}" + tokenizer.chat_template
        found = findings(lm=tiny_lm("llama", tokenizer=tokenizer), prompts=CHATS)
        fails(found, "tokenizer round trip", "otherwise once they are answered")

    def test_prompts_too_long(self, findings):
        found = findings(response_length=127)
        fails(found, "data and prompt lengths", "6 of 6 prompts have more than 1 tokens (the model's 128 positions")

    def test_prompts_that_are_left_out(self, findings):
        found = findings(prompts=[*PROMPTS, "the cat " * 90])["prompt lengths"]
        assert (found.status, "1 of 7 prompts have more than 122 tokens" in found.found) == ("warn", True)

    def test_no_end(self, findings, tiny_lm):
        lm = tiny_lm("llama")

        def without(ppo):
            object.__setattr__(ppo.policy, "eos_ids", ())

        fails(findings(without, lm=lm), "answers can end", "no EOS token", "stop_tokens")

    def test_an_end_beyond_the_vocabulary(self, findings):
        def beyond(ppo):
            object.__setattr__(ppo.policy, "eos_ids", (1, 320))

        fails(findings(beyond), "answers can end", "EOS ids [320] are not in the model's vocabulary")

    def test_an_end_that_is_never_met(self, findings, tiny_lm):
        lm = tiny_lm("gpt2", tie_word_embeddings=False)

        def never(module, inputs, logits):
            logits[..., 1] = -1e4
            return logits

        lm.model.lm_head.register_forward_hook(never)
        fails(findings(lm=lm), "answers can end", "probability of the EOS up to 0", "fine-tune on answers that end")

    def test_everything_is_cut_off(self, findings):
        assert findings()["answers cut off"].status == "warn"
        fails(findings(cutoff="mask"), "answers cut off", "100% of 4 answers reach response_length = 6", '"keep"')


class TestModels:
    def test_a_weight_that_is_nan(self, findings):
        def broken(ppo):
            with torch.no_grad():
                ppo.reference.model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan

        found = findings(broken)
        assert "weights and heads" in failed(found)
        assert found["weights and heads"].found.startswith("reference: model.layers.1.mlp.up_proj.weight has NaN")

    def test_a_reward_model_without_a_head(self, findings, tiny_lm, tmp_path):
        tiny_lm("llama", seed=1).save(tmp_path / "no-head")
        fails(findings(reward=str(tmp_path / "no-head")), "weights and heads", "no-head")

    def test_a_reward_model_that_was_never_trained(self, findings, reward_model):
        torch.nn.init.zeros_(reward_model.model.score.weight)
        found = findings(reward=reward_model)
        assert {"weights and heads", "reward"} <= failed(found)
        assert "its head is all zeros" in found["weights and heads"].found

    def test_dropout(self, findings, tiny_lm):
        found = findings(lambda ppo: ppo.policy.model.train(), lm=tiny_lm("gpt2"))
        assert {"dropout is off", "sampler and forward pass agree", "first minibatch"} <= failed(found)
        assert "modules drop at random, first policy: transformer.drop" in found["dropout is off"].found

    def test_noise_of_another_kind(self, findings):
        def broken(ppo):
            ppo.policy.model.lm_head.register_forward_hook(lambda *args: args[-1] + 0.01 * torch.rand_like(args[-1]))

        found = findings(broken)["dropout is off"]
        assert (found.status, found.found) == ("fail", "two passes over the same answers differ")

    def test_a_sampler_that_notes_something_else(self, findings):
        def broken(ppo):
            generate = ppo.sampler.generate

            def wrong(*args, **kwargs):
                answers = generate(*args, **kwargs)
                for answer in answers:
                    answer.logprobs[0] += 0.01
                return answers

            ppo.sampler.generate = wrong

        found = findings(broken)
        assert {"sampler and forward pass agree", "first minibatch"} <= failed(found)
        assert "largest difference 0.01 nats over" in found["sampler and forward pass agree"].found

    def test_a_reward_model_that_reads_its_padding(self, findings, reward_model):
        reward_model.trunk.register_forward_hook(
            lambda module, args, kwargs, out: type(out)(
                last_hidden_state=out.last_hidden_state * out.last_hidden_state.shape[1]
            ),
            with_kwargs=True,
        )
        fails(findings(reward=reward_model), "reward model: padding", "standard deviations, ", "mend its pad token")

    def test_pairs_mixed_up(self, findings, reward_model, monkeypatch):
        monkeypatch.setattr(RewardModel, "score", lambda self, texts, **_: [-float(len(text)) for text in texts])
        found = findings(reward=reward_model, pairs=PAIRS)
        fails(found, "reward model: swapped pairs", "0% of 6 pairs right, 100% when swapped", "mixed up")

    def test_scores_that_depend_on_the_company(self, findings, reward_model, monkeypatch):
        calls = iter(range(99))

        def score(self, texts, **_):
            call = next(calls)
            return [float(len(text)) * (-1) ** (call // 3) for text in texts]

        monkeypatch.setattr(RewardModel, "score", score)
        found = findings(reward=reward_model, pairs=PAIRS)["reward model: swapped pairs"]
        assert found.status == "fail"
        assert "depends on what stands beside it" in found.remedy


class TestLearning:
    def test_a_reward_that_says_nothing(self, findings):
        found = findings(reward=lambda completions, **_: [1.0] * len(completions))
        assert {"reward"} <= failed(found) <= {"reward", "an update raises the surrogate"}
        assert "1 ± 0 from 1 to 1" in found["reward"].found
        assert "all scores are equal" in found["reward"].remedy

    @pytest.mark.parametrize(
        ("value", "said"),
        [([1.0], "returned 1 scores for 4"), (None, "returned None"), (["x"] * 4, "'x'"), ([float("nan")] * 4, "nan")],
    )
    def test_a_reward_that_is_none(self, findings, value, said):
        found = findings(reward=lambda completions, **_: value)
        assert "reward" in failed(found)
        assert said in found["reward"].found

    def test_a_reward_that_raises(self, findings):
        def raises(completions, **_):
            raise ValueError("boom")

        found = findings(reward=raises)
        fails(found, "reward", "ValueError: boom")
        assert found["dropout is off"].status == "skip"
        assert found["checkpoint round trip"].status == "pass"

    def test_a_reward_that_asks_for_the_end(self, findings):
        def leaves(completions):
            raise SystemExit(0)

        fails(findings(reward=leaves), "reward", "'leaves' called sys.exit(0)")

    def test_a_slow_reward(self, findings):
        import time

        def slow(completions, completion_ids, **_):
            time.sleep(2)
            return by_length(None, completions, completion_ids)

        assert findings(reward=slow)["reward"].status == "warn"

    def test_an_update_at_another_temperature(self, findings):
        def broken(ppo):
            object.__setattr__(ppo.update, "config", ppo.config.model_copy(update={"temperature": 1.2}))

        found = findings(broken)
        assert failed(found) == {"first minibatch", "an update raises the surrogate", "how far an update goes"}
        assert "the ratio must be 1" in found["first minibatch"].found

    def test_a_step_too_far(self, findings):
        found = findings(learning_rate=3.0, num_ppo_epochs=4, target_kl="none")
        assert failed(found) == {"an update raises the surrogate", "how far an update goes"}
        assert "falls by" in found["an update raises the surrogate"].found
        assert "learning_rate is too high" in found["an update raises the surrogate"].remedy

    @pytest.mark.parametrize("target_kl", [0.05, "none"])
    @pytest.mark.parametrize("critic", ["shared", pytest.param("separate", marks=pytest.mark.slow)])
    def test_how_far_an_update_goes_and_the_rate_that_would_do(self, findings, target_kl, critic):
        check, settings = "how far an update goes", {"target_kl": target_kl, "critic": critic, "num_ppo_epochs": 4}
        found = findings(learning_rate=0.2, **settings)
        assert failed(found) == {check} | ({"an update raises the surrogate"} & failed(found))
        moved = float(re.search(r"by ([\d.e+]+) nats a token at learning_rate = 0.2", found[check].found)[1])
        assert moved > 0.2
        rate = float(re.match(r"learning_rate = (\S+) stays within", found[check].remedy)[1])
        assert 1e-4 < rate < 0.2
        assert ("target_kl holds it back" in found[check].remedy) == (target_kl == 0.05)
        assert findings(learning_rate=rate, **settings)[check].status == "pass"
        bounds = "(at most 0.05, and 0.2 in any case)" if target_kl == 0.05 else "(at most 0.2)"
        assert bounds in found[check].found

    @pytest.mark.parametrize(
        "more", [{}, {"num_layers_unfrozen": 1}, pytest.param({"critic": "separate"}, marks=pytest.mark.slow)]
    )
    def test_with_adapters(self, findings, more):
        """What is trained is set back before each try, be it an adapter, layers or all."""
        adapter = {"method": "lora", "r": 4, "target_modules": "all-linear"}
        check = "how far an update goes"
        found = findings(adapter=adapter, learning_rate=1e-3, num_ppo_epochs=4, **more)
        assert not failed(found)
        too_high = findings(adapter=adapter, learning_rate=1.0, target_kl=0.01, num_ppo_epochs=4, **more)[check]
        rate = float(re.match(r"learning_rate = (\S+) stays within", too_high.remedy)[1])
        again = findings(adapter=adapter, learning_rate=rate, target_kl=0.01, num_ppo_epochs=4, **more)[check]
        assert again.status == "pass"

    def test_one_that_target_kl_would_hold_is_a_warning(self, findings):
        found = findings(learning_rate=2e-3, target_kl=1e-4)["how far an update goes"]
        assert found.status == "warn"

    def test_a_warm_up_counts(self, findings):
        one, other = (
            findings(learning_rate=0.2, steps=900, warmup_steps=warmup)["how far an update goes"].status
            for warmup in (0, 800)
        )
        assert (one, other) == ("fail", "pass")

    def test_a_checkpoint_that_rounds(self, findings):
        def broken(ppo):
            write = ppo.keeper.write_models

            def rounded(folder):
                weight = ppo.policy.model.lm_head.weight
                exact = weight.detach().clone()
                with torch.no_grad():
                    weight.copy_(exact.bfloat16())
                write(folder)
                with torch.no_grad():
                    weight.copy_(exact)

            ppo.keeper.write_models = rounded

        fails(findings(broken), "checkpoint round trip", "1 of ")

    def test_a_checkpoint_that_is_not_read(self, findings):
        def broken(ppo):
            ppo.go_on_from = lambda folder: None

        fails(findings(broken), "checkpoint round trip", "come back changed")

    def test_what_was_sampled_is_looked_at_before_the_update(self, findings):
        """Also where the first check that asks for it comes after the one that trains."""
        trained = []

        def broken(ppo):
            examined = Examined(ppo)
            _ = examined.updated
            after = ppo.estimate.logprobs(ppo.policy, examined.experience.rollouts)
            trained.append(not torch.equal(examined.sampled, after))

        findings(broken)
        assert trained
        assert all(trained)


class TestCommand:
    @pytest.fixture
    def doctor(self, tiny_lm, tmp_path, monkeypatch, capsys):
        tiny_lm("llama").save(tmp_path / "model")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
        (tmp_path / "judging.py").write_text("def n(prompts, completions): return [len(set(c)) for c in completions]\n")
        (tmp_path / "r.toml").write_text(
            '[ppo]\npolicy = "model"\nprompts = "prompts.jsonl"\nreward = "judging:n"\nsteps = 2\nbatch_size = 4\n'
            "mini_batch_size = 2\nresponse_length = 6\n"
        )

        def run(*words):
            monkeypatch.setattr("sys.argv", ["kedge", "doctor", "r.toml", *words])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            return stopped.value.code or 0, *capsys.readouterr()

        return run

    def test_status_0_and_a_table(self, doctor, tmp_path):
        status, out, _ = doctor()
        assert status == 0
        assert "0 failed, 1 to look at" in out
        assert not (tmp_path / "runs").exists()

    def test_status_1_and_json(self, doctor):
        status, out, _ = doctor("ppo.learning_rate=3.0", "--json")
        assert status == 1
        said = json.loads(out)
        failed = {f["check"] for f in said["findings"] if f["status"] == "fail"}
        assert said["failed"] == len(failed)
        assert {"how far an update goes"} <= failed <= {"how far an update goes", "an update raises the surrogate"}

    def test_json_and_nothing_else_where_the_reward_prints(self, doctor, tmp_path):
        (tmp_path / "judging_aloud.py").write_text(
            "def n(prompts, completions):\n    print('here')\n    return [len(set(c)) for c in completions]\n"
        )
        status, out, err = doctor("ppo.reward=judging_aloud:n", "--json")
        assert (status, json.loads(out)["failed"]) == (0, 0)
        assert "here" in err

    def test_a_recipe_that_is_none(self, doctor):
        status, _, err = doctor("ppo.stepps=3")
        assert status == 2
        assert "did you mean 'steps'" in err

    @pytest.mark.slow
    def test_more_memory_than_there_is(self, doctor, monkeypatch):
        small = lambda device: Machine("cpu", free=300_000, total=300_000)  # noqa: E731
        monkeypatch.setattr(Machine, "here", small)
        status, out, _ = doctor("--json")
        assert status == 1
        [memory] = [f for f in json.loads(out)["findings"] if f["status"] == "fail"]
        assert memory["check"] == "memory"
        assert "ppo.batch_size=1" in memory["remedy"]
