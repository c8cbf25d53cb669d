"""What a job costs on one GPU, on Qwen2's shapes of 0.5 and 1.5 billion parameters with random weights, bfloat16.

    python benchmarks/gpu.py [--sizes 0.5b 1.5b] [--rounds 5]
    python benchmarks/gpu.py --device cpu --tiny          # every path at toy size; its numbers mean nothing

For each size four sections, each in a process of its own, so that one's memory is free for the next:

- ``update``: one optimizer step on 64 rollouts of 64 to 1,024 tokens, ours and TRL's in turn (as ``update_vs_trl.py``),
  tokens/s; and ours as a share of the GPU's peak arithmetic (MFU, wanted at least 0.4 on an H100).
- ``rollouts``: tokens/s through the vLLM engine and of bare ``LLM.generate`` (wanted at least 0.97).
- ``step``: whole GRPO steps with vLLM on the same GPU, asleep during the update: seconds by phase; and a weight sync
  with its fingerprints, seconds per billion parameters (wanted at most 1).
- ``logprobs``: peak memory of chunked log-probs, forward and backward, against full logits.

Attention is FlashAttention 2 where ``flash_attn`` or the ``kernels`` package is there (the latter fetches its kernel
from the hub once), else PyTorch's fused attention over the packed sequences. Both sides hold weights in bfloat16.
Without a GPU the script says so and ends with exit status 2.
The last line is one JSON object: update tokens/s of the last size; ``setting`` has all sections of all sizes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rollout_overhead
import update_vs_trl
from update_vs_trl import now

QWEN = {"vocab_size": 151_936, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {**QWEN, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
    "1.5b": {
        **QWEN,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "tiny": {
        **QWEN,
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}
WARM_UP = 2


@dataclass(frozen=True)
class Load:
    """How much is run, in rollouts and tokens."""

    shortest: int = 64
    longest: int = 1024
    tokens_per_micro_batch: int = 16_384
    prompts: int = 64
    logprob_tokens: int = 8192


TOY = Load(shortest=4, longest=16, tokens_per_micro_batch=256, prompts=2, logprob_tokens=256)


@dataclass(frozen=True)
class Place:
    """Where a section runs, and on what."""

    device: str
    model: Path
    folder: Path
    load: Load
    rounds: int

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.device == "cuda" else "float32"

    def model_config(self) -> Any:
        """The policy as ours trains it."""
        from posttrain.training.model_config import ModelConfig

        flash = self.device == "cuda" and (find_spec("flash_attn") or find_spec("kernels"))
        attention = "flash_attention_2" if flash else "packed_sdpa"
        return ModelConfig(path=str(self.model), dtype=self.dtype, attention=attention)

    def engine_config(self, sleep_mode: bool) -> Any:
        from posttrain.rollout.config import VLLMEngineConfig

        return VLLMEngineConfig(dtype=self.dtype, sleep_mode=sleep_mode and self.device == "cuda")


def create_model(folder: Path, size: str, device: str, dtype: str) -> int:
    """Write a model with random weights and a small tokenizer; returns its number of parameters. Most ids have no
    text, which nothing here needs."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from posttrain.data.tiny_model import TinyModelConfig, create_tokenizer

    tokenizer = create_tokenizer(TinyModelConfig(max_length=2048))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(**SHAPES[size], **ends, bos_token_id=None, max_position_embeddings=2048, dtype=dtype)
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def update(place: Place) -> dict[str, Any]:
    load, config = place.load, place.model_config()
    attention = config.attention if config.attention != "packed_sdpa" else "sdpa"
    settings: dict[str, Any] = {"model_init_kwargs": {"dtype": place.dtype, "attn_implementation": attention}}
    result = update_vs_trl.compare(
        place.model,
        update_vs_trl.completion_lengths(True, load.shortest, load.longest),
        place.folder,
        batch_size=8,
        rounds=place.rounds,
        tokens_per_micro_batch=load.tokens_per_micro_batch,
        model_config=config,
        trl_settings=settings | {"use_cpu": place.device == "cpu"},
    )
    return {**result, "attention": config.attention}


def rollouts(place: Place) -> dict[str, Any]:
    engine = place.engine_config(sleep_mode=False).build(place.model)
    batch = rollout_overhead.requests(place.load.prompts, 8, place.load.longest)
    result = rollout_overhead.compare(engine, batch, place.rounds, tolerance=0.02)
    engine.close()
    return result


def step(place: Place) -> dict[str, Any]:
    from posttrain.rewards.trl_function import TRLFunctionReward
    from posttrain.trainers.grpo import GRPOTrainer
    from posttrain.trainers.grpo_config import GRPOConfig
    from posttrain.trainers.loop import Session
    from posttrain.training.run_config import RunConfig
    from posttrain.training.run_log import read_metrics
    from posttrain.types import Example

    load, steps = place.load, WARM_UP + place.rounds
    config = GRPOConfig(
        steps=steps,
        prompts_per_step=load.prompts,
        sampling={"max_completion_tokens": load.longest},
        tokens_per_micro_batch=load.tokens_per_micro_batch,
    )
    trainer = GRPOTrainer(
        place.model,
        config,
        reward=TRLFunctionReward(function=lambda completion_ids, **_: [float(ids[0] % 2) for ids in completion_ids]),
        train_dataset=[Example(id=str(number), prompt=f"{number}+1=") for number in range(load.prompts)],
        model_config=place.model_config(),
        engine=place.engine_config(sleep_mode=True),
        run=RunConfig(folder=str(place.folder)),
    )
    session = Session(trainer)
    session.resume(None)
    for _ in range(steps):
        session.run_step()
    metrics = [line for line in read_metrics(place.folder) if line["step"] > WARM_UP]
    syncs = [seconds_of(trainer.sync) for _ in range(place.rounds)]
    billions = sum(parameter.numel() for parameter in trainer.causal_lm.parameters()) / 1e9
    session.close()
    names = ("time/step", "time/generate", "time/update", "time/sync", "completion/length_mean", "speed/mfu")
    return {
        **{name: statistics.median(line[name] for line in metrics) for name in names if name in metrics[0]},
        "sleep_mode": trainer.engine.config.sleep_mode,
        "rollouts": load.prompts * config.rollouts_per_prompt,
        "sync_seconds_per_billion_parameters": statistics.median(syncs) / billions,
    }


def logprobs(place: Place) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig

    from posttrain.objectives.logprobs import token_logprobs

    model = AutoConfig.from_pretrained(place.model)
    settings: dict[str, Any] = {"device": place.device, "dtype": getattr(torch, place.dtype)}
    head = torch.randn(model.vocab_size, model.hidden_size, **settings).mul_(0.02).requires_grad_()
    hidden = torch.randn(place.load.logprob_tokens, model.hidden_size, **settings).requires_grad_()
    targets = torch.randint(model.vocab_size, (place.load.logprob_tokens,), device=place.device)

    def chunked() -> torch.Tensor:
        return token_logprobs(hidden, head, targets, chunk_size=place.model_config().logits_chunk_size)[0]

    def full() -> torch.Tensor:
        return (hidden @ head.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]

    peaks, values = {}, {}
    for side, function in (("ours", chunked), ("peer", full)):
        head.grad = hidden.grad = None
        if place.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if place.device == "cuda" else 0
        values[side] = function()
        values[side].sum().backward()
        peaks[side] = (torch.cuda.max_memory_allocated() - before) / 2**20 if place.device == "cuda" else None
        values[side] = values[side].detach()
    difference = float((values["ours"] - values["peer"]).abs().max())
    note = "the gradients are counted on both sides; logprob_memory.py measures a CPU's memory"
    return {"mib": peaks, "largest_difference": difference, "tokens": place.load.logprob_tokens, "note": note}


def seconds_of(function: Callable[[], Any]) -> float:
    started = now()
    function()
    return now() - started


SECTIONS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "update": update,
    "rollouts": rollouts,
    "step": step,
    "logprobs": logprobs,
}


def run_section(section: str, size: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A section in a new process; the reason in place of its numbers where it failed."""
    command = [sys.executable, __file__, "--device", options.device, "--rounds", str(options.rounds)]
    command += ["--sizes", size, "--section", section, str(model), *(["--tiny"] if options.tiny else [])]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        return {"error": process.stderr[-1500:]}
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=["0.5b", "1.5b"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="every path at toy size")
    parser.add_argument("--section", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    sizes = ["tiny"] if options.tiny else options.sizes

    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU; --device cpu --tiny tries its paths without one.", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load = TOY if options.tiny else Load()
        if options.section:
            section, model = options.section
            place = Place(options.device, Path(model), folder, load, options.rounds)
            print(json.dumps(SECTIONS[section](place)))
            return
        setting: dict[str, Any] = {
            "unit": "completion tokens per second of the update",
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "dtype": Place(options.device, folder, folder, load, 0).dtype,
            "torch": torch.__version__,
        }
        for size in sizes:
            parameters = create_model(folder / size, size, options.device, setting["dtype"])
            if options.device == "cuda":
                torch.cuda.empty_cache()
            sections = {section: run_section(section, size, folder / size, options) for section in SECTIONS}
            setting[size] = {"parameters": parameters, **sections}
        result = {name: setting[sizes[-1]]["update"].get(name) for name in ("ours", "peer", "ratio")}
        print(json.dumps({"name": "gpu", **result, "setting": setting}))
        failed = [f"{size}/{section}" for size in sizes for section in SECTIONS if "error" in setting[size][section]]
        if failed:
            sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
