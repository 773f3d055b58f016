"""A TCP proxy that fails as networks do: before PostgreSQL, Valkey or the simulator, on loopback and a free port.

    with FaultProxy(database_url) as proxy:
        worker = start_worker(DATABASE_URL=proxy.url)
        proxy.set(down=Way(stalled=True))    # answers are kept, and passed on by `heal`
        proxy.cut("reset")                   # every open connection, now

From another process: `python -m tests.support.proxy HOST:PORT` prints its port, then reads one JSON object a line and
answers each with one: `{"do": "set", "up": {"delay_s": 0.2}, "down": {}}`, `{"do": "cut", "how": "reset"}`,
`{"do": "refuse", "on": true}`, `{"do": "heal"}`, `{"do": "counts"}`. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

How: TypeAlias = Literal["close", "reset", "silent"]
"""How a connection ends: with FIN to both sides, with RST to both, or by a reset of the server's side while the client
hears nothing and goes on thinking that it is connected (half-open)."""

_PIECE = 1 << 16
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Way:
    """What happens to the bytes that go one way, on connections that are open and on new ones.

    Attributes:
        delay_s: Each piece waits so long before it is passed on.
        bytes_per_s: No more than that; None for as fast as it comes.
        stalled: Bytes are kept, and passed on when this is lifted.
        dropped: Bytes are taken and thrown away.
        cut_after: Each connection ends once so many more bytes have gone this way; None for never.
        how: In which manner `cut_after` ends it.
    """

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    stalled: bool = False
    dropped: bool = False
    cut_after: int | None = None
    how: How = "close"


CLEAR = Way()


@dataclass(slots=True)
class Counts:
    """What the proxy has done so far."""

    connections: int = 0
    open: int = 0
    cut: int = 0
    lost: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(slots=True, eq=False)
class _Link:
    """One connection: two streams, and how much has gone each way since the present faults were set."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    losing: bool = False
    silent: bool = False
    passed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})


class FaultProxy:
    """Passes everything on until it is told not to. Its methods may be called from any thread."""

    def __init__(self, target: str) -> None:
        """Listen before a server, which is named by a URL or as `host:port`."""
        parts = urlsplit(target if "://" in target else f"tcp://{target}")
        self._server = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._ways = {"up": CLEAR, "down": CLEAR}
        self._lose: bytes | None = None
        self._refusing = False
        self._links: set[_Link] = set()
        self._counts = Counts()
        self._tasks: set[asyncio.Task[None]] = set()
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = listening.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}").geturl()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen(listening))

    # What a test says.

    def set(self, *, up: Way = CLEAR, down: Way = CLEAR) -> None:
        """Have this happen to what clients send (`up`) and the server answers (`down`), until told otherwise."""
        self._call(lambda: self._set(up, down))

    def heal(self) -> None:
        """Pass everything on again, what was kept first, and take new connections."""
        self._call(lambda: self._set(CLEAR, CLEAR, refusing=False))

    def cut(self, how: How = "close") -> int:
        """End every open connection; return how many there were."""
        return int(self._call(self._cut_all, how))

    def refuse(self, *, on: bool = True) -> None:
        """Reset new connections at once."""
        self._call(lambda: setattr(self, "_refusing", on))

    def lose_the_answer_to(self, text: str) -> None:
        """Lose the answer to the next piece that holds this text; the server has carried it out by then."""
        self._lose = text.encode()

    @property
    def lost(self) -> int:
        """How many answers were lost in that way."""
        return self._counts.lost

    def counts(self) -> Counts:
        """Return what has been done so far."""
        self._counts.open = len(self._links)
        return self._counts

    def close(self) -> None:
        """End everything."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What the loop's thread does.

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, work: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            return work(*args)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    async def _listen(self, listening: socket.socket) -> None:
        self._listener = await asyncio.start_server(self._accept, sock=listening)

    async def _end(self) -> None:
        self._listener.close()
        await asyncio.sleep(0.01)  # who has just been accepted is served first: nobody else would close that line
        self._cut_all("reset")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what is aborted is closed in the loop's next turn

    def _set(self, up: Way, down: Way, *, refusing: bool | None = None) -> None:
        self._ways = {"up": up, "down": down}
        if refusing is not None:
            self._refusing = refusing
        for link in self._links:
            link.passed = {"up": 0, "down": 0}
        self._changed.set()
        self._changed = asyncio.Event()

    def _cut_all(self, how: How) -> int:
        links = [link for link in self._links if not link.silent]
        for link in links:
            self._cut(link, how)
        return len(links)

    def _cut(self, link: _Link, how: How) -> None:
        self._counts.cut += 1
        link.silent = how == "silent"
        for writer in (link.server,) if link.silent else (link.client, link.server):
            if how != "close":
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort() if how != "close" else writer.close()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._counts.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self._refusing:
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.transport.abort()
            else:
                await self._serve(reader, client)
        self._tasks.discard(task)
        client.close()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        back, server = await asyncio.open_connection(*self._server)
        link = _Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(self._pass(link, "up", reader, server), self._pass(link, "down", back, client))
        finally:
            self._links.discard(link)
            server.close()

    async def _pass(
        self, link: _Link, name: Literal["up", "down"], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what comes one way, until its end; then say so to the other side."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                self._watch_for_loss(link, name, piece)
                await self._pass_piece(link, name, piece, writer)
        if name == "down" and link.silent:
            return
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def _watch_for_loss(self, link: _Link, name: str, piece: bytes) -> None:
        if name == "up" and self._lose is not None and self._lose in piece:
            self._lose, link.losing = None, True
        elif name == "down" and link.losing:
            self._counts.lost += 1
            self._cut(link, "close")

    async def _pass_piece(self, link: _Link, name: Literal["up", "down"], piece: bytes, writer: Any) -> None:
        way = self._ways[name]
        if way.delay_s:
            await asyncio.sleep(way.delay_s)
        while (way := self._ways[name]).stalled and not writer.is_closing():
            await self._changed.wait()
        if way.dropped or writer.is_closing() or (link.silent and name == "up"):
            return
        left = None if way.cut_after is None else max(0, way.cut_after - link.passed[name])
        cut, piece = left is not None and len(piece) >= left, piece if left is None else piece[:left]
        link.passed[name] += len(piece)
        step = max(1, int(way.bytes_per_s / 20)) if way.bytes_per_s else len(piece)
        for start in range(0, len(piece), step or 1):
            part = piece[start : start + step]
            writer.write(part)
            await writer.drain()
            setattr(self._counts, f"bytes_{name}", getattr(self._counts, f"bytes_{name}") + len(part))
            if way.bytes_per_s:
                await asyncio.sleep(len(part) / way.bytes_per_s)
        if cut:
            self._cut(link, way.how)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _obey(proxy: FaultProxy, order: dict[str, Any]) -> dict[str, Any]:
    match order.get("do"):
        case "set":
            proxy.set(up=Way(**order.get("up", {})), down=Way(**order.get("down", {})))
        case "cut":
            return {"cut": proxy.cut(order.get("how", "close"))}
        case "refuse":
            proxy.refuse(on=order.get("on", True))
        case "lose":
            proxy.lose_the_answer_to(order["text"])
        case "heal":
            proxy.heal()
        case "counts":
            return asdict(proxy.counts())
        case _:
            return {"problem": "unknown order"}
    return {}


def main() -> None:
    """Serve the orders of standard input."""
    with FaultProxy(sys.argv[1]) as proxy:
        print(json.dumps({"port": proxy.port}), flush=True)  # noqa: T201  # this is how it answers
        for line in sys.stdin:
            try:
                answer = _obey(proxy, json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                answer = {"problem": str(error)}
            print(json.dumps(answer), flush=True)  # noqa: T201  # as above


if __name__ == "__main__":
    main()
