"""The client of environment servers, against one of ours that counts down, in both dialects."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.agents import http_environment
from posttrain.agents.environment import ACTION, WITHOUT_ACTION, StepResult
from posttrain.agents.http_environment import HTTPEnvironmentConfig
from posttrain.agents.live_environments import LiveEnvironments

DIALECTS = ("textcraft", "webshop")
DOWN = f"{ACTION} down"


class Countdown(ThreadingHTTPServer):
    """Task N begins at N; ``down`` counts, and 0 is the end. Environments are numbered; the score is 1 at the end.

    ``failures`` are statuses that the next requests are answered with; ``broken`` is what replies are replaced by.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.numbers: dict[int, int] = {}
        self.requests: list[tuple[str, Any]] = []
        self.failures: list[int] = []
        self.broken: Any = None
        self.of_hundred = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, route: str, body: Any) -> Any:
        self.requests.append((route, body))
        if route == "/create":
            number = len(self.numbers)
            self.numbers[number] = 0
            return number if body is None else {"id": number, "observation": "idle"}
        webshop = "env_idx" in body
        number = body["env_idx" if webshop else "id"]
        if number not in self.numbers:
            return {"error": f"The id {number} is not valid."}
        if route == "/close":
            return {"closed": self.numbers.pop(number)}
        if route == "/reset":
            self.numbers[number] = body["session_id" if webshop else "data_idx"]
        elif body["action"] == "down":
            self.numbers[number] -= 1
        left = self.numbers[number]
        if route == "/reset":
            return [f"at {left}", None] if webshop else {"task_description": "To 0.", "observation": f"at {left}"}
        done = left == 0
        reply = {"state" if webshop else "observation": f"at {left}", "reward": float(done), "done": done, "info": None}
        return reply | {"reward": 60, "score": 100 * done} if self.of_hundred else reply


class Handler(BaseHTTPRequestHandler):
    server: Countdown

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "null")
        status = self.server.failures.pop(0) if self.server.failures else 200
        reply = {"detail": "failed"} if status != 200 else self.server.answer(self.path, body)
        data = json.dumps(reply if self.server.broken is None else self.server.broken).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, serve: Any) -> Countdown:
    monkeypatch.setattr(http_environment, "FIRST_WAIT_S", 0.001)
    server = Countdown()
    serve(server)
    return server


def config_of(server: Countdown, dialect: Any = "textcraft", **keys: Any) -> HTTPEnvironmentConfig:
    create = {"goal": None} if dialect == "textcraft" else None
    settings = {"url": server.url, "dialect": dialect, "create": create, "train": (1, 5), "held_out": (5, 8)}
    return HTTPEnvironmentConfig.model_validate(settings | keys)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_episode(server: Countdown, dialect: str) -> None:
    environment = config_of(server, dialect).build()
    first = environment.reset("http/2", 0)
    assert first == ("To 0.\nat 2" if dialect == "textcraft" else "at 2")
    assert environment.step(f"I count.\n{DOWN}") == StepResult("at 1", 0.0, False)
    assert environment.step("I wait.") == StepResult(WITHOUT_ACTION, 0.0, False, valid=False)
    assert environment.step(DOWN) == StepResult("at 0", 1.0, True)
    assert environment.reset("http/7", 0).endswith("at 7")
    assert [route for route, _ in server.requests] == ["/create", "/reset", "/step", "/step", "/reset"]
    keys = [("id", "data_idx"), ("env_idx", "session_id")][DIALECTS.index(dialect)]
    assert server.requests[1][1] == dict(zip(keys, (0, 2), strict=True))
    environment.close()
    assert server.numbers == {}


def test_a_score_of_hundred_is_the_reward(server: Countdown) -> None:
    server.of_hundred = True
    environment = config_of(server).build()
    environment.reset("http/2", 0)
    assert [environment.step(DOWN).reward for _ in range(2)] == [0.0, 1.0]


def test_steps_run_out(server: Countdown) -> None:
    environment = config_of(server, max_steps=2).build()
    environment.reset("http/4", 0)
    assert [environment.step(turn).done for turn in (DOWN, "?")] == [False, True]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_is_no_observation(server: Countdown, dialect: str) -> None:
    environment = config_of(server, dialect).build()
    environment.reset("http/2", 0)
    server.numbers.clear()
    with pytest.raises(ConnectionError, match=r"/step answers 200: .*The id 0 is not valid"):
        environment.step(DOWN)
    server.broken = {"observation": "no reward"} if dialect == "textcraft" else []
    with pytest.raises(ConnectionError, match=f"/step answers 200 in another form than that of {dialect}"):
        environment.step(DOWN)
    server.failures = [404]
    with pytest.raises(ConnectionError, match="/step answers 404"):
        environment.step(DOWN)


def test_a_beginning_is_asked_for_again_and_a_step_is_not(server: Countdown) -> None:
    environment = config_of(server).build()
    server.failures = [503, 500, 429]
    assert environment.reset("http/3", 0).endswith("at 3")
    server.failures = [503]
    with pytest.raises(ConnectionError, match="/step answers 503"):
        environment.step(DOWN)
    server.failures = [503] * 4
    with pytest.raises(ConnectionError, match="/reset answers 503"):
        environment.reset("http/3", 0)
    gone = config_of(server, url="http://127.0.0.1:9").build()
    with pytest.raises(ConnectionError, match="/create does not answer: ConnectError"):
        gone.reset("http/3", 0)
    gone.close()


def test_a_lost_step_is_replayed_from_the_beginning(server: Countdown) -> None:
    live, item = (
        LiveEnvironments(),
        {"environment": config_of(server).model_dump_json(), "task_id": "http/3", "seed": 0},
    )
    assert live({**item, "turns": [DOWN]})["observation"] == "at 2"
    server.failures = [503]  # of the second step
    assert live({**item, "turns": [DOWN, DOWN]})["observation"] == "at 1"
    assert live({**item, "turns": [DOWN, DOWN, DOWN]}) == {
        "observation": "at 0",
        "reward": 1.0,
        "done": True,
        "failed": "",
        "valid": True,
    }


def test_tasks_and_what_is_refused(server: Countdown) -> None:
    config = config_of(server)
    assert config.task_ids("train") == ["http/1", "http/2", "http/3", "http/4"]
    assert config.task_ids("eval") == ["http/5", "http/6", "http/7"]
    for unknown in ("http/8", "http/0", "http/x", "vault/1"):
        with pytest.raises(KeyError):
            config.build().reset(unknown, 0)
    for wrong in ({"held_out": (4, 8)}, {"url": "localhost"}, {"dialect": "alfworld"}, {"train": (-1, 3)}):
        with pytest.raises(ValidationError):
            config_of(server, **wrong)
