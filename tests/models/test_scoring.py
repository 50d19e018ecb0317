"""Log-probabilities, entropies and values of given tokens, against a plain forward pass shifted by hand."""

import pytest
import torch

from kedge.models.batch import padded
from kedge.models.critic import new_critic
from kedge.models.scalar import ScalarHead
from kedge.models.scoring import score_tokens, value_tokens

PROMPTS = [3, 9, 5, 1]
RESPONSES = [4, 7, 1, 12]


@pytest.fixture
def batch(arch, tiny_lm):
    """A model and four sequences of unlike lengths, pad id inside the text too."""
    generator = torch.Generator().manual_seed(1)
    sequences = [
        torch.randint(0, 300, (p + r,), generator=generator).tolist() for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    return tiny_lm(arch), sequences


def together(sequences, starts=PROMPTS):
    tokens, lengths = padded(sequences, 0, torch.device("cpu"))
    column = torch.arange(tokens.shape[1])
    return tokens, (column >= torch.tensor(starts)[:, None]) & (column < lengths[:, None])


def random_head(size):
    head = ScalarHead(size)
    with torch.no_grad():
        head.linear.weight.copy_(torch.linspace(-1, 1, size))
        head.linear.bias.fill_(0.25)
    return head


@torch.no_grad()
def by_hand(lm, ids, start, temperature):
    """Log-probabilities, entropies, and the hidden state before each response token of one unpadded sequence."""
    tokens = torch.tensor([ids])
    distribution = torch.distributions.Categorical(logits=lm.model(tokens).logits[0].double() / temperature)
    hidden = lm.model.base_model(tokens).last_hidden_state[0]
    before = range(start - 1, len(ids) - 1)
    logprobs = [distribution.logits[t, ids[t + 1]].item() for t in before]
    return logprobs, [distribution.entropy()[t].item() for t in before], hidden[list(before)]


@torch.no_grad()
def test_padded_batch_is_each_alone_by_hand(batch):
    lm, sequences = batch
    tokens, mask = together(sequences)
    head = random_head(32)
    scores = score_tokens(lm, tokens, mask, temperature=0.7, value_head=head, with_entropy=True)
    critic = new_critic("separate", lm)
    critic.head.load_state_dict(head.state_dict())
    separate = value_tokens(critic, tokens, mask, lm)
    for row, (ids, start) in enumerate(zip(sequences, PROMPTS, strict=True)):
        logprobs, entropies, hidden = by_hand(lm, ids, start, 0.7)
        # The value of a token is read before it: of the first response token, at the last prompt token.
        values = (hidden @ torch.linspace(-1, 1, 32) + 0.25).tolist()
        here = slice(start, len(ids))
        assert scores.logprobs[row, here].tolist() == pytest.approx(logprobs, abs=1e-5)
        assert scores.entropy[row, here].tolist() == pytest.approx(entropies, abs=1e-5)
        assert scores.values[row, here].tolist() == pytest.approx(values, abs=1e-5)
        assert separate[row, here].tolist() == pytest.approx(values, abs=1e-5)
    for result in (scores.logprobs, scores.entropy, scores.values, separate):
        assert result.shape == tokens.shape
        assert result[~mask].eq(0).all()


@torch.no_grad()
def test_alone_equals_in_company(batch):
    lm, sequences = batch
    whole = score_tokens(lm, *together(sequences), temperature=1.0, with_entropy=True)
    for row, (ids, start) in enumerate(zip(sequences, PROMPTS, strict=True)):
        alone = score_tokens(lm, *together([ids], [start]), temperature=1.0, with_entropy=True)
        for a, b in ((alone.logprobs, whole.logprobs), (alone.entropy, whole.entropy)):
            assert a[0].tolist() == pytest.approx(b[row, : len(ids)].tolist(), abs=1e-5)


@torch.no_grad()
def test_a_hole_in_the_mask(tiny_lm):
    lm = tiny_lm("llama")
    tokens, mask = together([[5, 6, 7, 8, 9, 10]], [2])
    full = score_tokens(lm, tokens, mask, temperature=1.0).logprobs
    mask[0, 3] = False
    holed = score_tokens(lm, tokens, mask, temperature=1.0).logprobs
    assert holed[0, 3] == 0
    keep = [2, 4, 5]
    assert holed[0, keep].tolist() == pytest.approx(full[0, keep].tolist(), abs=1e-6)


@torch.no_grad()
def test_nothing_to_score(tiny_lm):
    tokens, mask = together([[5, 6, 7]], [3])
    scores = score_tokens(tiny_lm("llama"), tokens, mask, temperature=1.0, with_entropy=True)
    assert scores.logprobs.tolist() == scores.entropy.tolist() == [[0, 0, 0]]


def test_gradients_reach_trunk_and_head_through_response_tokens_only(tiny_lm):
    lm = tiny_lm("llama")
    tokens, mask = together([[5, 6, 7, 8], [9, 10]], [2, 1])
    head = random_head(32)
    scores = score_tokens(lm, tokens, mask, temperature=1.0, value_head=head)
    (scores.logprobs.sum() + scores.values.sum()).backward()
    assert head.linear.bias.grad.item() == 3  # one a response token
    embedding = lm.model.get_input_embeddings().weight.grad.abs().sum(-1)
    assert (embedding[[5, 6, 7, 9]] > 0).all()
    assert embedding[8] == embedding[10] == embedding[0] == 0  # last tokens and padding are never read
