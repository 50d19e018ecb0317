"""Two processes compute the same step as one, to rounding; and an error in one of them ends both."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from kedge import cli
from kedge.errors import RewardError
from kedge.models.language_model import load_language_model
from kedge.parallel import Processes, join

KINDS = {
    "separate": {"critic": "separate"},
    "shared": {"critic": "shared", "entropy_coef": 0.01, "cutoff": "mask"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss"},
    "frozen": {"num_layers_unfrozen": 1},
    "lora": {
        "adapter.method": "lora", "adapter.r": 4, "adapter.target_modules": "all-linear", "learning_rate": 1e-2,
        "critic": "separate",
    },
}  # fmt: skip
SHARDED = ["separate", "shared", "grpo", "frozen", "lora"]
"""Of these also by two processes that have parts of the models."""
LORA = [
    "reward.adapter.method=lora", "reward.adapter.target_modules=all-linear", "reward.learning_rate=1e-2",
    "reward.checkpoint_every=2",
]  # fmt: skip
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


# Each job as `torchrun -m kedge` would run it, one after another: to start processes takes longer than the jobs.
ALL = """
import json, sys
from kedge import cli, parallel

leave, parallel.leave = parallel.leave, lambda: None
for words in json.load(open("jobs.json")):
    sys.argv = ["kedge", *words]
    try:
        cli.main()
    except SystemExit as stopped:
        if stopped.code:
            raise
    # It imports bitsandbytes, and that PyTorch's compiler: seconds of every start.
    assert "peft" not in sys.modules or any("adapter" in word for word in words)
leave()
"""


@pytest.fixture(scope="module")
def make_world(tiny_lm, tmp_path_factory):
    """Makes a folder with a model, data, a reward and a recipe."""

    def make():
        folder = tmp_path_factory.mktemp("world")
        lm = tiny_lm("llama")
        with torch.no_grad():
            lm.model.lm_head.weight[1] = lm.model.lm_head.weight[2:60].mean(0) * 6  # ends now and then
        lm.save(folder / "model")

        def write(name, rows):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

        write("prompts.jsonl", [{"prompt": "the cat " * (i % 4 + 1) + str(i)} for i in range(16)])
        write("demos.jsonl", [{"prompt": f"the {i}", "completion": " cat" * (i % 3 + 1)} for i in range(14)])
        pairs = [{"prompt": f"{i}", "chosen": " cat" * (i % 4 + 1), "rejected": " dog"} for i in range(14)]
        write("prefs.jsonl", pairs)
        (folder / "rewards.py").write_text(
            "import os\n"
            "def length(prompts, completions, completion_ids):\n"
            "    return [len(ids) + len(set(ids)) / 9 for ids in completion_ids]\n"
            "def in_the_way(prompts, completions, trainer_state):\n"
            "    if trainer_state.global_step == 1 and os.environ['RANK'] == '0':\n"
            "        os.remove('runs/x/metrics.jsonl')\n"
            "        os.mkdir('runs/x/metrics.jsonl')\n"
            "    return [len(text) for text in completions]\n"
            "def not_15(prompts, completions): return [None if ' 15' in p else 1.0 for p in prompts]\n"
        )
        (folder / "r.toml").write_text(RECIPE)
        return folder

    return make


def together(*words):
    """A command of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *words]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.getcwd()]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


def same_numbers(one, two):
    """Lines of metrics.jsonl but for what the clock says: the first step's equal to 1e-6; later ones less so, because
    Adam divides by the size of a gradient and makes rounding larger where that is small."""
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            near = 1e-6 if a["step"] <= 1 else 1e-4
            assert b[name] == pytest.approx(a[name], rel=10 * near, abs=near), name


@pytest.fixture(scope="module")
def jobs(make_world):
    """The folder of all runs: ``runs/two-NAME`` by two processes, which start once, ``runs/one-NAME`` by one."""
    world = make_world()
    jobs = {
        name: ["ppo", "r.toml", *(f"ppo.{key}={json.dumps(value)}" for key, value in settings.items())]
        for name, settings in KINDS.items()
    } | {"sft": ["sft", "r.toml"], "reward": ["reward", "r.toml"], "reward-lora": ["reward", "r.toml", *LORA]}
    sharded = [
        [*jobs[name], f"{jobs[name][0]}.shard=true", f"{jobs[name][0]}.run=runs/sharded-{name}"]
        for name in (*SHARDED, "sft", "reward", "reward-lora")
    ]
    for name, words in jobs.items():
        words.append(f"{words[0]}.run=runs/two-{name}")
    with_adapters_last = sorted([*jobs.values(), *sharded], key=lambda words: "adapter" in " ".join(words))
    (world / "jobs.json").write_text(json.dumps(with_adapters_last))
    (world / "all.py").write_text(ALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        done = together("all.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Before and after PPO") == len(KINDS) + len(SHARDED)  # one of them speaks
        for name, words in jobs.items():
            patch.setattr("sys.argv", ["kedge", *words[:-1], f"{words[0]}.run=runs/one-{name}"])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            assert not stopped.value.code
    return world


@pytest.mark.parametrize(("way", "kind"), [("two", k) for k in KINDS] + [("sharded", k) for k in SHARDED])
def test_ppo_is_the_same_step(jobs, lines, vector, way, kind):
    one, two = jobs / f"runs/one-{kind}", jobs / f"runs/{way}-{kind}"
    same_numbers(lines(one, "metrics.jsonl"), lines(two, "metrics.jsonl"))
    texts = [[row["completion"] for row in lines(run, "samples.jsonl")] for run in (one, two)]
    assert texts[0] == texts[1]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    kept = [{path.name for path in (run / "checkpoints").iterdir()} for run in (one, two)]
    assert kept[0] == kept[1] >= {"step-000002", "best"}
    begin, *ends = (
        vector(load_language_model(folder, device="cpu").model)  # with its adapter in it, where it has one
        for folder in (jobs / "model", one / "policy", two / "policy")
    )
    assert (ends[0] - begin).abs().max() > 1e-3
    assert torch.allclose(ends[0], ends[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stage", ["sft", "reward", "reward-lora"])
@pytest.mark.parametrize("way", ["two", "sharded"])
def test_the_other_trainers_too(jobs, lines, way, stage):
    same_numbers(*(lines(jobs / f"runs/{n}-{stage}", "metrics.jsonl") for n in ("one", way)))


def test_a_reward_model_s_adapter_and_head(jobs):
    one, sharded = (
        load_file(jobs / f"runs/{way}-reward-lora/reward_model/adapter_model.safetensors") for way in ("one", "sharded")
    )
    assert one.keys() == sharded.keys() >= {"base_model.model.score.weight"}
    assert all(torch.allclose(one[name], sharded[name], rtol=0, atol=1e-5) for name in one)


@pytest.mark.slow
def test_an_error_in_one_of_them_ends_both(make_world, monkeypatch):
    """The prompt that the reward refuses is in one process's share; the other one must not wait for it."""
    monkeypatch.chdir(make_world())
    words = "ppo r.toml ppo.reward=rewards:not_15 ppo.eval_size=0 ppo.eval_every=0 ppo.batch_size=12"
    done = together("-m", "kedge", *words.split())
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "for" in done.stderr
    assert "'the cat" in done.stderr


@pytest.mark.slow
def test_a_full_disk_of_one_ends_both(make_world, monkeypatch):
    """Only the first process writes; the other one hears of it and does not wait for the next step."""
    monkeypatch.chdir(make_world())
    words = "ppo r.toml ppo.reward=rewards:in_the_way ppo.eval_size=0 ppo.eval_every=0 ppo.batch_size=12 ppo.run=runs/x"
    done = together("-m", "kedge", *words.split())
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "metrics.jsonl: could not be written" in done.stderr
    assert "exitcode  : 2" in done.stderr  # of whichever ended first: by the error, and not by a signal


@pytest.mark.slow
def test_an_error_of_the_second_alone_is_told_by_it(make_world, monkeypatch):
    """Its data are other ones, as on a host that has not got the file; the first process would be waiting for it."""
    monkeypatch.chdir(make_world())
    with open("rewards.py", "a") as file:
        file.write("import sys\nfrom kedge.errors import DataError\n")
        file.write("if os.environ.get('RANK') == '1': raise DataError('rows.jsonl: not on this host')\n")
    done = together("-m", "kedge", *["ppo", "r.toml", "ppo.eval_size=0", "ppo.eval_every=0", "ppo.batch_size=12"])
    assert done.returncode != 0
    assert "process 1: error: rows.jsonl: not on this host" in done.stderr
    assert done.stderr.count("error: ") == 1


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
