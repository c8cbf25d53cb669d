"""What our vLLM engine costs over vLLM itself: the same requests through ``VLLMEngine`` and through ``LLM.generate``.

Both run on one ``LLM`` object, taking turns, so that they share the weights, the cache and the machine's moods. The
bare side is at its fastest: token ids and flat log-probs, no text. Ours includes the text and the ``Rollout`` objects.
Wanted: at least 0.97 of the bare tokens per second, as the median over pairs of neighbouring runs (a machine with other
work changes its pace between pairs). The last line is JSON.

    OMP_NUM_THREADS=1 python benchmarks/rollout_overhead.py
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.rollout.config import VLLMEngineConfig
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Example, RolloutRequest, Sampling


def requests(prompts: int, rollouts: int, max_tokens: int) -> list[RolloutRequest]:
    """Prompts of 8 to 32 random tokens; one stop token in about 65 makes the completions' lengths differ."""
    rng = random.Random(0)
    return [
        RolloutRequest(
            id=f"request-{number}",
            example=Example(id=f"example-{number}", prompt=""),
            prompt_ids=[rng.randrange(5, 261) for _ in range(rng.randrange(8, 33))],
            sampling=Sampling(max_completion_tokens=max_tokens, stop_token_ids=tuple(range(100, 104))),
            seed=number,
            n=rollouts,
        )
        for number in range(prompts)
    ]


def bare_generate(llm: Any, batch: list[RolloutRequest]) -> int:
    """``LLM.generate`` on the same prompts, seeds and settings; the number of tokens drawn."""
    from vllm import SamplingParams

    prompts, params = [], []
    for request in batch:
        for index in range(request.n):
            prompts.append({"prompt_token_ids": request.prompt_ids})
            params.append(
                SamplingParams(
                    temperature=1.0,
                    max_tokens=request.sampling.max_completion_tokens,
                    stop_token_ids=list(request.sampling.stop_token_ids),
                    seed=derive_seed(request.seed, index),
                    logprobs=0,
                    flat_logprobs=True,
                    detokenize=False,
                )
            )
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def tokens_per_second(run: Callable[[], int]) -> float:
    started = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - started)


def compare(engine: Any, batch: list[RolloutRequest], repeats: int, tolerance: float = 0.0) -> dict[str, Any]:
    """Tokens/s of both sides (medians), the median ratio of neighbouring runs, and the tokens drawn, which may differ
    by ``tolerance`` of them (a GPU's bfloat16 sums depend on what runs beside a request)."""
    sides: dict[str, Callable[[], int]] = {
        "ours": lambda: sum(len(rollout.completion_ids) for rollout in engine.generate(batch)),
        "peer": lambda: bare_generate(engine.llm, batch),
    }
    counts = {side: run() for side, run in sides.items()}
    difference = abs(counts["ours"] - counts["peer"])
    assert difference <= tolerance * counts["peer"], f"the sides drew different rollouts: {counts}"
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(repeats):
        for side in sorted(sides, reverse=repeat % 2 == 1):
            speeds[side].append(tokens_per_second(sides[side]))
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["peer"], strict=True))
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    return {**medians, "ratio": ratio, "tokens": counts["ours"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = VLLMEngineConfig(max_num_seqs=64).build(create_tiny_model(folder, TinyModelConfig()))
    batch = requests(arguments.prompts, arguments.rollouts, arguments.max_tokens)
    result = compare(engine, batch, arguments.repeats)
    engine.close()
    setting = (
        f"2.3 M Qwen2, float32, CPU, {arguments.prompts} prompts x {arguments.rollouts} rollouts, at most "
        f"{arguments.max_tokens} tokens, {result['tokens']} tokens drawn, tokens/s, medians of {arguments.repeats} "
        "pairs"
    )
    rounded = {"ours": round(result["ours"]), "peer": round(result["peer"]), "ratio": round(result["ratio"], 4)}
    print(json.dumps({"name": "rollout_overhead", **rounded, "setting": setting}))


if __name__ == "__main__":
    main()
