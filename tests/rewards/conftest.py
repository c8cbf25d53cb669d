"""A chat-completions server on loopback whose replies a test scripts."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class ScriptedReply:
    """What the server sends; ``hang_s`` seconds late; as ``body`` where that is not None."""

    text: str | None = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hang_s: float = 0.0
    drop: bool = False
    first_tokens: dict[str, float] | None = None

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": self.text}}
        if self.first_tokens is not None:
            top = [{"token": token, "logprob": logprob} for token, logprob in self.first_tokens.items()]
            choice["logprobs"] = {"content": [{"token": top[0]["token"], "top_logprobs": top}]}
        return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


class JudgeServer(ThreadingHTTPServer):
    """Calls ``script(payload, number of the request)``; keeps payloads, authorisations and the most at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Callable[[dict[str, Any], int], ScriptedReply] = lambda payload, number: ScriptedReply("Score: 7")
        self.payloads: list[dict[str, Any]] = []
        self.authorisations: list[str | None] = []
        self.paths: list[str] = []
        self.running = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        server = self.server
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.payloads)
            server.payloads.append(payload)
            server.authorisations.append(self.headers.get("Authorization"))
            server.paths.append(self.path)
            server.running += 1
            server.most_at_once = max(server.most_at_once, server.running)
        try:
            reply = server.script(payload, number)
            time.sleep(reply.hang_s)
        finally:
            with server.lock:
                server.running -= 1
        if reply.drop:
            self.close_connection = True
            return
        body = reply.encoded()
        self.send_response(reply.status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | reply.headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def scripted() -> type[ScriptedReply]:
    """The class of a scripted reply."""
    return ScriptedReply


@pytest.fixture
def judge_server(serve: Any) -> JudgeServer:
    """Replies ``Score: 7`` until its ``script`` is replaced."""
    server = JudgeServer()
    serve(server)
    return server
