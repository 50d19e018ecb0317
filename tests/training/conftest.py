"""What the tests of training share: weights as one vector, a run's lines, and PPO on a tiny model."""

from dataclasses import replace

import pytest
import torch

from kedge import PPO, PPOConfig, RewardModeling
from kedge.models.critic import new_critic
from kedge.models.scalar import ScalarHead
from kedge.parallel import ALONE
from kedge.sampling.local.engine import Engine
from kedge.sampling.rollouts import collate
from kedge.sampling.settings import Sampling
from kedge.training.ppo.batch import Batch
from kedge.training.ppo.trust_region import TrustRegion
from kedge.training.ppo.update import Update

PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
SMALL = {"steps": 2, "batch_size": 4, "mini_batch_size": 2, "num_ppo_epochs": 2, "response_length": 6}


def low_ids(prompts, completions, completion_ids):
    """A reward that any model can learn: the share of tokens from the lower half of the vocabulary."""
    return [sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]


@pytest.fixture(scope="session")
def vector():
    """``vector(module)``: a copy of all its weights, one after another."""
    return lambda module: torch.cat([weight.detach().flatten().clone() for weight in module.parameters()])


@pytest.fixture
def make_ppo(tiny_lm):
    """``make_ppo(reward, settings, ...)``: PPO of a new tiny model, every time the same one."""

    def make(reward=low_ids, settings=None, *, arch="llama", lm=None, prompts=PROMPTS, **kwargs):
        lm = lm or tiny_lm(arch)
        config = PPOConfig(**(SMALL | {"learning_rate": 3e-3} | (settings or {})))
        return PPO(lm.model, prompts, reward, config, tokenizer=lm.tokenizer, progress=False, **kwargs)

    return make


class UpdateSetup:
    """Policy, critic, and a batch of four answers of unlike lengths with made-up advantages, returns and reference."""

    prompts, longest = ([5], [6, 7, 8], [9, 10], [11, 12, 13, 14]), (9, 1, 3, 2)

    def __init__(self, lm, settings):
        settings = {"batch_size": 4, "mini_batch_size": 4, "num_ppo_epochs": 1, "response_length": 9} | settings
        settings = {"max_grad_norm": "none", "steps": 9, "target_kl": "none", "micro_batch_tokens": 8192} | settings
        self.config, self.lm = PPOConfig(**settings), lm
        self.critic = new_critic(self.config.critic, lm)
        head = self.critic if isinstance(self.critic, ScalarHead) else self.critic.head
        with torch.no_grad():
            head.linear.weight.copy_(torch.linspace(-0.3, 0.3, 32))
        groups = [{"params": list(module.parameters())} for module in (lm.model, self.critic)]
        self.optimizer = torch.optim.SGD(groups, lr=1.0)
        self.batch = self.rollout()

    def rollout(self):
        completions = [
            Engine(self.lm).generate([prompt], Sampling(n, self.config.temperature), seed=2)[0]
            for prompt, n in zip(self.prompts, self.longest, strict=True)
        ]
        rollouts = collate(completions, 0, torch.device("cpu"))
        mask, generator = rollouts.response_mask, torch.Generator().manual_seed(3)
        noise = [torch.randn(mask.shape, generator=generator) * mask for _ in range(3)]
        old_values = self.values(rollouts.tokens, mask)
        return Batch(
            rollouts.tokens,
            rollouts.lengths,
            mask,
            mask,
            rollouts.logprobs,
            rollouts.logprobs - noise[0],
            old_values,
            noise[1],
            old_values + noise[2],
        )

    @torch.no_grad()
    def values(self, tokens, mask):
        return self.critic.values(tokens, mask)

    def update(self, step=0, kl_coef=0.0, **changes):
        batch = replace(self.batch, **changes)
        region = TrustRegion(self.optimizer, self.config.target_kl)
        return Update(self.lm, self.critic, self.optimizer, self.config, ALONE, region)(batch, step, kl_coef)

    @property
    def parameters(self):
        return [*self.lm.model.parameters(), *self.critic.parameters()]

    def weights(self):
        return torch.cat([p.detach().flatten().clone() for p in self.parameters])

    def moved(self, **kwargs):
        """``(change of all weights, metrics)`` of one update."""
        before = self.weights()
        metrics = self.update(**kwargs)
        return self.weights() - before, metrics


@pytest.fixture
def make_update(tiny_lm):
    """``make_update("llama", setting=...)``: the same policy, critic and batch every time, ready for an update."""
    return lambda arch="llama", **settings: UpdateSetup(tiny_lm(arch), settings)


@pytest.fixture
def make_labelled(tiny_lm, tmp_path):
    """``make_labelled(rows, arch="llama", run=None, ...)``: reward modelling on a new tiny model; of a run's rows four
    are held out."""

    def make(rows, *, arch="llama", run=None, **settings):
        folder = tmp_path / f"base-{arch}"
        if not folder.exists():
            tiny_lm(arch).save(folder)
        torch.manual_seed(0)
        config = {"batch_size": 5, "epochs": 6, "learning_rate": 3e-3, "device": "cpu"} | settings
        return RewardModeling(folder, rows, config, run=run, eval_size=4 if run else 0, progress=False)

    return make
