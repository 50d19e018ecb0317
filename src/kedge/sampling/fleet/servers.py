"""Several servers, of which each does what another could: who is there, who is left out, and whom to ask instead."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge.errors import ConfigError, DataError, SamplerError
from kedge.runs.progress import say
from kedge.sampling.fleet.background import Background, together
from kedge.sampling.fleet.server import Said, Server, ServerFailure, ServerRefusal

LOOKED_AT = 1.0
"""Seconds between two looks at a server's health."""


class Servers:
    """Servers that answer for each other, between :meth:`begin` and :meth:`end`.

    Args:
        urls: of the servers.
        timeout: seconds that a request may take.
        tries: how often one is made, where a server cannot be reached or is busy.
        concurrency: answers at once, a server.
        health_timeout: seconds in which a server must say that it is well.

    Raises:
        ConfigError: no servers, or numbers that are none.
    """

    def __init__(
        self, urls: Sequence[str], *, timeout: float, tries: int, concurrency: int, health_timeout: float
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ConfigError(f"sampler: urls: a list of servers, not {urls!r}")
        if len({*urls}) < len(urls):
            raise ConfigError("sampler: urls: a server stands in it twice")
        for name, value, least in (
            ("timeout", timeout, 0.001),
            ("tries", tries, 1),
            ("concurrency", concurrency, 1),
            ("health_timeout", health_timeout, 0.001),
        ):
            if value < least:
                raise ConfigError(f"sampler: {name}: {value} is less than {least}")
        self.servers = [Server(url, timeout=timeout, tries=tries, health_timeout=health_timeout) for url in urls]
        self.concurrency = concurrency
        self.down: dict[str, str] = {}
        """Servers that are left out, by URL, and why."""
        self._background: Background | None = None
        self._gone: dict[str, asyncio.Event] = {}
        self._room: dict[str, asyncio.Semaphore] = {}

    def begin(self) -> None:
        """Have a thread for what is asked, in which the servers' health is watched; where there is one, nothing."""
        if self._background is None:
            self._gone = {server.url: asyncio.Event() for server in self.servers}
            self._room = {server.url: asyncio.Semaphore(self.concurrency) for server in self.servers}
            self._background = Background("fleet")
            self._background.begin(self._watch())

    def end(self) -> None:
        """Whatever waits for a server gets an error, connections are closed, and the thread ends."""
        background, self._background = self._background, None
        if background is not None:
            background.run(together(server.close() for server in self.servers))
            background.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine gives, which is awaited in the fleet's thread.

        Raises:
            SamplerError: it was closed.
        """
        if self._background is None:
            work.close()
            raise SamplerError("the sampler is closed")
        return self._background.run(work)

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
        """Ask it nothing more until weights are published, wait for nothing that was asked, and tell the user."""
        if server.url not in self.down:
            self.down[server.url] = why
            self._gone[server.url].set()
            say(f"{why}; it is left out until the next weights")

    async def ask(
        self, place: int, prompt: Sequence[int], params: Mapping[str, Any], label: str
    ) -> tuple[Server, Said]:
        """The answer of one of the servers to a prompt; where it fails, of another.

        Args:
            place: of the prompt among those that are asked together.
            prompt: token ids.
            params: vLLM's.
            label: of the weights now.

        Raises:
            SamplerError: no server is left. DataError: none would answer it.
        """
        while True:
            servers = self.alive()
            server = servers[place % len(servers)]
            try:
                async with self._room[server.url]:
                    return server, await self._unless_gone(server, server.generate(prompt, params, label))
            except ServerFailure as error:
                self.leave_out(server, str(error))
            except ServerRefusal as error:
                raise DataError(f"prompt {place + 1}: {error}") from None

    async def load(
        self, folder: Path, label: str, probe: Callable[[Server], Coroutine[Any, Any, Said]]
    ) -> list[tuple[Server, Said]]:
        """Have every server answer with these weights, those that were left out too.

        Args:
            folder: of the weights.
            label: what they are called.
            probe: asks a server that has them something.

        Returns:
            What each said that has them.

        Raises:
            SamplerError: none does.
        """

        async def one(server: Server) -> tuple[Server, Said] | None:
            try:
                await server.load(str(folder), label)
                said = await probe(server)
            except ServerFailure as error:
                self.down.pop(server.url, None)
                self.leave_out(server, str(error))
                return None
            except ServerRefusal as error:
                raise SamplerError(str(error)) from None
            self.down.pop(server.url, None)
            self._gone[server.url].clear()
            return server, said

        found = await together(one(server) for server in self.servers)
        self.alive()
        return [each for each in found if each is not None]

    async def _unless_gone(self, server: Server, work: Coroutine[Any, Any, Said]) -> Said:
        """What it says; nothing is waited for where the server is left out meanwhile.

        Raises:
            ServerFailure: it was left out. Whatever ``work`` raises.
        """
        asked = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone[server.url].wait())
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise ServerFailure(self.down.get(server.url, f"{server.url}: was left out"))
        finally:
            for task in (asked, gone):
                task.cancel()

    async def _watch(self) -> None:
        """Leave out whoever does not say in time that it is well, as long as anybody uses the fleet."""

        async def look(server: Server) -> None:
            while True:
                await asyncio.sleep(LOOKED_AT)
                if server.url not in self.down:
                    try:
                        await server.healthy()
                    except (ServerFailure, ServerRefusal) as error:
                        self.leave_out(server, str(error))

        await together(look(server) for server in self.servers)
