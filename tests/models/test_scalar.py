"""The linear head and the trunk that carries it."""

import pytest
import torch
from safetensors.torch import save_file

from kedge.errors import ModelError
from kedge.models.scalar import ScalarHead, ScalarModel, write_head


def test_an_untrained_head_says_zero_and_learns():
    head = ScalarHead(4)
    hidden = torch.randn(2, 3, 4)
    assert head(hidden).tolist() == [[0, 0, 0], [0, 0, 0]]
    head(hidden).sum().backward()
    assert head.linear.weight.grad.abs().sum() > 0


def test_head_literal_and_float32():
    head = ScalarHead(2)
    head.load_state_dict({"linear.weight": torch.tensor([[2.0, -1.0]]), "linear.bias": torch.tensor([0.5])})
    values = head(torch.tensor([[1.0, 3.0], [0.25, 0.0]], dtype=torch.bfloat16))
    assert values.dtype == torch.float32
    assert values.tolist() == [-0.5, 1.0]


def test_head_round_trip(tmp_path):
    head, other = ScalarHead(3), ScalarHead(3)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.ones_(head.linear.bias)
    write_head(head.state_dict(), tmp_path / "h.safetensors")
    other.read(tmp_path / "h.safetensors")
    assert torch.equal(other.linear.weight, head.linear.weight)
    assert other.linear.bias.item() == 1


@pytest.mark.parametrize(
    "state",
    [
        {"linear.weight": torch.ones(1, 3)},
        {"linear.weight": torch.ones(1, 5), "linear.bias": torch.ones(1)},
        {"linear.weight": torch.ones(1, 3), "linear.bias": torch.ones(1), "extra": torch.ones(1)},
        {"weight": torch.ones(1, 3), "bias": torch.ones(1)},
    ],
    ids=["missing", "misshapen", "too many", "renamed"],
)
def test_head_loads_strictly(tmp_path, state):
    save_file(state, tmp_path / "h.safetensors")
    with pytest.raises(ModelError, match=r"h\.safetensors: holds .* but this trunk needs"):
        ScalarHead(3).read(tmp_path / "h.safetensors")


def test_head_file_missing(tmp_path):
    with pytest.raises(ModelError, match=r"h\.safetensors: the head is missing"):
        ScalarHead(3).read(tmp_path / "h.safetensors")


def test_trunk_is_a_copy(tiny_lm):
    lm = tiny_lm("llama")
    scalar = ScalarModel.from_trunk_of(lm.model)
    before = lm.model.model.norm.weight.clone()
    with torch.no_grad():
        scalar.trunk.norm.weight.add_(1)
    assert torch.equal(lm.model.model.norm.weight, before)
    twin = ScalarModel.like(scalar)
    with torch.no_grad():
        twin.head.linear.bias.fill_(3)
    assert scalar.head.linear.bias.item() == 0


@torch.no_grad()
def test_model_round_trip_and_missing_head(arch, tiny_lm, tmp_path):
    scalar = ScalarModel.from_trunk_of(tiny_lm(arch).model).eval()
    torch.nn.init.normal_(scalar.head.linear.weight)
    scalar.write(tmp_path, scalar.state_dict())
    again = ScalarModel.load(tmp_path).eval()
    tokens = torch.tensor([[5, 6, 7, 8]])
    values = scalar(tokens)
    assert values.abs().min() > 0
    assert torch.equal(again(tokens), values)
    (tmp_path / "score_head.safetensors").unlink()
    with pytest.raises(ModelError, match="head is missing"):
        ScalarModel.load(tmp_path)
