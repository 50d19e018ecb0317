"""Log-probabilities, entropies and values of given tokens, against a plain forward pass shifted by hand."""

import pytest
import torch

from kedge.models.batch import padded
from kedge.models.critic import new_critic
from kedge.models.forward import forward_tokens
from kedge.models.scalar import ScalarHead

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
    tokens, lengths = padded(sequences, 0)
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
    scores = forward_tokens(lm, tokens, mask, temperature=0.7, value_head=head, with_entropy=True)
    assert torch.allclose(forward_tokens(lm, tokens, mask, temperature=0.7).logprobs, scores.logprobs, atol=1e-6)
    critic = new_critic("separate", lm)
    critic.head.load_state_dict(head.state_dict())
    separate = critic.values(tokens, mask)
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
    whole = forward_tokens(lm, *together(sequences), temperature=1.0, with_entropy=True)
    for row, (ids, start) in enumerate(zip(sequences, PROMPTS, strict=True)):
        alone = forward_tokens(lm, *together([ids], [start]), temperature=1.0, with_entropy=True)
        for a, b in ((alone.logprobs, whole.logprobs), (alone.entropy, whole.entropy)):
            assert a[0].tolist() == pytest.approx(b[row, : len(ids)].tolist(), abs=1e-5)


@torch.no_grad()
def test_a_hole_in_the_mask(tiny_lm):
    lm = tiny_lm("llama")
    tokens, mask = together([[5, 6, 7, 8, 9, 10]], [2])
    full = forward_tokens(lm, tokens, mask, temperature=1.0).logprobs
    mask[0, 3] = False
    holed = forward_tokens(lm, tokens, mask, temperature=1.0).logprobs
    assert holed[0, 3] == 0
    keep = [2, 4, 5]
    assert holed[0, keep].tolist() == pytest.approx(full[0, keep].tolist(), abs=1e-6)


@torch.no_grad()
def test_nothing_to_score(tiny_lm):
    tokens, mask = together([[5, 6, 7]], [3])
    scores = forward_tokens(tiny_lm("llama"), tokens, mask, temperature=1.0, with_entropy=True)
    assert scores.logprobs.tolist() == scores.entropy.tolist() == [[0, 0, 0]]


def test_gradients_reach_trunk_and_head_through_response_tokens_only(tiny_lm):
    lm = tiny_lm("llama")
    tokens, mask = together([[5, 6, 7, 8], [9, 10]], [2, 1])
    head = random_head(32)
    scores = forward_tokens(lm, tokens, mask, temperature=1.0, value_head=head)
    (scores.logprobs.sum() + scores.values.sum()).backward()
    assert head.linear.bias.grad.item() == 3  # one a response token
    embedding = lm.model.get_input_embeddings().weight.grad.abs().sum(-1)
    assert (embedding[[5, 6, 7, 9]] > 0).all()
    assert embedding[8] == embedding[10] == embedding[0] == 0  # last tokens and padding are never read


class TestChunks:
    """Logits a few tokens at a time, made again in the backward pass, against all at once; in float64."""

    def gradients(self, lm, settings):
        tokens, mask = together([[5, 6, 7, 8, 9, 10, 3], [9, 10, 11, 4]], [2, 1])
        lm.model.zero_grad()
        scores = forward_tokens(lm, tokens, mask, temperature=0.7, **settings)
        weights = torch.linspace(-1, 2, tokens.numel(), dtype=torch.float64).reshape(tokens.shape)
        loss = (scores.logprobs * weights).sum()
        if settings.get("with_entropy") and settings.get("entropy_gradient", True):
            loss = loss + (scores.entropy * weights.flip(1)).sum()
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None])
        return scores.logprobs.detach(), scores.entropy, grads

    @pytest.mark.parametrize(
        "settings", [{}, {"with_entropy": True}, {"with_entropy": True, "entropy_gradient": False}], ids=str
    )
    @pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
    def test_are_exact(self, tiny_lm, monkeypatch, name, settings):
        lm = tiny_lm(name)
        lm.model.double()
        whole = self.gradients(lm, settings)
        sizes = []
        head = lm.head
        monkeypatch.setitem(vars(lm), "head", lambda hidden: sizes.append(len(hidden)) or head(hidden))
        for tokens_at_a_time in (1, 2, 3, 100):
            monkeypatch.setitem(vars(lm), "logits_at_a_time", tokens_at_a_time * 320)
            sizes.clear()
            parts = self.gradients(lm, settings)
            assert max(sizes) == min(tokens_at_a_time, 8)
            for a, b in zip(whole, parts, strict=True):
                assert (a is None) == (b is None)
                assert a is None or torch.allclose(a, b, rtol=0, atol=1e-10)

    def test_a_model_whose_head_cannot_be_taken_apart(self, tiny_lm, monkeypatch):
        lm, head = tiny_lm("llama"), random_head(32)
        lm.model.double()
        tokens, mask = together([[5, 6, 7, 8], [9, 10]], [2, 1])
        score = lambda: forward_tokens(lm, tokens, mask, temperature=0.7, value_head=head, with_entropy=True)  # noqa: E731
        apart = score()
        monkeypatch.setitem(vars(lm), "head", None)
        plain = score()
        for name in ("logprobs", "entropy", "values"):
            assert torch.allclose(getattr(apart, name), getattr(plain, name), rtol=0, atol=1e-10)


def test_logits_are_never_made_for_prompts_and_padding(tiny_lm, monkeypatch):
    lm = tiny_lm("llama")
    head, seen = lm.head, []
    monkeypatch.setitem(vars(lm), "head", lambda hidden: seen.append(len(hidden)) or head(hidden))
    tokens, mask = together([[5, 6, 7, 8, 9, 10, 3], [9, 10, 11]], [5, 2])
    forward_tokens(lm, tokens, mask, temperature=1.0)
    assert seen == [3]
