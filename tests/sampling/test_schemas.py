"""Answers of a JSON schema: whatever a model would like to write, what it writes is that."""

import json

import jsonschema
import pytest
import torch

from kedge.data.encode import decode_answer
from kedge.errors import DataError
from kedge.models.language_model import load_language_model
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["猫", "dog"]},
        "n": {"type": "integer", "minimum": 3, "maximum": 12},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "kind", "n", "tags"],
    "additionalProperties": False,
}


def written(lm, schema, count=20, tokens=120, **how):
    sampling = Sampling(max_new_tokens=tokens, json_schema=json.dumps(schema), **how)
    return Engine(lm).generate([[5, 6, 7]] * count, sampling, seed=1)


@pytest.mark.parametrize("how", [{}, {"temperature": 0}, {"top_k": 5}, {"top_p": 0.5, "temperature": 2.0}])
def test_every_answer_is_of_the_schema(tiny_lm, how):
    done = written(tiny_lm("llama"), FORM, **how)
    ended = [each for each in done if each.finish_reason == "eos"]
    assert len(ended) > 10
    for each in ended:
        jsonschema.validate(json.loads(each.text), FORM)
    for each in done:
        assert all(logprob > -100 for logprob in each.logprobs)


@pytest.mark.parametrize("model", ["stories260K", "stories3M"])
def test_other_tokenizers(shared, model):
    lm = load_language_model(
        shared / "models" / model, stop_tokens=["<s>"] if model == "stories260K" else (), device="cpu"
    )
    for each in written(lm, FORM, count=6, temperature=1.5):
        if each.finish_reason == "eos":
            jsonschema.validate(json.loads(each.text), FORM)
        else:
            assert each.text.lstrip().startswith("{")


def test_a_token_has_its_probability_among_those_allowed(tiny_lm):
    """Against the model's own logits, renormalised by brute force over what leads to a member of an enumeration."""
    lm, words = tiny_lm("llama"), ["aa", "ab", "b"]
    [done] = written(lm, {"enum": words}, count=1)
    assert json.loads(done.text) in words
    with torch.no_grad():
        logits = lm.model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    texts = [json.dumps(word) for word in words]
    begins = [
        token
        for token in range(len(lm.tokenizer))
        if (text := decode_answer(lm.tokenizer, [5, 6, 7], [token])) and any(each.startswith(text) for each in texts)
    ]
    allowed = logits[begins].log_softmax(0)
    assert done.logprobs[0] == pytest.approx(float(allowed[begins.index(done.ids[0])]), abs=1e-4)


def test_beside_others_each_is_what_it_would_be_alone(tiny_lm):
    lm, engine = tiny_lm("llama"), Engine(tiny_lm("llama"))
    samplings = [
        Sampling(max_new_tokens=30),
        Sampling(max_new_tokens=60, json_schema=json.dumps(FORM)),
        Sampling(max_new_tokens=60, json_schema=json.dumps({"type": "array", "items": {"type": "integer"}})),
    ]
    requests = [engine.submit([5, 6], how, seed=2, request=i) for i, how in enumerate(samplings)]
    while any(request.finish_reason is None for request in requests):
        engine.step()
    for number, (request, how) in enumerate(zip(requests, samplings, strict=True)):
        [alone] = Engine(lm).generate([[5, 6]], how, seed=2, first_request=number)
        assert request.ids == alone.ids


def test_a_request_that_begins_again_goes_on_where_it_was(tiny_lm, monkeypatch):
    engine = Engine(tiny_lm("llama"))
    how = Sampling(max_new_tokens=60, json_schema=json.dumps(FORM))
    request, step = engine.submit([5, 6], how, seed=2), engine._draw_for_all
    calls = []

    def once_broken():
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("once")
        return step()

    monkeypatch.setattr(engine, "_draw_for_all", once_broken)
    while request.finish_reason is None:
        try:
            engine.step()
        except RuntimeError:
            assert len(calls) == 8
    [alone] = Engine(tiny_lm("llama")).generate([[5, 6]], how, seed=2)
    assert request.ids == alone.ids


@pytest.mark.parametrize(
    "schema",
    [{"type": "nothing"}, {"type": "object", "properties": 3}, {"$ref": "#/nowhere"}, {"not": {"type": "string"}}],
)
def test_what_is_no_schema_is_refused(tiny_lm, schema):
    with pytest.raises(DataError, match="response_format: "):
        written(tiny_lm("llama"), schema)


def test_a_schema_is_made_once(tiny_lm, monkeypatch):
    engine = Engine(tiny_lm("llama"))
    made, make = [], engine.schemas._made
    monkeypatch.setattr(engine.schemas, "_made", lambda schema: made.append(schema) or make(schema))
    how = Sampling(max_new_tokens=4, json_schema=json.dumps(FORM))
    engine.generate([[5]] * 3, how)
    engine.generate([[6]], how)
    assert made == [how.json_schema]
