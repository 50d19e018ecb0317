"""What the server's benchmarks share: servers as processes, and a client that times what it reads."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import psutil
from workload import SHARED

READY = 900
"""Seconds that a server may take to begin."""


@dataclass
class Timed:
    """An answer, and when its parts came."""

    text: str
    first: float
    """Seconds to the first text."""
    seconds: float
    """To the end."""
    tokens: int = 0
    """As the server counts them; the number of pieces where it does not."""

    @property
    def a_token(self) -> float:
        """Seconds for each token behind the first."""
        return (self.seconds - self.first) / max(1, self.tokens - 1)


@dataclass
class Served:
    """A server that answers."""

    name: str
    url: str
    model: str
    pid: int
    more: dict = field(default_factory=dict)
    """What its requests need beside the usual."""
    http: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=600, limits=httpx.Limits(max_connections=None))
    )

    def stream(self, prompt: object, *, tokens: int, **how: object) -> Timed:
        """One streamed completion, greedy, whose end no token brings."""
        body = {
            "model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **self.more, **how,
        }  # fmt: skip
        text, first, counted, pieces = "", 0.0, 0, 0
        begun = time.perf_counter()
        with self.http.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{self.name}: {answer.status_code} {answer.read().decode()[:300]}")
            for line in lines(answer.iter_bytes()):
                if not line.startswith(b"data: {"):
                    continue
                told = json.loads(line[6:], strict=False)  # a peer leaves control characters as they are
                if told.get("usage"):
                    counted = told["usage"]["completion_tokens"]
                for choice in told.get("choices", ()):
                    if choice["text"]:
                        first = first or time.perf_counter() - begun
                        pieces += 1
                        text += choice["text"]
        seconds = time.perf_counter() - begun
        return Timed(text, first or seconds, seconds, counted or pieces)

    @property
    def memory(self) -> int:
        """Bytes that its processes hold now."""
        return sum(each.memory_info().rss for each in self.processes())

    def processes(self) -> list[psutil.Process]:
        """The server's own, and those it has begun."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    @contextmanager
    def alone(self, others: Iterable["Served"]) -> Iterator[None]:
        """The others stand still meanwhile: some are busy even while nobody asks them anything."""
        still = [each for other in others if other is not self for each in other.processes()]
        for each in still:
            each.suspend()
        try:
            yield
        finally:
            for each in still:
                each.resume()


def lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Of a stream of events; httpx ends a line also at characters that only look like its end (U+0085, U+2028)."""
    kept = b""
    for part in parts:
        *whole, kept = (kept + part).split(b"\n")
        yield from whole
    yield kept


def end_in_order() -> None:
    """Let a process that is told to end stop its servers first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def server(
    name: str, command: Sequence[str], model: str, port: int, *, ready: str = "/health", **env: str
) -> Iterator[Served]:
    """A process that serves, once it answers; it is stopped at the end."""
    url = f"http://127.0.0.1:{port}"
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=os.environ | env, start_new_session=True
        )
        try:
            wait_for(process, url + ready, said)
            yield Served(name, url, model, process.pid)
        finally:
            stop(process)


def wait_for(process: subprocess.Popen, url: str, said: object = None) -> None:
    """Until a server answers there."""
    deadline = time.monotonic() + READY
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            told = ""
            if said is not None:
                said.seek(0)  # type: ignore[attr-defined]
                told = said.read()[-2000:]  # type: ignore[attr-defined]
            raise RuntimeError(f"{url} does not answer; its process said:\n{told}")
        time.sleep(0.1)


def stop(process: subprocess.Popen) -> None:
    """End a server, and what it has begun."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def kedge_server(model: Path, *options: str, port: int | None = None) -> AbstractContextManager[Served]:
    """``kedge serve``."""
    port = port or free_port()
    command = [sys.executable, "-m", "kedge", "serve", str(model), "--name", "m", "--port", str(port), *options]
    return server("kedge", command, "m", port, ready="/ready")


def vllm_server(model: Path, python: Path) -> AbstractContextManager[Served]:
    """vLLM on the CPU, by the Python of its own environment."""
    port = free_port()
    command = [
        str(python), "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(model),
        "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "512", "--block-size", "32", "--max-num-seqs", "64",
        "--kv-cache-memory-bytes", "268435456", "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    return server("vllm", command, "m", port, VLLM_CPU_NUM_OF_RESERVED_CPU="1", PYTHONPATH="")


def transformers_server(model: Path, python: Path, *, batched: bool = False) -> AbstractContextManager[Served]:
    """``transformers serve``, by the Python of the environment that has it; ``batched``: continuously."""
    port = free_port()
    command = [
        str(python.parent / "transformers"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port),
        "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    if batched:  # of the machine's memory it takes all otherwise
        command += ["--continuous-batching", "--cb-max-memory-percent", "0.1"]
    return server("transformers", command, str(model), port)


SENTENCES = (
    "Lily saw a big dog in the park.", "Tom was sad because his red ball was gone.", "The sun was warm.",
    "Mia and her mom went to the shop to buy some bread and milk.", "Ben likes to play with the old cat.",
)  # fmt: skip


def mixed_prompts(count: int, seed: int = 0) -> list[str]:
    """From one sentence to some twenty of a story, some 10 to 250 tokens."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(SENTENCES, k=1 + int(20 * rng.random() ** 2))) for _ in range(count)]


def model_named(name: str, folder: Path) -> Path:
    """The folder of stories3M; or ``folder``, with a random Llama of 25M weights and the same tokenizer."""
    stories = SHARED / "models" / "stories3M"
    if name == "stories3M":
        return stories
    if name != "25M":
        raise SystemExit(f"--models: stories3M or 25M, not {name}")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from kedge.models.language_model import LanguageModel, load_language_model

    lm = load_language_model(stories, device="cpu")
    config = AutoConfig.for_model(
        "llama", vocab_size=4096, hidden_size=512, intermediate_size=1376, num_hidden_layers=7, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    LanguageModel(model, lm.tokenizer, lm.eos_ids).save(folder)
    return folder
