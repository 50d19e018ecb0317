"""Several servers, of which each does what another could: who is there, who is left out, and whom to ask instead."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kedge.errors import ConfigError, DataError, SamplerError
from kedge.runs.progress import say
from kedge.sampling.fleet.background import Background
from kedge.sampling.fleet.kept import Kept
from kedge.sampling.fleet.server import Said, Server, ServerFailure, ServerRefusal
from kedge.sampling.fleet.signs import Silence
from kedge.waiting import all_of, first_of, in_thread

LOOKED_AT = 1.0
"""Seconds between two looks at a server's health."""
POLLED = 0.2
"""Seconds between two looks at whether a server that is being started is there."""
DEATHS = 3
"""So many times in a row a server of kedge's own is started again, unless it has had weights in between."""


class Silent(ServerFailure):
    """A server of kedge's own has shown no sign of life while it was being started."""


@dataclass(frozen=True)
class Weights:
    """What servers are to answer with."""

    folder: Path
    base: Path | None
    """Of the model whose adapter is in ``folder``; None: a whole model is."""
    begin: Path
    """What a server is started with: it reads that for a while, so it is a folder that stays."""
    label: str
    """What they are called."""
    dtype: str
    """Of their numbers, in vLLM's words."""
    probe: Callable[[Server], Coroutine[Any, Any, Said]]
    """Asks a server that has them something; raises ServerFailure where the answer is wrong."""


@dataclass
class Progress:
    """Whether a server gets on with what it is to write: one whose engine hangs may still say that it is well."""

    server: Server
    limit: float
    """Seconds that it may be without a token."""
    _tokens: float | None = None
    _since: float | None = None

    def begin(self) -> None:
        """It is not expected to write anything now."""
        self._since = None

    async def refuse_none(self, *, writing: bool) -> None:
        """Raise where it has made none for so long.

        Args:
            writing: whether answers are waited for.

        Raises:
            ServerFailure: it has not. ServerRefusal: it will not say.
        """
        if not writing:
            return self.begin()
        tokens, now = await self.server.tokens(), asyncio.get_running_loop().time()
        if self._since is None or tokens is None or tokens != self._tokens:
            self._tokens, self._since = tokens, now
        elif now - self._since > self.limit:
            what = f"has answers to write, and no token of them in {self.limit:g} s (stall_timeout)"
            raise ServerFailure(f"{self.server.url}: {what}; its engine hangs")
        return None


class Servers:
    """Servers that answer for each other, between :meth:`begin` and :meth:`end`.

    Args:
        urls: of the servers; none where kedge starts its own.
        started: those that kedge starts, when there are weights.
        start_timeout: seconds until one of those must be there.
        start_silence: seconds that one may show no sign of life until then.
        timeout: seconds that a request may take.
        tries: how often one is made, where a server cannot be reached or is busy.
        concurrency: answers at once, a server.
        health_timeout: seconds in which a server must say that it is well.
        stall_timeout: seconds in which one that has answers to write must have written a token.

    Raises:
        ConfigError: no servers, or numbers that are none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        started: Sequence[Kept] = (),
        start_timeout: float,
        start_silence: float,
        timeout: float,
        tries: int,
        concurrency: int,
        health_timeout: float,
        stall_timeout: float,
    ) -> None:
        self._own = {each.url: each for each in started}
        urls = [*self._own] or urls
        if isinstance(urls, str) or not urls:
            raise ConfigError(f"sampler: urls: a list of servers, not {urls!r}")
        if len({*urls}) < len(urls):
            raise ConfigError("sampler: urls: a server stands in it twice")
        for name, value, least in (
            ("timeout", timeout, 0.001),
            ("tries", tries, 1),
            ("concurrency", concurrency, 1),
            ("health_timeout", health_timeout, 0.001),
            ("start_timeout", start_timeout, 0.001),
            ("start_silence", start_silence, 0.001),
            ("stall_timeout", stall_timeout, 0.001),
        ):
            if value < least:
                raise ConfigError(f"sampler: {name}: {value} is less than {least}")
        waits = {"timeout": timeout, "health_timeout": health_timeout, "stall_timeout": stall_timeout}
        self.servers = [Server(url, tries=tries, **waits) for url in urls]
        self.concurrency, self.stall_timeout = concurrency, stall_timeout
        self.start_timeout, self.start_silence = start_timeout, start_silence
        self.down: dict[str, str] = {}
        """Servers that are left out, by URL, and why."""
        self._background: Background | None = None
        self._gone: dict[str, asyncio.Event] = {}
        self._room: dict[str, asyncio.Semaphore] = {}
        self._asked: dict[str, int] = {}
        """How many answers are waited for."""
        self._turn: dict[str, asyncio.Lock] = {}
        """Taken by who gives a server weights."""
        self._weights: Weights | None = None
        self._said: dict[str, Said] = {}
        """What those have said, by URL, that have these weights."""
        self._served: set[str] = set()
        """Those that have had weights since there is a thread."""
        self._deaths: dict[str, int] = {}
        self._rank: int | None = None
        """Of adapters that kedge's own servers are started for; None: none has been started yet."""

    def begin(self) -> None:
        """Have a thread for what is asked, in which the servers' health is watched; where there is one, nothing."""
        if self._background is None:
            self._gone = {server.url: asyncio.Event() for server in self.servers}
            self._room = {server.url: asyncio.Semaphore(self.concurrency) for server in self.servers}
            self._asked = {server.url: 0 for server in self.servers}
            self._turn = {server.url: asyncio.Lock() for server in self.servers}
            self._weights = self._rank = None
            self._served, self._deaths = set(), {server.url: 0 for server in self.servers}
            self._background = Background("fleet")
            self._background.begin(self._watch())

    def end(self) -> None:
        """Whatever waits for a server gets an error, connections are closed, and the thread ends."""
        background, self._background = self._background, None
        try:
            if background is not None:  # who watches ends first: for a server without connections is not well
                background.close(all_of(server.close() for server in self.servers))
        finally:
            for own in self._own.values():
                own.let_go()
            for own in self._own.values():
                own.give_back()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine gives, which is awaited in the fleet's thread.

        Raises:
            SamplerError: it was closed.
        """
        if self._background is None:
            work.close()
            raise SamplerError("the sampler is closed")
        return self._background.run(work)

    @property
    def starts(self) -> bool:
        """Whether kedge starts them."""
        return bool(self._own)

    def alive(self) -> list[Server]:
        """Servers that are not left out."""
        return [server for server in self.servers if server.url not in self.down]

    def leave_out(self, server: Server, why: str) -> None:
        """Ask it nothing more until it has weights again, wait for nothing that was asked, and tell the user."""
        if self.down.get(server.url) != why:
            self.down[server.url] = why
            self._gone[server.url].set()
            then = "it is started again" if self._may_start(server) else "it is left out until the next weights"
            say(f"{why}; {then}")

    async def takes(self, rank: int) -> bool:
        """Whether all servers that are there load adapters of this rank. Those of kedge's own are started so.

        Args:
            rank: one of vLLM's.
        """
        if self._own:
            if self._rank is None:
                self._rank = rank if all(own.takes_adapters for own in self._own.values()) else 0
            return rank <= self._rank

        async def of(server: Server) -> int | None:
            try:
                return await server.rank()
            except ServerFailure:
                return None  # whoever has it load weights will find out

        ranks = [each for each in await all_of(of(server) for server in self.alive()) if each is not None]
        return rank <= min(ranks, default=0)

    async def ask(
        self, place: int, prompt: Sequence[int], params: Mapping[str, Any], label: str, *, adapted: bool = False
    ) -> tuple[Server, Said]:
        """The answer of one of the servers to a prompt; where it fails, of another.

        Args:
            place: of the prompt among those that are asked together.
            prompt: token ids.
            params: vLLM's.
            label: of the weights now.
            adapted: whether these are an adapter's.

        Raises:
            SamplerError: no server is left. DataError: none would answer it.
        """
        while True:
            servers = await self._some()
            server = servers[place % len(servers)]
            try:
                async with self._room[server.url]:
                    self._asked[server.url] += 1
                    try:
                        asked = server.generate(prompt, params, label, adapted=adapted)
                        return server, await first_of(asked, self._leaving_out(server))
                    finally:
                        self._asked[server.url] -= 1
            except ServerFailure as error:
                self.leave_out(server, str(error))
            except ServerRefusal as error:
                raise DataError(f"prompt {place + 1}: {error}") from None

    async def load(self, weights: Weights) -> list[tuple[Server, Said]]:
        """Have every server answer with these weights. Those that were left out are asked too, and waited for where
        there are no others; one that is just being started has them when it is there.

        Returns:
            What each said that has them.

        Raises:
            SamplerError: none has.
        """
        self._weights, self._said = weights, {}

        async def one(server: Server) -> None:
            turn = self._turn[server.url]
            if turn.locked():  # it is being started, or has yet to say something about the weights before
                return
            async with turn:
                own = self._own.get(server.url)
                try:
                    if own is not None and not await in_thread(lambda: own.runs):
                        if server.url in self._served or self._deaths[server.url] == DEATHS:
                            return  # who watches over it starts it again, or has given it up
                        self._deaths[server.url] = DEATHS  # what does not start at first will not at last
                        await self._started(server, own)
                    await self._take(server)
                    self._deaths[server.url] = 0
                except Silent as error:
                    self._deaths[server.url] = 1  # it may do better another time
                    self.leave_out(server, str(error))
                except ServerFailure as error:
                    self.leave_out(server, str(error))
                except ServerRefusal as error:
                    if server not in well:
                        self.leave_out(server, str(error))
                    else:
                        raise SamplerError(str(error)) from None

        well = self.alive()
        sick = [asyncio.ensure_future(one(server)) for server in self.servers if server not in well]
        await all_of(one(server) for server in well)
        if not self._said:
            await asyncio.gather(*sick)
        while not self._said:
            await self._some()
            await asyncio.sleep(POLLED)
        return [(server, self._said[server.url]) for server in self.servers if server.url in self._said]

    async def _take(self, server: Server) -> None:
        """Have it answer with the weights of now, and be asked again.

        Raises:
            ServerFailure, ServerRefusal: it does not.
        """
        while (weights := self._weights) is not None:
            try:
                base = None if weights.base is None else str(weights.base)
                await server.load(str(weights.folder), weights.label, base)
                said = await weights.probe(server)
            except ServerFailure:
                if weights is self._weights:
                    raise
            if weights is self._weights:  # else new ones were published while it took the old ones
                break
        self._said[server.url] = said
        self._served.add(server.url)
        self.down.pop(server.url, None)
        self._gone[server.url].clear()

    async def _some(self) -> list[Server]:
        """Servers that are there; while one is being started and there is no other one, it is waited for.

        Raises:
            SamplerError: none is left.
        """
        while not (found := self.alive()):
            if not any(map(self._is_coming, self.servers)):
                why = "\n".join(self.down.values())
                raise SamplerError(f"no server is left:\n{why}\nstart them again, then go on with --resume")
            await asyncio.sleep(POLLED)
        return found

    def _may_start(self, server: Server) -> bool:
        """Whether it is kedge's own, and not given up."""
        return server.url in self._own and self._deaths[server.url] < DEATHS

    def _is_coming(self, server: Server) -> bool:
        """Whether it is being started, or will be."""
        return self._may_start(server) or (server.url in self._own and self._turn[server.url].locked())

    async def _started(self, server: Server, own: Kept) -> None:
        """Start it, and wait until it is there.

        Raises:
            ServerFailure: it ends before, or is not there in its time. Silent: it seems to hang.
        """
        assert self._weights is not None
        say(f"{server.url}: vLLM is being started, which takes a minute or so; what it says: {own.log}")
        await in_thread(own.end)
        self._rank = self._rank or 0
        await in_thread(own.start, self._weights.begin, self._weights.dtype, self._rank)
        try:
            async with asyncio.timeout(self.start_timeout):
                await first_of(self._coming(server, own), self._falling_silent(own))
        except (TimeoutError, Silent) as error:
            await in_thread(own.end)
            late = f"{server.url}: not there {self.start_timeout:g} s after its start (start_timeout)"
            failure = ServerFailure if isinstance(error, TimeoutError) else Silent
            raise failure(f"{str(error) or late}; {await in_thread(own.last_words)}") from None

    async def _coming(self, server: Server, own: Kept) -> None:
        """Wait until it is there.

        Raises:
            ServerFailure: it has ended.
        """
        while True:
            await asyncio.sleep(POLLED)
            await in_thread(own.refuse_ended)
            try:
                return await server.healthy()
            except (ServerFailure, ServerRefusal):
                continue

    async def _falling_silent(self, own: Kept) -> NoReturn:
        """Wait until it has shown no sign of life for ``start_silence``.

        Raises:
            Silent: it has not.
        """
        silence, clock = Silence(), asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOKED_AT)
            signs = await in_thread(own.signs)
            if signs is not None and silence.after(signs, clock()) >= self.start_silence:
                what = f"no sign of life for {self.start_silence:g} s while it starts (start_silence)"
                raise Silent(f"{own.url}: {what}: {silence.seen(signs)}")

    async def _start_again(self, server: Server, own: Kept) -> None:
        """It was left out: end what is left of it, and have it answer with the weights of now."""
        async with self._turn[server.url]:
            self._deaths[server.url] += 1
            try:
                await self._started(server, own)
                await self._take(server)
                self._deaths[server.url] = 0
                say(f"{server.url}: is there again")
            except (ServerFailure, ServerRefusal) as error:
                self.down[server.url] = str(error)
                await in_thread(own.end)
                say(f"{error}; {'once more' if self._may_start(server) else 'it is given up'}")

    async def _leaving_out(self, server: Server) -> NoReturn:
        """Wait until the server is left out, when nothing is waited for that was asked of it.

        Raises:
            ServerFailure: it was.
        """
        await self._gone[server.url].wait()
        raise ServerFailure(self.down.get(server.url, f"{server.url}: was left out"))

    async def _watch(self) -> None:
        """Leave out whoever does not say in time that it is well, and start again what kedge has started, as long as
        anybody uses the servers."""

        async def look(server: Server) -> None:
            own, progress = self._own.get(server.url), Progress(server, self.stall_timeout)
            while True:
                await asyncio.sleep(LOOKED_AT)
                if self._weights is None:  # nothing was asked of anybody yet, and kedge's own are not started
                    continue
                if server.url in self.down or self._turn[server.url].locked():
                    progress.begin()
                else:
                    try:
                        if own is not None:
                            await in_thread(own.refuse_ended)
                        await server.healthy()
                        await progress.refuse_none(writing=bool(self._asked[server.url]))
                    except (ServerFailure, ServerRefusal) as error:
                        if not self._turn[server.url].locked():  # else whoever gives it weights has found out, or will
                            self.leave_out(server, str(error))
                if own is not None and server.url in self.down and self._may_start(server):
                    await self._start_again(server, own)

        await all_of(look(server) for server in self.servers)
