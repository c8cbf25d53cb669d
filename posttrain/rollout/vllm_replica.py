"""A vLLM server that ends with the process that started it.

``python -m posttrain.rollout.vllm_replica MODEL SETTINGS_JSON SEED PORT`` runs ``vllm.entrypoints.openai.api_server``.
"""

import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from posttrain.rollout.config import VLLMServerEngineConfig
from posttrain.rollout.vllm_engine import vllm_arguments

SERVER = "vllm.entrypoints.openai.api_server"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The limits that vLLM lets one set."""


def server_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of ``LLM`` as flags of the server; None is left out."""
    flags = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags


def end_with_the_trainer() -> None:
    """Kill this process group once standard input, a pipe from the trainer, is closed: however the trainer ended."""
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


def server_arguments(model_path: str, config: VLLMServerEngineConfig, seed: int, port: str) -> dict[str, Any]:
    """The server's settings: on the loopback interface alone, for the routes that change weights ask for no key."""
    arguments = vllm_arguments(model_path, config, seed) | {
        "served_model_name": "policy",
        "host": "127.0.0.1",
        "port": port,
        "worker_extension_cls": "posttrain.rollout.vllm_worker.SyncExtension",
        "enable_scale_out": True,
        "max_logprobs": 21,  # 20, and the drawn token
        "uvicorn_log_level": "warning",
        "weight_transfer_config": '{"backend": "nccl"}' if config.weight_transfer == "nccl" else None,
        "tensor_parallel_size": config.tensor_parallel,
    }
    if config.max_lora_rank is not None:
        rank = next(rank for rank in LORA_RANKS if rank >= config.max_lora_rank)
        arguments |= {"enable_lora": True, "max_lora_rank": rank}
    return arguments


def main(model_path: str, settings: str, seed: str, port: str) -> None:
    """Serve until the trainer ends."""
    threading.Thread(target=end_with_the_trainer, daemon=True).start()
    config = VLLMServerEngineConfig.model_validate_json(settings)
    sys.argv = [SERVER, *server_flags(server_arguments(model_path, config, int(seed), port))]
    os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0" if config.max_lora_rank is None else "1"
    if config.tensor_parallel > 1:  # on a CPU, vLLM would want a memory node for each worker
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    runpy.run_module(SERVER, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
