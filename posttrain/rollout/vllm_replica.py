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


def main(model_path: str, settings: str, seed: str, port: str) -> None:
    """Serve on the loopback interface alone: the routes that change weights ask for no key."""
    threading.Thread(target=end_with_the_trainer, daemon=True).start()
    config = VLLMServerEngineConfig.model_validate_json(settings)
    arguments = vllm_arguments(model_path, config, int(seed)) | {
        "served_model_name": "policy",
        "host": "127.0.0.1",
        "port": port,
        "worker_extension_cls": "posttrain.rollout.vllm_worker.SyncExtension",
        "enable_scale_out": True,
        "max_logprobs": 21,  # 20, and the drawn token
        "uvicorn_log_level": "warning",
        "weight_transfer_config": '{"backend": "nccl"}' if config.weight_transfer == "nccl" else None,
    }
    os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    sys.argv = [SERVER, *server_flags(arguments)]
    runpy.run_module(SERVER, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
