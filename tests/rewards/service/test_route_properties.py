"""Whatever is sent to whichever route: never a 5xx, always JSON of a known form, never a number that is not finite."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

POSTS = ("/v1/score", "/get_reward", "/slime", "/score", "/classify", "/pooling")
GETS = ("/v1/models", "/health", "/ready", "/metrics", "/docs", "/openapi.json")
CONTENT_TYPES = (
    "application/json", "application/json; x=\xe9", "text/plain", "multipart/form-data", "", "a" * 300,
    "application/x-www-form-urlencoded",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW")

# Long enough that none of them is a command to the reward under test.
texts = st.text(max_size=30).map(lambda text: "x" + text)
# json.dumps writes NaN, Infinity and lone surrogates, which are not JSON; the server must refuse them.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
messages = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": texts}), min_size=1, max_size=3)
items = st.fixed_dictionaries(
    {"completion": texts},
    optional={
        "id": texts | st.integers(), "prompt": texts | messages, "answer": texts | st.integers() | st.floats(),
        "references": st.lists(texts, max_size=3), "finish_reason": st.sampled_from(["stop", "length", "later"]),
        "completion_ids": st.lists(st.integers(-1, 10**6), max_size=5), "task": st.text(max_size=9), "column": values,
    },
)  # fmt: skip
listed = st.lists(texts, max_size=4)
bodies: dict[str, st.SearchStrategy[Any]] = {
    "/v1/score": st.fixed_dictionaries(
        {"items": st.lists(items, max_size=4)},
        optional={"model": st.sampled_from([None, "integer", "nobody"]), "token_scores": st.booleans(),
                  "timeout_s": st.sampled_from([None, 10.0, 1e300, 0, -1.0, float("nan")]), "further": values},
    ),
    "/get_reward": st.fixed_dictionaries(
        {"query": listed}, optional={"prompts": st.none() | listed, "labels": st.none() | listed | st.lists(st.none())}
    ),
    "/slime": st.fixed_dictionaries(
        {"response": texts}, optional={"prompt": texts | messages, "label": st.none() | texts | st.integers()}
    ),
    "/score": st.fixed_dictionaries(
        {"queries": texts | listed, "documents": texts | listed},
        optional={"text_1": texts | listed, "text_2": texts, "use_activation": st.none() | st.booleans()},
    ),
    "/classify": st.fixed_dictionaries({"input": texts | listed}, optional={"messages": messages}),
    "/pooling": st.fixed_dictionaries(
        {}, optional={"input": texts | listed | st.lists(st.integers()), "messages": messages,
                      "task": st.sampled_from([None, "classify", "token_classify", "embed"]), "further": values},
    ),
}  # fmt: skip
half_right = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def check(reply: Any) -> None:
    assert reply.status_code < 500, reply.text
    if reply.headers.get("content-type") == "application/json" and reply.content:
        value = json.loads(reply.content.decode(), parse_constant=lambda name: pytest_fail(name))
        if reply.status_code >= 400:
            assert isinstance(value["error"]["message"], str) and value["error"]["code"] == reply.status_code


def pytest_fail(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@half_right
@given(data=st.data(), route=st.sampled_from(POSTS))
def test_bodies_that_are_nearly_right(server: Any, data: st.DataObject, route: str) -> None:
    content = json.dumps(data.draw(bodies[route])).encode()
    reply = server.http.post(route, content=content, headers={"content-type": "application/json"})
    check(reply)
    if reply.status_code == 200 and route == "/v1/score":
        sent = json.loads(content)["items"]
        assert len(reply.json()["results"]) == len(sent)
        for item, result in zip(sent, reply.json()["results"], strict=True):
            assert (result["score"] is None) == (result["error"] is not None)
            if reply.json()["model"] == "commanded":
                assert result["score"] == len(item["completion"])


@half_right
@given(route=st.sampled_from(POSTS), value=values)
def test_any_json(server: Any, route: str, value: Any) -> None:
    check(server.http.post(route, content=json.dumps(value), headers={"content-type": "application/json"}))


@half_right
@given(
    route=st.sampled_from(POSTS),
    content=st.binary(max_size=60),
    content_type=st.sampled_from(CONTENT_TYPES),
)
def test_any_bytes(server: Any, route: str, content: bytes, content_type: str) -> None:
    check(server.http.post(route, content=content, headers={"content-type": content_type.encode("latin-1")}))


@half_right
@given(
    path=st.sampled_from([*POSTS, *GETS, "/", "/nowhere"]),
    method=st.sampled_from(METHODS),
    query=st.dictionaries(st.sampled_from(["model", "x"]), st.text(max_size=10), max_size=2),
    tail=st.sampled_from(["", "/", "/%00", "//", "/..", "%2f", "?model=%ff"]),
)
def test_any_method_path_and_query(server: Any, path: str, method: str, query: dict[str, str], tail: str) -> None:
    reply = server.http.request(method, path + tail, params=query or None)
    check(reply)
    if method == "GET" and path in GETS and tail == "":
        assert reply.status_code == 200
