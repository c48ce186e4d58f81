"""An OpenAI-compatible server on port 8000 that takes one key. It runs in the image of Tollgate, on Python alone."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "a-test-key"
SAID = "the answer is four"


class Handler(BaseHTTPRequestHandler):
    """Answers each chat in the same words."""

    def do_POST(self) -> None:
        """One call."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] == f"Bearer {KEY}":
            message = {"role": "assistant", "content": SAID}
            answer = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42},
            }
            self._reply(200, answer)
        else:
            self._reply(401, {"error": {"message": "no such key", "code": "invalid_api_key"}})

    def _reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
