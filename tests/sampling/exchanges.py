"""What is asked of a server, in order, and what is looked at in its answers: of vLLM's once, which are kept, and of the
stand-in each time."""

import json
from pathlib import Path

import httpx
import torch

from kedge.sampling.fleet.server import COUNTERS

RECORDED = Path(__file__).parent / "recorded" / "vllm-0.32.0.json"

MODEL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1,
}  # fmt: skip
"""Of the model that both serve: vLLM's attention on the CPU has heads of 32 and wider."""

PARAMS = {
    "max_tokens": 6, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "logit_bias": {"1": -100.0}, "stop_token_ids": [1], "ignore_eos": True, "logprobs": 0,
    "detokenize": False, "seed": 7,
}  # fmt: skip


def exchanges(folder):
    """``(name, method, path, body)``."""

    def generate(token_ids=(5, 6, 7), salt="job-0", **params):
        return {"token_ids": list(token_ids), "sampling_params": PARAMS | params, "cache_salt": salt}

    path, post = "/inference/v1/generate", "POST"
    ends = {"logit_bias": {"1": 100.0}}
    return [
        ("health", "GET", "/health", None),
        ("models", "GET", "/v1/models", None),
        ("pause", post, "/pause?mode=keep", None),
        ("load", post, "/collective_rpc", {"method": "kedge_load", "kwargs": {"folder": str(folder)}}),
        ("forget", post, "/reset_prefix_cache", None),
        ("label", post, "/update_weight_version", {"new_version": "job-0"}),
        ("health while paused", "GET", "/health", None),
        ("resume", post, "/resume", None),
        ("an answer that is cut off", post, path, generate()),
        ("an answer that ends", post, path, generate(**ends)),
        ("an answer with a bias alone", post, path, generate(presence_penalty=0.5, frequency_penalty=0.1)),
        ("a token that it does not know", post, path, generate([5, 4000])),
        ("label again", post, "/update_weight_version", {"new_version": "job-1"}),
        ("an answer of other weights", post, path, generate(salt="job-1")),
        ("metrics", "GET", "/metrics", None),
    ]


def ask(url, folder):
    """What a server answers to all of them: ``{name, method, path, body, status, answer}`` each."""
    found = []
    with httpx.Client(base_url=url, timeout=300) as client:
        for name, method, path, body in exchanges(folder):
            reply = client.request(method, path, json=body)
            said = reply.json() if reply.content and path != "/metrics" else counters(reply.text) or None
            found.append({"name": name, "method": method, "path": path, "body": body, "status": reply.status_code,
                          "answer": said})  # fmt: skip
    return found


def counters(text):
    """Those that kedge reads, by name, without what the model and the engine are called."""
    return {line.partition("{")[0]: float(line.split()[-1]) for line in text.splitlines() if line.startswith(COUNTERS)}


def read_by_kedge(exchange):
    """What kedge goes by in an answer, with what depends on a machine or on chance left out."""
    said, path = exchange["answer"], exchange["path"]
    if exchange["status"] != 200:
        return "an error with a message" if said["error"]["message"] else None
    if path == "/metrics":
        return sorted(said)
    if path == "/v1/models":
        return type(said["data"][0]["max_model_len"]).__name__
    if path != "/inference/v1/generate":
        return None if path in ("/health", "/pause?mode=keep", "/resume") else said
    [choice] = said["choices"]
    content = choice["logprobs"]["content"]
    assert all(isinstance(token, int) for token in choice["token_ids"])
    assert all(isinstance(each["logprob"], float) and each["logprob"] <= 0 for each in content)
    return {
        "tokens": len(choice["token_ids"]),
        "log-probabilities": len(content),
        "weight_versions": choice["weight_versions"],
        "finish_reason": choice["finish_reason"],
    }


def fields(value, at=""):
    """The fields of an answer with the types of what is in them, lists by their first item."""
    if isinstance(value, dict):
        return {name for key, inner in value.items() for name in fields(inner, f"{at}.{key}")}
    if isinstance(value, list):
        return fields(value[0], f"{at}[]") if value else {f"{at}[]"}
    return {f"{at}: {type(value).__name__}"}


def recorded():
    """What vLLM has answered."""
    return json.loads(RECORDED.read_text())


def sharpened(lm):
    """The model with weights that tell its tokens apart."""
    with torch.no_grad():
        for weight in lm.model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    return lm
