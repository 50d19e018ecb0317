"""Models whose weights are spread over two processes: the same numbers, files and training as one process has."""

import shutil
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_work import begin, go_on, loss_of, tokens_of, trained
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from kedge import PPO, SFT, PPOConfig
from kedge.errors import ConfigError, StorageError
from kedge.models.adapters import add_adapter
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import new_reward_model
from kedge.models.reward_model import Classifier
from kedge.models.sharding import Sharding
from kedge.parallel import ALONE, gathered, local, part_of
from kedge.storage.checkpoints import damage_in
from kedge.training.checkpoint import Writing, load_state
from kedge.training.optimization import clip_gradients
from kedge.training.optimizers import built
from kedge.training.sharded_state import PartsWriter, load_optimizer, refuse_unshared

KINDS = [
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2", "mamba", "lfm2",
    "kedge_lstm", "tied",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tiny_lm, tmp_path_factory):
    """Models; ``found.pt``, what two processes found; and their training."""
    world = tmp_path_factory.mktemp("sharded")
    for name in KINDS:
        lm = tiny_lm("llama", tie_word_embeddings=True) if name == "tied" else tiny_lm(name)
        lm.save(world / "architectures" / name)
    (world / "llama").symlink_to(world / "architectures" / "llama")
    torch.manual_seed(1)
    reward = new_reward_model(world / "llama", device="cpu")
    nn.init.normal_(reward.model.score.weight)
    reward.save(world / "rm")
    begin(world, "one")
    begin(world, "from-one", steps=2)
    together(2, world)
    return world


def together(count, world):
    """The work of so many processes."""
    script = Path(__file__).with_name("sharded_work.py")
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", str(script), str(world)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr


def far(one, two):
    """By how much the weights of two runs differ at most."""
    found = 0.0
    for file in ("policy/model.safetensors", "critic/model.safetensors", "critic/value_head.safetensors"):
        first, second = load_file(one / file), load_file(two / file)
        assert first.keys() == second.keys()
        found = max(found, *(float((first[key] - second[key]).abs().max()) for key in first))
    return found


@pytest.fixture(scope="module")
def found(world):
    return torch.load(world / "found.pt", weights_only=True)


@pytest.fixture
def alone(world):
    """``alone(name)``: the model by itself, the loss of all rows, and its gradients by name."""

    def run(name):
        lm = load_language_model(world / "architectures" / name, device="cpu")
        loss = loss_of(lm, tokens_of(4))
        loss.backward()
        return lm, loss.detach(), {n: w.grad for n, w in lm.model.named_parameters() if w.grad is not None}

    return run


@pytest.mark.parametrize("name", KINDS)
class TestOneModel:
    def test_loss_and_gradients_are_sums_over_the_rows(self, alone, found, name):
        _, loss, gradients = alone(name)
        assert found[name]["loss"] == pytest.approx(float(loss), rel=1e-5)
        assert found[name]["gradients"].keys() == gradients.keys()
        for weight, gradient in gradients.items():
            size = gradient.abs().max()
            assert (found[name]["gradients"][weight] - gradient).abs().max() <= 1e-5 * max(1.0, float(size)), weight

    def test_they_are_clipped_by_the_norm_of_all_parts(self, alone, found, name):
        lm, _, gradients = alone(name)
        norm = torch.nn.utils.clip_grad_norm_([*lm.model.parameters()], 1.0)
        assert found[name]["norm"] == pytest.approx(float(norm), rel=1e-4)
        for weight, gradient in gradients.items():
            assert torch.allclose(found[name]["clipped"][weight], gradient, rtol=1e-3, atol=1e-6), weight

    def test_a_process_holds_half_of_the_weights_and_all_where_it_runs_alone(self, alone, found, name):
        lm, *_ = alone(name)
        every = sum(weight.numel() for weight in lm.model.parameters())
        assert found[name]["held"] == found[name]["held after"] < 0.6 * every
        with torch.no_grad():
            assert torch.allclose(found[name]["alone"], loss_of(lm, tokens_of(3)), rtol=1e-5)
            assert torch.allclose(found[name]["logits"], lm.model(tokens_of(2)).logits, atol=1e-5)

    def test_a_pass_sees_the_weights_as_they_are(self, alone, found, name):
        lm, *_ = alone(name)
        with torch.no_grad():
            for weight in lm.model.parameters():
                weight.mul_(3)
            assert torch.allclose(found[name]["tripled"], loss_of(lm, tokens_of(3)), rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_what_is_written_in_parts_is_the_folder_that_one_process_writes(world, found, name):
    folder, own = world / f"written-{name}", world / "architectures" / name
    written = {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}
    assert len([*folder.glob("*.safetensors")]) > 1
    there = load_file(own / "model.safetensors")
    assert written.keys() == there.keys()
    assert all(torch.equal(written[key], there[key]) for key in there)
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (folder / file).read_text() == (own / file).read_text()
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = AutoModelForCausalLM.from_pretrained(own).state_dict()
    assert all(torch.equal(expected[key], value) for key, value in model.state_dict().items())
    assert set(found[name]["changed"].values()) == {0.0}  # read again, over what had been changed


def test_a_critic_and_a_reward_of_a_reward_model(world, found, tmp_path):
    ppo = trained(world)
    ppo.save(tmp_path)
    assert found["scores"] == pytest.approx(ppo.experience.scores.sums(), abs=1e-4)
    assert far(world / "ppo", tmp_path) < 1e-5


def test_weights_are_held_in_what_one_process_holds_them_in(found):
    low, full = ["torch.bfloat16"], ["torch.float32"]
    assert found["held in"] == {"named": low, "its reference": low, "its reward": full, "given": low}


def test_a_full_disk_of_one_is_an_error_of_all(world, found):
    assert len(found["full"]) == 2
    assert all("No space left" in said for said in found["full"])
    assert not (world / "full/policy").exists()


class TestCheckpoints:
    def test_a_run_goes_on_to_the_bit(self, world):
        assert far(world / "whole", world / "broken") == 0.0
        assert far(world / "whole", world / "one") < 1e-5
        assert far(world / "whole", world / "to-one") > 1e-4  # which is not at its end

    def test_by_one_process_what_two_began_and_the_other_way_round(self, world, tmp_path):
        go_on(Path(shutil.copytree(world / "to-one", tmp_path / "run", symlinks=True)).parent, "run")
        assert far(tmp_path / "run", world / "one") < 1e-5
        assert far(world / "from-one", world / "one") < 1e-5

    @pytest.mark.slow
    def test_by_four_processes_what_two_began(self, world):
        together(4, world)
        assert far(world / "to-four", world / "one") < 1e-5

    def test_it_is_whole_and_its_policy_is_a_model(self, world):
        checkpoint = world / "whole/checkpoints/step-000004"
        assert damage_in(checkpoint) is None
        next((checkpoint / "optimizer").glob("*.distcp")).write_bytes(b"")
        assert "optimizer" in damage_in(checkpoint)
        model = load_language_model(checkpoint / "policy", device="cpu").model
        [weight, *_] = model.parameters()
        assert not torch.equal(weight, next(load_language_model(world / "llama", device="cpu").model.parameters()))


def test_what_wants_whole_weights_is_refused():
    for settings, why in (
        ({"optimizer": "muon"}, "muon asks for whole weights; set optimizer to one of adamw"),
        ({"optimizer": "adafactor"}, "adafactor asks for whole weights"),
        ({"quantization": "nf4", "adapter": {"method": "lora"}}, "shard: not with quantization"),
    ):
        with pytest.raises(ConfigError, match=why):
            PPOConfig(shard=True, **settings)


def test_by_one_process_nothing_is_sharded(tiny_lm):
    lm = tiny_lm("llama")
    settings = {"steps": 1, "batch_size": 2, "mini_batch_size": 2, "response_length": 3, "shard": True}
    ppo = PPO(lm.model, ["a", "b"], lambda completions: [1.0, 0.0], settings, tokenizer=lm.tokenizer, progress=False)
    assert type(ppo.policy.model).__name__ == "LlamaForCausalLM"
    ppo.train()


@pytest.fixture
def mesh(tmp_path):
    """Of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_plain_and_sharded_weights_are_clipped_by_one_norm(mesh):
    plain, sharded = nn.Parameter(torch.zeros(2)), nn.Parameter(distribute_tensor(torch.zeros(2), mesh, [Shard(0)]))
    plain.grad = torch.tensor([1.0, 2.0])
    sharded.grad = distribute_tensor(torch.tensor([4.0, 10.0]), mesh, [Shard(0)])
    assert float(clip_gradients([plain, sharded], 5.5)) == pytest.approx(11.0)  # 1 + 4 + 16 + 100 = 121
    assert plain.grad.tolist() == pytest.approx([0.5, 1.0])
    assert sharded.grad.full_tensor().tolist() == pytest.approx([2.0, 5.0])
    assert float(clip_gradients([plain, sharded], None)) == pytest.approx(5.5)
    assert local(sharded.grad).tolist() == pytest.approx([2.0, 5.0])


class TestStepsOfPlainAndShardedWeights:
    """A critic's head and its trunk are in one group of the optimizer."""

    @pytest.fixture
    def groups(self, mesh):
        plain, sharded = nn.Parameter(torch.ones(2)), nn.Parameter(distribute_tensor(torch.ones(2), mesh, [Shard(0)]))
        return [{"params": [plain, sharded], "lr": 0.1}]

    def test_on_gpus_they_are_not_fused(self, groups, mesh, monkeypatch):
        monkeypatch.setattr(DTensor, "device", torch.device("cuda"), raising=False)
        with FakeTensorMode():
            groups[0]["params"][0] = nn.Parameter(torch.ones(2, device="cuda"))
        alike = [{"params": groups[0]["params"][1:], "lr": 0.1}]
        fused = [built("adamw", each, weight_decay=0.0, given={}).defaults["fused"] for each in (groups, alike)]
        assert fused == [None, True]

    def test_nor_after_a_checkpoint_of_fused_ones(self, groups, tmp_path):
        whole = built(
            "adamw",
            [{"params": [*map(nn.Parameter, torch.ones(2, 2))], "lr": 0.1}],
            weight_decay=0.0,
            given={"fused": True},
        )
        optimizer = built("adamw", groups, weight_decay=0.0, given={})
        load_optimizer(optimizer, whole.state_dict(), tmp_path)
        for weight in groups[0]["params"]:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert [gathered(weight).tolist() for weight in groups[0]["params"]] == [
            pytest.approx([0.9, 0.9], abs=1e-4)
        ] * 2

    @pytest.mark.parametrize("key", ["fused", "foreach"])
    def test_who_asks_for_it_is_told(self, groups, key):
        with pytest.raises(ConfigError, match=f"optimizer_args.{key}: not with sharded weights beside whole ones"):
            built("adamw", groups, weight_decay=0.0, given={key: True})


class TestInTheBackground:
    """The parts of an optimizer's state are written while the training goes on."""

    @pytest.fixture
    def optimizer(self, mesh):
        """After one step: of a plain weight and a sharded one."""
        weights = [nn.Parameter(torch.ones(2)), nn.Parameter(distribute_tensor(torch.ones(3), mesh, [Shard(0)]))]
        optimizer = torch.optim.AdamW(weights)
        weights[0].grad = torch.tensor([1.0, 2.0])
        weights[1].grad = distribute_tensor(torch.tensor([3.0, 4.0, 5.0]), mesh, [Shard(0)])
        optimizer.step()
        return optimizer

    def test_it_has_its_name_when_all_is_written(self, optimizer, tmp_path):
        writing = Writing(
            tmp_path / "step-000001", {"optimizer": optimizer.state_dict()}, lambda _: None, ALONE, PartsWriter()
        )
        assert not (tmp_path / "step-000001").exists()
        moment = optimizer.state[optimizer.param_groups[0]["params"][1]]["exp_avg"]
        moment.mul_(0)  # what is written is a copy
        writing.finish()
        assert damage_in(tmp_path / "step-000001") is None
        load_optimizer(optimizer, load_state(tmp_path / "step-000001")["optimizer"], tmp_path / "step-000001")
        moments = [gathered(each["exp_avg"]).tolist() for each in optimizer.state.values()]
        assert moments == [pytest.approx([0.1, 0.2]), pytest.approx([0.3, 0.4, 0.5])]

    def test_what_could_not_be_written_is_not_there(self, optimizer, tmp_path, monkeypatch):
        def full(*_, **__):
            saving = Future()
            saving.set_exception(CheckpointException("no", {1: (OSError("No space left"), None)}))
            return saving

        monkeypatch.setattr("torch.distributed.checkpoint.async_save", full)
        writing = Writing(
            tmp_path / "step-000001", {"optimizer": optimizer.state_dict()}, lambda _: None, ALONE, PartsWriter()
        )
        with pytest.raises(StorageError, match="process 1: No space left"):
            writing.finish()
        assert [path.name for path in tmp_path.iterdir()] == ["store"]

    def test_a_folder_that_a_host_does_not_see(self, tmp_path):
        with pytest.raises(StorageError, match="must be one that all hosts share"):
            refuse_unshared(tmp_path / "elsewhere" / "optimizer")


def test_a_model_that_a_job_before_has_sharded_is_refused(mesh, tiny_lm):
    lm = tiny_lm("llama")
    lm.shard(Sharding(torch.device("cpu"), 1), torch.float32)
    with pytest.raises(ConfigError, match="policy: this model was spread over the processes by the job before"):
        PPO(lm.model, ["a", "b"], lambda completions: [1.0, 0.0], tokenizer=lm.tokenizer, progress=False)
    with pytest.raises(ConfigError, match="model: this model was spread"):
        SFT(lm, [{"prompt": "a", "completion": "b"}], progress=False)


def test_an_encoder_s_head_beside_an_adapter_is_held_as_the_encoder_is(mesh, tiny_tokenizer):
    config = AutoConfig.for_model(
        "distilbert", vocab_size=320, dim=16, n_layers=1, n_heads=2, hidden_dim=16, num_labels=1
    )
    model = AutoModelForSequenceClassification.from_config(config).bfloat16()
    add_adapter(model, {"target_modules": ["q_lin"]}, seed=0)
    reward = Classifier(model, tiny_tokenizer, None)
    reward.shard(Sharding(torch.device("cpu"), 1), torch.float32)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(isinstance(weight, DTensor) for weight in reward.whole_everywhere())
    reward([[5, 6, 7]]).sum().backward()


def test_parts_and_wholes(mesh):
    whole = torch.arange(6.0).view(3, 2)
    part = part_of(whole, distribute_tensor(torch.zeros(3, 2), mesh, [Shard(0)]))
    assert torch.equal(gathered(part), whole)
    assert torch.equal(local(part), whole)
    assert part_of(whole, torch.zeros(3, 2)) is whole
    assert gathered(whole) is local(whole) is whole
