"""What a vLLM server can do beyond its own routes: methods mixed into its worker and called by ``/collective_rpc``.

Arguments and results are JSON. A float goes as text, since JSON has no word for one that is not a number.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from posttrain.rollout.vllm_weights import model_summary, replace_weights, weights_fingerprint


class SyncExtension:
    """Named by ``--worker-extension-cls posttrain.rollout.vllm_worker.SyncExtension``."""

    model_runner: Any
    vllm_config: Any

    def posttrain_describe(self) -> dict[str, str | int]:
        """The settings that the trainer depends on."""
        model, parallel, lora = (getattr(self.vllm_config, f"{part}_config") for part in ("model", "parallel", "lora"))
        return {
            "model": model_summary(model.hf_config),
            "tensor_parallel": parallel.tensor_parallel_size,
            "pipeline_parallel": parallel.pipeline_parallel_size,
            "max_lora_rank": 0 if lora is None else lora.max_lora_rank,
            "dtype": str(model.dtype).removeprefix("torch."),
            "logprobs_mode": str(model.logprobs_mode),
            "max_model_len": model.max_model_len,
            "max_num_seqs": self.vllm_config.scheduler_config.max_num_seqs,
        }

    def posttrain_load(self, folder: str) -> dict[str, int]:
        """Replace the whole policy by the safetensors files of ``folder``, a bucket each; the number of files."""
        paths = sorted(Path(folder).glob("*.safetensors"))
        buckets = (list(load_file(path).items()) for path in paths)
        replace_weights(self.model_runner.get_model(), self.vllm_config, buckets)
        return {"buckets": len(paths)}

    def posttrain_fingerprint(self) -> dict[str, str]:
        """The number of every tensor in use, of the adapter too; alike on all workers."""
        return {name: repr(number) for name, number in weights_fingerprint(self.model_runner.get_model()).items()}
