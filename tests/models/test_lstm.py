"""The LSTM: its memory, and the language model made of it, here and in plain transformers."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from kedge.models.lstm import LSTM, LSTMConfig, LSTMForCausalLM
from kedge.models.tiny import new_lstm


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LSTMConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, pad_token_id=0, eos_token_id=1)
    return LSTMForCausalLM(config).eval()


@pytest.fixture
def tokens():
    return torch.randint(2, 50, (3, 7), generator=torch.Generator().manual_seed(0))


def test_it_is_torchs():
    lstm = LSTM(4, 8, layers=2)
    plain = nn.LSTM(4, 8, 2)
    plain.load_state_dict(lstm.cells.state_dict())
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(lstm(x), plain(x))


def test_what_was_before_a_beginning_is_forgotten():
    lstm, x = LSTM(4, 8, layers=2), torch.randn(6, 2, 4)
    starts = torch.zeros(6, 2, dtype=torch.bool)
    starts[2, 0] = True
    features, (hidden, cell) = lstm(x, lstm(torch.randn(3, 2, 4))[1], starts)
    alone, (alone_hidden, alone_cell) = lstm(x[2:, :1])
    torch.testing.assert_close(features[2:, :1], alone)
    torch.testing.assert_close((hidden[:, :1], cell[:, :1]), (alone_hidden, alone_cell))
    assert not torch.allclose(features[:, 1:], lstm(x[:, 1:])[0])  # the other goes on from its state


def test_first_weights_are_orthogonal(model):
    weight = model.model.lstm.cells.weight_hh_l0
    torch.testing.assert_close(weight.T @ weight, torch.eye(16), atol=1e-5, rtol=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@torch.no_grad()
def test_with_a_cache_and_without(model, tokens):
    whole = model(tokens).logits
    begun = model(tokens[:, :4], use_cache=True)
    rest = model(tokens[:, 4:], past_key_values=begun.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([begun.logits, rest.logits], 1), whole)
    cached, plain = (model.generate(tokens, max_new_tokens=8, do_sample=False, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    assert model.generate(tokens, max_new_tokens=4, num_beams=3, do_sample=False).shape[0] == 3


@torch.no_grad()
def test_padding_on_the_left_is_not_remembered(model, tokens):
    padded, mask = torch.zeros(3, 10, dtype=torch.long), torch.zeros(3, 10, dtype=torch.long)
    for i, length in enumerate((7, 4, 10)):
        padded[i, 10 - length :] = torch.cat([tokens[i], tokens[i]])[:length]
        mask[i, 10 - length :] = 1
    logits = model(padded, attention_mask=mask).logits
    written = model.generate(padded, attention_mask=mask, max_new_tokens=5, do_sample=False)
    for i, length in enumerate((7, 4, 10)):
        alone = padded[i : i + 1, 10 - length :]
        torch.testing.assert_close(logits[i : i + 1, 10 - length :], model(alone).logits)
        row = model.generate(alone, max_new_tokens=5, do_sample=False)[0, length:]
        assert torch.equal(written[i, 10 : 10 + len(row)], row)


@torch.no_grad()
def test_the_loss_is_that_of_the_next_token(model, tokens):
    logits = model(tokens).logits
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(model(tokens, labels=tokens).loss, expected)


PLAIN = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = AutoTokenizer.from_pretrained(sys.argv[1])("the cat", return_tensors="pt").input_ids
print(model.generate(ids, max_new_tokens=6, do_sample=False).tolist())
assert "kedge" not in sys.modules
"""


@pytest.mark.slow
def test_a_saved_folder_is_enough(tmp_path, tiny_tokenizer):
    """Auto classes know it here; where there is no kedge the folder's own code does."""
    lm = new_lstm(tiny_tokenizer, hidden=16, layers=1, seed=0)
    lm.save(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(again) is LSTMForCausalLM
    ids = lm.tokenizer("the cat", return_tensors="pt").input_ids
    expected = again.generate(ids, max_new_tokens=6, do_sample=False).tolist()
    elsewhere = subprocess.run(
        [sys.executable, "-c", PLAIN, tmp_path / "model"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
    )  # fmt: skip
    assert elsewhere.stdout.strip() == str(expected), elsewhere.stderr
