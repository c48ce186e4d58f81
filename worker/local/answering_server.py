"""A server that answers every chat request after a fixed time, in place of an LLM whose own time is known.

    python -m worker.local.answering_server 5

prints its address on 127.0.0.1. Each answer has a usage, and says when its request came and when it was answered, by
the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web

PATH = "/v1/chat/completions"


def app_of(seconds: float) -> web.Application:
    """An application that answers after `seconds`."""

    async def answer(request: web.Request) -> web.Response:
        received = time.monotonic()
        asked = await request.json()
        await asyncio.sleep(seconds)
        message = {"role": "assistant", "content": "an answer"}
        return web.json_response(
            {
                "id": "answer",
                "object": "chat.completion",
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42},
                "received_seconds": received,
                "answered_seconds": time.monotonic(),
            }
        )

    app = web.Application()
    app.router.add_post(PATH, answer)
    return app


async def serve(seconds: float) -> None:
    """Serve until the process is ended, and print the address."""
    runner = web.AppRunner(app_of(seconds), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
