"""What the networks compute, and how they are moved: against torch's own layers and optimizer."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from kedge.control import Agent, ControlConfig
from kedge.control.adam import Adam
from kedge.control.dense import Dense
from kedge.control.networks import Mixed
from kedge.control.observations import batched, flatten
from kedge.errors import ConfigError


def layered(*sizes):
    return [nn.Linear(a, b) for a, b in pairwise(sizes)]


def by_torch(x, stack, activation):
    for layer in stack[:-1]:
        x = activation(layer(x))
    return stack[-1](x)


@pytest.mark.parametrize(("name", "activation"), [("tanh", torch.tanh), ("relu", torch.relu)])
@pytest.mark.parametrize("sizes", [[(4, 2), (4, 1)], [(4, 7, 2), (4, 7, 1)], [(4, 7, 5, 6, 3), (4, 3, 1)]], ids=str)
def test_dense_stacks_are_those_layers(name, activation, sizes):
    torch.manual_seed(0)
    stacks = [layered(*each) for each in sizes]
    dense, x = Dense(stacks, name), torch.randn(3, 5, 4)
    weights = [w for stack in stacks for layer in stack for w in (layer.weight, layer.bias)]
    expected = [by_torch(x, stack, activation) for stack in stacks]
    given = [torch.randn_like(y) for y in expected]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, weights, given)])
    made = dense(x)
    torch.testing.assert_close(made, tuple(expected))
    torch.testing.assert_close(torch.autograd.grad(made, dense.flat, given)[0], gradient)
    torch.testing.assert_close([dense.one(x, i) for i in range(2)], [y.detach() for y in expected])


def test_dense_weights_are_the_layers():
    """What moves the vector moves the layers, and what is loaded into the layers is used."""
    stack = layered(4, 7, 2)
    dense, x = Dense([stack], "tanh"), torch.randn(5, 4)
    before = by_torch(x, stack, torch.tanh)
    with torch.no_grad():
        dense.flat += torch.randn_like(dense.flat)
    assert not torch.allclose(by_torch(x, stack, torch.tanh), before)
    torch.testing.assert_close(dense(x)[0], by_torch(x, stack, torch.tanh))
    nn.Sequential(*stack).load_state_dict(nn.Sequential(*layered(4, 7, 2)).state_dict())
    torch.testing.assert_close(dense(x)[0], by_torch(x, stack, torch.tanh))


def test_adam_is_torchs():
    torch.manual_seed(0)
    mine, theirs = ([torch.ones(3), torch.zeros(2, 2)] for _ in range(2))
    adam, reference = Adam(mine), torch.optim.Adam([nn.Parameter(x) for x in theirs], lr=0.01, eps=1e-5)
    for _ in range(5):
        gradients = [torch.randn(3), torch.randn(2, 2)]
        adam.step(gradients, 0.01)
        for parameter, gradient in zip(reference.param_groups[0]["params"], gradients, strict=True):
            parameter.grad = gradient
        reference.step()
    torch.testing.assert_close(mine, theirs)
    assert not torch.equal(mine[0], torch.ones(3))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_both_are_each(env_id):
    """The pass that is trained through, and the ones that play; with torch's layers and with NumPy's."""
    agent = Agent(env_id, n_steps=8)
    x, starts = torch.randn(2, 3, agent.observation_space.shape[0]), torch.zeros(2, 3, dtype=torch.bool)
    net = agent.network
    passes = []
    for _ in range(2):
        passes += [net.both(x, starts, (None, None)), (net.outputs(x, starts)[0], net.values(x, starts)[0])]
        net.dense = None
    for outputs, values in passes[1:]:
        torch.testing.assert_close((outputs, values), passes[0])


def test_an_agent_goes_on_learning_where_it_was(tmp_path):
    """Weights, normalisation and what Adam remembers: the next update is the same one."""
    agent = Agent("Pendulum-v1", n_steps=32, normalize_observations=True).learn(64)
    agent.save(tmp_path / "agent")
    again = Agent.load(tmp_path / "agent")
    rollout = agent.collector.collect(32)
    for each in (agent, again):
        each.update.generator.manual_seed(1)
        each.update(rollout, 0.5)
    for a, b in zip(agent.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.num_timesteps == 64


@pytest.mark.parametrize("sizes", [(), (0,), (8, -1)])
def test_sizes_that_are_none(sizes):
    with pytest.raises(ConfigError, match="hidden_sizes"):
        ControlConfig(hidden_sizes=sizes)


def test_an_image_in_a_dict_is_that_image():
    """Its columns go through the network of images as the image itself would, whatever the axes' order."""
    torch.manual_seed(0)
    camera, other = spaces.Box(0, 255, (40, 38, 3), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    space = spaces.Dict({"a": other, "camera": camera, "z": spaces.Discrete(2)})
    mixed = Mixed(space, 5)
    seen = [space.sample() for _ in range(4)]
    columns = torch.from_numpy(flatten(space, batched(space, seen), 4))
    alone = torch.from_numpy(flatten(camera, np.stack([each["camera"] for each in seen]), 4))
    features = mixed(columns)
    assert features.shape == (4, mixed.size) == (4, 2 + 5 + 2)
    torch.testing.assert_close(features[:, 2:7], mixed.images[0](alone))
    torch.testing.assert_close(features[:, :2].detach().numpy(), np.stack([each["a"] for each in seen]))
