"""A sampler whose answers are written by vLLM servers, on this machine or on others.

The servers read weights from a folder that they share with the trainer. After each publish every server has loaded the
new ones, has forgotten what it computed with the old ones, and has been tried: what it says of an answer is what the
model itself says of it. An answer that is being written meanwhile goes on with the new weights, and says which of its
tokens which weights wrote.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.errors import ConfigError, DataError, KedgeError, NumericsError
from kedge.models.adapters import adapter_of
from kedge.models.forward import forward_tokens
from kedge.models.language_model import LanguageModel
from kedge.models.prefix import is_prefix
from kedge.models.quantized import is_quantized
from kedge.parallel import Processes, folder_of_all, joined
from kedge.runs.progress import say
from kedge.sampling.completion import Completion
from kedge.sampling.fleet.kept import Kept
from kedge.sampling.fleet.lora import served_rank
from kedge.sampling.fleet.published import BASE, own_folder
from kedge.sampling.fleet.server import Said, Server, ServerFailure, ServerRefusal
from kedge.sampling.fleet.servers import Servers, Weights
from kedge.sampling.local.request import Request
from kedge.sampling.sampler import Sampler, take_in
from kedge.sampling.settings import Sampling
from kedge.storage.writing import remove_folder
from kedge.waiting import all_of

PROBE = 16
"""Tokens of the answer by which a server is tried."""
AGREEMENT, LOW_AGREEMENT = 1e-3, 0.05
"""Nats that its log-probabilities may differ, for models in float32 and in others."""


class Fleet(Servers):
    """Servers that write for kedge: ``PPO(..., sampler=Fleet(["http://127.0.0.1:8101"], weights="/shared/weights"))``.

    A server that fails is left out, and its prompts go to the others; at the next publish it is asked again. Where none
    is left, the job stops, and says what each of them did.

    Args:
        urls: of the servers.
        weights: a folder that trainer and servers see under this name; what stands in it belongs to the fleet.
        timeout: seconds that a request may take, an answer or a reload.
        tries: how often a request is made, where a server cannot be reached or is busy.
        concurrency: answers at once, a server.
        health_timeout: seconds in which a server must say that it is well, when it is asked every second.
        stall_timeout: seconds in which one that has answers to write must have written a token.
        started: servers that kedge starts, in place of ``urls``.
        start_timeout: seconds until one of those must be there.
        start_silence: seconds that one may show no sign of life until then (it computes, reads, or writes to its log).
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
        health_timeout: float = 10.0,
        stall_timeout: float = 30.0,
        started: Sequence[Kept] = (),
        start_timeout: float = 600.0,
        start_silence: float = 45.0,
    ) -> None:
        super().__init__(
            urls,
            started=started,
            start_timeout=start_timeout,
            start_silence=start_silence,
            timeout=timeout,
            tries=tries,
            concurrency=concurrency,
            health_timeout=health_timeout,
            stall_timeout=stall_timeout,
        )
        self.folder = Path(weights).expanduser().absolute()  # and no link followed: servers have it under this name
        self.agreement = agreement
        self.samplers: list[FleetSampler] = []
        """Those that use it, the last of which has its weights on the servers."""

    def __call__(self, lm: LanguageModel) -> "FleetSampler":
        """A sampler of a model's answers, whose weights the servers have from then on; when it is closed, they have
        those of the one before.

        Raises:
            SamplerError: no server takes them. NumericsError: what one says is not what the model says.
        """
        key = joined().told(lambda: uuid.uuid4().hex)
        return FleetSampler(self, lm, self.folder / key, joined())

    def join(self, sampler: "FleetSampler") -> None:
        """It is the one whose weights the servers are to have."""
        self.samplers.append(sampler)
        if sampler.processes.leads:
            self.begin()

    def leave(self, sampler: "FleetSampler") -> None:
        """It asks for nothing any more; with the last one everything that waits for a server ends."""
        self.samplers.remove(sampler)
        if not self.samplers:
            self.end()


class FleetSampler(Sampler):
    """One model's answers, written by a fleet. Made by calling a :class:`Fleet`. Of several processes the leading one
    speaks with the servers; all take part in what is published.

    Args:
        fleet: the servers.
        lm: whose weights and tokenizer they are.
        folder: of its weights.
        processes: each has such a sampler.
    """

    writes_apart = True
    is_one = True

    def __init__(self, fleet: Fleet, lm: LanguageModel, folder: Path, processes: Processes) -> None:
        if is_prefix(adapter_of(lm.model)):
            raise ConfigError("sampler: servers know nothing of a prefix; take another adapter, or the engine here")
        if is_quantized(lm.model):
            raise ConfigError("sampler: servers take no quantised weights; take quantization out, or the engine here")
        self.fleet, self.lm, self.folder, self.processes = fleet, lm, folder, processes
        self.version = 0
        """Of the weights, as :meth:`publish` was told."""
        self._key = folder.name
        self._disagreement = 0.0
        self._known: Said | None = None
        """An answer by which servers were tried that have its weights."""
        with processes.agreeing():
            self._delete = own_folder(folder) if processes.leads else None
        fleet.join(self)
        try:
            self._base = self._published_base()
            self._first = self._base or self._at(0)
            self.publish(lm.weights(), 0)
            self.positions = processes.told(lambda: min(filter(None, fleet.run(self._positions())), default=None))
        except KedgeError:
            self._give_back(reload=False)
            raise

    def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        take_in(self.lm, weights)
        old, new = self._at(self.version), self._at(version)
        with folder_of_all(new, self.processes) as aside:
            if adapter_of(self.lm.model) is None:
                self.lm.save(aside)
            elif self._base is None:
                self.lm.save_merged(aside)
            else:
                self.lm.save_adapter(aside)
        self._load(version)
        stays = self._first if self.fleet.starts else None
        if old not in (new, stays) and self.processes.leads and old.exists():
            remove_folder(old)
        self.version = version

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        self._refuse(prompts, sampling)
        params = _params(sampling, self.lm.eos_ids)

        async def answer(place: int, prompt: list[int]) -> tuple[Said, list[int]]:
            while True:
                own = params | {"seed": _seed(seed, first_request + place)}
                adapted = self._base is not None
                server, said = await self.fleet.ask(place, prompt, own, self._salt(self.version), adapted=adapted)
                try:
                    return said, self._versions(server, said)
                except ServerFailure as error:
                    self.fleet.leave_out(server, str(error))

        asked = all_of(answer(place, list(prompt)) for place, prompt in enumerate(prompts))
        answers: list[tuple[Said, list[int]]] = self.fleet.run(asked)
        return [self._completion(list(p), sampling, *each) for p, each in zip(prompts, answers, strict=True)]

    def metrics(self) -> dict[str, float]:
        """How far the servers' log-probabilities were from the model's when they were tried last, in nats; and how many
        servers there are."""
        up = len(self.fleet.servers) - len(self.fleet.down)
        return {"sampler/agreement": self._disagreement, "sampler/servers": float(up)}

    def close(self) -> None:
        """Its weights are deleted, and those of the sampler before it are loaded again."""
        if self in self.fleet.samplers:
            self._give_back(reload=self.fleet.samplers[-1] is self)

    def _give_back(self, *, reload: bool) -> None:
        self.fleet.leave(self)
        if self._delete is not None:
            self._delete()
        if reload and self.fleet.samplers:
            before = self.fleet.samplers[-1]
            before._load(before.version)

    def _load(self, version: int) -> None:
        """Have the servers answer with its weights.

        Raises:
            SamplerError: none does. NumericsError: one says other log-probabilities than the model itself.
        """
        prompt = [next(iter(self.lm.eos_ids), self.lm.pad_id)]
        sampling = Sampling(max_new_tokens=PROBE, temperature=0.7)  # at 1 one could not tell processed from raw ones
        params, salt = _params(sampling, ()) | {"seed": version}, self._salt(version)

        async def probe(server: Server) -> Said:
            said = await server.generate(prompt, params, salt, adapted=self._base is not None)
            if {*said.labels} != {salt}:
                raise ServerFailure(f"{server.url}: answers with weights {said.labels[-1]} in place of {salt}")
            if self._known is not None:  # by now the model may have gone on
                self._refuse_others(server, said, self._known)
            return said

        self._known = None
        dtype = str(self.lm.model.dtype).removeprefix("torch.")
        begin = self.fleet.samplers[0]._first  # this one may be closed while a server begins
        weights = Weights(self._at(version), self._base, begin, salt, dtype, probe)

        def loaded() -> list[tuple[str, Said]]:
            return [(server.url, said) for server, said in self.fleet.run(self.fleet.load(weights))]

        answers = self.processes.told(loaded)
        with self.processes.agreeing():
            self._disagreement = max(self._compared(*each, prompt, sampling.temperature) for each in answers)
        self._known = answers[0][1]

    def _published_base(self) -> Path | None:
        """Where the weights are that its adapter is for, if that goes to the servers alone: published once.

        Returns:
            None: each version is a whole model.
        """
        if adapter_of(self.lm.model) is None:
            return None
        rank = served_rank(self.lm.model)
        alone = self.processes.told(lambda: rank is not None and self.fleet.run(self.fleet.takes(rank)))
        if not alone:
            why = "its kind" if rank is None else "how a server was started"
            say(f"sampler: the adapter goes to the servers as a part of the weights, by {why} (docs/fleet.md)")
            return None
        folder = self.folder / BASE
        with folder_of_all(folder, self.processes) as aside:
            self.lm.save_base(aside)
        return folder

    async def _positions(self) -> list[int | None]:
        async def one(server: Server) -> int | None:
            try:
                return await server.positions()
            except (ServerFailure, ServerRefusal) as error:
                self.fleet.leave_out(server, str(error))
                return None

        return await all_of(one(server) for server in self.fleet.alive())

    def _at(self, version: int) -> Path:
        return self.folder / f"version-{version:06d}"

    def _salt(self, version: int) -> str:
        """What servers call these weights: prompts of others, and of other jobs, share no cached keys with theirs."""
        return f"{self._key}-{version}"

    def _versions(self, server: Server, said: Said) -> list[int]:
        """Of the weights that wrote each token.

        Raises:
            ServerFailure: they are not this sampler's.
        """
        if strange := {label for label in said.labels if not label.startswith(f"{self._key}-")}:
            others, own = ", ".join(sorted(strange)), self._salt(self.version)
            raise ServerFailure(
                f"{server.url}: answers with weights {others} in place of {own}: it was started again, or another job "
                "has published to it"
            )
        return [int(label.removeprefix(f"{self._key}-")) for label in said.labels]

    def _completion(self, prompt: list[int], sampling: Sampling, said: Said, versions: Sequence[int]) -> Completion:
        request = Request(prompt, sampling, (), self.lm.tokenizer, self.lm.eos_ids)
        for token, logprob, version in zip(said.ids, said.logprobs, versions, strict=True):
            request.take(token, logprob, version)
            if request.finish_reason:  # a stop string, which the server does not know
                return request.completion()
        raise DataError(
            f"a server ended an answer after {len(said.ids)} tokens ({said.finish_reason}), neither at its end "
            f"nor at max_new_tokens {sampling.max_new_tokens}: is its --max-model-len too short?"
        )

    def _refuse(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        if empty := [i for i, prompt in enumerate(prompts, start=1) if not prompt]:
            raise DataError(f"prompt {empty[0]} is empty")
        for name in ("json_schema", "top_logprobs"):
            if getattr(sampling, name):
                raise ConfigError(f"{name}: not with a fleet of servers; take it out")

    def _compared(self, url: str, said: Said, prompt: Sequence[int], temperature: float) -> float:
        """How far, in nats, its log-probabilities of an answer are from the model's own, at the worst token.

        Raises:
            NumericsError: further than rounding goes.
        """
        tokens = torch.tensor([[*prompt, *said.ids]], device=self.lm.device)
        mask = torch.tensor([[False] * len(prompt) + [True] * len(said.ids)])
        with torch.no_grad():
            whole = forward_tokens(self.lm, tokens, mask, temperature=temperature)
        own = whole.logprobs[0, len(prompt) :].cpu()
        worst = float((own - torch.tensor(said.logprobs)).abs().max())
        limit = self._limit
        if not worst <= limit:
            raise NumericsError(
                f"{url}: says log-probabilities that are up to {worst:.2g} nats from the model's own, and at "
                f"most {limit:g} is rounding (agreement): has it other weights, another dtype, or no "
                "--logprobs-mode processed_logprobs?"
            )
        return worst

    def _refuse_others(self, server: Server, said: Said, known: Said) -> None:
        """Raise where it says other log-probabilities than another server with these weights, as far as both have drawn
        the same tokens.

        Raises:
            ServerFailure: further than rounding goes.
        """
        same = takewhile(lambda each: each[0] == each[1], zip(said.ids, known.ids, strict=False))
        pairs = zip(same, said.logprobs, known.logprobs, strict=False)
        worst = max((abs(own - other) for _, own, other in pairs), default=0.0)
        if not worst <= self._limit:
            raise ServerFailure(f"{server.url}: says log-probabilities {worst:.2g} nats from another server's")

    @property
    def _limit(self) -> float:
        return self.fleet.agreement or (AGREEMENT if self.lm.model.dtype == torch.float32 else LOW_AGREEMENT)


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
