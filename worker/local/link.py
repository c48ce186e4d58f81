"""A TCP proxy in front of a broker: a network that can be cut and slowed down."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

CHUNK_BYTES = 65_536
STOP_SECONDS = 10.0


class Link:
    """Connections to `port` of 127.0.0.1 reach the port `target`, until the link is `cut`. Use it as a context manager.

    Its methods may be called from any thread.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._delay_seconds = 0.0
        self._is_cut = False
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def cut(self) -> None:
        """End all connections, and take no new one."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._abort_all)

    def slow(self, delay_seconds: float) -> None:
        """Hold up whatever is sent for a time."""
        self._delay_seconds = delay_seconds

    def mend(self) -> None:
        """Neither cut nor slow."""
        self._is_cut, self._delay_seconds = False, 0.0

    def __enter__(self) -> Link:
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(STOP_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        self._abort_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        self._writers.add(writer)
        try:
            if self._is_cut:
                return
            with suppress(OSError):
                from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._target)
                writers.append(to_broker)
                self._writers.add(to_broker)
                pumps = [
                    asyncio.ensure_future(self._pump(*way)) for way in ((reader, to_broker), (from_broker, writer))
                ]
                self._tasks.update(pumps)
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                self._tasks.difference_update(pumps)
        finally:
            for one in writers:
                one.transport.abort()
                self._writers.discard(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                writer.write(data)
                await writer.drain()
