"""What the scoring API answers under load, against a server that scores inside its request handler.

Both serve the same small reward model (random weights, `type: learned`) and are asked through OpenRLHF's form, one
completion a request, by 32 clients at once. The peer is the usual design of a reward server, written here: FastAPI, an
async handler, a blocking scorer, one request at a time; it calls the same reward, so that only the servers differ. The
load comes from `wrk` (apt-get install wrk), or from httpx where there is no wrk: then its own pace weighs on both.
The answers of both are compared first. Wanted: at least 3 times the peer's requests per second. The last line is JSON.

    OMP_NUM_THREADS=1 python benchmarks/reward_server.py
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.rewards.score_item import ScoreItem
from posttrain.rewards.scoring.reward_file import load_reward_config

CLIENTS = 32
BODIES = 512
WRK_SCRIPT = """
local bodies, number = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
wrk.method, wrk.headers["content-type"] = "POST", "application/json"
function request()
  number = number %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[number])
end
function done(summary, latency)
  local errors = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  print(string.format('JSON {"requests": %%d, "seconds": %%f, "p99_ms": %%f, "errors": %%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e3, errors))
end
"""


def create_reward_model(folder: Path) -> Path:
    """A reward file of a Qwen2 classifier with 0.1 million random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    size = TinyModelConfig(hidden_size=64, intermediate_size=128, layers=2, heads=2, key_value_heads=1, max_length=256)
    base = create_tiny_model(folder / "base", size)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "model")
    file = folder / "learned.yaml"
    file.write_text(json.dumps({"reward": {"type": "learned", "model": str(folder / "model")}}))
    return file


def request_bodies(seed: int = 0) -> list[dict[str, Any]]:
    """OpenRLHF requests of one completion of 16 to 48 characters, which are its tokens."""
    rng = random.Random(seed)
    texts = ["".join(rng.choices("abcdefgh ", k=rng.randrange(16, 49))) for _ in range(BODIES)]
    return [{"query": [f"question: {text}"], "prompts": ["question: "], "labels": [None]} for text in texts]


def serve_as_the_peer(reward_file: Path, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI, Request

    reward = load_reward_config(reward_file).build()
    app = FastAPI()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, list[float | None]]:
        data = await request.json()
        items = [
            ScoreItem(prompt=prompt, completion=query.removeprefix(prompt)).reward_input("0")
            for query, prompt in zip(data["query"], data["prompts"], strict=True)
        ]
        return {"rewards": [output.score for output in reward.score(items)]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


@contextmanager
def running(*command: str) -> Iterator[str]:
    """The URL of a server process, which ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, f"{command} has ended"
            try:
                httpx.post(f"{url}/get_reward", json=request_bodies()[0], trust_env=False).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def scores(url: str, bodies: list[dict[str, Any]]) -> list[float]:
    with httpx.Client(trust_env=False) as http:
        return [http.post(f"{url}/get_reward", json=body).json()["rewards"][0] for body in bodies]


def load_with_wrk(url: str, bodies: list[dict[str, Any]], seconds: int, folder: Path) -> dict[str, float]:
    (folder / "bodies.txt").write_text("\n".join(map(json.dumps, bodies)))
    (folder / "load.lua").write_text(WRK_SCRIPT % (folder / "bodies.txt"))
    settings = ["-t1", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "30s", "-s", str(folder / "load.lua")]
    done = subprocess.run(["wrk", *settings, f"{url}/get_reward"], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.rpartition("JSON ")[2])
    return result


async def load_with_httpx(url: str, bodies: list[dict[str, Any]], seconds: int) -> dict[str, float]:
    latencies: list[float] = []
    started = time.perf_counter()
    limits = httpx.Limits(max_connections=CLIENTS)

    async def client(http: httpx.AsyncClient, number: int) -> None:
        while time.perf_counter() - started < seconds:
            sent = time.perf_counter()
            number = (number + CLIENTS) % len(bodies)
            (await http.post(f"{url}/get_reward", json=bodies[number])).raise_for_status()
            latencies.append(time.perf_counter() - sent)

    async with httpx.AsyncClient(limits=limits, timeout=30.0, trust_env=False) as http:
        await asyncio.gather(*(client(http, number) for number in range(CLIENTS)))
    p99_ms = 1000 * statistics.quantiles(latencies, n=100)[-1]
    return {"requests": len(latencies), "seconds": time.perf_counter() - started, "p99_ms": p99_ms, "errors": 0}


def compare(reward_file: Path, folder: Path, seconds: int, repeats: int) -> dict[str, Any]:
    bodies = request_bodies()
    generator = "wrk" if shutil.which("wrk") else "httpx"
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    p99s: dict[str, list[float]] = {"ours": [], "peer": []}
    ours = ("-m", "posttrain", "serve", str(reward_file))
    with running(*ours) as our_url, running(__file__, "--peer", str(reward_file)) as peer_url:
        urls = {"ours": our_url, "peer": peer_url}
        pairs = zip(scores(our_url, bodies), scores(peer_url, bodies), strict=True)
        assert all(abs(one - other) < 1e-4 for one, other in pairs), "the servers give different scores"
        for _ in range(repeats):
            for side, url in urls.items():
                if generator == "wrk":
                    result = load_with_wrk(url, bodies, seconds, folder)
                else:
                    result = asyncio.run(load_with_httpx(url, bodies, seconds))
                assert result["errors"] == 0, f"{side} failed {result['errors']} requests"
                rates[side].append(result["requests"] / result["seconds"])
                p99s[side].append(result["p99_ms"])
                print(f"{side}: {rates[side][-1]:.0f} requests/s, p99 {p99s[side][-1]:.1f} ms")
    return {
        "name": "reward_server",
        **{side: round(statistics.median(rates[side])) for side in urls},
        "ratio": round(statistics.median(rates["ours"]) / statistics.median(rates["peer"]), 2),
        "p99_ms": {side: round(statistics.median(p99s[side]), 1) for side in urls},
        "setting": f"requests/s of one completion, {CLIENTS} clients, {generator}, 0.1 M Qwen2 classifier, float32, "
        f"{os.cpu_count()} cores, medians of {repeats} runs of {seconds} s in turns",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer is not None:
        return serve_as_the_peer(arguments.peer, arguments.port)
    with tempfile.TemporaryDirectory() as folder:
        reward_file = create_reward_model(Path(folder))
        print(json.dumps(compare(reward_file, Path(folder), arguments.seconds, arguments.repeats)))


if __name__ == "__main__":
    main()
