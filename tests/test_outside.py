"""What a user adds without touching a file of kedge, each in under 40 lines: a sampler and a callback.

A kind of reward is in tests/rewards/test_kinds.py, a stage in tests/recipes/test_stages.py, a task in tests/tasks.
"""

import json
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kedge import PPO, Callback, evaluate
from kedge.errors import ConfigError, DataError, NotFiniteError
from kedge.runs import open_run
from kedge.runs.callbacks import callbacks_of
from kedge.sampling import Completion, Sampler
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.chat import Chat

SMALL = {"steps": 2, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "target_kl": "none"}
PROMPTS = ["the cat", "the dog ran", "on the mat", "a red house"]


class FileSampler(Sampler):
    """Answers that were recorded before, by prompt; the same ones whatever the weights."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.answers = {tuple(line["prompt_ids"]): Completion(**line) for line in lines}
        self.versions: list[int] = []

    def generate(self, prompts, sampling, *, seed=0, first_request=0):
        for number, prompt in enumerate(prompts, start=1):
            if tuple(prompt) not in self.answers:
                raise DataError(f"prompt {number}: no answer was recorded")
        return [self.answers[tuple(prompt)] for prompt in prompts]

    def publish(self, weights, version):
        self.versions.append(version)


class Recorder(Sampler):
    """Writes with another sampler, and its answers to a file."""

    def __init__(self, inner: Sampler, path: Path) -> None:
        self.inner, self.path = inner, path

    def generate(self, prompts, sampling, *, seed=0, first_request=0):
        found = self.inner.generate(prompts, sampling, seed=seed, first_request=first_request)
        with self.path.open("a") as file:
            file.writelines(json.dumps(asdict(completion)) + "\n" for completion in found)
        return found

    def publish(self, weights, version):
        self.inner.publish(weights, version)


class Watch(Callback):
    """Ends the training when the answers are long enough, and counts what it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_step(self, trainer, metrics):
        self.seen.append("step")
        return metrics["completions/mean_length"] < 1  # False ends it

    def on_checkpoint(self, trainer, folder):
        self.seen.append(folder.name)


def length(prompts, completions):
    return [float(len(text)) for text in completions]


@pytest.fixture
def recorded(tiny_lm, tmp_path):
    """The answers of the first step, recorded by a sampler around the engine."""
    path = tmp_path / "answers.jsonl"
    lm = tiny_lm("llama")
    PPO(
        lm.model, PROMPTS, length, SMALL | {"steps": 1}, tokenizer=lm.tokenizer, progress=False,
        sampler=lambda lm: Recorder(Engine(lm), path),
    ).train()  # fmt: skip
    return path


def test_a_sampler_that_answers_from_a_file(tiny_lm, recorded, tmp_path):
    """It trains, since at the first step the recorded log-probabilities are those of the policy; and hears of every
    version."""
    lm = tiny_lm("llama")
    ppo = PPO(
        lm.model, PROMPTS, length, SMALL, tokenizer=lm.tokenizer, progress=False, run=tmp_path / "run",
        sampler=lambda lm: FileSampler(recorded),
    )  # fmt: skip
    first, second = list(ppo)
    assert first["policy/first_drift_max"] < 1e-4 < second["policy/first_drift_max"]
    assert ppo.sampler.versions == [1, 2]
    texts = {json.loads(line)["text"] for line in recorded.read_text().splitlines()}
    assert {sample["completion"] for sample in open_run(tmp_path / "run").samples} <= texts


def test_its_errors_are_the_users(tiny_lm, recorded):
    lm = tiny_lm("llama")
    ppo = PPO(
        lm.model, [*PROMPTS[:3], "never asked"], length, SMALL, tokenizer=lm.tokenizer, progress=False,
        sampler=lambda lm: FileSampler(recorded),
    )  # fmt: skip
    with pytest.raises(DataError, match="no answer was recorded"):
        ppo.train()


@pytest.mark.parametrize(
    ("bent", "says"),
    [
        (lambda found: found[:-1], r"sampler: gave 3 completions for 4 prompts"),
        (
            lambda found: [*found[:2], replace(found[2], logprobs=[-1.0]), found[3]],
            "completion 3 has . tokens and 1 log",
        ),
        (lambda found: [replace(found[0], ids=[], logprobs=[]), *found[1:]], "completion 1 has 0 tokens and 0 log"),
        (lambda found: iter(found), "generate must give a list of kedge.sampling.Completion"),
        (lambda found: [asdict(each) for each in found], "generate must give a list of kedge.sampling.Completion"),
        (lambda found: [replace(found[0], finish_reason="abort"), *found[1:]], "has finish_reason 'abort'; it must be"),
        (
            lambda found: [replace(found[0], ids=[5] * 7, logprobs=[-1.0] * 7), *found[1:]],
            "completion 1 has 7 tokens, more than 6",
        ),
        (lambda found: [replace(found[0], ids=[5.0], logprobs=[-1.0]), *found[1:]], "completion 1 has token 5.0"),
        (lambda found: [found[0], *found[:0:-1]], "completion 2 says another prompt_ids than it was asked"),
        (
            lambda found: [*found[:3], replace(found[3], ids=[320] * len(found[3].ids))],
            "completion 4 has token 320, and the model knows 0 to 319",
        ),
        (
            lambda found: [replace(found[0], ids=[-1] * len(found[0].ids)), *found[1:]],
            "completion 1 has token -1, and the model",
        ),
    ],
)
def test_what_is_no_answer_is_refused(tiny_lm, recorded, monkeypatch, bent, says):
    lm, generate = tiny_lm("llama"), FileSampler.generate
    monkeypatch.setattr(FileSampler, "generate", lambda *a, **k: bent(generate(*a, **k)))
    ppo = PPO(
        lm.model, PROMPTS, length, SMALL, tokenizer=lm.tokenizer, progress=False,
        sampler=lambda lm: FileSampler(recorded),
    )  # fmt: skip
    with pytest.raises(DataError, match=says):
        ppo.train()


def test_a_log_probability_that_is_no_number_is_named(tiny_lm, recorded, monkeypatch):
    lm, generate = tiny_lm("llama"), FileSampler.generate

    def bent(*arguments, **how):
        first, *others = generate(*arguments, **how)
        return [replace(first, logprobs=[*first.logprobs[:-1], float("nan")]), *others]

    monkeypatch.setattr(FileSampler, "generate", bent)
    with pytest.raises(NotFiniteError, match="sampler: completion 1 has a log-probability that is NaN or infinite"):
        evaluate(lm, lm, PROMPTS, reward=length, sampling=Sampling(6), sampler=lambda lm: FileSampler(recorded))


def test_what_makes_no_sampler_is_named(tiny_lm, recorded):
    lm = tiny_lm("llama")
    for wrong, says in [
        (FileSampler(recorded), "what makes one for a model, such as a class or `lambda lm: MySampler"),
        ("engine", "what makes one for a model, .* got 'engine'"),
        (lambda lm: lm, "it makes a LanguageModel, which is no kedge.sampling.Sampler"),
    ]:
        with pytest.raises(ConfigError, match=f"sampler: {says}"):
            PPO(lm.model, PROMPTS, length, SMALL, tokenizer=lm.tokenizer, progress=False, sampler=wrong)
        with pytest.raises(ConfigError, match=f"sampler: {says}"):
            evaluate(lm, lm, PROMPTS, reward=length, sampler=wrong)
    with pytest.raises(ConfigError, match=r"sampler: a Sampler .* such as Engine\(lm\)"):
        Chat(lm, Engine, Sampling(6))


def test_a_resumed_run_is_given_its_sampler_again(tiny_lm, tmp_path):
    lm, made = tiny_lm("llama"), []
    lm.save(tmp_path / "model")

    def maker(lm):
        made.append(Engine(lm))
        return made[-1]

    settings = SMALL | {"checkpoint_every": 1, "steps": 1}
    PPO(tmp_path / "model", PROMPTS, length, settings, progress=False, run=tmp_path / "run", sampler=maker).train()
    resumed = PPO.resume(tmp_path / "run", reward=length, prompts=PROMPTS, steps=2, sampler=maker, progress=False)
    assert resumed.sampler is made[-1]
    assert resumed.sampler.version == 1
    assert resumed.train()["steps"] == 2


def test_evaluation_and_chat_take_it_too(tiny_lm, recorded):
    lm, tokenizer = tiny_lm("llama"), tiny_lm("llama").tokenizer
    answers = {tokenizer.decode(c.prompt_ids): c.text for c in FileSampler(recorded).answers.values()}
    both = evaluate(lm, lm, PROMPTS, reward=length, sampling=Sampling(6), sampler=lambda lm: FileSampler(recorded))
    assert [c.text for c in both.after.completions] == [answers[prompt] for prompt in PROMPTS]
    plain = type(lm)(lm.model, tokenizer, lm.eos_ids)
    conversation = Chat(plain, FileSampler(recorded), Sampling(6))
    conversation.remembers = False  # as without a chat template
    assert list(conversation.say(PROMPTS[1])) == [answers[PROMPTS[1]]]


def test_a_callback(tiny_lm, tmp_path):
    lm, watch = tiny_lm("llama"), Watch()
    settings = SMALL | {"steps": 5, "checkpoint_every": 1}
    summary = PPO(
        lm.model, PROMPTS, length, settings, tokenizer=lm.tokenizer, progress=False, run=tmp_path / "run",
        callbacks=watch,
    ).train()  # fmt: skip
    assert summary["steps"] == 1
    assert watch.seen == ["step-000001", "step"]


def test_each_policy_has_a_sampler_of_its_own_which_is_closed(tiny_lm, tmp_path):
    lm, made = tiny_lm("llama"), []

    class Closing(Engine):
        def __init__(self, lm):
            super().__init__(lm)
            self.closed = False
            made.append(self)

        def close(self):
            self.closed = True
            super().close()

    ppo = PPO(
        lm.model, PROMPTS, length, SMALL | {"eval_every": 1}, tokenizer=lm.tokenizer, progress=False, eval_size=1,
        sampler=Closing,
    )  # fmt: skip
    ppo.train()
    policys, references = made
    assert policys is ppo.sampler
    assert references.closed
    assert not policys.closed
    with closing(ppo):
        assert not policys.closed
    assert policys.closed


def test_tokens_may_come_as_a_tuple(tiny_lm, recorded, monkeypatch):
    lm, generate = tiny_lm("llama"), FileSampler.generate
    as_tuples = lambda each: replace(each, prompt_ids=tuple(each.prompt_ids), ids=tuple(each.ids))  # noqa: E731
    monkeypatch.setattr(FileSampler, "generate", lambda *a, **k: [as_tuples(each) for each in generate(*a, **k)])
    ppo = PPO(
        lm.model, PROMPTS, length, SMALL | {"steps": 1}, tokenizer=lm.tokenizer, progress=False,
        sampler=lambda lm: FileSampler(recorded),
    )  # fmt: skip
    assert ppo.train()["steps"] == 1


def test_a_run_with_a_sampler_of_ones_own_does_not_go_on_without_it(tiny_lm, recorded, tmp_path):
    tiny_lm("llama").save(tmp_path / "model")
    settings, maker = SMALL | {"checkpoint_every": 1, "steps": 1}, lambda lm: FileSampler(recorded)
    PPO(tmp_path / "model", PROMPTS, length, settings, progress=False, run=tmp_path / "run", sampler=maker).train()
    with pytest.raises(ConfigError, match=r"another sampler\n  sampler: .*FileSampler then, none now"):
        PPO.resume(tmp_path / "run", reward=length, prompts=PROMPTS, steps=2, progress=False)
    PPO.resume(tmp_path / "run", reward=length, prompts=PROMPTS, steps=2, sampler=maker, progress=False)


def test_what_a_callback_holds_may_be_called_as_it_likes():
    class Holding(Callback):
        def __init__(self):
            self.on_gpu = False

    assert callbacks_of(Holding())
