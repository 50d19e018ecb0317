"""A sampler whose answers are written by vLLM servers, on this machine or on others.

The servers read weights from a folder that they share with the trainer. After each publish every server has loaded the
new ones, has forgotten what it computed with the old ones, and has been tried: what it says of an answer is what the
model itself says of it.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

from kedge.errors import ConfigError, DataError, KedgeError, NumericsError, SamplerError
from kedge.models.adapters import adapter_of
from kedge.models.forward import forward_tokens
from kedge.models.language_model import LanguageModel
from kedge.parallel import joined
from kedge.runs.progress import say
from kedge.sampling.completion import Completion
from kedge.sampling.fleet.server import Server, ServerFailure, ServerRefusal
from kedge.sampling.local.request import Request
from kedge.sampling.sampler import Sampler, take_in
from kedge.sampling.settings import Sampling
from kedge.storage.writing import remove_folder, whole_folder

T = TypeVar("T")

PROBE = 16
"""Tokens of the answer by which a server is tried."""
AGREEMENT, LOW_AGREEMENT = 1e-3, 0.05
"""Nats that its log-probabilities may differ, for models in float32 and in others."""


class Fleet:
    """Servers that write for kedge: ``PPO(..., sampler=Fleet(["http://127.0.0.1:8101"], weights="/shared/weights"))``.

    A server that fails is left out, and its prompts go to the others; at the next publish it is asked again. Where none
    is left, the job stops, and says what each of them did.

    Args:
        urls: of the servers.
        weights: a folder that trainer and servers see under this name; what stands in it belongs to the fleet.
        timeout: seconds that a request may take, an answer or a reload.
        tries: how often a request is made, where a server cannot be reached or is busy.
        concurrency: answers at once, a server.
        agreement: how far, in nats, what a server says of a token may be from what the model says itself; default 1e-3
            for a model in float32, where rounding is below 1e-4, and 0.05 for others.

    Raises:
        ConfigError: no servers, or numbers that are none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        weights: str | Path,
        timeout: float = 120.0,
        tries: int = 3,
        concurrency: int = 64,
        agreement: float | None = None,
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ConfigError(f"sampler: urls: a list of servers, not {urls!r}")
        if len({*urls}) < len(urls):
            raise ConfigError("sampler: urls: a server stands in it twice")
        for name, value, least in (("timeout", timeout, 0.001), ("tries", tries, 1), ("concurrency", concurrency, 1)):
            if value < least:
                raise ConfigError(f"sampler: {name}: {value} is less than {least}")
        self.servers = [Server(url, timeout=timeout, tries=tries) for url in urls]
        self.folder = Path(weights).expanduser().absolute()  # and no link followed: servers have it under this name
        self.concurrency, self.agreement = concurrency, agreement
        self.samplers: list[FleetSampler] = []
        """Those that use it, the last of which has its weights on the servers."""
        self.down: dict[str, str] = {}
        """Servers that are left out, by URL, and why."""
        self.computing = Lock()
        """Held while a model computes: servers are tried in threads."""
        self._telling = Lock()

    def __call__(self, lm: LanguageModel) -> "FleetSampler":
        """A sampler of a model's answers, whose weights the servers have from then on; when it is closed, they have
        those of the one before.

        Raises:
            SamplerError: no server takes them. NumericsError: what one says is not what the model says.
        """
        if joined().size > 1:
            raise ConfigError("sampler: servers write for one process so far; start the job without torchrun")
        return FleetSampler(self, lm, self.folder / uuid.uuid4().hex)

    def alive(self) -> list[Server]:
        """Servers that are not left out.

        Raises:
            SamplerError: none is left.
        """
        found = [server for server in self.servers if server.url not in self.down]
        if not found:
            why = "\n".join(self.down.values())
            raise SamplerError(f"no server is left:\n{why}\nstart them again, then go on with --resume")
        return found

    def leave_out(self, server: Server, why: str) -> None:
        """Ask it nothing more until weights are published, and tell the user."""
        with self._telling:
            if server.url not in self.down:
                self.down[server.url] = why
                say(f"{why}; it is left out until the next weights")

    def load(self, folder: Path, label: str, tried: Callable[[Server], None]) -> None:
        """Have every server answer with these weights, those that were left out too.

        Args:
            folder: of the weights.
            label: what they are called.
            tried: tries a server that has them.

        Raises:
            SamplerError: none does. NumericsError: as ``tried``.
        """
        self.down.clear()

        def one(server: Server) -> None:
            try:
                server.load(str(folder), label)
                tried(server)
            except ServerFailure as error:
                self.leave_out(server, str(error))
            except ServerRefusal as error:
                raise SamplerError(str(error)) from None

        _together(one, self.servers, len(self.servers))
        self.alive()


class FleetSampler(Sampler):
    """One model's answers, written by a fleet. Made by calling a :class:`Fleet`.

    Args:
        fleet: the servers.
        lm: whose weights and tokenizer they are.
        folder: of its weights.
    """

    def __init__(self, fleet: Fleet, lm: LanguageModel, folder: Path) -> None:
        if adapter_of(lm.model) is not None:
            raise ConfigError("sampler: a fleet takes whole models and no adapter; take the adapter out")
        self.fleet, self.lm, self.folder = fleet, lm, folder
        self.version = 0
        """Of the weights, as :meth:`publish` was told."""
        self._key = folder.name
        fleet.samplers.append(self)
        try:
            self.publish(lm.weights(), 0)
        except KedgeError:
            self._give_back(reload=False)
            raise

    def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        take_in(self.lm, weights)
        whole = self.lm.weights()
        old, new = self._at(self.version), self._at(version)
        if new.exists():
            remove_folder(new)
        with whole_folder(new) as aside:
            self.lm.write(aside, whole)
        self._load(version)
        if old != new and old.exists():
            remove_folder(old)
        self.version = version

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        self._refuse(prompts, sampling)
        servers = self.fleet.alive()
        asked = [(i, list(prompt), _seed(seed, first_request + i)) for i, prompt in enumerate(prompts)]
        params = _params(sampling, self.lm.eos_ids)

        def answer(request: tuple[int, list[int], int]) -> Completion:
            place, prompt, own_seed = request
            said = self._ask(prompt, params | {"seed": own_seed}, place)
            return self._completion(prompt, sampling, said)

        return _together(answer, asked, self.fleet.concurrency * len(servers))

    def close(self) -> None:
        """Its weights are deleted, and those of the sampler before it are loaded again."""
        if self in self.fleet.samplers:
            self._give_back(reload=self.fleet.samplers[-1] is self)

    def _give_back(self, *, reload: bool) -> None:
        self.fleet.samplers.remove(self)
        if self.folder.exists():
            remove_folder(self.folder)
        if reload and self.fleet.samplers:
            before = self.fleet.samplers[-1]
            before._load(before.version)

    def _load(self, version: int) -> None:
        """Have the servers answer with its weights."""
        self.fleet.load(self._at(version), self._salt(version), partial(self._try, version))

    def _at(self, version: int) -> Path:
        return self.folder / f"version-{version:06d}"

    def _salt(self, version: int) -> str:
        """What servers call these weights: prompts of others, and of other jobs, share no cached keys with theirs."""
        return f"{self._key}-{version}"

    def _ask(self, prompt: Sequence[int], params: Mapping[str, Any], place: int) -> Mapping[str, Any]:
        """Of one of the servers, and where it fails of another."""
        while True:
            servers = self.fleet.alive()
            server = servers[place % len(servers)]
            try:
                return server.generate(prompt, params, self._salt(self.version))
            except ServerFailure as error:
                self.fleet.leave_out(server, str(error))
            except ServerRefusal as error:
                raise DataError(f"prompt {place + 1}: {error}") from None

    def _completion(self, prompt: list[int], sampling: Sampling, said: Mapping[str, Any]) -> Completion:
        request = Request(prompt, sampling, (), self.lm.tokenizer, self.lm.eos_ids)
        for token, logprob in zip(said["ids"], said["logprobs"], strict=True):
            request.take(token, logprob, self.version)
            if request.finish_reason:  # a stop string, which the server does not know
                return request.completion()
        raise DataError(
            f"a server ended an answer after {len(said['ids'])} tokens ({said['finish_reason']}), neither at its end "
            f"nor at max_new_tokens {sampling.max_new_tokens}: is its --max-model-len too short?"
        )

    def _refuse(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        if empty := [i for i, prompt in enumerate(prompts, start=1) if not prompt]:
            raise DataError(f"prompt {empty[0]} is empty")
        for name in ("json_schema", "top_logprobs"):
            if getattr(sampling, name):
                raise ConfigError(f"{name}: not with a fleet of servers; take it out")

    def _try(self, version: int, server: Server) -> None:
        """Raise where it says other log-probabilities of an answer than the model itself.

        Raises:
            NumericsError: with both numbers. ServerFailure, ServerRefusal: it has no answer.
        """
        prompt = [next(iter(self.lm.eos_ids), self.lm.pad_id)]
        sampling = Sampling(max_new_tokens=PROBE, temperature=0.7)  # at 1 one could not tell processed from raw ones
        said = server.generate(prompt, _params(sampling, ()) | {"seed": version}, self._salt(version))
        tokens = torch.tensor([[*prompt, *said["ids"]]], device=self.lm.device)
        mask = torch.tensor([[False] * len(prompt) + [True] * len(said["ids"])])
        with self.fleet.computing, torch.no_grad():
            whole = forward_tokens(self.lm, tokens, mask, temperature=sampling.temperature)
        own = whole.logprobs[0, len(prompt) :].cpu()
        worst = float((own - torch.tensor(said["logprobs"])).abs().max())
        exact = self.lm.model.dtype == torch.float32
        limit = self.fleet.agreement or (AGREEMENT if exact else LOW_AGREEMENT)
        if not worst <= limit:
            raise NumericsError(
                f"{server.url}: says log-probabilities that are up to {worst:.2g} nats from the model's own, and at "
                f"most {limit:g} is rounding (agreement): has it other weights, another dtype, or no "
                "--logprobs-mode processed_logprobs?"
            )


def _params(sampling: Sampling, eos_ids: Sequence[int]) -> dict[str, Any]:
    """As vLLM calls them. It ends at these tokens alone, whatever its own settings say."""
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
        "stop_token_ids": list(eos_ids),
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }


def _seed(seed: int, request: int) -> int:
    """Of one request: always the same, and of no other one."""
    return int.from_bytes(hashlib.sha256(f"{seed} {request}".encode()).digest()[:7])


def _together(function: Callable[[Any], T], items: Iterable[Any], workers: int) -> list[T]:
    """The function of each item, in order, several at a time. After an error no other one begins."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
