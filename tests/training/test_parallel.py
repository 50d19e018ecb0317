"""Two processes compute the same step as one, to rounding; and an error in one of them ends both."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from kedge import cli
from kedge.errors import RewardError
from kedge.parallel import Processes, join

KINDS = {
    "separate": {"critic": "separate"},
    "shared": {"critic": "shared", "entropy_coef": 0.01, "cutoff": "mask"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss"},
}
RECIPE = """
[sft]
model = "model"
data = "demos.jsonl"
eval_size = 2
batch_size = 3
epochs = 1.0
learning_rate = 1e-3

[reward]
model = "model"
data = "prefs.jsonl"
eval_size = 2
batch_size = 3

[ppo]
policy = "model"
prompts = "prompts.jsonl"
eval_size = 3
reward = "rewards:length"
steps = 3
batch_size = 6
mini_batch_size = 3
num_ppo_epochs = 2
response_length = 7
micro_batch_tokens = 40
learning_rate = 1e-3
eval_every = 2
checkpoint_every = 2
"""


@pytest.fixture
def world(tmp_path, monkeypatch, tiny_lm):
    monkeypatch.chdir(tmp_path)
    lm = tiny_lm("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[1] = lm.model.lm_head.weight[2:60].mean(0) * 6  # ends now and then
    lm.save(tmp_path / "model")

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("prompts.jsonl", [{"prompt": "the cat " * (i % 4 + 1) + str(i)} for i in range(16)])
    write("demos.jsonl", [{"prompt": f"the {i}", "completion": " cat" * (i % 3 + 1)} for i in range(14)])
    write("prefs.jsonl", [{"prompt": f"{i}", "chosen": " cat" * (i % 4 + 1), "rejected": " dog"} for i in range(14)])
    (tmp_path / "rewards.py").write_text(
        "def length(prompts, completions, completion_ids):\n"
        "    return [len(ids) + len(set(ids)) / 9 for ids in completion_ids]\n"
        "def not_15(prompts, completions): return [None if ' 15' in p else 1.0 for p in prompts]\n"
    )
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def together(*words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m", "kedge", *words]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.getcwd()]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


def alone(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["kedge", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code


def same_numbers(one, two):
    """Lines of metrics.jsonl but for what the clock says: the first step's equal to 1e-6; later ones less so, because
    Adam divides by the size of a gradient and makes rounding larger where that is small."""
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            near = 1e-6 if a["step"] <= 1 else 1e-4
            assert b[name] == pytest.approx(a[name], rel=10 * near, abs=near), name


@pytest.mark.parametrize("kind", KINDS)
def test_ppo_is_the_same_step(world, lines, monkeypatch, vector, kind):
    overrides = [f"ppo.{key}={json.dumps(value)}" for key, value in KINDS[kind].items()]
    done = together("ppo", "r.toml", *overrides, "ppo.run=runs/two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Before and after PPO") == 1  # one of them speaks
    alone(monkeypatch, "ppo", "r.toml", *overrides, "ppo.run=runs/one")
    one, two = world / "runs/one", world / "runs/two"
    same_numbers(lines(one, "metrics.jsonl"), lines(two, "metrics.jsonl"))
    texts = [[row["completion"] for row in lines(run, "samples.jsonl")] for run in (one, two)]
    assert texts[0] == texts[1]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    kept = [{path.name for path in (run / "checkpoints").iterdir()} for run in (one, two)]
    assert kept[0] == kept[1] >= {"step-000002", "best"}
    begin, *ends = (
        vector(AutoModelForCausalLM.from_pretrained(folder)) for folder in ("model", one / "policy", two / "policy")
    )
    assert (ends[0] - begin).abs().max() > 1e-3
    assert torch.allclose(ends[0], ends[1], rtol=0, atol=1e-5)


def test_the_other_trainers_too(world, lines, monkeypatch):
    for stage in ("sft", "reward"):
        done = together(stage, "r.toml", f"{stage}.run=runs/two-{stage}")
        assert done.returncode == 0, done.stderr
        alone(monkeypatch, stage, "r.toml", f"{stage}.run=runs/one-{stage}")
        same_numbers(*(lines(world / f"runs/{n}-{stage}", "metrics.jsonl") for n in ("one", "two")))


def test_an_error_in_one_of_them_ends_both(world):
    """The prompt that the reward refuses is in one process's share; the other one must not wait for it."""
    done = together(
        "ppo", "r.toml", "ppo.reward=rewards:not_15", "ppo.eval_size=0", "ppo.eval_every=0", "ppo.batch_size=12"
    )
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "for" in done.stderr
    assert "'the cat" in done.stderr


class TestShares:
    @pytest.mark.parametrize("n", [0, 1, 2, 5, 12])
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_every_item_goes_to_one_process(self, n, size):
        everybody = [Processes(rank, size) for rank in range(size)]
        items = list(range(n))
        assert [item for p in everybody for item in p.share(items)] == items
        assert sorted(item for p in everybody for item in p.deal(items)) == items
        for split in ("share", "deal"):
            sizes = [len(getattr(p, split)(items)) for p in everybody]
            assert max(sizes) - min(sizes) <= 1

    def test_one_process_is_the_identity(self):
        alone = Processes()
        assert alone.leads
        assert alone.gather(lambda: [1, 2]) == [1, 2]
        tensor = torch.tensor([1.0, 2.0])
        alone.sum_(tensor)
        alone.max_(tensor)
        alone.wait()
        assert tensor.tolist() == [1, 2]
        with pytest.raises(RewardError):
            alone.gather(lambda: (_ for _ in ()).throw(RewardError("no")))

    def test_without_torchrun_there_is_one(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        assert join() == Processes(0, 1)
