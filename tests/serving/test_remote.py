"""A reward model that ``kedge serve`` serves gives the run that asks it the scores it would give there."""

import subprocess
import sys
import time

import httpx
import pytest
import torch
from test_serve_command import free_port

from kedge import PPO, PPOConfig
from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.models.reading import Reading
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.models.reward_model import with_reading
from kedge.models.steps import Steps
from kedge.rewards.build import build_reward
from kedge.rewards.model import ModelReward
from kedge.sampling.completion import Completion
from kedge.serving.http.panel import Panel
from kedge.serving.http.run import listening
from kedge.serving.http.scoring import create_scoring_app

TEXTS = [
    ("the cat", " sat."),
    ("春眠不觉晓", "处处闻啼鸟"),
    ("", "Once upon a time"),
    ("a dog ran", ""),
    ("red", "house" * 30),
]
CHATS = [
    ([{"role": "system", "content": "be kind"}, {"role": "user", "content": "Hello"}], "the cat"),
    ([{"role": "user", "content": "red"}], "house"),
]


@pytest.fixture(scope="module")
def model(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    tiny_lm("llama").save(folder / "base")
    made = new_reward_model(folder / "base", device="cpu")
    torch.manual_seed(1)
    torch.nn.init.normal_(made.head.weight)
    made.save(folder / "rm")
    return folder / "rm"


def samples(pairs):
    prompts = [Prompt(text, {}, f"row {i}") for i, (text, _) in enumerate(pairs)]
    return prompts, [Completion([], [1], [0.0], answer, "eos") for _, answer in pairs]


def served(models, name="rm", keys=()):
    return listening(create_scoring_app(name, Panel(models), keys=keys), grace=1)


def remote(url, **settings):
    return build_reward({"kind": "remote", "url": url, "retries": 1, "backoff": 0, **settings})


@pytest.mark.parametrize("pairs", [TEXTS, CHATS, [*TEXTS, *CHATS]], ids=["texts", "chats", "both"])
@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_the_scores_are_those_of_the_model_here(model, pairs, batch_size):
    there, here = load_reward_model(model, device="cpu"), ModelReward(load_reward_model(model, device="cpu"))
    prompts, completions = samples(pairs)
    with served([there]) as url:
        found = remote(url, batch_size=batch_size)(prompts, completions)
    want = here(prompts, completions).total
    assert len({round(score, 4) for score in want}) == len(want)  # else an order could be wrong
    assert found.total == pytest.approx(want, abs=1e-5)
    assert found.components == {"remote": found.total}


def test_a_model_that_reads_steps_judges_the_answer_alone(model):
    """The prompt's own steps are none of the answer's."""
    reading = Reading(steps=Steps("\n", "mean"))
    there = with_reading(load_reward_model(model, device="cpu"), reading)
    prompts, completions = samples([("a\nb\nc", "the cat\nsat\non"), ("a\nb", "red")])
    with served([there]) as url:
        found = remote(url)(prompts, completions).total
    assert found == pytest.approx(ModelReward(there)(prompts, completions).total, abs=1e-5)


def test_other_weights_in_mid_run_stop_it(model):
    there = load_reward_model(model, device="cpu")
    prompts, completions = samples(TEXTS)
    port = free_port()
    with listening(create_scoring_app("rm", Panel([there])), port=port, grace=1) as url:
        reward = remote(url, default=0.0)
        assert reward(prompts, completions).failure_counts()["remote"]["errors"] == 0
    with (
        listening(create_scoring_app("rm", Panel([_bent(model)])), port=port, grace=1),
        pytest.raises(RewardError, match=rf"(?s)other weights than it began with.*service: http://127.0.0.1:{port}/v1"),
    ):
        reward(prompts, completions)


def _bent(model):
    other = load_reward_model(model, device="cpu")
    other.head.weight.data[0, 0] += 0.5
    return other


def test_a_run_is_resumed_with_the_same_weights_wherever_they_are(model, tmp_path):
    config = {"steps": 1, "batch_size": 2, "mini_batch_size": 2, "response_length": 4, "checkpoint_every": 1}

    def ppo(url, **how):
        return PPO(
            model.parent / "base", ["the", "cat", "red"], {"kind": "remote", "url": url, "retries": 0},
            PPOConfig(**config | {"device": "cpu"}), run=tmp_path / "run", eval_size=1, progress=False, **how,
        )  # fmt: skip

    with served([load_reward_model(model, device="cpu")]) as url:
        ppo(url).train()
    config["steps"] = 2
    with (
        served([_bent(model)]) as url,
        pytest.raises(ConfigError, match=r"began with another reward 'remote'(?s:.*)served"),
    ):
        ppo(url, resume=True)
    with served([load_reward_model(model, device="cpu")], name="elsewhere") as url:  # another port, another name
        assert ppo(url, resume=True).train()["steps"] == 2


def test_who_asks_is_told_what_is_wrong(model):
    prompts, completions = samples(TEXTS)
    with pytest.raises(RewardError, match=r"(?s)cannot be reached.*service: http://127.0.0.1:9/v1"):
        remote("http://127.0.0.1:9")(prompts, completions)
    with pytest.raises(RewardError, match=r"(?s)cannot be reached.*row 0.*service: http://127.0.0.1:9"):
        remote("http://127.0.0.1:9", model="rm")(prompts, completions)
    with served([load_reward_model(model, device="cpu")], keys=["secret"]) as url:
        with pytest.raises(RewardError, match="said 401"):
            remote(url)(prompts, completions)
        with pytest.raises(RewardError, match=r"there is no .+x.+ here; there is .+rm"):
            remote(url, model="x", headers={"Authorization": "Bearer secret"})(prompts, completions)
        told = remote(url, headers={"Authorization": "Bearer secret"})(prompts, completions)
        assert len(told.total) == len(TEXTS)


def test_requests_go_side_by_side(model):
    there = load_reward_model(model, device="cpu")
    panel, at_once, most = Panel([there]), [0], [0]
    app = create_scoring_app("rm", panel)

    @app.middleware("http")
    async def counted(request, call_next):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        try:
            return await call_next(request)
        finally:
            at_once[0] -= 1

    prompts, completions = samples(TEXTS * 4)
    with listening(app, grace=1) as url:
        remote(url, batch_size=1, concurrency=3)(prompts, completions)
    assert most[0] == 3


def test_answers_must_be_as_many(model):
    with served([load_reward_model(model, device="cpu")]) as url:
        asked = {"model": "rm", "input": ["a", "b"], "answers": ["a"]}
        told = httpx.post(f"{url}/v1/score", json=asked)
    assert told.status_code == 400
    assert "answers: 1 for 2 texts" in told.json()["error"]["message"]


class TestCommand:
    def test_scores_alone(self, model):
        port = free_port()
        command = [sys.executable, "-m", "kedge", "serve", "--reward-model", str(model), "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    assert server.poll() is None
                    time.sleep(0.1)
            assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "rm"
            assert "kedge_requests_total" in httpx.get(f"{url}/metrics").text
            prompts, completions = samples(TEXTS)
            want = ModelReward(load_reward_model(model, device="cpu"))(prompts, completions).total
            assert remote(url)(prompts, completions).total == pytest.approx(want, abs=1e-5)
        finally:
            server.terminate()
            assert server.wait(30) in (0, 143, -15)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "RUN is missing"),
            (["--reward-model", "x", "--feedback", "a.db"], "--feedback: is for a policy's answers"),
            (["--reward-model", "nowhere/at-all"], "nowhere/at-all"),
        ],
    )
    def test_what_does_not_go(self, kedge, words, said):
        status, _, told = kedge("serve", *words)
        assert status == 2
        assert said in told
