"""``/v1/score`` and the routes about the server."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def test_results_come_in_order_with_model_and_digest(server: Any) -> None:
    body = {
        "model": "integer",
        "items": [
            {"prompt": "6 * 7?", "completion": "It is 42", "answer": 42},
            {"prompt": [{"role": "user", "content": "6 * 7?"}], "completion": "It is 41", "answer": "42"},
            {"completion": "It is 42"},
        ],
    }
    reply = server.http.post("/v1/score", json=body).json()
    assert [result["score"] for result in reply["results"]] == [1.0, 0.0, None]
    assert [result["error"] for result in reply["results"]] == [None, None, "invalid_input"]
    assert "not an integer" in reply["results"][2]["message"]
    assert reply["results"][0] == {"score": 1.0, "parts": {}, "error": None, "truncated": False}
    assert (reply["model"], reply["schema_version"]) == ("integer", 1)
    models = server.http.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["commanded", "integer"]
    assert models[1]["digest"] == reply["digest"] != models[0]["digest"]


def test_the_first_reward_is_the_default_and_an_unknown_one_is_refused(server: Any) -> None:
    assert server.score("abc").json()["model"] == "commanded"
    reply = server.score("abc", model="nobody")
    assert reply.status_code == 404
    assert "commanded, integer" in reply.json()["error"]["message"]


def test_no_items_are_no_results(server: Any) -> None:
    assert server.results() == []


def test_further_columns_reach_the_reward(start_server: Any) -> None:
    reward = {"type": "route", "by": "kind", "routes": {"number": {"type": "exact_integer"}}}
    server = start_server({"routed": reward})
    items = [{"completion": "4", "answer": "4", "kind": "number"}, {"completion": "4", "answer": "4", "kind": "other"}]
    results = server.http.post("/v1/score", json={"items": items}).json()["results"]
    assert [result["score"] for result in results] == [1.0, None]


def test_identical_requests_give_identical_bytes(server: Any) -> None:
    items = [{"completion": str(number), "answer": "3"} for number in range(9)]

    def ask(_: int) -> bytes:
        content: bytes = server.http.post("/v1/score", json={"items": items, "model": "integer"}).content
        return content

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(ask, range(40)))
    assert len(set(replies)) == 1


def test_what_is_not_finite_is_an_error_and_never_in_the_json(server: Any) -> None:
    reply = server.score("nan", "tokens", token_scores=True)
    assert "NaN" not in reply.text and "Infinity" not in reply.text
    nan, tokens = json.loads(reply.text)["results"]
    assert (nan["score"], nan["error"]) == (None, "not_finite")
    assert tokens["parts"] == {"truncated_tokens": 3.0, "odd": None}
    assert tokens["truncated"] is True
    assert tokens["token_scores"] == [0.5, None]
    assert "token_scores" not in server.results("tokens")[0]


@pytest.mark.parametrize(("completion", "kind"), [("raise", "crashed"), ("path", "unparseable"), ("exit", "crashed")])
def test_an_error_reveals_neither_paths_nor_stack(server: Any, completion: str, kind: str) -> None:
    result = server.results(completion)[0]
    assert (result["score"], result["error"]) == (None, kind)
    for secret in ("/secret", "Traceback", "OSError", ".py"):
        assert secret not in json.dumps(result)


def test_a_reward_that_raises_on_one_item_scores_the_others(server: Any) -> None:
    results = server.results("abc", "raise", "ab")
    assert [result["score"] for result in results] == [3.0, None, 2.0]
    assert "/secret/place/model.bin" in server.log()


def test_status_routes(server: Any) -> None:
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.http.get("/ready").json() == {"status": "ready"}
    before = server.metric('posttrain_items_total{outcome="scored",reward="integer"}')
    server.http.post("/v1/score", json={"items": [{"completion": "1", "answer": "1"}] * 3, "model": "integer"})
    assert server.metric('posttrain_items_total{outcome="scored",reward="integer"}') == before + 3
    assert server.metric('posttrain_requests_total{route="/v1/score",status="200"}') > 0


def test_the_docs_have_an_example_that_works(server: Any) -> None:
    schema = server.http.get("/openapi.json").json()
    assert "swagger" in server.http.get("/docs").text
    examples = {
        "/v1/score": "ScoreBody", "/get_reward": "OpenRLHFBody", "/slime": "SlimeBody", "/score": "VLLMScoreBody",
        "/classify": "VLLMPoolingBody", "/pooling": "VLLMPoolingBody",
    }  # fmt: skip
    assert examples.keys() <= schema["paths"].keys()
    for path, name in examples.items():
        example = schema["components"]["schemas"][name]["examples"][0]
        reply = server.http.post(path, json={**example, "model": "commanded"})
        assert reply.status_code == 200, reply.text
