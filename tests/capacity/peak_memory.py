"""Peak memory of real optimizer steps on the CPU, one forked process for each case, as JSON lines of bytes.

``python peak_memory.py '{"hidden_size": 256, ..., "tokens": 2048, "checkpointing": false}' ...``
"""

import gc
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from posttrain.training.model import PolicyModel
from posttrain.training.packed_attention import enable_packed_attention
from posttrain.training.packing import collate
from posttrain.types import Origin, TrainingSample

LENGTH = 256


def held(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


def train(tokens: int, checkpointing: bool, **sizes: Any) -> None:
    config = Qwen2Config(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    enable_packed_attention(model)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy, optimizer = PolicyModel(model, 1.0, 256), torch.optim.AdamW(model.parameters())
    ones, origin = [1] * LENGTH, [Origin.PROMPT, *[Origin.POLICY] * (LENGTH - 1)]
    sample = TrainingSample("one", ones, origin, [0, *ones[1:]], [1.0] * LENGTH, [0.0] * LENGTH)
    batch = collate([sample] * (tokens // LENGTH))
    for micro_batches in (1, 2):  # the last backward pass meets gradients and the optimizer's state
        for _ in range(micro_batches):
            policy(batch)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    torch.set_num_threads(1)
    for case in map(json.loads, sys.argv[1:]):
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            train(**{**case, "tokens": LENGTH})  # what libraries load and keep at the first call
            gc.collect()
            before = held("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
            train(**case)
            print(held("VmHWM") - before, flush=True)
            os._exit(0)


if __name__ == "__main__":
    main()
