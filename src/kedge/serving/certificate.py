"""Whether an export says what the trained model says: the same prompts, asked in every way that it will be asked.

A policy writes greedily in memory, from its folder by plain transformers, over HTTP by ``kedge serve``, and from a GGUF
file by llama.cpp; a reward model scores in memory, from its folder, and there by plain transformers too.
"""

import hashlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from kedge.data.encode import decode_answer, encode_prompt
from kedge.data.records import Text
from kedge.errors import KedgeError
from kedge.models.gguf import FILE as GGUF
from kedge.models.language_model import LanguageModel
from kedge.models.reward_loading import load_reward_model
from kedge.models.reward_model import Classifier, RewardModel
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

FILE = "certificate.json"
TOKENS = 32
"""Of an answer."""
PROMPTS = 16
"""That are asked, at most."""
CLOSE = 1e-4
"""By so much scores may differ: the rounding of sums in another order."""
LIBRARIES = ("kedge", "torch", "transformers", "tokenizers", "peft", "gguf")
LLAMA_SERVER = "KEDGE_LLAMA_SERVER"
"""The variable that names llama.cpp's server, where it is not on the path."""

Differences = list[dict[str, Any]]


def certify_policy(
    trained: LanguageModel, folder: Path, prompts: Sequence[Text], tokens: int = TOKENS
) -> dict[str, Any]:
    """What each way says of the prompts, beside what the trained model writes in memory.

    Args:
        trained: as the run has it.
        folder: of the export.
        prompts: which are asked.
        tokens: of an answer.

    Raises:
        KedgeError: what is needed to ask in some way is not installed.
    """
    ids = [encode_prompt(trained.tokenizer, prompt) for prompt in prompts]
    answers = [each.ids for each in Engine(trained).generate(ids, Sampling(max_new_tokens=tokens, temperature=0))]
    ways: dict[str, Callable[[], Differences]]
    if (folder / GGUF).is_file():
        ways = {"llama.cpp": lambda: _by_llama_cpp(trained, folder / GGUF, prompts, ids, answers, tokens)}
    else:
        ways = {
            "transformers": lambda: _by_token(trained, ids, answers, _transformers(folder, trained, ids, tokens)),
            "http": lambda: _over_http(trained, folder, ids, answers, tokens),
        }
    told = {"memory": _way([])} | {name: _way(find()) for name, find in ways.items()}
    return _certificate("policy", folder, told) | {"prompts": len(ids), "tokens": tokens}


def certify_reward_model(trained: RewardModel, folder: Path, texts: Sequence[Text]) -> dict[str, Any]:
    """The same of a reward model's scores."""
    want = trained.score(texts)
    read = load_reward_model(folder, device="cpu")
    ways = {"memory": _way([]), "folder": _way(_apart(want, read.score(texts)))}
    if isinstance(read, Classifier) and read.label is None and not read.reading.objectives and _is_whole(folder):
        plain: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            found = [plain(torch.tensor([read.encode(text)])).logits[0, 0].item() for text in texts]
        ways["transformers"] = _way(_apart(want, found))
    return _certificate("reward model", folder, ways) | {"prompts": len(texts), "within": CLOSE}


def is_equal(certificate: Mapping[str, Any]) -> bool:
    """Whether no way differs from what the model says in memory."""
    return all(way["equal"] for way in certificate["ways"].values())


def hash_of(folder: Path) -> str:
    """SHA-256 of the files of weights in a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.gguf")]):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _certificate(kind: str, folder: Path, ways: Mapping[str, Any]) -> dict[str, Any]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "kind": kind, "weights_sha256": hash_of(folder), "ways": dict(ways), "versions": versions, "time": time.time(),
    }  # fmt: skip


def _way(differences: Differences) -> dict[str, Any]:
    return {"equal": not differences, "differences": differences}


def _by_token(
    lm: LanguageModel, ids: Sequence[Sequence[int]], want: Sequence[list[int]], found: Sequence[list[int]]
) -> Differences:
    """Where answers differ first, and by how many nats the model in memory preferred its own token there."""
    differences: Differences = []
    for number, (prompt, ours, theirs) in enumerate(zip(ids, want, found, strict=True)):
        if ours == theirs:
            continue
        pairs = enumerate(zip(ours, theirs, strict=False))
        place = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*prompt, *ours[:place]]], device=lm.device)).logits[0, -1].float()
        first, second = logits.topk(2).values.tolist()
        differences.append({"prompt": number, "token": place, "margin": round(first - second, 6)})
    return differences


def _apart(want: Sequence[float], found: Sequence[float]) -> Differences:
    pairs = enumerate(zip(want, found, strict=True))
    return [{"prompt": number, "by": b - a} for number, (a, b) in pairs if not abs(b - a) <= CLOSE]


def _is_whole(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _transformers(folder: Path, trained: LanguageModel, ids: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Greedy answers by plain transformers, or PEFT where the folder has an adapter alone."""
    model: Any
    if _is_whole(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    how = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": list(trained.eos_ids) or None}
    found = []
    for prompt in ids:
        row = torch.tensor([prompt])
        with torch.no_grad():
            whole = model.generate(
                input_ids=row, attention_mask=torch.ones_like(row), pad_token_id=trained.pad_id, **how
            )
        found.append(whole[0, len(prompt) :].tolist())
    return found


def _over_http(
    trained: LanguageModel, folder: Path, ids: Sequence[list[int]], answers: Sequence[list[int]], tokens: int
) -> Differences:
    """Texts and their numbers of tokens, because a response has no ids."""
    import httpx

    differences: Differences = []
    with _served(folder) as url, httpx.Client(base_url=url, timeout=600) as http:
        for number, (prompt, want) in enumerate(zip(ids, answers, strict=True)):
            asked = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
            told = http.post("/v1/completions", json=asked).raise_for_status().json()
            text, ours = told["choices"][0]["text"], decode_answer(trained.tokenizer, prompt, want)
            if text != ours or told["usage"]["completion_tokens"] != len(want):
                pairs = enumerate(zip(text, ours, strict=False))
                place = next((at for at, (a, b) in pairs if a != b), min(len(text), len(ours)))
                differences.append({"prompt": number, "character": place})
    return differences


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder."""
    try:
        from kedge.serving.http.app import create_app
        from kedge.serving.http.run import listening, load_service
    except ModuleNotFoundError as error:
        raise KedgeError(f"--certify: {error.name} is not installed; pip install 'kedge[serve]'") from None
    with listening(create_app(load_service(str(folder), name="m"))) as url:
        yield url


def _by_llama_cpp(
    trained: LanguageModel,
    path: Path,
    prompts: Sequence[Text],
    ids: Sequence[list[int]],
    answers: Sequence[list[int]],
    tokens: int,
) -> Differences:
    """Greedy answers to the same token ids; and texts must have the same token ids there."""
    with _llama_server(path, max(map(len, ids)) + tokens) as http:
        found = [_written(http, trained, prompt, tokens) for prompt in ids]
        differences = _by_token(trained, ids, answers, found)
        for number, (prompt, ours) in enumerate(zip(prompts, ids, strict=True)):
            if isinstance(prompt, str):
                told = http.post("/tokenize", json={"content": prompt, "add_special": True}).raise_for_status().json()
                if told["tokens"] != ours:
                    differences.append({"prompt": number, "tokenized": told["tokens"]})
    return differences


@contextmanager
def _llama_server(path: Path, context: int) -> Iterator[Any]:
    """A client of llama.cpp's server, once that answers."""
    import httpx

    command = os.environ.get(LLAMA_SERVER) or shutil.which("llama-server")
    if command is None:
        raise KedgeError(f"--certify: there is no llama-server here; install llama.cpp, or name it with {LLAMA_SERVER}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = ["--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(context), "--parallel", "1"]
    exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off", "--n-gpu-layers", "0"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([command, "--model", str(path), *how, *exact], stdout=said, stderr=said)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
                while not _is_up(http):
                    if process.poll() is not None:
                        said.seek(0)
                        raise KedgeError(f"--certify: llama-server ended: {said.read()[-600:].strip()}")
                    time.sleep(0.1)
                yield http
        finally:
            process.terminate()
            process.wait()


def _is_up(http: Any) -> bool:
    from httpx import TransportError

    try:
        return bool(http.get("/health").status_code == 200)
    except TransportError:
        return False


def _written(http: Any, trained: LanguageModel, prompt: list[int], tokens: int) -> list[int]:
    asked = {"prompt": prompt, "n_predict": tokens, "return_tokens": True, "cache_prompt": False}
    # Greedy: of its samplers only the one that takes the likeliest.
    told = http.post("/completion", json=asked | {"temperature": 0, "samplers": ["temperature"], "repeat_penalty": 1.0})
    answer = told.raise_for_status().json()
    written = [int(token) for token in answer["tokens"]]
    # It does not report the token that ended an answer, which counts here.
    ended = answer["stop_type"] == "eos" and not (written and written[-1] in trained.eos_ids)
    return [*written, *trained.eos_ids[:1]] if ended else written
