"""What an LSTM remembers while it plays and while it learns, against passes over whole episodes."""

import numpy as np
import pytest
import torch
from counting import Counting
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kedge.control import Agent

MODES = [None, *AutoresetMode]


def agent_in(mode, length=3, n_steps=8, **settings):
    env = Counting(length) if mode is None else SyncVectorEnv([lambda: Counting(length)], autoreset_mode=mode)
    return Agent(env, policy="lstm", hidden_sizes=(8, 8), n_steps=n_steps, gamma=0.5, gae_lambda=0.0, **settings)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_episode_is_remembered_from_its_beginning_to_its_end(mode):
    agent = agent_in(mode)
    rollout = agent.collector.collect(8)
    story = torch.arange(4.0)[:, None, None]  # 0, 1, 2, and 3 where it is cut off
    starts = torch.tensor([True, False, False, False])[:, None]
    with torch.no_grad():
        values = agent.network.values(story, starts)[0][:, 0]
    advantages = torch.tensor([1.0, 2.0, 3.0]) + 0.5 * values[1:] - values[:3]
    real = torch.ones(8, dtype=torch.bool) if rollout.mask is None else rollout.mask[:, 0]
    torch.testing.assert_close(rollout.values[real, 0][:6], values[:3].repeat(2))
    torch.testing.assert_close(rollout.advantages[real, 0][:6], advantages.repeat(2))


def test_it_learns_with_what_it_remembered_when_it_played():
    agent = agent_in(None, length=50, n_steps=5)
    agent.collector.collect(5)
    rollout = agent.collector.collect(5)
    with torch.no_grad():
        _, values = agent.network.both(rollout.observations, rollout.starts, rollout.memories)
        _, forgotten = agent.network.both(rollout.observations, rollout.starts, (None, None))
        outputs, _ = agent.network.outputs(rollout.observations, rollout.starts, rollout.memories[0])
    torch.testing.assert_close(values, rollout.values)
    assert not torch.allclose(forgotten, rollout.values)
    logprobs = agent.distribution.logprobs(outputs, agent.network.log_std, rollout.actions)
    torch.testing.assert_close(logprobs, rollout.logprobs)


def test_minibatches_are_whole_sequences():
    agent = Agent("CartPole-v1", policy="lstm", hidden_sizes=(8, 8), n_envs=4, n_steps=8, batch_size=16, n_epochs=1)
    rollout = agent.collector.collect(8)
    batches = list(agent.update._minibatches(rollout))
    assert [tuple(batch.logprobs.shape) for batch in batches] == [(8, 2), (8, 2)]
    together = torch.cat([batch.observations for batch in batches], 1)
    columns = {tuple(x.flatten().tolist()) for x in rollout.observations.unbind(1)}
    assert {tuple(x.flatten().tolist()) for x in together.unbind(1)} == columns
    assert all(batch.memory.shape == (4, 2, 8) for batch in batches)


def test_predict_remembers():
    agent = agent_in(None)
    first, state = agent.predict(np.full(1, 2.0, np.float32), None, True, deterministic=True)
    again = agent.predict(np.ones(1, np.float32), state, False)[1]
    anew = agent.predict(np.ones(1, np.float32), state, True)[1]
    fresh = agent.predict(np.ones(1, np.float32), None, True)[1]
    torch.testing.assert_close(anew, fresh)
    assert not torch.allclose(again[0], fresh[0])
    assert first in (0, 1)
