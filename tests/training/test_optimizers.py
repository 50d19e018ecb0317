"""Other optimizers than AdamW: PyTorch's own steps, a step taken again, and what is not there named."""

import sys

import pytest
import torch

from kedge import SFT, PPOConfig, SFTConfig
from kedge.errors import ConfigError
from kedge.training.config import TrainingConfig
from kedge.training.optimization import make_optimizer
from kedge.training.optimizers import OPTIMIZERS, built, optimizer_class
from kedge.training.ppo.trust_region import TrustRegion

NAMES = [*OPTIMIZERS, "torch.optim.AdamW", "torch.optim.Adagrad", "torch.optim:Adamax"]


def stepped(optimizer, weight):
    for gradient in ([1.0, -2.0], [0.5, 3.0]):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    return weight.detach().clone()


@pytest.mark.parametrize("name", NAMES)
def test_its_steps_are_pytorchs(name):
    ours, theirs = (torch.nn.Parameter(torch.tensor([[1.0, -1.0]])) for _ in range(2))
    optimizer = make_optimizer([{"params": [ours], "lr": 0.1}], TrainingConfig(optimizer=name, weight_decay=0.01))
    kind = getattr(torch.optim, OPTIMIZERS.get(name, name.replace(":", ".").rpartition(".")[2]))
    eps = {"eps": 1e-5} if name in ("adamw", "adam", "nadam", "radam", "torch.optim.AdamW") else {}
    assert torch.equal(stepped(optimizer, ours), stepped(kind([theirs], lr=0.1, weight_decay=0.01, **eps), theirs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_a_step_taken_again(name, factor):
    """With less of the learning rate: where it would have gone with that from the start; and 0 takes it back."""
    found = []
    for rate, again in ((0.01, factor), (0.01 * max(factor, 1e-12), 1.0)):
        weight = torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))
        optimizer = make_optimizer([{"params": [weight], "lr": 0.01}], TrainingConfig(optimizer=name))
        region = TrustRegion(optimizer, target=0.1)
        for gradient in ([1.0, -2.0], [0.5, 3.0]):
            weight.grad = torch.tensor([gradient])
            region.remember()
            optimizer.param_groups[0]["lr"] = rate if gradient[0] == 0.5 else 0.01
            optimizer.step()
        region._retake(again)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * factor, abs=1e-12)
        found.append(weight.detach())
    assert torch.allclose(*found, atol=1e-6)


def test_amsgrad_is_not_read_off_the_moments():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))
    config = TrainingConfig(optimizer_args={"amsgrad": True, "betas": [0.9, 0.9]})
    optimizer = make_optimizer([{"params": [weight], "lr": 0.01}], config)
    region = TrustRegion(optimizer, target=0.1)
    for gradient in ([1.0, -2.0], [0.01, 0.03]):
        before, weight.grad = weight.detach().clone(), torch.tensor([gradient])
        region.remember()
        optimizer.step()
    region._retake(0.0)
    assert torch.equal(weight, before)


def test_a_step_that_ran_over_is_taken_back():
    weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    optimizer = make_optimizer([{"params": [weight], "lr": 1.0}], TrainingConfig(optimizer="sgd"))
    region = TrustRegion(optimizer, target=0.1)
    weight.grad = torch.tensor([[torch.inf]])
    region.remember()
    optimizer.step()
    far = iter([torch.inf] * 7 + [0.0])
    assert region.end(lambda: next(far)) == 0.0
    assert weight.item() == 1.0
    assert not region._before  # nothing is held between updates


def test_muon_is_for_matrices_and_adamw_for_all_else():
    """Two steps: those of PyTorch's two optimizers, each on its weights, in one group."""
    torch.manual_seed(0)
    start = [torch.randn(4, 6), torch.randn(6), torch.randn(8, 4)]
    gradients = [[torch.randn_like(weight) for weight in start] for _ in range(2)]
    matrix, *_ = ours = [torch.nn.Parameter(weight.clone()) for weight in start]
    group = {"params": ours, "lr": 0.1, "matrices": [matrix]}
    config = TrainingConfig(optimizer="muon", weight_decay=0.01, optimizer_args={"momentum": 0.8, "betas": [0.5, 0.9]})
    optimizer = make_optimizer([group], config)
    theirs = [torch.nn.Parameter(weight.clone()) for weight in start]
    muon = torch.optim.Muon(theirs[:1], 0.1, weight_decay=0.01, momentum=0.8, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(theirs[1:], 0.1, betas=(0.5, 0.9), eps=1e-5, weight_decay=0.01)
    for step in gradients:
        for weights in (ours, theirs):
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
        for each in (optimizer, muon, adamw):
            each.step()
    assert all(map(torch.equal, ours, theirs))
    assert len(optimizer.param_groups) == 1


def test_what_muon_is_for(tiny_lm):
    lm = tiny_lm("llama")
    names = {id(weight): name for name, weight in lm.model.named_parameters()}
    found = {names[id(weight)].rpartition("layers.0.")[2] for weight in lm.group(1.0)["matrices"]}
    layer = {f"self_attn.{name}_proj.weight" for name in "qkvo"} | {
        f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    }
    assert {name for name in found if "layers." not in name} == layer
    assert not any("embed" in name or "head" in name or "norm" in name for name in found)


def test_states_in_eight_bits(tiny_lm):
    pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.zeros(64, 128))
    optimizer = make_optimizer([{"params": [weight], "lr": 0.01}], TrainingConfig(optimizer="adamw_8bit"))
    weight.grad = torch.linspace(-1, 1, 64 * 128).view(64, 128)
    optimizer.step()
    assert optimizer.state[weight]["state1"].dtype == torch.uint8
    assert torch.allclose(
        weight[weight.grad.abs() > 0.01], -0.01 * weight.grad.sign()[weight.grad.abs() > 0.01], rtol=0.01
    )


@pytest.mark.parametrize(
    "name",
    [
        "adafactor",
        "muon",
        "adamw_8bit",
        pytest.param("rmsprop", marks=pytest.mark.slow),
        pytest.param("sgd", marks=pytest.mark.slow),
        pytest.param("torch.optim.NAdam", marks=pytest.mark.slow),
        pytest.param("optimi.AdamW", marks=pytest.mark.slow),
    ],
)
def test_ppo_resumed_is_uninterrupted(make_ppo, tmp_path, vector, name):
    settings = {"steps": 4, "checkpoint_every": 2, "optimizer": name, "target_kl": 0.001, "learning_rate": 0.05}
    settings |= {"optimizer_args": {"momentum": 0.5}} if name in ("sgd", "rmsprop") else {}
    whole = make_ppo(settings=settings, run=tmp_path / "whole")
    want = [metrics["policy/lr_scale"] for metrics in whole]
    assert min(want) < 1 or name == "sgd"  # steps were taken again
    for _ in zip(range(3), make_ppo(settings=settings, run=tmp_path / "broken"), strict=False):
        pass
    resumed = make_ppo(settings=settings, run=tmp_path / "broken", resume=True)
    assert resumed.step_done == 2
    resumed.train()
    assert torch.equal(vector(resumed.policy.model), vector(whole.policy.model))


def test_a_class_in_the_folder_that_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "slowly.py").write_text("import torch\n\n\nclass Slow(torch.optim.SGD):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert optimizer_class("slowly.Slow").__name__ == "Slow"
    with pytest.raises(ConfigError, match="cannot be imported: slowly:Quick: slowly has no 'Quick'"):
        optimizer_class("slowly:Quick")


def test_weights_in_bfloat16_learn_with_an_optimizer_made_for_it(tiny_lm):
    """At a rate at which plain steps are lost in rounding, Kahan's sum keeps them."""
    rows = [{"prompt": text, "completion": " and so on"} for text in ("the cat", "a dog ran", "Once upon", "red house")]
    learnt = {}
    for name, dtype, optimizer in (
        ("float32",) * 2 + ("adamw",),
        ("plain", "bfloat16", "adamw"),
        ("kahan", "bfloat16", "optimi.AdamW"),
    ):
        lm = tiny_lm("llama")
        lm.model.to(getattr(torch, dtype))
        settings = {"epochs": 60, "batch_size": 4, "learning_rate": 3e-5, "lr_scheduler_type": "constant"}
        sft = SFT(lm, rows, settings | {"optimizer": optimizer}, progress=False)
        begun = float(sft.loss(range(4), sft.weigh(range(4)))[0])
        sft.train()
        learnt[name] = begun - float(sft.loss(range(4), sft.weigh(range(4)))[0])
    assert learnt["plain"] < 0.3 * learnt["float32"]
    assert learnt["kahan"] > 0.7 * learnt["float32"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adamv"}, "optimizer: 'adamv' is none, .*did you mean 'adam"),
        ({"optimizer": "torch.optim.Nothing"}, "optimizer: 'torch.optim.Nothing' cannot be imported"),
        ({"optimizer": "nowhere.Thing"}, "optimizer: 'nowhere.Thing' cannot be imported"),
        ({"optimizer": "torch.nn.Linear"}, "optimizer: 'torch.nn.Linear' is no torch.optim.Optimizer"),
        ({"optimizer_args": {"beta": [0.9, 0.95]}}, "optimizer_args.beta: AdamW has no such .* did you mean 'betas'"),
        ({"optimizer": "sgd", "optimizer_args": {"betas": [0.9, 0.95]}}, "optimizer_args.betas: SGD has no such"),
        ({"optimizer_args": {"lr": 0.1}}, "optimizer_args.lr: AdamW has no such"),
        ({"optimizer_args": {"betas": [1.9, 0.95]}}, "optimizer: AdamW: Invalid beta"),
        ({"optimizer": "torch.optim.Rprop", "weight_decay": 0.1}, "weight_decay: Rprop has none"),
    ],
)
@pytest.mark.parametrize("config", [PPOConfig, SFTConfig])
def test_what_is_not_there_is_named(config, settings, said):
    with pytest.raises(ConfigError, match=said):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "..Foo"}, "optimizer: '..Foo' cannot be imported"),
        ({"optimizer_args": {"capturable": True}}, "optimizer_args: AdamW cannot take a step"),
        ({"optimizer_args": {"differentiable": True}}, "optimizer_args: AdamW cannot take a step"),
        ({"optimizer_args": {"maximize": True}}, "optimizer_args.maximize: it would train towards"),
        ({"optimizer": "adamw_8bit", "optimizer_args": {"betas": [0.9]}}, "optimizer"),
        ({"optimizer": "muon", "optimizer_args": {"ns_steps": 1.5}}, "optimizer_args: MuonWithAdamW cannot take"),
        ({"optimizer": "torch.optim.SparseAdam"}, "optimizer_args: SparseAdam cannot take a step"),
    ],
    ids=str,
)
def test_what_cannot_take_a_step_is_told_at_once(settings, said):
    with pytest.raises(ConfigError, match=said):
        PPOConfig(**settings)


def test_adam_in_eight_bits_has_adams_eps():
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = built("adamw_8bit", [{"params": [weight], "lr": 1e-3}], weight_decay=0.0, given={})
    assert optimizer.param_groups[0]["eps"] == 1e-5
