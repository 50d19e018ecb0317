"""How scores are made of a head's outputs: by literal numbers, through a file, and in a critic begun from them."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kedge.errors import ConfigError, ModelError
from kedge.models.reading import Objective, Reading
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.models.scalar import ScalarModel

TWO = Reading((Objective("help", 1.0, mean=3.0, std=2.0), Objective("harm", -0.5, mean=1.0, std=4.0)))
OUTPUTS = torch.tensor([[0.0, 0.0], [1.0, 2.0]])


def test_by_hand():
    assert TWO.width == 2
    assert {name: x.tolist() for name, x in TWO.each(OUTPUTS).items()} == {"help": [3.0, 5.0], "harm": [1.0, 9.0]}
    assert TWO.score(OUTPUTS).tolist() == [2.5, 0.5]  # 3 - 1/2, 5 - 9/2
    assert replace(TWO, mean=0.5, std=4.0).score(OUTPUTS).tolist() == [0.5, 0.0]
    assert Reading().score(OUTPUTS[:, 1:]).tolist() == [0.0, 2.0]
    assert Reading(mean=1.0, std=0.5).score(OUTPUTS[:, 1:]).tolist() == [-2.0, 2.0]


def test_autocast_does_not_round_it():
    fine = Reading((Objective("a", mean=100.0),))
    with torch.autocast("cpu", torch.bfloat16):
        assert fine.score(torch.tensor([[0.125]])).item() == 100.125


def test_other_weights():
    weighed = replace(TWO, mean=9.0, std=7.0).weighed({"harm": 2.0})
    assert weighed.score(OUTPUTS).tolist() == [2.0, 18.0]
    with pytest.raises(ConfigError, match="objectives: there is no 'humour'; there are: help, harm"):
        TWO.weighed({"humour": 1.0})
    with pytest.raises(ConfigError, match="objectives: all weigh 0"):
        TWO.weighed({"harm": 0.0})
    with pytest.raises(ConfigError, match="there are: none"):
        Reading().weighed({"humour": 1.0})


@pytest.mark.parametrize("said", ["[]", "{", '{"objectives": [{"weight": 1}]}', '{"objectives": [], "scale": 2}', "{}"])
def test_what_is_no_reading(tmp_path, said):
    (tmp_path / "score.json").write_text(said)
    with pytest.raises(ModelError, match=r"score\.json: not what `kedge reward` writes"):
        Reading.read(tmp_path)


@pytest.fixture
def base(tiny_lm, tmp_path):
    def make(arch):
        tiny_lm(arch).save(tmp_path / arch)
        return tmp_path / arch

    return make


@pytest.mark.parametrize(("arch", "reading"), [("llama", TWO), ("gpt2", TWO), ("mamba", Reading(mean=2.0, std=3.0))])
def test_saved_with_the_model(base, tmp_path, arch, reading):
    model = new_reward_model(base(arch), reading=reading)
    texts = ["the cat", "a dog ran to the red house"]
    model.save(tmp_path / "rm")
    again = load_reward_model(tmp_path / "rm")
    assert again.reading == reading
    assert again.score(texts) == pytest.approx(model.score(texts), abs=1e-6)
    if arch != "mamba":
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
        ids = torch.tensor([model.encode(texts[1])])
        outputs = plain(input_ids=ids).logits.detach()
        assert again.score(texts[1:]) == pytest.approx(reading.score(outputs).tolist(), abs=1e-6)


def test_without_one_there_is_no_file(base, tmp_path):
    new_reward_model(base("llama")).save(tmp_path / "rm")
    assert not (tmp_path / "rm/score.json").exists()


@pytest.mark.parametrize(("arch", "reading"), [("llama", TWO), ("mamba", Reading(mean=2.0, std=3.0))])
def test_a_critic_that_starts_from_it_gives_the_scores(base, arch, reading):
    model = new_reward_model(base(arch), reading=reading)
    torch.nn.init.normal_(model.head.weight)
    critic = model.copied_as(ScalarModel)
    ids = model.encode("a dog ran to the red house")
    with torch.no_grad():
        values = critic(torch.tensor([ids]))
        assert values[0, -1].item() == pytest.approx(model([ids]).item(), abs=1e-5)
        assert values.shape == (1, len(ids))


def test_several_objectives_need_a_class_of_transformers(base):
    with pytest.raises(ModelError, match="transformers has no head with several outputs for it; learn one objective"):
        new_reward_model(base("mamba"), reading=TWO)


def test_objectives_are_no_labels(base, tmp_path):
    new_reward_model(base("llama"), reading=TWO).save(tmp_path / "rm")
    with pytest.raises(ModelError, match="label 'LABEL_0', but it has objectives; weigh them"):
        load_reward_model(tmp_path / "rm", label="LABEL_0")


def test_a_folder_of_another_width(base, tmp_path):
    new_reward_model(base("llama"), reading=TWO).save(tmp_path / "rm")
    said = json.loads((tmp_path / "rm/score.json").read_text())
    (tmp_path / "rm/score.json").write_text(json.dumps(said | {"objectives": said["objectives"][:1]}))
    with pytest.raises(ModelError, match=r"score\.json has 1 objectives, and the head 2 outputs"):
        load_reward_model(tmp_path / "rm")
