"""One whole GRPO step of ours against bare generation plus bare forward, backward and optimizer on the same tokens.

    python benchmarks/step_overhead.py [--threads 2] [--rounds 7]

The whole step is what a run does between two steps: sampler, plan, embedded engine, reward, advantages, packing,
update, weight sync with fingerprints, log of metrics and rollouts. The peer is the least that must be done for the same
tokens: ``generate`` of transformers, forced to draw the tokens that our step drew, and a plain PyTorch loop over the
same packed micro-batches (logits, log-softmax, gather, backward, AdamW). Both take turns in one process; two rounds
warm up. A tiny Qwen2 (2.3 million parameters) in float32 learns to add, from random weights.
The last line is one JSON object: seconds (medians), ``ratio`` = ours / peer, wanted at most 1.10. ``setting`` has the
phases, and the same ratio with our own engine in the place of ``generate``.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 2
PROMPTS, GROUP, MAX_COMPLETION = 32, 8, 64
TOKENS_PER_MICRO_BATCH = 4096
LEARNING_RATE = 1e-4


def seconds_of(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def make_session(model: Path, folder: Path, steps: int) -> Any:
    """A GRPO run on additions, ready for its first step."""
    from posttrain.tasks.arithmetic import ArithmeticConfig
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.trainers.loop import Session
    from posttrain.training.run_config import RunConfig

    task = ArithmeticConfig(max_operand=999, train_size=2000, eval_size=1).build()
    config = GRPOConfig(
        steps=steps,
        prompts_per_step=PROMPTS,
        rollouts_per_prompt=GROUP,
        tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH,
        sampling={"max_completion_tokens": MAX_COMPLETION},
        learning_rate=LEARNING_RATE,
        entropy_coef=1e-6,  # keeps rollouts without an advantage in the update: every token is trained
    )
    trainer = GRPOTrainer(
        model, config, reward=task.reward(), train_dataset=task.train_examples(), run=RunConfig(folder=str(folder))
    )
    session = Session(trainer)
    session.resume(None)
    return session


class Recorder:
    """Keeps the requests and the rollouts of a trainer's latest step."""

    def __init__(self, trainer: Any) -> None:
        self.groups: list[Any] = []
        self.requests: list[Any] = []
        plan, assign_credit = trainer.plan, trainer.assign_credit

        def recorded_plan(examples: Any) -> Any:
            self.requests = plan(examples)
            return self.requests

        def recorded_credit(groups: Any) -> Any:
            self.groups = list(groups)
            return assign_credit(groups)

        trainer.plan, trainer.assign_credit = recorded_plan, recorded_credit

    @property
    def rollouts(self) -> list[Any]:
        return [rollout for group in self.groups for rollout in group.rollouts]


def bare_generation(model: Any, rollouts: list[Any], pad_id: int) -> Callable[[], None]:
    """``generate`` on left-padded prompts; a logits processor leaves only the recorded token possible."""
    import torch
    from transformers import LogitsProcessor

    width = max(len(rollout.prompt_ids) for rollout in rollouts)
    longest = max(len(rollout.completion_ids) for rollout in rollouts)
    ids = torch.full((len(rollouts), width), pad_id)
    forced = torch.full((len(rollouts), longest), pad_id)
    for row, rollout in enumerate(rollouts):
        ids[row, width - len(rollout.prompt_ids) :] = torch.tensor(rollout.prompt_ids)
        forced[row, : len(rollout.completion_ids)] = torch.tensor(rollout.completion_ids)
    lengths = torch.tensor([len(rollout.prompt_ids) for rollout in rollouts])
    mask = (torch.arange(width) >= width - lengths[:, None]).long()

    class Forced(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return torch.full_like(scores, -torch.inf).scatter_(1, forced[:, input_ids.shape[1] - width][:, None], 0.0)

    def run() -> None:
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=longest, do_sample=True, top_k=0, logits_processor=[Forced()]
        )
        assert output.shape[1] == width + longest

    return run


def bare_update(model: Any, optimizer: Any, batches: list[Any]) -> Callable[[], None]:
    """Forward, backward and AdamW on packed micro-batches, with full logits and nothing measured."""
    from posttrain.training.model import packed_hidden_states

    tokens = sum(len(batch.targets) for batch in batches)

    def run() -> None:
        for batch in batches:
            hidden = packed_hidden_states(model.model, batch)[batch.sources]
            logprobs = model.lm_head(hidden).log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
            (-(batch.weights * logprobs).sum() / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def measure(folder: Path, rounds: int) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Seconds of every round, by what was run, and the metrics that each of our steps logged."""
    import torch
    from transformers import AutoModelForCausalLM

    from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
    from posttrain.training.packed_attention import enable_packed_attention
    from posttrain.training.run_log import read_metrics

    path = create_tiny_model(folder / "model", TinyModelConfig())
    session = make_session(path, folder / "run", WARM_UP + rounds)
    trainer = session.trainer
    recorder = Recorder(trainer)
    decoder = AutoModelForCausalLM.from_pretrained(path).eval()
    learner = AutoModelForCausalLM.from_pretrained(path).train()
    enable_packed_attention(learner)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    seconds: dict[str, list[float]] = {name: [] for name in ("step", "generation", "update", "engine")}
    for _ in range(WARM_UP + rounds):
        seconds["step"].append(seconds_of(session.run_step))
        rollouts = recorder.rollouts
        batches = trainer.update.micro_batches(trainer.assign_credit(recorder.groups))
        seconds["generation"].append(seconds_of(bare_generation(decoder, rollouts, trainer.tokenizer.pad_token_id)))
        seconds["update"].append(seconds_of(bare_update(learner, optimizer, batches)))
        seconds["engine"].append(seconds_of(lambda: trainer.engine.generate(recorder.requests)))
    session.close()
    return seconds, read_metrics(folder / "run")


def median_of(metrics: list[dict[str, float]], name: str) -> float:
    """Over the steps after the warm-up."""
    return statistics.median(line[name] for line in metrics if line["step"] > WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}

    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        seconds, metrics = measure(Path(name), options.rounds)
    rounds = {name: values[WARM_UP:] for name, values in seconds.items()}
    bare = [generation + update for generation, update in zip(rounds["generation"], rounds["update"], strict=True)]
    own = [engine + update for engine, update in zip(rounds["engine"], rounds["update"], strict=True)]
    ours, peer = statistics.median(rounds["step"]), statistics.median(bare)
    phases = ("time/generate", "time/score", "time/update", "time/sync")
    setting = {
        "unit": "seconds a step",
        "rollouts": PROMPTS * GROUP,
        "completion_tokens": median_of(metrics, "completion/length_mean") * PROMPTS * GROUP,
        "ours_phases": {name: median_of(metrics, name) for name in phases},
        "bare": {name: statistics.median(rounds[name]) for name in ("generation", "update", "engine")},
        "ratio_with_our_engine_bare": ours / statistics.median(own),
        "rounds": {name: [round(value, 3) for value in values] for name, values in rounds.items()},
        "threads": options.threads,
        "device": "cpu",
        "dtype": "float32",
        "torch": torch.__version__,
    }
    print(json.dumps({"name": "step_overhead", "ours": ours, "peer": peer, "ratio": ours / peer, "setting": setting}))


if __name__ == "__main__":
    main()
