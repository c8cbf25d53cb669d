"""Peak memory and time of token log-probs, forward and backward: chunk by chunk against the full logits.

    python benchmarks/logprob_memory.py [--chunk-size 256] [--rounds 5] [--threads N]

2,048 tokens x 151,936 vocabulary x hidden 896, float32 on the CPU (the head of Qwen2.5-0.5B). Ours is
``token_logprobs``, which computes entropies as well; the peer is ``log_softmax`` over the full logits and a gather.
Each measurement is a process of its own; the two ways take turns. Memory is the rise of the process's peak RSS over
its inputs, less the head's own gradient (V x H floats), which both ways must return. Reported are the median peak and
the fastest time (on a machine with other work, ``--threads 1`` is steadier).
The last line is one JSON object; ``ours``, ``peer`` and ``ratio`` are of memory, in MiB.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TOKENS, VOCABULARY, HIDDEN = 2048, 151_936, 896
HEAD_GRADIENT_MIB = VOCABULARY * HIDDEN * 4 / 2**20


def peak_mib() -> float:
    """Highest resident memory of this process so far (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, chunk_size: int, threads: int) -> dict[str, float]:
    """One forward and backward pass in this process: peak memory, seconds, and norms that say what was computed."""
    import torch

    from posttrain.objectives.logprobs import token_logprobs

    torch.set_num_threads(threads)

    def forward_backward(tokens: int, vocabulary: int) -> tuple[float, dict[str, float]]:
        generator = torch.Generator().manual_seed(0)
        weight = torch.empty(vocabulary, HIDDEN).normal_(std=0.02, generator=generator).requires_grad_()
        hidden = torch.empty(tokens, HIDDEN).normal_(generator=generator).requires_grad_()
        targets = torch.randint(vocabulary, (tokens,), generator=generator)
        advantages = torch.empty(tokens).normal_(generator=generator)
        before, start = peak_mib(), time.perf_counter()
        if way == "ours":
            logprobs, _ = token_logprobs(hidden, weight, targets, chunk_size=chunk_size)
        else:
            logprobs = torch.log_softmax(hidden @ weight.T, dim=-1).gather(1, targets[:, None]).squeeze(1)
        loss = (advantages * logprobs).sum()
        loss.backward()
        seconds, rise = time.perf_counter() - start, peak_mib() - before
        norms = {"loss": loss.item(), "d_hidden": hidden.grad.norm().item(), "d_weight": weight.grad.norm().item()}
        return rise, {"seconds": seconds, **norms}

    forward_backward(64, 4096)  # loads and warms up what torch keeps for itself
    rise, result = forward_backward(TOKENS, VOCABULARY)
    return {"mib": rise - HEAD_GRADIENT_MIB, **result}


def measure_in_new_process(way: str, chunk_size: int, threads: int) -> dict[str, float]:
    """``measure`` with nothing in memory from before."""
    options = ["--measure", way, "--chunk-size", str(chunk_size), "--threads", str(threads)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    output = subprocess.run(
        [sys.executable, __file__, *options], env=environment, check=True, capture_output=True, text=True
    )
    result: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    print(f"{way:5} {result['mib']:8.0f} MiB {result['seconds']:7.2f} s", flush=True)
    return result


def check_same_result(ours: dict[str, float], peer: dict[str, float]) -> None:
    """Raises AssertionError where the two ways did not compute the same."""
    for name in ("loss", "d_hidden", "d_weight"):
        if abs(ours[name] - peer[name]) > 1e-4 * abs(peer[name]):
            raise AssertionError(f"{name}: ours {ours[name]} differs from {peer[name]}")


def summarise(ours: Sequence[dict[str, float]], peer: Sequence[dict[str, float]]) -> dict[str, object]:
    """Median memory and fastest time of both ways."""
    memory = [statistics.median(result["mib"] for result in results) for results in (ours, peer)]
    seconds = [min(result["seconds"] for result in results) for results in (ours, peer)]
    return {
        "name": "logprob_memory",
        "ours": round(memory[0], 1),
        "peer": round(memory[1], 1),
        "ratio": round(memory[0] / memory[1], 4),
        "seconds_ours": round(seconds[0], 2),
        "seconds_peer": round(seconds[1], 2),
        "seconds_ratio": round(seconds[0] / seconds[1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of chunked log-probs against full logits.")
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--measure", choices=["ours", "peer"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.chunk_size, options.threads)))
        return
    rounds = [
        [measure_in_new_process(way, options.chunk_size, options.threads) for way in ("ours", "peer")]
        for _ in range(options.rounds)
    ]
    for ours, peer in rounds:
        check_same_result(ours, peer)
    setting = {"tokens": TOKENS, "vocabulary": VOCABULARY, "hidden": HIDDEN, "dtype": "float32", "device": "cpu"}
    setting |= {"chunk_size": options.chunk_size, "rounds": options.rounds, "threads": options.threads}
    print(json.dumps({**summarise(*zip(*rounds, strict=True)), "setting": setting}))


if __name__ == "__main__":
    main()
