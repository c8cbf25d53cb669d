"""One process against two on a CPU, for the same work: the efficiency, and the share of communication.

    python benchmarks/scaling.py [--rounds 5] [--launch-config recipes/accelerate/cpu-2.yaml]

A GRPO job on additions with a tiny Qwen2 (2.3 million parameters, float32, one thread in each process): 8 prompts x 8
rollouts of at most 64 tokens a step, whatever the number of processes. Two launches take turns step by step: plain
``python``, and ``accelerate launch`` with two processes. Both draw the same rollouts, since every request has its seed.
Two steps warm up. Needs two idle cores: where other work takes a part of them, two processes get a larger part of the
machine than one, or wait for each other, and the efficiency means little.
The last line is one JSON object: tokens/s of two processes and of one; ``ratio`` is the efficiency, seconds of one /
(2 x seconds of two), as the median over neighbouring steps. ``setting`` has it for generation and update alone, and
``communication_share``: the part of a step in which this rank was in a collective operation (gathering rollouts,
summing metrics) or a gradient bucket was being averaged, waiting for the other rank and overlap with the backward pass
included.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Side, report, rounds_asked_for

WARM_UP = 2
PROMPTS, GROUP, MAX_COMPLETION = 8, 8, 64
RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "accelerate"


class Communication:
    """When this process was in collective operations, seconds since some start; cleared at each step."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []

    def watch(self, model: Any) -> None:
        """Time the collectives that accelerate calls, and the gradient averaging of a DDP ``model``."""
        import torch.distributed as distributed
        from torch import Tensor
        from torch.futures import Future

        all_reduce = distributed.all_reduce
        for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier"):
            setattr(distributed, name, self._timed(getattr(distributed, name)))

        def average(_: object, bucket: distributed.GradBucket) -> Future[Tensor]:
            """DDP's own averaging, timed."""
            started = time.perf_counter()
            gradients = bucket.buffer().div_(distributed.get_world_size())

            def done(future: Any) -> Any:
                self.spans.append((started, time.perf_counter()))
                return future.value()[0]

            return all_reduce(gradients, async_op=True).get_future().then(done)

        model.register_comm_hook(None, average)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **keywords)
            self.spans.append((started, time.perf_counter()))
            return result

        return timed

    def seconds(self) -> float:
        """Length of the union of the spans."""
        total, reached = 0.0, 0.0
        for start, end in sorted(self.spans):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total


def work(model: Path, folder: Path, steps: int) -> None:
    """One rank: a step for each round that the main process is asked for."""
    from posttrain.tasks.arithmetic import ArithmeticConfig
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.trainers.loop import Session
    from posttrain.training.accelerator import leave_process_group
    from posttrain.training.run_config import RunConfig

    task = ArithmeticConfig(max_operand=999, train_size=steps * PROMPTS, eval_size=1).build()
    config = GRPOConfig(
        steps=steps,
        prompts_per_step=PROMPTS,
        rollouts_per_prompt=GROUP,
        sampling={"max_completion_tokens": MAX_COMPLETION},
        tokens_per_micro_batch=1024,
        learning_rate=1e-6,
        entropy_coef=1e-6,  # keeps rollouts without an advantage in the update: every token is trained
    )
    trainer = GRPOTrainer(
        model, config, reward=task.reward(), train_dataset=task.train_examples(), run=RunConfig(folder=str(folder))
    )
    session = Session(trainer)
    session.resume(None)
    communication = Communication()
    if trainer.accelerator.num_processes > 1:
        communication.watch(trainer.update.model)
    asked = rounds_asked_for()
    while session.any_rank(session.is_main and next(asked, False) is None):
        communication.spans.clear()
        started = time.perf_counter()
        metrics, _, _ = trainer.train_step()
        if session.is_main:
            report(
                seconds=time.perf_counter() - started,
                generate=metrics["time/generate"],
                update=metrics["time/update"],
                communication=communication.seconds(),
                tokens=metrics["completion/length_mean"] * PROMPTS * GROUP,
            )
    session.close()
    leave_process_group()
    os._exit(0)  # the averaging hook's thread may still want the interpreter, which waits for it: neither would end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--launch-config", type=Path, default=RECIPES / "cpu-2.yaml", help="of two processes")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work, steps=WARM_UP + options.rounds)
        return
    os.environ["OMP_NUM_THREADS"] = "1"

    from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model

    launch = ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = create_tiny_model(folder / "model", TinyModelConfig(max_length=256))

        def start(side: str, *launcher: str) -> Side:
            arguments = ["--rounds", str(options.rounds), "--work", str(model), str(folder / side)]
            return Side([sys.executable, *launcher, __file__, *arguments], folder / f"{side}.log")

        steps = []
        with start("one") as one, start("two", *launch, str(options.launch_config)) as two:
            for _ in range(WARM_UP + options.rounds):
                steps.append((one.round(), two.round()))
    steps = steps[WARM_UP:]

    def efficiency(phase: str) -> float:
        return round(statistics.median(one[phase] / (2 * two[phase]) for one, two in steps), 3)

    speeds = [statistics.median(step[side]["tokens"] / step[side]["seconds"] for step in steps) for side in (0, 1)]
    share = statistics.median(two["communication"] / two["seconds"] for _, two in steps)
    setting = {
        "unit": "completion tokens per second",
        "rollouts": PROMPTS * GROUP,
        "completion_tokens": [round(one["tokens"]) for one, _ in steps],
        "same_tokens": all(one["tokens"] == two["tokens"] for one, two in steps),
        "efficiency_of": {phase: efficiency(phase) for phase in ("generate", "update")},
        "communication_share": round(share, 3),
        "seconds": {side: [round(step[n]["seconds"], 3) for step in steps] for n, side in enumerate(("one", "two"))},
        "launch_config": options.launch_config.name,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "device": "cpu",
        "dtype": "float32",
    }
    result = {"name": "scaling", "ours": round(speeds[1]), "peer": round(speeds[0]), "ratio": efficiency("seconds")}
    print(json.dumps(result | {"setting": setting}))


if __name__ == "__main__":
    main()
