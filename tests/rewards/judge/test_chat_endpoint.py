"""The endpoint's client against a server on loopback that fails in every way."""

import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.errors import JobError
from posttrain.rewards.judge.chat_endpoint import ChatEndpoint, EndpointConfig
from posttrain.rewards.judge.judgement import Reply, question_seed
from posttrain.rewards.remote.http_client import retry_after
from posttrain.types import Sampling

QUESTION = [{"role": "user", "content": "good?"}]
GREEDY = Sampling(temperature=0.0, max_completion_tokens=9)

Connect = Callable[..., ChatEndpoint]


@pytest.fixture
def connect(judge_server: Any) -> Iterator[Connect]:
    """``connect(**settings)``: an endpoint of the scripted server that does not wait long."""
    endpoints: list[ChatEndpoint] = []

    def make(**settings: Any) -> ChatEndpoint:
        config = {"base_url": judge_server.base_url, "model": "judge", "backoff_s": 0.01, "deadline_s": 10, **settings}
        endpoints.append(EndpointConfig(**config).build())
        return endpoints[-1]

    yield make
    for endpoint in endpoints:
        endpoint.close()


def ask(endpoint: ChatEndpoint, number: int = 1, top: int = 0) -> list[Reply]:
    questions = [[{"role": "user", "content": f"question {row}"}] for row in range(number)]
    return endpoint.replies(questions, GREEDY, seed=5, top=top)


def test_what_is_sent(judge_server: Any, connect: Connect) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_completion_tokens=9)
    endpoint = connect(extra={"chat_template_kwargs": {"enable_thinking": False}, "top_p": None})
    assert endpoint.replies([QUESTION], sampling, seed=5, top=0) == [Reply("Score: 7")]
    assert judge_server.payloads == [
        {
            "model": "judge",
            "messages": QUESTION,
            "max_tokens": 9,
            "temperature": 0.5,
            "seed": question_seed(5, QUESTION),
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert judge_server.paths == ["/v1/chat/completions"]
    assert judge_server.authorisations == [None]


def test_replies_keep_the_order_of_the_questions(judge_server: Any, connect: Connect, scripted: Any) -> None:
    def script(payload: Any, number: int) -> Any:
        text = payload["messages"][0]["content"]
        return scripted(text, hang_s=0.05 if text.endswith("0") else 0.0)

    judge_server.script = script
    assert [reply.text for reply in ask(connect(), 25)] == [f"question {row}" for row in range(25)]


def test_first_tokens(judge_server: Any, connect: Connect, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted("Yes", first_tokens={"Yes": -0.25, " yes": -3.0})
    assert ask(connect(), top=20) == [Reply("Yes", (("Yes", -0.25), (" yes", -3.0)))]
    assert (judge_server.payloads[0]["logprobs"], judge_server.payloads[0]["top_logprobs"]) == (True, 20)
    judge_server.script = lambda payload, number: scripted("Yes")
    assert ask(connect(), top=20)[0].error == "unparseable"


@pytest.mark.parametrize("failure", [{"status": 503}, {"status": 429}, {"status": 500}, {"drop": True}])
def test_a_passing_failure_is_retried(
    judge_server: Any, connect: Connect, scripted: Any, failure: dict[str, Any]
) -> None:
    judge_server.script = lambda payload, number: scripted("fine") if number == 2 else scripted(**failure)
    assert ask(connect()) == [Reply("fine")]
    assert len(judge_server.payloads) == 3


def test_a_lasting_failure_is_unavailable(judge_server: Any, connect: Connect, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted("overloaded", status=503)
    (reply,) = ask(connect(attempts=3))
    assert (reply.error, len(judge_server.payloads)) == ("unavailable", 3)
    assert reply.message.startswith("status 503: ") and reply.message.endswith("(attempt 3 of 3)")


def test_nobody_listens(connect: Connect) -> None:
    (reply,) = ask(connect(base_url="http://127.0.0.1:9/v1", attempts=2))
    assert reply.error == "unavailable"
    assert reply.message.startswith("ConnectError")


def test_retry_after_is_honoured(judge_server: Any, connect: Connect, scripted: Any) -> None:
    limited = scripted(status=429, headers={"Retry-After": "1"})
    judge_server.script = lambda payload, number: scripted("fine") if number else limited
    started = time.monotonic()
    assert ask(connect()) == [Reply("fine")]
    assert 1.0 <= time.monotonic() - started < 5.0


def test_a_wait_beyond_the_deadline_is_not_begun(judge_server: Any, connect: Connect, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(status=429, headers={"Retry-After": "3600"})
    started = time.monotonic()
    (reply,) = ask(connect())
    assert (reply.error, len(judge_server.payloads)) == ("unavailable", 1)
    assert time.monotonic() - started < 5.0


def test_forms_of_retry_after() -> None:
    assert [retry_after(header) for header in (None, "7", "soon", "-3", "")] == [0, 7, 0, 0, 0]
    assert retry_after(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)
    assert retry_after(formatdate(time.time() - 100, usegmt=True)) == 0


@pytest.mark.parametrize("hanging", [{"hang_s": 3.0}, {"headers": {"Content-Length": "5000"}}])
def test_the_deadline_ends_a_question(
    judge_server: Any, connect: Connect, scripted: Any, hanging: dict[str, Any]
) -> None:
    judge_server.script = lambda payload, number: scripted("late", **hanging)
    started = time.monotonic()
    replies = ask(connect(deadline_s=0.3), 3)
    assert {reply.error for reply in replies} == {"timeout"}
    assert replies[0].message == "no reply within 0.3 s"
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    ("status", "error"), [(400, "invalid_input"), (413, "invalid_input"), (401, "unavailable"), (404, "unavailable")]
)
def test_a_refusal_is_not_retried(judge_server: Any, connect: Connect, scripted: Any, status: int, error: str) -> None:
    judge_server.script = lambda payload, number: scripted(body=b"not you", status=status)
    (reply,) = ask(connect())
    assert (reply.error, reply.message, len(judge_server.payloads)) == (error, f"status {status}: not you", 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [null]}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": ["text"]}}]}',
        b"\xff\xfe{",
    ],
)
def test_a_body_that_is_no_chat_completion(judge_server: Any, connect: Connect, scripted: Any, body: bytes) -> None:
    judge_server.script = lambda payload, number: scripted(body=body)
    (reply,) = ask(connect())
    assert (reply.error, len(judge_server.payloads)) == ("unparseable", 1)
    assert reply.message


def test_no_more_at_once_than_allowed(judge_server: Any, connect: Connect, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted("ok", hang_s=0.03)
    endpoint = connect(concurrency=4)
    threads = [threading.Thread(target=ask, args=(endpoint, 10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(judge_server.payloads), judge_server.most_at_once) == (30, 4)


def test_the_key_comes_from_the_environment_and_stays_secret(
    judge_server: Any, connect: Connect, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    judge_server.script = lambda payload, number: scripted(body=b"wrong key sk-secret", status=401)
    (reply,) = ask(connect(api_key_variable="JUDGE_KEY"))
    assert judge_server.authorisations == ["Bearer sk-secret"]
    assert reply.message == "status 401: wrong key ***"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(JobError, match="the environment variable JUDGE_KEY is not set"):
        connect(api_key_variable="JUDGE_KEY")


def test_it_starts_again_after_close(judge_server: Any, connect: Connect) -> None:
    endpoint = connect()
    before = threading.active_count()
    ask(endpoint)
    endpoint.close()
    endpoint.close()
    assert ask(endpoint) == [Reply("Score: 7")]
    endpoint.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "chat-endpoint"]
    assert threading.active_count() <= before + 2, "the server keeps a thread for each connection for a moment"


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValidationError, match="should start with http"):
        EndpointConfig(base_url="localhost:8000", model="m")
